"""Folders of recordings as corpora come: which files there are, what is said of them, which train and which validate.

| layout | known by | texts | split |
|---|---|---|---|
| a manifest inside | ``manifest.csv`` / ``.parquet`` / ``.jsonl`` | its columns | its column |
| VCTK | ``wav48*/SPEAKER/…`` and ``txt/SPEAKER/….txt`` | transcripts | by speaker, one in ten validates |
| ESC-50 | ``audio/`` and ``meta/esc50.csv`` | the category as a caption | fold 5 validates |
| MUSDB18 | ``train/TRACK/mixture.wav`` and ``test/…`` | none; stems are left out | its test tracks validate |
| any other | recordings at any depth | ``NAME.txt`` beside ``NAME.wav``; ``metadata.csv`` | folders, or by content |

Folders called train and val (or valid, validation, dev; else test or eval) are a split, and so are those of LibriSpeech
(``train-clean-100``). ``metadata.csv`` / ``.jsonl`` / ``.parquet`` with a column ``file_name`` is a table of Hugging
Face, in the folder or in those of its split. ``train.csv`` and ``val.csv`` in a folder are manifests of its split.

A split that the layout does not give is made only where one folder is named for both training and validation. It is a
function of the speaker's name, or of a file's content, alone: adding recordings moves none of the others.
"""

import csv
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from sagasr.audio.files import SUFFIXES
from sagasr.config.settings import Config, Data
from sagasr.data.listing import BESIDE_MANIFEST, File, Listing, files_below, listed, real_paths
from sagasr.data.manifest import (
    MAX_FAULTS,
    MAX_TEXT,
    SPLITS,
    Row,
    columns_of,
    content_hashes,
    is_no_name,
    read_manifest,
    rows_among,
)
from sagasr.io.errors import ConfigError, SagasrError
from sagasr.io.files import on_disk, same_name
from sagasr.io.fingerprint import seed_of

MANIFESTS = ("manifest.csv", "manifest.parquet", "manifest.jsonl")
TABLES = ("metadata.csv", "metadata.parquet", "metadata.jsonl")
VAL_SHARE = 10  # one in so many validates
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


class Layout(NamedTuple):
    """A folder understood: its recordings, one line on how, why others are left out, and the files of texts read."""

    rows: Sequence[Row]
    told: str
    unused: str = ""
    texts: Collection[Path] = ()
    files: Sequence[File] | None = None  # where they were looked at


def rows_in(folder: Path) -> tuple[Row, ...]:
    """Return the recordings of a folder, by its layout. Raises ConfigError listing all faults."""
    rows = layout_of(folder).rows
    if not rows:
        raise ConfigError(f"{folder}: holds no recordings ({', '.join(SUFFIXES)}); name a manifest or another folder")
    return tuple(rows)


def describe(folder: Path) -> str:
    """Return one line on how a folder is understood, for people."""
    return f"{folder}: {layout_of(folder).told}"


def list_data(data: Data, unusable: Mapping[tuple[str, str], str], scored: int) -> Listing:
    """Return what lies where the recordings of a configuration are named, and what becomes of each file.

    ``unusable`` says by split and path why a row is not used; ``scored`` is the most that are scored.
    """
    layouts = {name: _understood(Path(name)) for name in dict.fromkeys((data.train, data.val))}
    asked = {split: rows_among(data, split, layouts[getattr(data, split)].rows) for split in SPLITS}
    used = {split: [row.file for row in rows if (split, row.path) not in unusable] for split, rows in asked.items()}
    files: dict[str, File] = {}
    unused: dict[str, list[str]] = {}
    marked: dict[str, str] = {}
    told = []
    for name, layout in layouts.items():
        told.append(f"{name}: {layout.told}")
        rows = [row for row in layout.rows if row.split]
        places = real_paths(row.file for row in rows)
        marked |= {real: f"split {row.split}" for real, row in zip(places, rows, strict=True)}
        found = files_below(Path(name), strict=False) if layout.files is None else layout.files
        if len(found) >= BESIDE_MANIFEST and not os.path.isdir(name):
            told.append(f"{name}: stands beside more than {BESIDE_MANIFEST:,} files; not all of them were looked at")
        for file in found:
            files[file.real] = file
            unused.setdefault(file.real, []).append(layout.unused)
    texts = {text for layout in layouts.values() for text in layout.texts}
    left = [(split, row) for split, rows in asked.items() for row in rows if (split, row.path) in unusable]
    wrong = zip(real_paths(row.file for _, row in left), left, strict=True)
    reason_of = {real: "; ".join(dict.fromkeys(why)) for real, why in unused.items() if files[real].is_recording}
    reason_of |= marked | {real: unusable[split, row.path] for real, (split, row) in wrong}
    if absent := sum(not os.path.exists(row.file) for _, row in left):
        told.append(f"{absent:,} recordings that are named are not there")
    if len(used["val"]) > scored:
        told.append(f"{scored:,} of the {len(used['val']):,} that validate are scored (validation.clips)")
    used_for = {"train": used["train"], "validate": used["val"]}
    return listed(files.values(), used_for, reason_of, texts=len(texts), told=told)


def list_stored(config: Config, meta: Mapping[str, Any]) -> list[str]:
    """Return the lines of ``list_data`` of a configuration as its store, whose meta.json is given, has it.

    The store is whole, so data that can be read no more are only said.
    """
    unusable = {(it["split"], it["path"]): "cannot be used" for it in meta["left_out"]}
    try:
        return list_data(config.data, unusable, config.validation.clips).lines()
    except SagasrError as error:
        return [
            f"files: not listed, as the data changed after they were read: {line}" for line in f"{error}".splitlines()
        ]


