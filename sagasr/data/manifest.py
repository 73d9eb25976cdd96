"""Manifests: which recordings there are, what is said of them, which of them train and which are scored.

CSV, Parquet or JSON lines with the columns ``path`` (relative to the manifest), and optionally ``text`` (transcript or
caption), ``caption`` and ``transcript`` (where both are known), ``split``, ``domain``, ``licence``, ``sha256``; others
are kept. A table without ``path`` but with ``file_name`` is one of Hugging Face (metadata.csv), and its columns are
understood. All faults of a manifest are reported at once, each with its line. Loads without torch.
"""

import csv
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from sagasr.data.rows import MAX_FAULTS, MAX_TEXT, NO_DOMAIN, SPLITS, Row, has_control_characters, is_no_name
from sagasr.io.errors import ConfigError, did_you_mean, first_line, shown
from sagasr.io.files import like, on_disk

MARKS = (*SPLITS, "test")  # in the column ``split``; what is marked test is left alone
KNOWN = ("path", "text", "caption", "transcript", "split", "domain", "licence", "sha256")
# What tables of Hugging Face, known by file_name, call our columns; of several for one the first that is there counts.
HUGGING_FACE = {
    "file_name": "path",
    "description": "caption",
    "transcription": "transcript",
    "sentence": "transcript",
    "normalized_text": "transcript",
}
MAX_PATH = 1_024
NOTHING = ("nan", "NaN", "None", "<NA>")
MAX_HEAD = 100_000  # characters of a first line


def read_table(path: Path) -> tuple[Row, ...]:
    """Return all rows of a manifest. Raises ConfigError listing every fault with its line."""
    readers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines}
    reader, exists = readers.get(path.suffix.lower()), os.path.exists(path)
    if reader is None and (path.suffix or exists):
        is_sheet = path.suffix.lower() in (".xlsx", ".xls")
        remedy = "save the table as CSV" if is_sheet else "name the folder of the recordings, or a manifest of them"
        kind = path.suffix or "a file without suffix"
        raise ConfigError(f"{path}: a manifest is .csv, .parquet or .jsonl, not {kind!r}; {remedy}")
    if reader is None or not os.path.isfile(path):
        reason = "is not a file" if exists else "no such file" if reader else "no such file or folder"
        hint = like(path) if reader else ""
        raise ConfigError(f"{path}: {reason}{hint or '; name a manifest, or a folder of recordings'}")
    faults: list[str] = []
    rows: list[Row] = []
    lines: dict[str, int] = {}

    def report(line: int | None, fault: str) -> None:
        faults.append(f"{path}: {'' if line is None else f'line {line}: '}{shown(fault)}")

    for line, record in reader(path, report):
        row = _row(path, line, record, report)
        if row is None:
            continue
        same = posixpath.normpath(row.file)
        if same in lines:
            report(line, f"path {_shown(row.path)} stands in line {lines[same]} already; remove one of the two")
        lines.setdefault(same, line)
        rows.append(row)
    if not faults and not rows:
        report(None, "holds no rows; list at least one recording")
    if faults:
        more = [f"{path}: … and {len(faults) - MAX_FAULTS} faults more"] if len(faults) > MAX_FAULTS else []
        raise ConfigError("\n".join(faults[:MAX_FAULTS] + more))
    return tuple(rows)


Report = Callable[[int | None, str], None]
Record = Mapping[str, str]


