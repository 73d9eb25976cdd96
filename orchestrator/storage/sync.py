"""A sweep whose storage is a URI: everybody works in a folder of the own machine, and what is committed is copied.

A worker's folder goes out (``mirrored``): history before the checkpoints that it covers, a checkpoint's manifest after
its tensors, a status after all that it claims. The sweep reads along in a folder of its own (``fetch``, ``following``)
and sends the little that it writes itself (``send``). So what the storage holds is always enough to go on from, on any
machine, and whoever takes a trial over owns its place: the one before finds that out, and writes no more.
"""

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.storage.remote import (
    Object,
    Remote,
    check_storage,
    claimed,
    each,
    first_line,
    local_folder,
    open_storage,
)
from orchestrator.sweep_folder.paths import SweepPaths
from orchestrator.sweep_folder.trial_marks import HUNG, LEASE, NAMES, STOPPED, WORKER
from sagasr.io.errors import ConfigError, DataError, SagasrError, StorageError
from sagasr.io.files import read_json, write_json
from sagasr.io.fingerprint import fingerprint, short
from sagasr.io.lease import Lost, me, wait_free

EVERY_S = 2.0  # between two looks at what a training has committed, or at what the storage holds
ABANDONED_S = 86_400.0  # the folder in which a process works is touched every EVERY_S
PATIENCE_S = 600.0  # how long a finished training waits for a storage that is away
STATUS, MANIFEST = NAMES.status.name, "manifest.json"
LAUNCH, TRACKING = SweepPaths(Path()).launch.name, SweepPaths(Path()).tracking.name
WRITER = ".writer"  # whose place it is: the token of the process that may write
SHARED = frozenset({LEASE, WORKER, HUNG})  # hidden files of a trial that concern other machines


# ------------------------------------------------------------------------------------------------- a worker's folder


class Mirror:
    """Copies what a training commits in ``folder`` to a place, as the only one that writes there.

    ``push`` may be called at any time, also while files are written, renamed and removed.
    """

    def __init__(self, folder: Path, remote: Remote) -> None:
        self.folder, self.remote = folder, remote
        self.token = secrets.token_hex(8)
        self._sent: dict[str, tuple[int, int]] = {}
        self._status: bytes | None = None

    def pull(self) -> None:
        """Take the place over, and make the local folder what it holds but for checkpoints without a manifest."""
        self._take()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        found = [name for name in self.remote.list() if _is_shared(name) and name != LEASE]
        whole = {str(PurePosixPath(name).parent) for name in found if name.endswith(f"/{MANIFEST}")}
        names = [name for name in found if not _of_checkpoint(name) or str(PurePosixPath(name).parent) in whole]
        each(lambda name: self.remote.download(name, self.folder / name), names)
        self._sent = {name: stamp for name in names if (stamp := _stamp(self.folder / name))}

    def push(self) -> None:
        """Copy what is new since the last time. Raises Lost when another process writes here by now."""
        self.check()
        # Listed and read before what they rely on is copied: by the time they are sent, all of that is there.
        checkpoints = sorted(self.folder.glob(f"checkpoints/step-*/{MANIFEST}"))
        status = _content(self.folder / STATUS)
        for name in _files(self.folder):
            if not _of_checkpoint(name) and name != STATUS:
                self._send(name)
        for manifest in checkpoints:
            self._send_checkpoint(manifest.parent)
        if status is not None and status != self._status:
            self.check()
            self.remote.write(STATUS, status)
            self._status = status
        self._remove_gone()

    def _take(self) -> None:
        self.remote.write(WRITER, self.token.encode())

    def check(self) -> None:
        """Raise Lost when a later process has taken the place over."""
        if self.remote.read(WRITER) != self.token.encode():
            raise Lost(f"{self.remote.uri}: taken over by another process; this one writes no more")

    def _send(self, name: str) -> None:
        stamp = _stamp(self.folder / name)
        if stamp is not None and self._sent.get(name) != stamp and self.remote.upload(self.folder / name, name):
            self._sent[name] = stamp

    def _send_checkpoint(self, folder: Path) -> None:
        """Copy a checkpoint, its manifest last; one that is removed meanwhile never gets a manifest."""
        names = [f"checkpoints/{folder.name}/{name}" for name in _files(folder) if name != MANIFEST]
        for name in names:
            self._send(name)
        if names and all(name in self._sent for name in names):
            self._send(f"checkpoints/{folder.name}/{MANIFEST}")

    def _remove_gone(self) -> None:
        """Remove what is no longer kept; of a checkpoint, the manifest first.

        The newest whole checkpoint stays until a newer one is whole there: one that a fast training prunes while it is
        sent never is.
        """
        newest = max((name for name in self._sent if name.endswith(f"/{MANIFEST}")), default="").removesuffix(MANIFEST)
        gone = [name for name in self._sent if not (self.folder / name).exists()]
        gone = [name for name in gone if not newest or not name.startswith(newest)]
        for name in sorted(gone, key=lambda name: not name.endswith(MANIFEST)):
            self.remote.delete(name)
            del self._sent[name]


