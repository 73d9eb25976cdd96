"""The Ray that work runs on: a cluster that is there already, or one of this process alone, on this machine."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.cluster import credentials
from sagasr.errors import ConfigError, SagasrError

STARTS = 5  # it gives its own processes 30 s to come up, which is little where other things run
STORE_BYTES = 150_000_000  # what goes through Ray is small; audio and latents are in files
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # 2 s by default, of which every start and end of a training waits one
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",  # a trial may wait for its turn; 60 s by default, then an error
    "RAY_TRAIN_METRICS_ENABLED": "0",
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
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the new name and the old one
# On one machine no node is preempted, and no dashboard is needed to know who is alive.
LOCAL_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_agent_register_timeout_ms": "300000",  # 30 s by default, after which a node on a busy machine ends itself
}


@contextlib.contextmanager
def connected(
    address: str | None, cpus: int, resources: Mapping[str, float] | None = None, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Join the cluster at ``address`` for the block, or (None) start a Ray with ``cpus`` and ``resources``.

    ``env``: variables of the workers. Raises ConfigError where no cluster answers, SagasrError where none starts.
    """
    ours = SETTINGS | allocator(os.environ)
    os.environ.update(ours if address else ours | LOCAL_SETTINGS)
    with credentials(address):
        import ray  # reads the environment when it is imported

        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # That the dashboard is late harms nothing.
        logging.getLogger("ray._private.services").setLevel(logging.CRITICAL)
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address:
                _join(address, runtime_env={"env_vars": {**ours, **(env or {})}}, **settings)
            else:
                settings |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
                settings |= {"runtime_env": {"env_vars": dict(env)}} if env else {}
                _start(num_cpus=cpus, resources=dict(resources or {}), **settings)
            logging.getLogger("ray").setLevel(logging.ERROR)
            yield
        finally:
            ray.shutdown()


def allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """Return how torch is to hold a GPU's memory: as a user has set it, else so that little is lost between blocks."""
    given = {name: environment[name] for name in ALLOCATOR if name in environment}
    return given or {ALLOCATOR[0]: "expandable_segments:True"}


def _join(address: str, **settings: Any) -> None:
    import ray

    try:
        ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(f"--address {address}: no Ray cluster answers there ({_first_line(error)})") from error


def _start(**settings: Any) -> None:
    """Start a Ray of this process alone. Raises SagasrError when it does not come up, however often it is tried."""
    import ray

    for left in reversed(range(STARTS)):
        try:
            ray.init(address="local", **settings)  # else one that somebody has started on this machine is joined
        except Exception as error:  # of no narrower kind: what Ray raises when its processes do not come up in time
            ray.shutdown()
            if not left:
                raise SagasrError(
                    f"Ray did not start on this machine ({_first_line(error)}); is it out of memory, or very busy? "
                    "The same command tries again"
                ) from error
        else:
            return


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
