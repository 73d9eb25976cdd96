"""What lies in folders, file by file, and what becomes of it: recordings in use, those left out and why, other files.

Links to files and folders are followed; no real folder is read twice. What is told adds up: every file that is there
is in use, left out for one reason, or no recording.
"""

import os
import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sagasr.audio.files import SUFFIXES
from sagasr.cli.common import shown
from sagasr.io.errors import ConfigError

# Names of sound, or of films with sound, as far as they are not in SUFFIXES: told apart from files of other kinds.
SOUND = re.compile(
    r"\.(3gp|aac|ac3|aif[cf]?|amr|ape|au|avi|caf|dff|dsf|dts|eac3|flac|gsm|m4[abv]|mk[av]|mov|mp[234cg]|mpeg|"
    r"og[agv]|opus|r[am]|rf64|shn|snd|sph|spx|tak|tta|voc|w64|wave?|web[am]|wma|wv)"
)
SWEEP = {"base.yaml", "grid.yaml", "plan.json"}  # in the folder of a sweep, which holds predictions
JUNK = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")  # of macOS, Synology and Windows: as good as hidden
NAMES_SHOWN = 3
REASONS_SHOWN = 20
BESIDE_MANIFEST = 100_000  # files that are looked at beside a manifest, which may lie anywhere

HIDDEN, NOWHERE, NO_FILE = "hidden", "links that lead nowhere", "devices or pipes"
OF_A_SWEEP = "written by a sweep"
AGAIN = "that are read anyway or hold the link"
CLOSED = "could not be looked into"
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
    found: list[File] = []
    seen: set[str] = set()
    folders, links = deque([(os.fspath(folder), top, "")]), deque[tuple[str, str]]()
    while folders or links:
        if folders:
            place, real, inside = folders.popleft()
        else:
            (place, parent), inside = links.popleft(), ""
            real = os.path.realpath(place)
            if real in seen or f"{parent}/".startswith(f"{real.rstrip('/')}/"):
                found.append(File(Path(place), place, False, AGAIN))
                continue
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = _entries(place)
        except OSError as error:
            vanished = isinstance(error, (FileNotFoundError, NotADirectoryError))
            if strict and not inside and (real == top or not vanished):
                raise ConfigError(
                    f"{folder}: cannot be searched for recordings ({error.strerror}: {place}); let it be read, or "
                    "move it elsewhere"
                ) from error
            if not inside and os.path.exists(place):
                found.append(File(Path(place), place, False, CLOSED))
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
                found.append(_file(entry, path, why))
        if at_most is not None and len(found) >= at_most:
            break
    return sorted(found, key=lambda file: file.path)


def _entries(place: str) -> list[os.DirEntry[str]]:
    with os.scandir(place) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _file(entry: os.DirEntry[str], real: str, inside: str) -> File:
    path = Path(entry.path)
    suffix = path.suffix.lower()
    if inside:
        reason = inside
    elif entry.is_symlink() and not os.path.exists(path):
        reason = NOWHERE
    elif not (os.path.isfile(path) if entry.is_symlink() else entry.is_file()):
        reason = NO_FILE
    else:
        reason = "" if suffix in SUFFIXES else NOT_READ
    return File(path, real, suffix in SUFFIXES or SOUND.fullmatch(suffix) is not None, reason)


def real_paths(paths: Iterable[Path]) -> list[str]:
    """Return the ``File.real`` of files."""
    real_of = cache(os.path.realpath)  # of one call, as links may change
    return [f"{real_of(path.parent)}/{path.name}" for path in paths]


@dataclass(frozen=True)
class Listing:
    """What is there and what becomes of it. ``used``: files by what they are used for, in words."""

    used: Mapping[str, Sequence[Path]]
    left_out: Mapping[str, Sequence[Path]]  # by reason
    other: Sequence[Path] = ()  # no recordings
    texts: int = 0  # so many of the others are read as texts of recordings
    told: Sequence[str] = ()  # how the folders are understood, and what else is to be known

    @property
    def found(self) -> int:
        """How many files there are."""
        return sum(map(len, (*self.used.values(), *self.left_out.values(), self.other)))

    def lines(self) -> list[str]:
        """Return all this for people: the sum, then a line for each reason."""
        parts = [f"{len(files):,} {use}" for use, files in self.used.items()]
        parts += [f"{sum(map(len, self.left_out.values())):,} left out", f"{len(self.other):,} no recordings"]
        lines = [f"files: {self.found:,} found: {', '.join(parts)}"]
        lines += [f"  {line}" for line in self.told]
        if kinds := _kinds([path for files in self.used.values() for path in files]):
            lines.append(f"  used: {kinds}")
        reasons = sorted(self.left_out.items(), key=lambda item: -len(item[1]))
        lines += [
            f"  left out ({reason}): {_kinds(files)}: {_names(files)}" for reason, files in reasons[:REASONS_SHOWN]
        ]
        if more := reasons[REASONS_SHOWN:]:
            lines.append(f"  left out: {sum(len(files) for _, files in more):,} more, for {len(more):,} other reasons")
        if self.other:
            read = f"; {self.texts:,} read as texts of recordings" if self.texts else ""
            lines.append(f"  no recordings: {_kinds(self.other)}{read}")
        return lines

    def tree(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "found": self.found,
            "used": {use: len(files) for use, files in self.used.items()},
            "left_out": {reason: len(files) for reason, files in self.left_out.items()},
            "other": len(self.other),
            "told": list(self.told),
        }


def listed(
    files: Collection[File],
    used: Mapping[str, Sequence[Path]],
    reason_of: Mapping[str, str],
    texts: int = 0,
    told: Sequence[str] = (),
) -> Listing:
    """Return the listing of files, of which some are ``used``; ``reason_of`` says by ``File.real`` why others are not.

    What is used counts even where it was not found, such as a file that a manifest names through a hidden folder.
    """
    there = {file.real for file in files}
    in_use: dict[str, dict[str, Path]] = {
        use: {
            real: path
            for real, path in zip(real_paths(paths), paths, strict=True)
            if real in there or os.path.exists(path)
        }
        for use, paths in used.items()
    }
    left_out: dict[str, list[Path]] = {}
    other = []
    folders: dict[str, list[Path]] = {AGAIN: [], CLOSED: []}
    for file in files:
        if any(file.real in paths for paths in in_use.values()):
            continue
        reason = reason_of.get(file.real) or file.reason
        if reason in folders:
            folders[reason].append(file.path)
        elif file.sound or file.real in reason_of:
            left_out.setdefault(reason, []).append(file.path)
        else:
            other.append(file.path)
    for what, reason in (("links to folders", AGAIN), ("folders", CLOSED)):
        if paths := folders[reason]:
            told = [*told, f"{len(paths):,} {what} {reason}: {_names(paths)}"]
    return Listing({use: [*paths.values()] for use, paths in in_use.items()}, left_out, other, texts, told)


def _kinds(paths: Sequence[Path]) -> str:
    """Return e.g. ``8 wav, 1 flac``."""
    kinds = Counter(
        shown(Path(path.suffix[1:].lower())) if path.suffix else "without suffix" for path in paths
    ).most_common()
    few = [f"{count:,} {kind}" for kind, count in kinds[:8]]
    return ", ".join([*few, *([f"{sum(count for _, count in kinds[8:]):,} of other kinds"] if kinds[8:] else [])])


def _names(paths: Sequence[Path]) -> str:
    names = [shown(Path(*path.parts[-2:])) for path in paths[:NAMES_SHOWN]]
    return ", ".join([*names, *(["…"] if len(paths) > NAMES_SHOWN else [])])
