"""Folders of recordings as corpora come: which files there are, what is said of them, which train and which validate.

| layout | known by | texts | split |
|---|---|---|---|
| a manifest inside | ``manifest.csv`` / ``.parquet`` / ``.jsonl`` | its columns | its column |
| VCTK | ``wav48*/SPEAKER/…`` and ``txt/SPEAKER/….txt`` | transcripts | by speaker, one in ten validates |
| ESC-50 | ``audio/`` and ``meta/esc50.csv`` | the category as a caption | fold 5 validates |
| MUSDB18 | ``train/TRACK/mixture.wav`` and ``test/…`` | none; stems are left out | its test tracks validate |
| any other | recordings at any depth | ``NAME.txt`` beside ``NAME.wav`` | by content, one in ten validates |

A split that the layout does not give is made only where one folder is named for both training and validation. It is a
function of the speaker's name, or of a file's content, alone: adding recordings moves none of the others.
"""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sagasr.audio.files import SUFFIXES
from sagasr.data.manifest import MAX_FAULTS, MAX_TEXT, Row, content_hashes, is_no_name, read_manifest
from sagasr.errors import ConfigError
from sagasr.fingerprint import seed_of

MANIFESTS = ("manifest.csv", "manifest.parquet", "manifest.jsonl")
VAL_SHARE = 10  # one in so many validates
MICROPHONE = re.compile(r"_mic\d$")  # of VCTK 0.92, whose two microphones share a transcript
ESC_VAL_FOLD = "5"


def rows_in(folder: Path) -> tuple[Row, ...]:
    """Return the recordings of a folder, by its layout. Raises ConfigError listing all faults."""
    for name in MANIFESTS:
        if (folder / name).is_file():
            return read_manifest(folder / name)
    rows, _ = _layout(folder)
    if not rows:
        raise ConfigError(f"{folder}: holds no recordings ({', '.join(SUFFIXES)}); name a manifest or another folder")
    return tuple(rows)


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


def describe(folder: Path) -> str:
    """Return one line on how a folder is understood, for people."""
    for name in MANIFESTS:
        if (folder / name).is_file():
            return f"{folder}: read by its {name}"
    _, text = _layout(folder)
    return f"{folder}: {text}"


def _layout(folder: Path) -> tuple[list[Row], str]:
    if _is_vctk(folder):
        return _vctk(folder), "laid out as VCTK; split by speaker where it is named for training and validation"
    if (folder / "meta" / "esc50.csv").is_file():
        return _esc50(folder), "laid out as ESC-50; fold 5 validates"
    if any(folder.glob("t[er][sa][ti]*/*/mixture.*")):
        return _musdb(folder), "laid out as MUSDB18; mixtures only, its test tracks validate"
    return _plain(folder), "any recordings; split by content where it is named for training and validation"


def _is_vctk(folder: Path) -> bool:
    return (folder / "txt").is_dir() and any(path.is_dir() for path in folder.glob("wav48*"))


def _vctk(folder: Path) -> list[Row]:
    def describe_one(path: Path) -> dict[str, str]:
        speaker = path.parent.name
        text = folder / "txt" / speaker / f"{MICROPHONE.sub('', path.stem)}.txt"
        return {"transcript": _text(text), "domain": "speech"}

    files = (file for top in sorted(folder.glob("wav48*")) for file in _audio(top) if file.parent.parent == top)
    return _rows(folder, files, describe_one)


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
        elif name in seen:
            faults.append(f"{table}: line {line}: {name} stands there already; remove one of the two")
        else:
            seen.add(name)
            split = "val" if record["fold"].strip() == ESC_VAL_FOLD else "train"
            caption = " ".join(record["category"].replace("_", " ").split())
            path = f"audio/{name}"
            rows.append(Row(line=line, path=path, file=folder / path, caption=caption, split=split, domain="effects"))
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


def _plain(folder: Path) -> list[Row]:
    def describe_one(path: Path) -> dict[str, str]:
        text = _text(path.with_suffix(".txt"))
        return {"caption": text, "transcript": text}

    return _rows(folder, _audio(folder), describe_one)


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
    if not folder.is_dir():
        return []
    try:
        return sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        )
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be searched for recordings ({error.strerror}: {error.filename})"
        ) from error


def _text(path: Path) -> str:
    """Return the text in a file on one line, "" where there is none. Raises ConfigError."""
    if not path.is_file():
        return ""
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text; save it as UTF-8") from error
    if len(text) > MAX_TEXT or not text.isprintable():
        raise ConfigError(f"{path}: more than {MAX_TEXT:,} characters, or characters that no text has")
    return text
