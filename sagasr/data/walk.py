"""Which files lie in folders: recordings, those that cannot be one and why, and others.

Links to files and folders are followed; no real folder is read twice.
"""

import os
import re
from collections import deque
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sagasr.audio.decoders import SUFFIXES
from sagasr.io.errors import ConfigError

JUNK = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")  # of macOS, Synology and Windows: as good as hidden
# Names of sound, or of films with sound, as far as they are not in SUFFIXES: told apart from files of other kinds.
SOUND = re.compile(
    r"\.(3gp|aac|ac3|aif[cf]?|amr|ape|au|avi|caf|dff|dsf|dts|eac3|flac|gsm|m4[abv]|mk[av]|mov|mp[234cg]|mpeg|"
    r"og[agv]|opus|r[am]|rf64|shn|snd|sph|spx|tak|tta|voc|w64|wave?|web[am]|wma|wv)"
)
SWEEP = {"base.yaml", "grid.yaml", "plan.json"}  # in the folder of a sweep, which holds predictions
BESIDE_MANIFEST = 100_000  # files that are looked at beside a manifest, which may lie anywhere

# Why a file is no recording, or a folder was not looked into.
HIDDEN, OF_A_SWEEP, NOWHERE, NO_FILE = "hidden", "written by a sweep", "links that lead nowhere", "devices or pipes"
AGAIN, CLOSED = "that are read anyway or hold the link", "could not be looked into"
REMEDY = "let it be read, or move it elsewhere"
NOT_READ = "formats that are not read; convert them to FLAC"


class File(NamedTuple):
    """A file in a folder. ``real`` is the same by whatever links it is reached; ``reason`` says why no recording."""

    path: Path
    real: str
    sound: bool
    reason: str = ""

    @property
    def passed_by(self) -> bool:
        """Whether it lies where no recordings are looked for."""
        return self.reason in (HIDDEN, OF_A_SWEEP)

    @property
    def is_recording(self) -> bool:
        """Whether it can be used."""
        return self.sound and not self.reason


def files_below(folder: Path, at_most: int | None = None, strict: bool = True) -> list[File]:
    """Return the files below a folder, sorted; of a hidden folder all are hidden, of a sweep's all are its output.

    Raises ConfigError for a folder that cannot be looked into, as it may hold recordings; unless ``strict`` such a
    folder is among what is returned, by its reason. One that vanished meanwhile holds nothing.

    Where a folder is reached in several ways the one without links counts. A link to a folder that holds the link is
    not followed, as it would lead out. Links that are not followed are among what is returned, by their reason.
    """
    top = os.path.realpath(folder)
    files: list[File] = []
    seen: set[str] = set()
    folders, links = deque([(os.fspath(folder), top, "")]), deque[tuple[str, str]]()
    while folders or links:
        if folders:
            place, real, inside = folders.popleft()
        else:
            (place, parent), inside = links.popleft(), ""
            real = os.path.realpath(place)
            if real in seen or f"{parent}/".startswith(f"{real.rstrip('/')}/"):
                files.append(File(Path(place), place, False, AGAIN))
                continue
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(place) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            vanished = isinstance(error, (FileNotFoundError, NotADirectoryError))
            if strict and not inside and (real == top or not vanished):
                why = f"{error.strerror}: {place}"
                raise ConfigError(f"{folder}: cannot be searched for recordings ({why}); {REMEDY}") from error
            if not inside and os.path.exists(place):
                files.append(File(Path(place), place, False, CLOSED))
            continue
        if real != top and {entry.name for entry in entries} >= SWEEP:
            inside = inside or OF_A_SWEEP
        for entry in entries:
            why = inside or (HIDDEN if entry.name.startswith(".") or entry.name in JUNK else "")
            path = f"{real}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, path, why))
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.extend([] if why else [(entry.path, real)])
            else:
                files.append(_file(entry, path, why))
        if at_most is not None and len(files) >= at_most:
            break
    return sorted(files, key=lambda file: file.path)


def _file(entry: os.DirEntry[str], real: str, inside: str) -> File:
    path = Path(entry.path)
    suffix = path.suffix.lower()
    reason = inside or ("" if suffix in SUFFIXES else NOT_READ)
    if not inside and not (os.path.isfile(path) if entry.is_symlink() else entry.is_file()):
        reason = NO_FILE if os.path.exists(path) else NOWHERE
    return File(path, real, suffix in SUFFIXES or SOUND.fullmatch(suffix) is not None, reason)


def real_paths(paths: Iterable[Path]) -> list[str]:
    """Return the ``File.real`` of files."""
    real_of = cache(os.path.realpath)  # of one call, as links may change
    return [f"{real_of(path.parent)}/{path.name}" for path in paths]