def _understood(source: Path) -> Layout:
    """Return a folder or manifest understood. Raises ConfigError."""
    if os.path.isdir(source):
        return layout_of(source)
    beside = files_below(source.parent, BESIDE_MANIFEST, strict=False)
    return Layout(read_manifest(source), "a manifest", f"not named in {source.name}", files=beside)


def divided(folder: Path, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return rows without a split with one: about one speaker, or one recording, in ten validates. Raises DataError."""
    if _is_vctk(folder):
        keys = [Path(row.path).parts[1] for row in rows]
        order = {key: seed_of("split", key) for key in keys}
    else:
        keys = content_hashes(rows)
        order = {key: int(key[:16], 16) for key in keys}
    if len(order) < 2:
        raise ConfigError(f"{folder}: a single recording or speaker cannot be split; name other data as data.val")
    val = {key for key, number in order.items() if number % VAL_SHARE == 0} or {min(order, key=lambda it: order[it])}
    if val == set(order):
        val.remove(max(order, key=lambda it: order[it]))
    return tuple(replace(row, split="val" if key in val else "train") for key, row in zip(keys, rows, strict=True))


def layout_of(folder: Path) -> Layout:
    """Return a folder understood. Raises ConfigError."""
    for name in MANIFESTS:
        if (folder / name).is_file():
            return Layout(read_manifest(folder / name), f"read by its {name}", f"not named in {name}")
    if split := _split_tables(folder):
        rows = [replace(row, split=part) for path, part in split.items() for row in read_manifest(path)]
        names = {path.name: part for path, part in split.items()}
        return Layout(rows, _who(names), f"not named in {' or '.join(names)}", tuple(split))
    if _is_vctk(folder):
        return _vctk(folder)
    if (folder / "meta" / "esc50.csv").is_file():
        return Layout(_esc50(folder), "laid out as ESC-50; fold 5 validates", "not named in meta/esc50.csv")
    if any(folder.glob("t[er][sa][ti]*/*/mixture.*")):
        told = "laid out as MUSDB18; mixtures only, its test tracks validate"
        return Layout(_musdb(folder), told, "stems, or in no track of its splits")
    return _plain(folder)


def _is_vctk(folder: Path) -> bool:
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
    told = "laid out as VCTK; split by speaker where it is named for training and validation"
    return Layout(rows, told, "not in wav48*/SPEAKER/", texts)


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
        beside |= {path: path, _alike(path): path}
    called = [file.path for file in files if file.path.name in TABLES]
    tables = [path for path in called if "file_name" in columns_of(path)]
    told = [
        f"{path.relative_to(folder)} {'' if path in tables else 'names no file_name and '}is "
        f"{'' if path in tables else 'not '}read"
        for path in called
    ]
    texts = set(tables)

    def describe_one(path: Path) -> dict[str, str]:
        file = beside.get(path.with_suffix(".txt")) or beside.get(_alike(path))
        texts.update([file] if file else [])
        text = _text(file) if file else ""
        return {"caption": text, "transcript": text}

    places = {path.parent for path in tables}
    free = [it.path for it in files if it.is_recording and places.isdisjoint(it.path.parents)]
    rows = _named(folder, tables) + _rows(folder, free, describe_one)
    split, how = ({}, "") if any(row.split for row in rows) else split_by_folders([row.path for row in rows])
    if split:
        rows = [replace(row, split=split[row.path]) for row in rows if row.path in split]
    elif not any(row.split for row in rows):
        told.append("no split in it: about one recording in ten validates if it is named for both")
    unused = ["not named in metadata"] * bool(tables) + ["in no folder of a split"] * bool(split)
    return Layout(rows, "; ".join(filter(None, ["any recordings", how, *told])), " or ".join(unused), texts, everything)


def _split_tables(folder: Path) -> dict[Path, str]:
    """Return the manifests of a folder that are called as a split, train.csv and val.csv, with what they are for."""
    part_of = {
        path: PARTS[path.stem.lower()]
        for path in sorted(folder.iterdir())
        if path.stem.lower() in PARTS and path.suffix in (".csv", ".parquet", ".jsonl") and _names_files(path)
    }
    part_of = _validated(part_of)
    return part_of if {"train", "val"} <= set(part_of.values()) else {}


def _names_files(table: Path) -> bool:
    return not {"path", "file_name"}.isdisjoint(columns_of(table))


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
        part_of = {name: PARTS[found.copy().pop()] for name, found in words.items() if len(found) == 1}
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


def _alike(path: Path) -> tuple[Path, str]:
    """Return what is equal for a recording and the text that is meant beside it."""
    return path.parent, same_name(path.stem)


def _named(folder: Path, tables: Sequence[Path]) -> list[Row]:
    """Return the recordings that tables of Hugging Face name, with paths as the folder has them."""
    rows = {}
    for table in tables:
        for row in read_manifest(table):
            path = (table.parent / row.path).relative_to(folder).as_posix()
            rows[path] = replace(row, path=path)
    return list(rows.values())


def _rows(folder: Path, files: Iterable[Path], said: Callable[[Path], dict[str, str]]) -> list[Row]:
    files = list(files)
    names = [ascii(path) for file in files if is_no_name(path := file.relative_to(folder).as_posix())]
    if names:
        remedy = "its name holds line ends, control codes or bytes that are not UTF-8; rename it"
        raise ConfigError("\n".join(f"{folder}: {name}: {remedy}" for name in names[:MAX_FAULTS]))
    return [
        Row(line=line, path=file.relative_to(folder).as_posix(), file=file, **said(file))  # type: ignore[arg-type]
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
