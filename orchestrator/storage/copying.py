"""Which files of a folder are copied to a storage, and how long a storage that is away is waited for."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from orchestrator.sweep_folder.paths import SweepPaths, SweptTrial
from sagasr.io.errors import StorageError, first_line

EVERY_S = 2.0  # between two looks at what a training has committed, or at what the storage holds
PATIENCE_S = 600.0  # how long a finished training waits for a storage that is away
_TRIAL, _SWEEP = SweptTrial(Path()), SweepPaths(Path())  # for the names of files in them
STATUS, STOPPED, LEASE = _TRIAL.status.name, _TRIAL.stopped.name, _TRIAL.lease.name
LAUNCH, TRACKING = _SWEEP.launch.name, _SWEEP.tracking.name
MANIFEST = "manifest.json"
SHARED = frozenset({LEASE, _TRIAL.worker.name, _TRIAL.hung.name})  # hidden files of a trial that concern other machines


def is_shared(name: str) -> bool:
    """Return whether a file, by its name relative to its folder, concerns other machines."""
    parts = PurePosixPath(name).parts
    return parts[-1] in SHARED or not any(part.startswith(".") for part in parts)


def files_of(folder: Path) -> list[str]:
    """Return the files of a folder that concern other machines, by their relative names."""
    files = (Path(place, name).relative_to(folder) for place, _, names in os.walk(folder) for name in names)
    return sorted(name for name in map(str, files) if is_shared(name))


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does, or None when it is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def repeating(act: Callable[[], object], seconds: float, name: str) -> Iterator[None]:
    """Repeat an action in a thread for the block, until it returns something true."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds) and not act():
            pass

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def insist(act: Callable[[], object], uri: str) -> None:
    """Repeat an action while the storage is away. Raises StorageError when it stays away."""
    end, wait = time.monotonic() + PATIENCE_S, 1.0
    while True:
        try:
            act()
            return
        except OSError as error:
            if time.monotonic() > end:
                problem = f"{uri}: the storage is away ({first_line(error)}); the same command goes on"
                raise StorageError(problem) from error
        time.sleep(wait)
        wait = min(2 * wait, 30.0)