@contextlib.contextmanager
def mirrored(uri: str, trial: str, rank: int = 0) -> Iterator[tuple[Path, Path]]:
    """Work on a trial of the sweep at ``uri``; yields the folder to work in, and the sweep's launch file beside it.

    What is committed follows every ``EVERY_S`` seconds. A storage that is away stops nothing, the copies catch up; at
    the end they must, or StorageError says so. A process whose trial was taken over is ended.
    """
    sweep = open_storage(uri)
    root = _own_folder(local_folder(uri, "workers"))
    folder, launch = root / "trials" / trial, root / LAUNCH
    place = sweep / f"trials/{trial}"
    copy = _Reader(folder, place) if rank else Mirror(folder, place)
    _insist(copy.pull, uri)
    _insist(lambda: sweep.download(LAUNCH, launch), uri)
    over = threading.Event()

    def follow() -> None:
        while not over.wait(EVERY_S):
            try:
                os.utime(root)  # a sign of life (see _own_folder)
                sweep.download(LAUNCH, launch)
                place.download(STOPPED, folder / STOPPED)
                copy.push()
            except Lost:
                os._exit(1)
            except (OSError, StorageError):  # the storage is away, or the disk here is full: maybe not for long
                continue

    thread = threading.Thread(target=follow, name="mirror", daemon=True)
    thread.start()
    try:
        yield folder, launch
    finally:
        over.set()
        thread.join()
        _insist(copy.push, uri)
        shutil.rmtree(root, ignore_errors=True)


class _Reader(Mirror):
    """The folder of a worker beside the first, which goes on from the same checkpoint: filled once, sent nowhere."""

    def push(self) -> None:
        """Send nothing."""

    def _take(self) -> None:
        """Leave the place to the first worker."""


def _own_folder(parent: Path) -> Path:
    """Return a folder of this process, and remove those of processes that are gone.

    That can be known of processes of this machine since it was started. Others may be of a machine that shares this
    folder, and perhaps its name: those that nobody touched for ``ABANDONED_S``.
    """
    here = short(fingerprint([me().host, me().boot]))
    for path in parent.glob("*-*"):
        machine, _, process = path.name.rpartition("-")
        with contextlib.suppress(FileNotFoundError):
            gone = (
                not Path(f"/proc/{process}").exists()
                if machine == here
                else time.time() - path.stat().st_mtime > ABANDONED_S
            )
            if gone:
                shutil.rmtree(path, ignore_errors=True)
    return parent / f"{here}-{os.getpid()}"


def shared_store(uri: str, store: Path) -> Path:
    """Return a folder of this machine that holds an encoded store, fetched if it was encoded elsewhere."""
    local = stores_of(uri) / store.name
    if not (local / "meta.json").exists():
        place = open_storage(uri) / f".encoded/{store.name}"
        names = sorted(place.list(), key=lambda name: name == "meta.json")
        each(lambda name: place.download(name, local / name), names[:-1])
        if not names or not place.download("meta.json", local / "meta.json"):
            raise DataError(f"{place.uri}: no encoded store; remove it and start again")
    return local


def send_store(uri: str, store: Path) -> None:
    """Make an encoded store available to every machine; ``meta.json``, which completes it, comes last."""
    place = open_storage(uri) / f".encoded/{store.name}"
    if place.read("meta.json") is None:
        each(lambda name: place.upload(store / name, name), [name for name in _files(store) if name != "meta.json"])
        place.upload(store / "meta.json", "meta.json")


def stores_of(uri: str) -> Path:
    """Return where this machine keeps the encoded stores of a URI."""
    return local_folder(uri, "encoded")


# ------------------------------------------------------------------------------------------------ the sweep's folder


def send(uri: str, folder: Path, name: str) -> None:
    """Copy one file that the sweep wrote in its folder to the storage; nothing to do without a URI."""
    if uri:
        _insist(lambda: open_storage(uri).upload(folder / name, name), uri)


def fetch(uri: str, folder: Path, *, alone: bool = False) -> None:
    """Make the sweep's folder what the storage holds, but for the content of checkpoints; nothing to do without a URI.

    Trials that the storage does not know are removed, unless a sweep of this machine may just have begun them; that
    there is no other is known to who is ``alone``, as it holds the folder. Raises ConfigError when the storage cannot
    be read.
    """
    if not uri:
        return
    remote = open_storage(uri)
    before = list((folder / "trials").glob("*"))
    try:
        _copy_in(remote, folder)
        there = {PurePosixPath(name).parts[1] for name in remote.list() if name.startswith("trials/")}
    except OSError as error:
        raise ConfigError(
            f"storage {uri}: {first_line(error)}; does the bucket exist, and may these keys read it?"
        ) from error
    if alone or wait_free(SweepPaths(folder).lease, 0):
        for path in before:
            if path.name not in there:
                shutil.rmtree(path, ignore_errors=True)


def fetch_trials(uri: str, folder: Path, trials: Iterable[str]) -> None:
    """Bring these trials of the sweep's folder up to date; nothing to do without a URI. Raises StorageError."""
    if uri:
        remote, names = open_storage(uri), list(trials)
        _insist(lambda: _copy_trials(remote, folder, names), uri)


