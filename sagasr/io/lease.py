"""One writer per folder, on any file system that can create a file exclusively; neither flock nor clocks are relied on.

A lease is a small file that names its owner, who touches it while it lives. On the machine of the owner its process is
asked for. Elsewhere the file's time is watched, by the watcher's own monotonic clock: one that stands still for
``EXPIRES_S`` belongs to nobody, and any change is life. Taking over gives a new token, and an owner that finds
another's token has lost.

The file is made once and never written again. Its owner touches what it made, not what has that name by now: one that
was frozen while it was replaced cannot put its name over its successor's, whenever it wakes.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import DataError, SagasrError
from sagasr.io.failpoints import point
from sagasr.io.files import LITTER, write_json

BEAT_S = 2.0
EXPIRES_S = 20.0
TORN_S = 1.0  # what is unreadable for so long is not being written
Say = Callable[[str], object]


class Owner(Strict):
    """Who holds a lease. ``started`` is for people only; ``ticks`` tells a process from a later one of its number."""

    host: str
    boot: str
    pid: int
    ticks: int
    started: float
    token: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"host {self.host}, process {self.pid}, since {since}"


class Lost(SagasrError):
    """Another process has taken this folder over."""


class Lease:
    """A held lease. ``check`` before every write that matters; ``release`` at the end.

    ``descriptor`` is of the file as its owner made it.
    """

    def __init__(self, path: Path, owner: Owner, descriptor: int, on_lost: Callable[[], object]) -> None:
        self.path, self.owner, self._descriptor, self._on_lost = path, owner, descriptor, on_lost
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise Lost when the lease is no longer this process's."""
        if (found := read_owner(self.path)) is None or found.token != self.owner.token:
            raise Lost(f"{self.path.parent}: taken over by {found or 'another process'}; this process writes no more")

    def release(self) -> None:
        """Give the folder back, unless another has it."""
        if self._over.is_set():
            return
        self._over.set()
        with self._guard:
            with contextlib.suppress(SagasrError, OSError):
                self.check()
                self.path.unlink()
            os.close(self._descriptor)

    def _keep(self) -> None:
        while not self._over.wait(BEAT_S):
            with self._guard:
                if self._over.is_set():
                    return
                try:
                    self.check()
                    os.utime(self._descriptor)
                except Lost:
                    self._on_lost()
                    return
                except (SagasrError, OSError):  # storage that is away for a while: the others cannot reach it either
                    continue