def _csv(path: Path, report: Report) -> Iterator[tuple[int, Record]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            header = _columns([name.strip() for name in next(reader, [])])
            if not _header_is_good(header, report):
                return
            start = reader.line_num + 1
            for cells in reader:
                line, start = start, reader.line_num + 1
                if not any(cells):
                    continue
                if len(cells) == len(header):
                    yield line, dict(zip(header, cells, strict=True))
                else:
                    fault = f"{len(cells)} columns where the header has {len(header)}; quote texts that hold commas"
                    report(line, fault)
    except UnicodeDecodeError as error:
        report(None, f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8")
    except csv.Error as error:
        report(reader.line_num, f"not valid CSV ({error}); is a quotation mark unclosed?")


def columns_of(table: Path) -> list[str]:
    """Return the names of a table's columns as it has them; nothing of a file that is no table."""
    import pyarrow
    import pyarrow.parquet

    try:
        if table.suffix == ".parquet":
            names = pyarrow.parquet.read_schema(table).names
        else:
            with table.open(encoding="utf-8-sig") as handle:
                head = handle.readline(MAX_HEAD)
            names = json.loads(head) if table.suffix == ".jsonl" else next(csv.reader([head]))
        return [str(name).strip() for name in names]
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, StopIteration, RecursionError, csv.Error):
        return []


def _columns(names: list[str]) -> list[str]:
    """Return the names of columns as manifests have them."""
    if "path" in names or "file_name" not in names:
        return names
    ours = list(names)
    for theirs, name in HUGGING_FACE.items():
        if theirs in ours and name not in ours:
            ours[ours.index(theirs)] = name
    return ours


def _header_is_good(header: list[str], report: Report) -> bool:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        report(1, f"column {_shown(twice[0])} stands twice; remove or rename one")
    for name in header if "path" in header else ():
        if name not in KNOWN and name.casefold() in KNOWN:
            report(1, f"column {_shown(name)} would not be read; rename it {name.casefold()!r}")
    if "path" not in header:
        is_one = len(header) == 1 and any(mark in header[0] for mark in ";\t|")
        hint = "; separate columns by commas" if is_one else _rename(name[:80] for name in header[:20])
        empty = "; the file is empty: begin with a line of column names, such as path,text,split"
        report(1, f"no column 'path'{hint if header else empty}")
    return not twice and "path" in header


def _rename(names: Iterable[str]) -> str:
    """Return which of the columns that are there should be called ``path``."""
    hint = did_you_mean("path", names).replace("did you mean", "rename")
    return hint.replace("; known:", "; rename the one that names the recordings:")


def _parquet(path: Path, report: Report) -> Iterator[tuple[int, Record]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        table = table.rename_columns(_columns(table.column_names))
        records = table.to_pylist() if _header_is_good(table.column_names, report) else []
    except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:  # last two: dates beyond Python's
        report(None, f"not readable as Parquet ({first_line(error)[:200]})")
        return
    for line, record in enumerate(records, start=1):
        yield line, _as_texts(record, line, report)


def _json_lines(path: Path, report: Report) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as handle:
        for line, raw in enumerate(handle, start=1):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
            except (ValueError, RecursionError) as error:
                report(line, f"not valid JSON ({str(error)[:200]})")
                continue
            if not isinstance(record, dict):
                report(line, f'expected one object such as {{"path": …}}, found {type(record).__name__}')
                continue
            record = dict(zip(_columns(list(record)), record.values(), strict=True))
            if "path" not in record:
                report(line, f"no key 'path'{_rename(record)}")
            else:
                yield line, _as_texts(record, line, report)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice")
    return record


def _as_texts(record: Mapping[str, Any], line: int, report: Report) -> Record:
    """Return the cells of a typed format as CSV would hold them, after reporting those that hold no single text."""
    cells = {}
    for name, value in record.items():
        if name in KNOWN and isinstance(value, (list, dict)):
            report(line, f"{name} is a {'list' if isinstance(value, list) else 'mapping'}; give one text")
        is_nothing = value is None or value != value  # NaN, as tables have it
        cells[name] = "" if is_nothing else value if isinstance(value, str) else json.dumps(value, default=str)
    return cells


def _row(manifest: Path, line: int, record: Record, report: Report) -> Row | None:
    """Return the record as a Row, or None after reporting all that is wrong with it."""
    faults: list[str] = []
    cells = {name: record.get(name, "").strip() for name in KNOWN}
    path = cells["path"]
    if fault := _path_fault(path):
        faults.append(fault)
    for name in ("text", "caption", "transcript", "domain", "licence"):
        if len(cells[name]) > MAX_TEXT:
            length = f"{len(cells[name]):,} characters long, at most {MAX_TEXT:,}"
            faults.append(f"{name} is {length}; is a quotation mark unclosed?")
        elif cells[name] in NOTHING:
            faults.append(f"{name} {_shown(cells[name])} stands for nothing; leave the cell empty")
        elif has_control_characters(cells[name]):
            faults.append(f"{name} {_shown(cells[name])} holds control characters; remove them")
    if "split" in record and cells["split"] not in MARKS:
        hint = did_you_mean(cells["split"][:80], MARKS)
        faults.append(f"split {_shown(cells['split'])} is none of train, val, test{hint}")
    if cells["domain"] == "all":
        faults.append("domain 'all' means all domains together in the results; choose another word")
    if cells["sha256"] and not re.fullmatch("[0-9a-fA-F]{64}", cells["sha256"]):
        faults.append(f"sha256 {_shown(cells['sha256'])} is not 64 hexadecimal digits")
    for fault in faults:
        report(line, fault)
    if faults:
        return None
    return Row(
        line=line,
        path=path,
        file=on_disk(manifest.parent / path),
        caption=" ".join(cells["caption" if "caption" in record else "text"].split()),
        transcript=" ".join(cells["transcript" if "transcript" in record else "text"].split()),
        split=cells["split"],
        domain=cells["domain"] or NO_DOMAIN,
        licence=cells["licence"],
        sha256=cells["sha256"].lower(),
        extra={name: value for name, value in record.items() if name not in KNOWN},
    )


def _path_fault(path: str) -> str | None:
    """Return why a path does not name a file below the manifest's folder, or None."""
    if not path:
        return "path is empty"
    if len(path) > MAX_PATH:
        return f"path is {len(path):,} characters long; is a quotation mark unclosed?"
    if is_no_name(path):
        return f"path {_shown(path)} holds control characters"
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute() or PureWindowsPath(path).drive:
        return f"path {_shown(path)} is absolute; write it relative to the manifest, so that the data can move"
    if "\\" in path:
        return f"path {_shown(path)} holds a backslash; separate folders by /"
    if ".." in PurePosixPath(path).parts:
        return f"path {_shown(path)} leaves the manifest's folder; move the manifest above all recordings"
    return None


def _shown(text: str) -> str:
    """Return a value quoted, and cut to what fits a line."""
    return f"'{text if len(text) <= 80 else text[:79] + '…'}'"
