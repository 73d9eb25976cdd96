"""All that we use of Ray beyond its public interface. ``tests/orchestrator/run/test_ray_internals.py`` watches over it.

Each is here because Ray offers no public way; look at all of them when the pinned version changes.
"""

import contextlib
import functools
import gc
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

CHECKED_WITH = "2.60.0"

# Variables that Ray reads when it is imported, or in its own processes.
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # 2 s by default, of which every start and end of a training waits one
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "100000000",  # years, as a trial waits for its turn; 60 s by default
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every line of a log is there twice
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # else one trial without a report ends the whole sweep
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's returns as if all were well
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's snapshots are never read
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else, under `uv run`, every process of Ray is one more `uv run`
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what a lost process means is said by the trial's status
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables are printed even when it is asked to be silent
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a process that was given no GPU sees none, instead of all
    "PYTHONWARNINGS": "ignore",
}
# On one machine no node is preempted, and no dashboard is there to show metrics or needed to know who is alive.
LOCAL_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "300000",  # 30 s by default, after which a node on a busy machine ends itself
}
SERVICES_LOGGER = "ray._private.services"
SOCKET_NAME = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"  # in Ray's folder, the longest


def apply(settings: Mapping[str, str]) -> None:
    """Make variables of Ray hold for this process and what it starts, even where Ray was imported before."""
    os.environ.update(settings)
    from ray._private import ray_constants

    # Ray reads this one when it is imported. Under `uv run` it would start each of its processes by `uv run` in a copy
    # of the working folder, with an environment that is installed first.
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def job_config(search_path: Sequence[str]) -> Any:
    """Return the settings of a job whose workers look for code in these folders, in this order, and nowhere else first.

    Ray alone would have them look into the working folder first.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):  # type: ignore[misc]
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # so Ray adds no folder of its own

    return Job(_py_driver_sys_path=search_path[::-1])  # each is put before those that came earlier


def start_local(folder: str, **settings: Any) -> None:
    """Start a Ray of this process alone, with its sockets and logs in a folder; one that runs already is not joined."""
    import ray

    ray.init(address="local", _temp_dir=folder, **settings)


def shutdown() -> None:
    """Leave Ray, or end the one that this process started.

    Ray ends a process at once, exit code 1 and no word, where a reference to an object is freed after its last step
    and before its return. Tune leaves cycles that hold some, and the collector runs in any thread: so they are freed
    first, and no other is looked for meanwhile.
    """
    import ray

    gc.collect()
    collected = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collected:
            gc.enable()


def trainer(workers: int, peers_wait_s: float) -> tuple[type, dict[str, Any]]:
    """Return the class of a trainer, and what it needs to be told. Of several workers it connects them by torch.

    It lacks two helpers of Ray Train's: one frees what a lost run held and asks a dashboard for that, maybe the one of
    another cluster; the other serves data sets, of which there are none. For one worker, torch stays out of the driver
    and of the run's controller: 300 MB of memory in each, and seconds of each start.
    """
    from ray.train.v2._internal.callbacks import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    settings = {}
    if workers > 1:
        from ray.train.torch import TorchConfig
        from ray.train.torch import TorchTrainer as Base

        settings["torch_config"] = TorchConfig(timeout_s=math.ceil(peers_wait_s))
    else:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer as Base  # type: ignore[assignment]

    class Trainer(Base):  # type: ignore[misc, valid-type]
        def _create_default_callbacks(self) -> list[Any]:
            unwanted = (PlacementGroupCleanerCallback, DatasetsCallback)
            return [each for each in super()._create_default_callbacks() if not isinstance(each, unwanted)]

    return Trainer, settings


def on_start(call: Callable[[], object], group: str) -> Any:
    """Return a callback of Ray Train: every worker calls ``call`` before it trains, in its main thread.

    The placement group of the workers gets a name, by which it can be removed when its controller was lost.
    """
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class Start(WorkerGroupCallback):  # type: ignore[misc]
        def before_worker_group_start(self, worker_group_context: Any) -> None:
            import ray
            from ray.train.v2._internal.execution.worker_group import worker_group

            worker_group.placement_group = functools.partial(ray.util.placement_group, name=group)

        def after_worker_group_start(self, worker_group: Any) -> None:
            worker_group.execute(call)

    return Start()


def remove_group(name: str) -> None:
    """Remove a placement group, if there is one of this name; its processes end."""
    import ray

    with contextlib.suppress(ValueError):
        ray.util.remove_placement_group(ray.util.get_placement_group(name))


def worker_errors(error: Any) -> tuple[list[BaseException], list[Any]]:
    """Return the exceptions that the workers of a failed run of Ray Train raised, and the losses of processes."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError, UserExceptionWithTraceback

    failures = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    causes = [each._base_exc if isinstance(each, UserExceptionWithTraceback) else each for each in failures]
    raised = [each for each in causes if not isinstance(each, (RayError, RayTrainError))]
    losses = [each for each in causes if isinstance(each, (RayError, RayTrainError))]
    return raised, [getattr(each, "health_check_failure", each) for each in losses]


def remember(namespace: str, key: str, value: str) -> None:
    """Keep a text in the key-value store of Ray's head, for all processes of the cluster."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, value, namespace=namespace)


def forget(namespace: str, key: str) -> None:
    """Remove a text from the key-value store of Ray's head."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, namespace=namespace)


def remembered(namespace: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the keys that begin so in the key-value store of Ray's head, with their texts."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    for key in _internal_kv_list(prefix, namespace=namespace):
        value = _internal_kv_get(key, namespace=namespace)
        if value is not None:  # removed meanwhile
            yield key.decode(), value.decode()
