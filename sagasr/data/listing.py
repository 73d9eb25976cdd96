"""What lies where recordings are named, and what becomes of it: in use, left out and why, or no recording.

What is told adds up: every file that is there is counted once.
"""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagasr.config.settings import Config, Data
from sagasr.data.folders import AGAIN, BESIDE_MANIFEST, CLOSED, File, Layout, files_below, layout_of, real_paths
from sagasr.data.manifest import read_table
from sagasr.data.rows import SPLITS
from sagasr.data.splits import rows_of
from sagasr.io.errors import SagasrError, shown

NAMES_SHOWN = 3
REASONS_SHOWN = 20


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
    in_use: dict[str, dict[str, Path]] = {}
    for use, paths in used.items():
        pairs = zip(real_paths(paths), paths, strict=True)
        in_use[use] = {real: path for real, path in pairs if real in there or os.path.exists(path)}
    left_out: dict[str, list[Path]] = {}
    other = []
    for file in files:
        if any(file.real in paths for paths in in_use.values()):
            continue
        reason = reason_of.get(file.real) or file.reason
        if file.sound or file.real in reason_of or reason in (AGAIN, CLOSED):
            left_out.setdefault(reason, []).append(file.path)
        else:
            other.append(file.path)
    for kind, reason in (("links to folders", AGAIN), ("folders", CLOSED)):
        if folders := left_out.pop(reason, []):
            told = [*told, f"{len(folders):,} {kind} {reason}: {_names(folders)}"]
    return Listing({use: [*paths.values()] for use, paths in in_use.items()}, left_out, other, texts, told)


def _kinds(paths: Sequence[Path]) -> str:
    """Return e.g. ``8 wav, 1 flac``."""
    kinds = Counter(shown(path.suffix[1:].lower()) or "without suffix" for path in paths).most_common()
    more = [(sum(count for _, count in kinds[8:]), "of other kinds")] if kinds[8:] else []
    return ", ".join(f"{count:,} {kind}" for count, kind in [*((n, kind) for kind, n in kinds[:8]), *more])


def _names(paths: Sequence[Path]) -> str:
    names = [shown(Path(*path.parts[-2:])) for path in paths[:NAMES_SHOWN]]
    return ", ".join([*names, *(["…"] if len(paths) > NAMES_SHOWN else [])])


def list_data(data: Data, unusable: Mapping[tuple[str, str], str], scored: int) -> Listing:
    """Return what lies where the recordings of a configuration are named, and what becomes of each file.

    ``unusable`` says by split and path why a row is not used; ``scored`` is the most that are scored.
    """
    layouts = {name: _understood(Path(name)) for name in dict.fromkeys((data.train, data.val))}
    asked = {split: rows_of(data, split, layouts[getattr(data, split)].rows) for split in SPLITS}
    used = {split: [row.file for row in rows if (split, row.path) not in unusable] for split, rows in asked.items()}
    files: dict[str, File] = {}
    unused: dict[str, list[str]] = {}
    marked: dict[str, str] = {}
    remarks = []
    for name, layout in layouts.items():
        remarks.append(f"{name}: {layout.told}")
        rows = [row for row in layout.rows if row.split]
        places = real_paths(row.file for row in rows)
        marked |= {real: f"split {row.split}" for real, row in zip(places, rows, strict=True)}
        below = files_below(Path(name), strict=False) if layout.files is None else layout.files
        if len(below) >= BESIDE_MANIFEST and not os.path.isdir(name):
            remarks.append(f"{name}: stands beside more than {BESIDE_MANIFEST:,} files; not all of them were looked at")
        for file in below:
            files[file.real] = file
            unused.setdefault(file.real, []).append(layout.unused)
    texts = {text for layout in layouts.values() for text in layout.texts}
    excluded = [(split, row) for split, rows in asked.items() for row in rows if (split, row.path) in unusable]
    wrong = zip(real_paths(row.file for _, row in excluded), excluded, strict=True)
    reason_of = {real: "; ".join(dict.fromkeys(why)) for real, why in unused.items() if files[real].is_recording}
    reason_of |= marked | {real: unusable[split, row.path] for real, (split, row) in wrong}
    if absent := sum(not os.path.exists(row.file) for _, row in excluded):
        remarks.append(f"{absent:,} recordings that are named are not there")
    if len(used["val"]) > scored:
        remarks.append(f"{scored:,} of the {len(used['val']):,} that validate are scored (validation.clips)")
    return listed(files.values(), {"train": used["train"], "validate": used["val"]}, reason_of, len(texts), remarks)


def list_stored(config: Config, meta: Mapping[str, Any]) -> list[str]:
    """Return the lines of ``list_data`` of a configuration as its store, whose meta.json is given, has it.

    The store is whole, so data that can be read no more are only said.
    """
    unusable = {(left["split"], left["path"]): "cannot be used" for left in meta["left_out"]}
    try:
        return list_data(config.data, unusable, config.validation.clips).lines()
    except SagasrError as error:
        why = "files: not listed, as the data changed after they were read"
        return [f"{why}: {line}" for line in str(error).splitlines()]


def _understood(source: Path) -> Layout:
    """Return a folder or manifest understood. Raises ConfigError."""
    if os.path.isdir(source):
        return layout_of(source)
    beside = files_below(source.parent, BESIDE_MANIFEST, strict=False)
    return Layout(read_table(source), "a manifest", f"not named in {source.name}", files=beside)
