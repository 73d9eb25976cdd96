"""Folders of recordings as corpora come: which files there are, what is said of them, which train and which validate.

The layouts stand in the README of ``sagasr``: a manifest inside, VCTK, ESC-50, MUSDB18, or recordings at any depth with
texts beside them, in folders or tables of a split. Links are followed; no real folder is read twice.

A split that the layout does not give is made only where one folder is named for both training and validation. It is a
function of the speaker's name, or of a file's content, alone: adding recordings moves none of the others.
"""

import csv
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from sagasr.audio.decoders import SUFFIXES
from sagasr.data.manifest import columns_of, read_table
from sagasr.data.rows import MAX_FAULTS, MAX_TEXT, Row, is_no_name
from sagasr.io.errors import ConfigError
from sagasr.io.files import on_disk, same_name

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

MANIFESTS = ("manifest.csv", "manifest.parquet", "manifest.jsonl")
TABLES = ("metadata.csv", "metadata.parquet", "metadata.jsonl")
MICROPHONE = re.compile(r"_mic\d$")  # of VCTK 0.92, whose two microphones share a transcript
ESC_VAL_FOLD = "5"
# What is in folders with such a word in their name.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
MEANS = {"train": "trains", "val": "validates", "test": "is left out"}

Named = TypeVar("Named")


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


class Layout(NamedTuple):
    """A folder understood: its recordings, one line on how, why others are left out, and the files of texts read."""

    rows: Sequence[Row]
    told: str
    unused: str = ""
    texts: Collection[Path] = ()
    files: Sequence[File] | None = None  # where they were looked at


def describe(folder: Path) -> str:
    """Return one line on how a folder is understood, for people."""
    return f"{folder}: {layout_of(folder).told}"


def layout_of(folder: Path) -> Layout:
    """Return a folder understood. Raises ConfigError."""
    for name in MANIFESTS:
        if (folder / name).is_file():
            return Layout(read_table(folder / name), f"read by its {name}", f"not named in {name}")
    if split := _split_tables(folder):
        rows = [replace(row, split=part) for path, part in split.items() for row in read_table(path)]
        names = {path.name: part for path, part in split.items()}
        return Layout(rows, _who(names), f"not named in {' or '.join(names)}", tuple(split))
    if is_vctk(folder):
        return _vctk(folder)
    if (folder / "meta" / "esc50.csv").is_file():
        return Layout(_esc50(folder), "laid out as ESC-50; fold 5 validates", "not named in meta/esc50.csv")
    if any(folder.glob("t[er][sa][ti]*/*/mixture.*")):
        description = "laid out as MUSDB18; mixtures only, its test tracks validate"
        return Layout(_musdb(folder), description, "stems, or in no track of its splits")
    return _plain(folder)


def is_vctk(folder: Path) -> bool:
    """Return whether a folder is laid out as VCTK."""
    return (folder / "txt").is_dir() and any(path.is_dir() for path in folder.glob("wav48*"))


def _vctk(folder: Path) -> Layout:
    texts = set()

    def describe_one(path: Path) -> dict[str, str]:
        text = on_disk(folder / "txt" / path.parent.name / f"{MICROPHONE.sub('', path.stem)}.txt")
        if os.path.isfile(text):
            texts.add(text)
        return {"transcript": _text(text), "domain": "speech"}

    files = (file for top in sorted(folder.glob("wav48*")) for file in _audio(top) if file.parent.parent == top)
    rows = _rows(folder, files, describe_one)
    description = "laid out as VCTK; split by speaker where it is named for training and validation"
    return Layout(rows, description, "not in wav48*/SPEAKER/", texts)