def _copy_trials(remote: Remote, folder: Path, trials: Sequence[str]) -> None:
    each(lambda trial: _copy_in(remote / f"trials/{trial}", folder / "trials" / trial), trials)


def _copy_in(remote: Remote, folder: Path) -> None:
    """Copy what differs, a status after all else, and remove what only workers write and have removed."""
    index = folder / ".copied.json"
    known = _read_index(index)
    listed = {name: found for name, found in remote.list().items() if _is_wanted(name)}
    new = [name for name, found in listed.items() if known.get(name) != list(found) or not (folder / name).exists()]
    for last in (False, True):
        each(lambda name: remote.download(name, folder / name), [name for name in new if _is_status(name) == last])
    for name in _files(folder):
        if name not in listed and (name.endswith(f"/{MANIFEST}") or PurePosixPath(name).name in SHARED):
            (folder / name).unlink(missing_ok=True)
    settled = {name: list(found) for name, found in listed.items() if name not in new or _settled(folder, name, found)}
    write_json(index, settled)


def _settled(folder: Path, name: str, found: Object) -> bool:
    """Return whether an object will not change unseen: listings tell times in whole seconds."""
    stamp = _stamp(folder / name)  # None: it was gone before it could be copied
    return time.time() - found.modified_ns / 1e9 > 5.0 and stamp is not None and stamp[0] == found.size


def _read_index(path: Path) -> dict[str, list[int]]:
    try:
        return dict(read_json(path))
    except SagasrError:
        return {}


@contextlib.contextmanager
def following(uri: str, folder: Path, trial: str) -> Iterator[None]:
    """Keep one trial of the sweep's folder up to date for the block; nothing to do without a URI.

    Run by the trial's driver: what is asked of the storage grows with the trials that run, not with those that wait.
    """
    if not uri:
        yield
        return
    remote, over = open_storage(uri), threading.Event()

    def follow() -> None:
        while not over.wait(EVERY_S):
            with contextlib.suppress(OSError, SagasrError):
                _copy_trials(remote, folder, [trial])

    fetch_trials(uri, folder, [trial])
    thread = threading.Thread(target=follow, name="copy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        fetch_trials(uri, folder, [trial])


@contextlib.contextmanager
def sweeping(uri: str, folder: Path, on_lost: Callable[[], object]) -> Iterator[None]:
    """Hold the sweep at ``uri`` for the block, as ``folder`` that is brought up to date; then send what came of it.

    The folder is this process's alone. ``on_lost`` is called should another sweep take the storage over. Nothing to do
    without a URI. Raises SagasrError when the storage cannot be used or another sweep holds it.
    """
    if not uri:
        yield
        return
    remote = open_storage(uri)
    check_storage(remote)
    with claimed(remote, on_lost):
        fetch(uri, folder, alone=True)
        try:
            yield
        finally:
            send_results(uri, folder)


def publish_results(uri: str, folder: Path, on_lost: Callable[[], object]) -> None:
    """Hold the sweep at ``uri`` once more, and send what came of it since; nothing to do without a URI.

    Raises DataError when another sweep holds it by now, whose results count.
    """
    if uri:
        with claimed(open_storage(uri), on_lost):
            send_results(uri, folder)


def send_results(uri: str, folder: Path) -> None:
    """Copy plan, tables, report and listening set to the storage; nothing to do without a URI."""
    if not uri:
        return
    remote = open_storage(uri)
    there = remote.list()
    own = [name for name in (*_files(folder), TRACKING) if not name.startswith("trials/")]
    new = [name for name in own if not name.startswith("audio/") or name not in there]
    _insist(lambda: each(lambda name: remote.upload(folder / name, name), new), uri)


# ------------------------------------------------------------------------------------------------------------- small


def _insist(act: Callable[[], object], uri: str) -> None:
    """Repeat while the storage is away. Raises StorageError when it stays away."""
    end, wait = time.monotonic() + PATIENCE_S, 1.0
    while True:
        try:
            act()
        except OSError as error:
            if time.monotonic() > end:
                raise StorageError(
                    f"{uri}: the storage is away ({first_line(error)}); the same command goes on"
                ) from error
            time.sleep(wait)
            wait = min(2 * wait, 30.0)
        else:
            return


def _files(folder: Path) -> list[str]:
    """Return the files of a folder by their relative names, without those that concern this machine alone."""
    found = [Path(place, name).relative_to(folder) for place, _, names in os.walk(folder) for name in names]
    return sorted(name for name in map(str, found) if _is_shared(name))


def _is_shared(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return parts[-1] in SHARED or not any(part.startswith(".") for part in parts)


def _is_wanted(name: str) -> bool:
    """Return whether the sweep's folder has a use for an object: of checkpoints, that they are there."""
    inside = "checkpoints" in PurePosixPath(name).parts
    return (name == TRACKING or _is_shared(name)) and (not inside or name.endswith(f"/{MANIFEST}"))


def _is_status(name: str) -> bool:
    return PurePosixPath(name).name == STATUS


def _of_checkpoint(name: str) -> bool:
    return name.startswith("checkpoints/")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does, or None when it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
