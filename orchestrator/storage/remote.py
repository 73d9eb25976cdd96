"""Storages named by a URI, such as ``s3://bucket/prefix``: places of objects that appear whole.

Any file system that pyarrow knows by URI will do. Keys and endpoints are found where it looks for them (instance
profiles, ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` …), never in the URI, which is written down in many places.
Below: which files of a folder are copied there, and how long a storage that is away is waited for.
"""

import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from orchestrator.sweep_folder.paths import SweepPaths, SweptTrial
from sagasr.io.errors import ConfigError, StorageError, first_line
from sagasr.io.files import write_whole
from sagasr.io.fingerprint import fingerprint, short

EVERY_S = 2.0  # between two looks at what a training has committed, or at what the storage holds
PATIENCE_S = 600.0  # how long a finished training waits for a storage that is away
_TRIAL, _SWEEP = SweptTrial(Path()), SweepPaths(Path())  # for the names of files in them
STATUS, STOPPED, LEASE = _TRIAL.status.name, _TRIAL.stopped.name, _TRIAL.lease.name
LAUNCH, TRACKING = _SWEEP.launch.name, _SWEEP.tracking.name
MANIFEST = "manifest.json"
SHARED = frozenset({LEASE, _TRIAL.worker.name, _TRIAL.hung.name})  # hidden files of a trial that concern other machines
THREADS = 8
CHUNK = 1 << 20
T = TypeVar("T")


class Object(NamedTuple):
    """What a listing says of one object."""

    size: int
    modified_ns: int


@dataclass(frozen=True)
class Remote:
    """A place in a storage: ``fs`` is a pyarrow file system, ``path`` its path there. Methods raise OSError."""

    fs: Any
    path: str
    uri: str

    def __truediv__(self, name: str) -> "Remote":
        return Remote(self.fs, f"{self.path}/{name}", f"{self.uri}/{name}")

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, or None when there is none."""

        def whole() -> bytes:
            with self._opened(name) as stream:
                return bytes(stream.read())

        return self._of_one_version(name, whole)

    def write(self, name: str, content: bytes) -> None:
        """Replace an object, whole."""
        with self._open(name) as stream:
            stream.write(content)

    def upload(self, source: Path, name: str) -> bool:
        """Copy a local file to an object, whole; False when there is no such file (any more)."""
        try:
            local = source.open("rb")
        except FileNotFoundError:
            return False
        with local, self._open(name) as stream:
            shutil.copyfileobj(local, stream, CHUNK)
        return True

    def download(self, name: str, target: Path) -> bool:
        """Copy an object to a local file, whole; False when there is no such object (any more)."""

        def copy(temporary: Path) -> None:
            with self._opened(name) as stream, temporary.open("wb") as local:
                shutil.copyfileobj(stream, local, CHUNK)

        def whole() -> bool:
            write_whole(target, copy)
            return True

        return self._of_one_version(name, whole) or False

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is as good."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(f"{self.path}/{name}")

    def list(self) -> dict[str, Object]:
        """Return every object below this place, by its name relative to it."""
        from pyarrow.fs import FileSelector, FileType

        infos = self.fs.get_file_info(FileSelector(self.path, recursive=True, allow_not_found=True))
        files = (info for info in infos if info.type == FileType.File)
        return {info.path.removeprefix(f"{self.path}/"): Object(info.size, info.mtime_ns or 0) for info in files}

    def _of_one_version(self, name: str, read: Callable[[], T]) -> T | None:
        """Return what ``read`` returns, None without an object; again if it was replaced meanwhile.

        A file system asks for the size of an object first and for its bytes then, which may be those of a newer one.
        """
        while (before := self._version(name)) is not None:
            try:
                result = read()
                if self._version(name) == before:
                    return result
            except OSError:
                if self._version(name) == before:
                    raise
        return None

    def _version(self, name: str) -> Object | None:
        from pyarrow.fs import FileType

        info = self.fs.get_file_info(f"{self.path}/{name}")
        return Object(info.size, info.mtime_ns or 0) if info.type == FileType.File else None

    def _opened(self, name: str) -> Any:
        return self.fs.open_input_stream(f"{self.path}/{name}", compression=None)

    def _open(self, name: str) -> Any:
        path = f"{self.path}/{name}"
        if self.fs.type_name == "local":
            self.fs.create_dir(str(PurePosixPath(path).parent))
        return self.fs.open_output_stream(path, compression=None)


def is_uri(storage: str) -> bool:
    """Return whether a storage is no folder of this machine."""
    return "://" in storage and not storage.startswith("file://")


@cache
def open_storage(uri: str) -> Remote:
    """Return the place that a URI names. Raises ConfigError for one that cannot be used."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    scheme, _, rest = uri.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ConfigError(
            f"storage {scheme}://…: keys do not belong in a URI, which is written down in many places; "
            "put them into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or a profile"
        )
    try:
        fs, path = FileSystem.from_uri(uri)
    except (ArrowInvalid, OSError, ValueError) as error:
        remedy = "give a folder that every node can reach, or s3://bucket/prefix"
        raise ConfigError(f"storage {uri!r}: {first_line(error)}; {remedy}") from error
    return Remote(fs, path.rstrip("/"), uri.rstrip("/"))


def check_storage(remote: Remote) -> None:
    """Raise ConfigError, naming the remedy, when nothing can be written to, read from or listed at the place."""
    name = f".try-{secrets.token_hex(4)}"
    try:
        remote.write(name, b"sagasr")
        whole = remote.read(name) == b"sagasr" and name in remote.list()
        remote.delete(name)
    except OSError as error:
        question = "does the bucket exist, and may these keys write there?"
        raise ConfigError(f"storage {remote.uri}: {first_line(error)}; {question}") from error
    if not whole:
        raise ConfigError(f"storage {remote.uri}: what was written there cannot be read back")


def local_folder(uri: str, *kind: str) -> Path:
    """Return the folder of this machine in which what belongs to a URI is worked on: below SAGASR_CACHE or ~/.cache."""
    base = os.environ.get("SAGASR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sagasr"
    readable = re.sub(r"[^\w.-]+", "-", uri.partition("://")[2])[-60:].strip("-.")
    return Path(base, *kind, f"{readable}-{short(fingerprint(uri))}")


def each(act: Callable[[str], object], names: Sequence[str]) -> None:
    """Act on every name, several at a time; the first error is raised."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(act, names):
            pass


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
