"""A worker's folder, whose content goes to a storage that is a URI, in an order that never leaves half a result there.

History is copied before the checkpoints that it covers, a checkpoint's manifest after its tensors, the status after all
that it claims. So the storage always holds enough to go on from, on any machine. A process that takes a trial over owns
its place; the process before finds that out, and writes no more.
"""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from orchestrator.storage.remote import (
    EVERY_S,
    LAUNCH,
    LEASE,
    MANIFEST,
    STATUS,
    STOPPED,
    Remote,
    each,
    files_of,
    insist,
    is_shared,
    local_folder,
    open_storage,
    repeating,
    stamp_of,
)
from sagasr.io.errors import DataError, StorageError
from sagasr.io.fingerprint import fingerprint, short
from sagasr.io.lease import Lost, me

ABANDONED_S = 86_400.0  # the folder in which a process works is touched every EVERY_S
WRITER = ".writer"  # whose place it is: the token of the process that may write


class Mirror:
    """Copies what a training commits in ``folder`` to a place, as the only one that writes there.

    ``push`` may be called at any time, also while files are written, renamed and removed.
    """

    def __init__(self, folder: Path, remote: Remote) -> None:
        self.folder, self.remote = folder, remote
        self.token = secrets.token_hex(8)
        self._sent: dict[str, tuple[int, int]] = {}
        self._status: bytes | None = None

    def pull(self, *, take: bool = True) -> None:
        """Take the place over, and make the local folder what it holds but for checkpoints without a manifest.

        A worker beside the first does not ``take`` it: it goes on from the same checkpoint, and sends nothing.
        """
        if take:
            self.remote.write(WRITER, self.token.encode())
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        there = [name for name in self.remote.list() if is_shared(name) and name != LEASE]
        whole = {str(PurePosixPath(name).parent) for name in there if name.endswith(f"/{MANIFEST}")}
        names = [name for name in there if not _of_checkpoint(name) or str(PurePosixPath(name).parent) in whole]
        each(lambda name: self.remote.download(name, self.folder / name), names)
        self._sent = {name: stamp for name in names if (stamp := stamp_of(self.folder / name))}

    def push(self) -> None:
        """Copy what is new since the last time. Raises Lost when another process writes here by now."""
        self.check()
        # Listed and read before what they rely on is copied: by the time they are sent, all of that is there.
        checkpoints = sorted(self.folder.glob(f"checkpoints/step-*/{MANIFEST}"))
        status = None
        with contextlib.suppress(FileNotFoundError):
            status = (self.folder / STATUS).read_bytes()
        for name in files_of(self.folder):
            if not _of_checkpoint(name) and name != STATUS:
                self._send(name)
        for folder in (manifest.parent for manifest in checkpoints):
            names = [f"checkpoints/{folder.name}/{name}" for name in files_of(folder) if name != MANIFEST]
            for name in names:
                self._send(name)
            if names and all(name in self._sent for name in names):  # one that is removed meanwhile gets no manifest
                self._send(f"checkpoints/{folder.name}/{MANIFEST}")
        if status is not None and status != self._status:
            self.check()
            self.remote.write(STATUS, status)
            self._status = status
        self._remove_gone()

    def check(self) -> None:
        """Raise Lost when a later process has taken the place over."""
        if self.remote.read(WRITER) != self.token.encode():
            raise Lost(f"{self.remote.uri}: taken over by another process; this one writes no more")

    def _send(self, name: str) -> None:
        stamp = stamp_of(self.folder / name)
        if stamp is not None and self._sent.get(name) != stamp and self.remote.upload(self.folder / name, name):
            self._sent[name] = stamp

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
    root = _folder_of_this_process(local_folder(uri, "workers"))
    folder, launch = root / "trials" / trial, root / LAUNCH
    place = sweep / f"trials/{trial}"
    copy = Mirror(folder, place)
    insist(lambda: copy.pull(take=not rank), uri)
    insist(lambda: sweep.download(LAUNCH, launch), uri)

    def push() -> None:
        if not rank:
            copy.push()

    def follow() -> None:
        try:
            os.utime(root)  # a sign of life (see _folder_of_this_process)
            sweep.download(LAUNCH, launch)
            place.download(STOPPED, folder / STOPPED)
            push()
        except Lost:
            os._exit(1)
        except (OSError, StorageError):  # the storage is away, or the disk here is full: maybe not for long
            pass

    try:
        with repeating(follow, EVERY_S, "mirror"):
            yield folder, launch
    finally:
        insist(push, uri)
        shutil.rmtree(root, ignore_errors=True)


def _folder_of_this_process(parent: Path) -> Path:
    """Return a folder of this process, and remove those of processes that are gone.

    That can be known of processes of this machine since it was started. Others may be of a machine that shares this
    folder, and perhaps its name: those that nobody touched for ``ABANDONED_S``.
    """
    here = short(fingerprint([me().host, me().boot]))
    for path in parent.glob("*-*"):
        machine, _, process = path.name.rpartition("-")
        with contextlib.suppress(FileNotFoundError):
            age = time.time() - path.stat().st_mtime
            if not Path(f"/proc/{process}").exists() if machine == here else age > ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
    return parent / f"{here}-{os.getpid()}"


def shared_store(uri: str, store: Path) -> Path:
    """Return a folder of this machine that holds an encoded store, fetched if it was encoded elsewhere."""
    local = local_folder(uri, "encoded") / store.name
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
        each(lambda name: place.upload(store / name, name), [name for name in files_of(store) if name != "meta.json"])
        place.upload(store / "meta.json", "meta.json")


def _of_checkpoint(name: str) -> bool:
    return name.startswith("checkpoints/")
