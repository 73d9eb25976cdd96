"""The Ray that work runs on: a cluster that is there already, or one of this process alone, on this machine."""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster import credentials
from orchestrator.proxies import spare_this_machine
from orchestrator.run.same_code import Code, check_same, code_here, finder, search_path
from sagasr.io.errors import ConfigError, SagasrError

ANSWER_S = 180  # in which each node is to say what code it has
STARTS = 5  # it gives its own processes 30 s to come up, which is little where other things run
SOCKET = 107  # bytes that the path of a Unix socket may have
ROOM = SOCKET - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")  # bytes for Ray's folder
SHORT = ("/tmp", "/dev/shm", "/var/tmp")  # folders for Ray's sockets, where the one that the user names cannot be it
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


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@contextlib.contextmanager
def connected(
    address: str | None,
    cpus: int,
    resources: Mapping[str, float] | None = None,
    env: Mapping[str, str] | None = None,
    say: Callable[[str], object] = _to_stderr,
) -> Iterator[None]:
    """Join the cluster at ``address`` for the block, or (None) start a Ray with ``cpus`` and ``resources``.

    ``env``: variables of the workers. ``say`` is told what a user may not expect. Raises ConfigError where no cluster
    answers or a node has other code than this process, SagasrError where none starts.
    """
    ours = SETTINGS | allocator(os.environ)
    os.environ.update(ours if address else ours | LOCAL_SETTINGS)
    spare_this_machine()
    with credentials(address), contextlib.ExitStack() as held:
        import ray  # reads the environment when it is imported

        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # That the dashboard is late harms nothing.
        logging.getLogger("ray._private.services").setLevel(logging.CRITICAL)
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "job_config": _job()}
        try:
            if address:
                _join(address, runtime_env={"env_vars": {**ours, **(env or {})}}, **settings)
            else:
                if os.environ.get("RAY_ADDRESS"):
                    say("RAY_ADDRESS is not used: Ray starts on this machine alone; --address auto joins a cluster")
                settings |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
                settings |= {"runtime_env": {"env_vars": dict(env)}} if env else {}
                folder = held.enter_context(_folder(say))
                _start(folder, num_cpus=cpus, resources=dict(resources or {}), **settings)
            logging.getLogger("ray").setLevel(logging.ERROR)
            check_same(code_here(), _codes())
            yield
        finally:
            ray.shutdown()


def allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """Return how torch is to hold a GPU's memory: as a user has set it, else so that little is lost between blocks."""
    given = {name: environment[name] for name in ALLOCATOR if name in environment}
    return given or {ALLOCATOR[0]: "expandable_segments:True"}


def _job() -> Any:
    """Return the settings of our job: its workers look for code where this process does, in the same order.

    Ray alone would have them look into the working folder first.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):  # type: ignore[misc]
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # so Ray adds no folder of its own

    return Job(_py_driver_sys_path=search_path()[::-1])  # each is put before those that came earlier


def _codes() -> Iterator[Code]:
    """Yield the code that each node of the cluster would run; one that is lost meanwhile will run none.

    Raises SagasrError naming the nodes that do not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(finder())
    answers = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in ray.nodes()
        if node["Alive"]
    }
    _, late = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S)
    if late:
        names = ", ".join(answers[answer]["NodeManagerAddress"] for answer in late)
        raise SagasrError(f"node {names}: starts no process of ours within {ANSWER_S} s; look at it, or take it out")
    for answer, node in answers.items():
        try:
            yield Code(*ray.get(answer))
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue
        except ray.exceptions.RayError as error:
            raise SagasrError(
                f"node {node['NodeManagerAddress']}: runs no process of ours ({_first_line(error)})"
            ) from error


def _join(address: str, **settings: Any) -> None:
    import ray

    try:
        ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(f"--address {address}: no Ray cluster answers there ({_first_line(error)})") from error


def _start(folder: str, **settings: Any) -> None:
    """Start a Ray of this process alone. Raises SagasrError when it does not come up, however often it is tried."""
    import ray

    for left in reversed(range(STARTS)):
        try:
            ray.init(address="local", _temp_dir=folder, **settings)  # else one that somebody has started here is joined
        except Exception as error:  # of no narrower kind: what Ray raises when its processes do not come up in time
            ray.shutdown()
            if not left or isinstance(error, OSError):  # what a file system refuses it refuses again
                raise SagasrError(
                    f"Ray did not start on this machine: {_first_line(error)}; its logs are in "
                    f"{folder}/session_latest/logs, and the same command tries again"
                ) from error
        else:
            return


@contextlib.contextmanager
def _folder(say: Callable[[str], object]) -> Iterator[str]:
    """Yield the folder of Ray's sockets and logs: where the user wants it, or one for the block where that cannot be.

    Raises SagasrError where no folder will do.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    wanted = Path(os.environ[name] if name else "/tmp").absolute() / "ray"
    if not (why := _unfit(wanted)):
        yield str(wanted)
        return
    place = next((place for place in SHORT if not _unfit(Path(place) / "ray-12345678")), None)
    told = f"{name or 'Ray'}: {wanted} {why}"
    if place is None:
        raise SagasrError(f"{told}; name a folder of yours in RAY_TMPDIR, of at most {ROOM - len('/ray')} bytes")
    folder = tempfile.mkdtemp(prefix="ray-", dir=place)
    say(f"{told}; Ray's sockets and logs are in {folder} until this ends")
    kept = False
    try:
        yield folder
    except SagasrError:  # Ray did not start, perhaps: its logs are there
        kept = True
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _unfit(folder: Path) -> str:
    """Return why Ray cannot keep its sockets in a folder, or nothing where it can."""
    if len(os.fsencode(folder)) > ROOM:
        return f"is too long for the path of a socket, by {len(os.fsencode(folder)) - ROOM} bytes"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return "" if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else "may not be written by this user"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
