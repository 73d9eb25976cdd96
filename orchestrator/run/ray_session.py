"""The Ray that work runs on: a cluster that is there already, or one of this process alone, on this machine."""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster import credentials
from orchestrator.proxies import spare_this_machine
from orchestrator.run.nodes import each_node
from orchestrator.run.ray_internals import (
    LOCAL_SETTINGS,
    SERVICES_LOGGER,
    SETTINGS,
    SOCKET_NAME,
    apply,
    job_config,
    shutdown,
    start_local,
)
from orchestrator.run.same_code import Code, check_same, code_here, finder, search_path
from sagasr.io.errors import ConfigError, SagasrError, first_line

STARTS = 5  # it gives its own processes 30 s to come up, which is little where other things run
SOCKET = 107  # bytes that the path of a Unix socket may have
ROOM = SOCKET - len(SOCKET_NAME)  # bytes for Ray's folder
SHORT = ("/tmp", "/dev/shm", "/var/tmp")  # folders for Ray's sockets, where the one that the user names cannot be it
STORE_BYTES = 150_000_000  # what goes through Ray is small; audio and latents are in files
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the new name and the old one


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@contextlib.contextmanager
def connected(
    address: str | None,
    cpus: int,
    env: Mapping[str, str] | None = None,
    say: Callable[[str], object] = _to_stderr,
) -> Iterator[None]:
    """Join the cluster at ``address`` for the block, or (None) start a Ray with ``cpus``.

    ``env``: variables of the workers. ``say`` is told what a user may not expect. Raises ConfigError where no cluster
    answers or a node has other code than this process, SagasrError where none starts.
    """
    ours = SETTINGS | allocator(os.environ)
    spare_this_machine()
    apply(ours if address else ours | LOCAL_SETTINGS)  # before anything here imports Ray
    with credentials(address), contextlib.ExitStack() as held:
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # That the dashboard is late harms nothing.
        logging.getLogger(SERVICES_LOGGER).setLevel(logging.CRITICAL)
        settings: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "job_config": job_config(search_path()),
        }
        at_end = signal.getsignal(signal.SIGTERM)
        try:
            if address:
                _join(address, runtime_env={"env_vars": {**ours, **(env or {})}}, **settings)
            else:
                settings |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
                settings |= {"runtime_env": {"env_vars": dict(env)}} if env else {}
                folder = held.enter_context(_folder(say))
                _start(folder, num_cpus=cpus, **settings)
            logging.getLogger("ray").setLevel(logging.ERROR)
            if callable(at_end) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, at_end)  # Ray has put its own there, which ends the process with code 1
            check_same(code_here(), (Code(*answer) for _, answer in each_node(finder())))
            yield
        finally:
            shutdown()


def allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """Return how torch is to hold a GPU's memory: as a user has set it, else so that little is lost between blocks."""
    given = {name: environment[name] for name in ALLOCATOR if name in environment}
    return given or {ALLOCATOR[0]: "expandable_segments:True"}


def _join(address: str, **settings: Any) -> None:
    import ray

    try:
        ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(f"--address {address}: no Ray cluster answers there ({first_line(error)})") from error


def _start(folder: str, **settings: Any) -> None:
    """Start a Ray of this process alone. Raises SagasrError when it does not come up, however often it is tried."""

    for left in reversed(range(STARTS)):
        try:
            start_local(folder, **settings)
        except Exception as error:  # of no narrower kind: what Ray raises when its processes do not come up in time
            shutdown()
            if not left or isinstance(error, OSError):  # what a file system refuses it refuses again
                raise SagasrError(
                    f"Ray did not start on this machine: {first_line(error)}; its logs are in "
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
    problem = f"{name or 'Ray'}: {wanted} {why}"
    if place is None:
        raise SagasrError(f"{problem}; name a folder of yours in RAY_TMPDIR, of at most {ROOM - len('/ray')} bytes")
    folder = tempfile.mkdtemp(prefix="ray-", dir=place)
    say(f"{problem}; Ray's sockets and logs are in {folder} until this ends")
    keep = False
    try:
        yield folder
    except SagasrError:  # Ray did not start, perhaps: its logs are there
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _unfit(folder: Path) -> str:
    """Return why Ray cannot keep its sockets in a folder, or nothing where it can."""
    if len(os.fsencode(folder)) > ROOM:
        return f"is too long for the path of a socket, by {len(os.fsencode(folder)) - ROOM} bytes"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return "" if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else "may not be written by this user"