def acquire(
    path: Path, *, wait_s: float = 0.0, replace: bool = False, say: Say = print, on_lost: Callable[[], object] = str
) -> Lease:
    """Return the lease at ``path``, waiting up to ``wait_s`` for a living owner. Raises DataError naming that owner.

    A dead owner's lease is taken over at once where that can be known, and after ``EXPIRES_S`` of silence elsewhere.
    ``replace`` ends a living owner on this machine, for callers who know that they supersede it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = me()
    descriptor = _take(path, mine, wait_s, replace, say)
    point("lease.acquired")
    return Lease(path, mine, descriptor, on_lost)


def _take(path: Path, mine: Owner, wait_s: float, replace: bool, say: Say) -> int:
    """Return a descriptor of the lease, which is ours now."""
    end = time.monotonic() + wait_s
    seen: tuple[str, int] | None = None  # whose token, and when its owner touched the file
    seen_at, beats = 0.0, False
    while (descriptor := _create(path, mine)) is None:
        if (read := _read(path)) is None:
            _discard_torn(path)
            continue
        found, touched = read
        if (found.token, touched) != seen:
            beats = seen is not None and seen[0] == found.token
            seen, seen_at = (found.token, touched), time.monotonic()
        silent = time.monotonic() - seen_at > EXPIRES_S
        alive = is_alive(found)
        if alive is None and beats and not silent:
            alive = True
        if alive is False or (alive is None and silent):
            if _remove(path, found):
                why = "its process is gone" if alive is False else f"silent for {EXPIRES_S:g} s"
                say(f"{path.parent}: taken over from {found} ({why})")
        elif alive and replace and found.boot == mine.boot and found.pid != mine.pid:
            os.kill(found.pid, signal.SIGKILL)
            time.sleep(0.05)
        elif alive and time.monotonic() >= end:
            raise DataError(f"{path.parent}: in use by another process ({found}); wait for it, or end it")
        else:
            time.sleep(0.2)
    return descriptor


@contextlib.contextmanager
def held(path: Path, **options: Any) -> Iterator[Lease]:
    """Hold the lease at ``path`` for the block (see ``acquire``)."""
    lease = acquire(path, **options)
    try:
        yield lease
    finally:
        lease.release()


def read_owner(path: Path) -> Owner | None:
    """Return who a lease file names, or None when it is absent or unreadable."""
    read = _read(path)
    return read and read[0]


def _read(path: Path) -> tuple[Owner, int] | None:
    """Return who a lease file names and when it was last touched, or None when it is absent or unreadable.

    Opening it makes a network file system ask its server, so that neither is an old copy.
    """
    try:
        with path.open(encoding="utf-8") as handle:
            owner = parse(Owner, json.load(handle), str(path))
            return owner, os.fstat(handle.fileno()).st_mtime_ns
    except (OSError, ValueError, SagasrError):
        return None


def wait_free(path: Path, wait_s: float) -> bool:
    """Return whether nobody holds a lease (any more), waiting up to ``wait_s`` for that; nothing is taken over."""
    end = time.monotonic() + wait_s
    while (owner := read_owner(path)) is not None and is_alive(owner) is not False:
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True


def is_alive(owner: Owner) -> bool | None:
    """Return whether an owner's process lives, as far as this machine can know: None for a process of another one.

    Of a machine of the same name it cannot be told whether it is this one before a restart, or another: names like
    localhost, and those of cloned machines, are not unique.
    """
    if (owner.host, owner.boot) == (socket.gethostname(), _boot()):
        return _ticks(owner.pid) == owner.ticks
    return None


def me() -> Owner:
    """Return this process as an owner, with a token never used before."""
    return Owner(
        host=socket.gethostname(), boot=_boot(), pid=os.getpid(), ticks=_ticks(os.getpid()) or 0, started=time.time(),
        token=secrets.token_hex(8),
    )  # fmt: skip


def _create(path: Path, owner: Owner) -> int | None:
    """Create the file with its content, whole, and return a descriptor of it; None if it is there already.

    It becomes that file by a hard link to one already written.
    """
    staged = path.with_name(f"{LITTER}{path.name}-{owner.token}")
    write_json(staged, owner.model_dump())
    descriptor = os.open(staged, os.O_RDONLY)
    try:
        os.link(staged, path)
    except FileExistsError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without links
        os.close(descriptor)
        return _create_here(path, owner)
    finally:
        staged.unlink(missing_ok=True)
    return descriptor


def _create_here(path: Path, owner: Owner) -> int | None:
    """Create the file and then write its content, into the file that was made and no other of that name."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    os.write(descriptor, json.dumps(owner.model_dump()).encode())
    os.fsync(descriptor)
    return descriptor


def _remove(path: Path, stale: Owner) -> bool:
    """Remove the lease of ``stale``; False when another was quicker."""
    return _once(path, stale.token, lambda: (found := read_owner(path)) is not None and found.token == stale.token)


def _discard_torn(path: Path) -> None:
    """Remove a file that a crash left unreadable, once it is clear that nobody is writing it."""
    with contextlib.suppress(FileNotFoundError):
        before = path.stat().st_mtime_ns
        time.sleep(TORN_S)
        _once(path, str(before), lambda: path.stat().st_mtime_ns == before and read_owner(path) is None)


def _once(path: Path, name: str, still: Callable[[], bool]) -> bool:
    """Remove ``path`` if, when no other process may, ``still`` says so; return whether it was removed.

    What may be removed only under a guard of its own ``name`` cannot be mistaken for its successor, however long ago
    it was read. A guard is a lease of a few moments, taken over like any other from one who died with it.
    """
    guard = path.with_name(f"{LITTER}{path.name}-{name}")
    os.close(_take(guard, me(), EXPIRES_S, replace=False, say=str))
    try:
        if gone := still():
            path.unlink()
    finally:
        guard.unlink(missing_ok=True)
    return gone


def _boot() -> str:
    """Return what a process number is unique within: this start of this machine, and the process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone, or dead and not yet buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except OSError:
        return None
    else:
        return None if fields[0] in "ZX" else int(fields[19])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0
