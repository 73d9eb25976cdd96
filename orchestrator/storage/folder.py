"""The folder of a sweep on this machine and, where the sweep's storage is a URI, what the folder is a copy of.

The sweep reads along (``fetch``, ``following``) what its workers send, and sends the little that it writes itself
(``send``). Without a URI the folder is all there is, and none of these does anything.
"""

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchestrator.storage.claims import claimed
from orchestrator.storage.remote import (
    EVERY_S,
    MANIFEST,
    SHARED,
    STATUS,
    TRACKING,
    Object,
    Remote,
    check_storage,
    each,
    files_of,
    insist,
    is_shared,
    is_uri,
    local_folder,
    open_storage,
    repeating,
    stamp_of,
)
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.io.errors import ConfigError, SagasrError, first_line
from sagasr.io.files import read_json, write_json
from sagasr.io.lease import wait_free


@dataclass(frozen=True)
class SweepFolder:
    """``path``: the folder on this machine. ``uri``: what it is a copy of, or nothing."""

    path: Path
    uri: str = ""

    @classmethod
    def of(cls, storage: str, name: str) -> "SweepFolder":
        """Return the folder of a sweep in a storage: a folder, or a URI. Nothing is made, and nobody is asked."""
        if is_uri(storage):
            uri = storage.rstrip("/")
            return cls(local_folder(uri, "sweeps").resolve() / name, f"{uri}/{name}")
        return cls(Path(storage.removeprefix("file://")).expanduser().resolve() / name)

    @property
    def paths(self) -> SweepPaths:
        return SweepPaths(self.path)

    @property
    def stores(self) -> Path:
        """Where this machine keeps the encoded recordings of the storage."""
        return local_folder(self.uri, "encoded") if self.uri else self.path.parent / "encoded"

    def send(self, file: Path) -> None:
        """Copy one file that the sweep wrote in its folder to the storage. Raises StorageError."""
        if self.uri:
            remote, name = self._remote, str(file.relative_to(self.path))
            insist(lambda: remote.upload(file, name), self.uri)

    def fetch(self, *, alone: bool = False) -> None:
        """Make the folder what the storage holds, but for the content of checkpoints.

        Trials that the storage does not know are removed, unless a sweep of this machine may just have begun them;
        ``alone`` says that there is none, as the caller holds the folder. Raises ConfigError when the storage cannot be
        read.
        """
        if not self.uri:
            return
        before = list(self.paths.trials.glob("*"))
        try:
            _copy_in(self._remote, self.path)
            there = {PurePosixPath(name).parts[1] for name in self._remote.list() if name.startswith("trials/")}
        except OSError as error:
            question = "does the bucket exist, and may these keys read it?"
            raise ConfigError(f"storage {self.uri}: {first_line(error)}; {question}") from error
        if alone or wait_free(self.paths.lease, 0):
            for path in before:
                if path.name not in there:
                    shutil.rmtree(path, ignore_errors=True)

    def fetch_trials(self, trials: Iterable[str]) -> None:
        """Bring the folders of these trials up to date. Raises StorageError."""
        if self.uri:
            names = list(trials)
            insist(lambda: each(self._copy_trial, names), self.uri)

    def fetch_checkpoint(self, trial: str) -> None:
        """Bring the content of a trial's newest checkpoint, for who wants its weights. Raises StorageError."""
        if not self.uri:
            return
        remote, folder = self._remote / f"trials/{trial}", self.paths.trial(trial)

        def fetch() -> None:
            there = remote.list()
            newest = max((name for name in there if _of_checkpoint(name) and _is_wanted(name)), default="")
            parts = [name for name in there if newest and PurePosixPath(name).parent == PurePosixPath(newest).parent]
            new = [name for name in parts if not (folder / name).exists()]
            each(lambda name: remote.download(name, folder / name), new)

        insist(fetch, self.uri)

    @contextlib.contextmanager
    def following(self, trial: str) -> Iterator[None]:
        """Keep the folder of one trial up to date for the block.

        The trial's driver does so: the requests to the storage grow with the trials that run, not with those that wait.
        """
        if not self.uri:
            yield
            return

        def follow() -> None:
            with contextlib.suppress(OSError, SagasrError):
                self._copy_trial(trial)

        self.fetch_trials([trial])
        try:
            with repeating(follow, EVERY_S, "copy"):
                yield
        finally:
            self.fetch_trials([trial])

    @contextlib.contextmanager
    def held(self, on_lost: Callable[[], object]) -> Iterator[None]:
        """Hold the storage for the block, with the folder up to date; then send the results.

        ``on_lost`` is called should another sweep take the storage over. Raises SagasrError when the storage cannot be
        used or another sweep holds it.
        """
        if not self.uri:
            yield
            return
        check_storage(self._remote)
        with claimed(self._remote, on_lost):
            self.fetch(alone=True)
            try:
                yield
            finally:
                self.send_results()

    def publish_results(self, on_lost: Callable[[], object]) -> None:
        """Hold the storage once more, and send the results. Raises DataError when another sweep holds it by now."""
        if self.uri:
            with claimed(self._remote, on_lost):
                self.send_results()

    def send_results(self) -> None:
        """Copy plan, tables, report and listening set to the storage."""
        if not self.uri:
            return
        there = {name for name in self._remote.list() if name.startswith("audio/")}
        own = [name for name in (*files_of(self.path), TRACKING) if not name.startswith("trials/")]
        new = [name for name in own if name not in there]
        insist(lambda: each(lambda name: self._remote.upload(self.path / name, name), new), self.uri)

    @property
    def _remote(self) -> Remote:
        return open_storage(self.uri)

    def _copy_trial(self, trial: str) -> None:
        _copy_in(self._remote / f"trials/{trial}", self.paths.trial(trial))


