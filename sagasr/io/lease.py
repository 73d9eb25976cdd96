"""One writer per folder, on any file system that can create a file exclusively; neither flock nor clocks are relied on.

A lease is a small file that names its owner. The owner touches it every ``BEAT_S``. On the owner's machine its process
is looked up. Elsewhere the file's time is watched, by the watcher's own monotonic clock: an owner that is silent for
``EXPIRES_S`` has lost the folder. A lease that is taken over has a new token, and an owner that reads another's token
writes no more.

The file is made once and never written again. Its owner touches the file that it made, not the file of that name: a
process that was suspended while it was replaced cannot touch its successor's lease.

filelock 4.2.11 (SoftFileLease) breaks two of these promises: it takes the lease of a living owner on another machine of
the same host name (a cloned machine, localhost), and a lease that a crash left empty blocks the folder for ever.
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
from typing import Any, NamedTuple

from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import DataError, SagasrError
from sagasr.io.failpoints import point
from sagasr.io.files import LITTER, write_json

BEAT_S = 2.0
EXPIRES_S = 20.0
TORN_S = 1.0  # a file that is unreadable for so long was left by a crash
Say = Callable[[str], object]


class Owner(Strict):
    """Who holds a lease. ``started`` is for people; ``ticks`` tells a process from a later one of the same number."""

    host: str
    boot: str
    pid: int
    ticks: int
    started: float
    token: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"host {self.host}, process {self.pid}, since {since}"


class _Seen(NamedTuple):
    """What a lease file says: its owner, None where it is unreadable, and when it was touched last."""

    owner: Owner | None
    touched: int


class Lost(SagasrError):
    """Another process has taken this folder over."""


class Lease:
    """A held lease. ``check`` before every write that matters; ``release`` at the end."""

    def __init__(self, path: Path, owner: Owner, descriptor: int, on_lost: Callable[[], object]) -> None:
        self.path, self.owner, self._descriptor, self._on_lost = path, owner, descriptor, on_lost
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise Lost when the lease is no longer this process's."""
        owner = read_owner(self.path)
        if owner is None or owner.token != self.owner.token:
            raise Lost(f"{self.path.parent}: taken over by {owner or 'another process'}; this process writes no more")

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
    seen: _Seen | None = None
    seen_at, beats = 0.0, False
    while (descriptor := _create(path, mine)) is None:
        try:
            now = _read(path)
        except FileNotFoundError:
            continue
        except OSError:
            if time.monotonic() > end + EXPIRES_S:  # a network file system may be away for a moment
                raise
            time.sleep(0.2)
            continue
        owner = now.owner
        if now != seen:
            beats = owner is not None and seen is not None and seen.owner == owner
            seen, seen_at = now, time.monotonic()
        expired = time.monotonic() - seen_at > (EXPIRES_S if owner else TORN_S)
        alive_here = is_alive(owner) if owner else None
        alive = alive_here or (beats and not expired)
        if alive_here is False or (expired and not alive):
            if _remove(path, now) and owner:
                why = "its process is gone" if alive_here is False else f"silent for {EXPIRES_S:g} s"
                say(f"{path.parent}: taken over from {owner} ({why})")
        elif owner and alive_here and replace and owner.pid != mine.pid:
            os.kill(owner.pid, signal.SIGKILL)
            time.sleep(0.05)
        elif alive and time.monotonic() >= end:
            raise DataError(f"{path.parent}: in use by another process ({owner}); wait for it, or end it")
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
    try:
        return _read(path).owner
    except OSError:
        return None


def _read(path: Path) -> _Seen:
    """Return what a lease file says. Opening it makes a network file system ask its server, and not use an old copy."""
    with path.open("rb") as handle:
        try:
            owner = parse(Owner, json.load(handle), str(path))
        except (ValueError, SagasrError):
            owner = None
        return _Seen(owner, os.fstat(handle.fileno()).st_mtime_ns)


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

    A machine of the same name but another boot may be this one before a restart, or another: host names are not unique.
    """
    is_here = (owner.host, owner.boot) == (socket.gethostname(), _boot())
    return _ticks(owner.pid) == owner.ticks if is_here else None


def me() -> Owner:
    """Return this process as an owner, with a token never used before."""
    pid, token = os.getpid(), secrets.token_hex(8)
    ticks = _ticks(pid) or 0
    return Owner(host=socket.gethostname(), boot=_boot(), pid=pid, ticks=ticks, started=time.time(), token=token)


def _create(path: Path, owner: Owner) -> int | None:
    """Create the file with its content, whole if there are links, and return a descriptor; None if it is there."""
    staged = path.with_name(f"{LITTER}{path.name}-{owner.token}")
    write_json(staged, owner.model_dump())
    descriptor = os.open(staged, os.O_RDONLY)
    try:
        os.link(staged, path)
        return descriptor
    except FileExistsError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
    finally:
        staged.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    os.write(descriptor, json.dumps(owner.model_dump()).encode())
    os.fsync(descriptor)
    return descriptor


def _remove(path: Path, stale: _Seen) -> bool:
    """Remove a stale lease; return False where it is another one by now.

    Only the holder of a guard, which is named after the stale lease, may remove it. So a process that was suspended
    since it read the lease cannot remove its successor. A guard is itself a lease, taken over like any other.
    """
    guard = path.with_name(f"{LITTER}{path.name}-{stale.owner.token if stale.owner else stale.touched}")
    os.close(_take(guard, me(), EXPIRES_S, replace=False, say=str))
    try:
        if unchanged := _read(path) == stale:
            path.unlink()
    except OSError:
        return False
    finally:
        guard.unlink(missing_ok=True)
    return unchanged


def _boot() -> str:
    """Return what a process number is unique within: this start of this machine, and the process namespace.

    Returns "" where the system does not tell, as on macOS.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone, or a zombie.

    Returns 0 for any process that is there where the system has no /proc, as on macOS.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it is another user's
    return 0