def _esc50(folder: Path) -> list[Row]:
    table = folder / "meta" / "esc50.csv"
    try:
        with table.open(encoding="utf-8-sig", newline="") as handle:
            records = list(csv.DictReader(handle, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{table}: not readable as CSV ({error})") from error
    rows, faults, seen = [], [], set()
    for line, record in enumerate(records, start=2):
        name = (record.get("filename") or "").strip()
        if not name or not record.get("fold") or not record.get("category") or Path(name).name != name:
            faults.append(f"{table}: line {line}: needs filename (a name in audio/), fold and category")
        elif same_name(name) in seen:
            faults.append(f"{table}: line {line}: {name} stands there already; remove one of the two")
        else:
            seen.add(same_name(name))
            split = "val" if record["fold"].strip() == ESC_VAL_FOLD else "train"
            caption = " ".join(record["category"].replace("_", " ").split())
            path = f"audio/{name}"
            file = on_disk(folder / path)
            rows.append(Row(line=line, path=path, file=file, caption=caption, split=split, domain="effects"))
    if faults:
        raise ConfigError("\n".join(faults[:MAX_FAULTS]))
    return rows


def _musdb(folder: Path) -> list[Row]:
    def describe_one(path: Path) -> dict[str, str]:
        return {"split": "val" if path.parent.parent.name == "test" else "train", "domain": "music"}

    mixtures = (
        file
        for part in ("train", "test")
        for file in _audio(folder / part)
        if file.stem == "mixture" and file.parent.parent == folder / part
    )
    return _rows(folder, mixtures, describe_one)


def _plain(folder: Path) -> Layout:
    everything = files_below(folder)
    files = [file for file in everything if not file.passed_by]
    beside: dict[object, Path] = {}
    for path in (file.path for file in files if file.path.suffix.lower() == ".txt"):
        beside |= {path: path, (path.parent, same_name(path.stem)): path}
    called = [file.path for file in files if file.path.name in TABLES]
    tables = [path for path in called if "file_name" in columns_of(path)]
    remarks = [
        f"{path.relative_to(folder)} {'is read' if path in tables else 'names no file_name and is not read'}"
        for path in called
    ]
    texts = set(tables)

    def describe_one(path: Path) -> dict[str, str]:
        file = beside.get(path.with_suffix(".txt")) or beside.get((path.parent, same_name(path.stem)))
        texts.update([file] if file else [])
        text = _text(file) if file else ""
        return {"caption": text, "transcript": text}

    places = {path.parent for path in tables}
    free = [file.path for file in files if file.is_recording and places.isdisjoint(file.path.parents)]
    named = {}
    for table in tables:
        for row in read_table(table):
            name = (table.parent / row.path).relative_to(folder).as_posix()
            named[name] = replace(row, path=name)
    rows = [*named.values(), *_rows(folder, free, describe_one)]
    split, how = ({}, "") if any(row.split for row in rows) else split_by_folders([row.path for row in rows])
    if split:
        rows = [replace(row, split=split[row.path]) for row in rows if row.path in split]
    elif not any(row.split for row in rows):
        remarks.append("no split in it: about one recording in ten validates if it is named for both")
    unused = ["not named in metadata"] * bool(tables) + ["in no folder of a split"] * bool(split)
    description = "; ".join(filter(None, ["any recordings", how, *remarks]))
    return Layout(rows, description, " or ".join(unused), texts, everything)


def _split_tables(folder: Path) -> dict[Path, str]:
    """Return the manifests of a folder that are called as a split, train.csv and val.csv, with what they are for."""
    part_of = {
        path: PARTS[path.stem.lower()]
        for path in sorted(folder.iterdir())
        if path.stem.lower() in PARTS
        and path.suffix in (".csv", ".parquet", ".jsonl")
        and not {"path", "file_name"}.isdisjoint(columns_of(path))
    }
    part_of = _validated(part_of)
    return part_of if {"train", "val"} <= set(part_of.values()) else {}


def _validated(part_of: Mapping[Named, str]) -> dict[Named, str]:
    """Let test validate where nothing else does."""
    if "val" in part_of.values():
        return dict(part_of)
    return {name: "val" if part == "test" else part for name, part in part_of.items()}


def split_by_folders(paths: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return the split of recordings that lie in folders of a split, and how their names are understood.

    A split needs folders for training and for another part side by side, with most recordings in them; else there is
    none. Where nothing else trains, dev does; where nothing else validates, test does.
    """
    parts = [PurePosixPath(path).parts[:-1] for path in paths]
    doubts = ""
    for depth in range(max(map(len, parts), default=0)):
        names = {part[depth] for part in parts if len(part) > depth}
        words = {name: set(re.split(r"[\W_]+", name.lower())) & PARTS.keys() for name in names}
        part_of = {name: PARTS[next(iter(named))] for name, named in words.items() if len(named) == 1}
        if "train" not in part_of.values():
            part_of |= {name: "train" for name in part_of if "dev" in words[name]}
        part_of = _validated(part_of)
        split = {
            path: part_of[part[depth]]
            for path, part in zip(paths, parts, strict=True)
            if len(part) > depth and part[depth] in part_of
        }
        if {"train", "val"} <= set(part_of.values()) and 2 * len(split) >= len(paths):
            return split, _who({f"{name}/": part for name, part in part_of.items()})
        if part_of and not doubts:
            called = _some([f"{name}/" for name in part_of])
            doubts = f"{called}: no split, which needs a train and a val folder side by side with most recordings"
    return {}, doubts


def _who(part_of: Mapping[str, str]) -> str:
    """Return e.g. ``train/ trains, val/ validates``."""
    named = {does: [name for name, its in part_of.items() if its == part] for part, does in MEANS.items()}
    return ", ".join(f"{_some(names)} {does}" for does, names in named.items() if names)


def _some(names: Sequence[str]) -> str:
    return ", ".join([*sorted(names)[:4], *(["…"] if len(names) > 4 else [])])


def _rows(folder: Path, files: Iterable[Path], describe_one: Callable[[Path], dict[str, str]]) -> list[Row]:
    files = list(files)
    names = [ascii(path) for file in files if is_no_name(path := file.relative_to(folder).as_posix())]
    if names:
        remedy = "its name holds line ends, control codes or bytes that are not UTF-8; rename it"
        raise ConfigError("\n".join(f"{folder}: {name}: {remedy}" for name in names[:MAX_FAULTS]))
    return [
        Row(line=line, path=file.relative_to(folder).as_posix(), file=file, **describe_one(file))  # type: ignore[arg-type]
        for line, file in enumerate(files, start=1)
    ]


def _audio(folder: Path) -> list[Path]:
    """Return the recordings below a folder, sorted; hidden files and folders are not looked at."""
    return [file.path for file in files_below(folder) if file.is_recording] if folder.is_dir() else []


def _text(path: Path) -> str:
    """Return the text in a file on one line, "" where there is none. Raises ConfigError."""
    if not os.path.isfile(path):
        return ""
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text; save it as UTF-8") from error
    if len(text) > MAX_TEXT or not text.isprintable():
        raise ConfigError(f"{path}: more than {MAX_TEXT:,} characters, or characters that no text has")
    return text