def check_folder(folder: Path) -> None:
    """Raise ConfigError when a sweep's folder cannot be made or written, or others could write there or replace it."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise ConfigError(f"storage: {existing} is a file, not a folder; choose another --storage")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"storage: {existing} may not be written by this user; choose another --storage")
    if folder.exists():
        status = folder.stat()
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{folder}: belongs to another user; choose another --storage")
        if status.st_mode & stat.S_IWOTH:
            raise ConfigError(f"{folder}: everybody may write there; chmod o-w it, or choose another --storage")
    place = folder.parent
    if place.exists() and place.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        raise ConfigError(f"{place}: everybody may replace what is there; chmod o-w it, or choose another --storage")


def _copy_in(remote: Remote, folder: Path) -> None:
    """Copy what differs, a status after all else, and remove what only workers write and have removed."""
    index = folder / ".copied.json"
    known: dict[str, list[int]] = {}
    with contextlib.suppress(SagasrError):
        known = dict(read_json(index))
    listed = {name: entry for name, entry in remote.list().items() if _is_wanted(name)}
    new = [name for name, entry in listed.items() if known.get(name) != list(entry) or not (folder / name).exists()]
    for last in (False, True):
        batch = [name for name in new if (PurePosixPath(name).name == STATUS) == last]
        each(lambda name: remote.download(name, folder / name), batch)
    for name in files_of(folder):
        if name not in listed and (name.endswith(f"/{MANIFEST}") or PurePosixPath(name).name in SHARED):
            (folder / name).unlink(missing_ok=True)

    def is_settled(name: str, entry: Object) -> bool:
        """Return whether an object will not change unseen: listings tell times in whole seconds."""
        stamp = stamp_of(folder / name)  # None: it was gone before it could be copied
        return time.time() - entry.modified_ns / 1e9 > 5.0 and stamp is not None and stamp[0] == entry.size

    settled = (name for name, entry in listed.items() if name not in new or is_settled(name, entry))
    write_json(index, {name: list(listed[name]) for name in settled})


def _is_wanted(name: str) -> bool:
    """Return whether the sweep's folder has a use for an object: of checkpoints, that they are there."""
    inside = _of_checkpoint(name)
    return (name == TRACKING or is_shared(name)) and (not inside or name.endswith(f"/{MANIFEST}"))


def _of_checkpoint(name: str) -> bool:
    return "checkpoints" in PurePosixPath(name).parts
