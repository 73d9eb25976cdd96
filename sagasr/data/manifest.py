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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple

from sagasr.config.settings import Data
from sagasr.io.errors import ConfigError, DataError, did_you_mean
from sagasr.io.files import like, on_disk
from sagasr.io.fingerprint import content_of, fingerprint

Split = Literal["train", "val"]
Source = Literal["off", "transcript", "caption"]

SPLITS: tuple[Split, ...] = ("train", "val")
MARKS = (*SPLITS, "test")  # in the column ``split``; what is marked test is left alone
KNOWN = ("path", "text", "caption", "transcript", "split", "domain", "licence", "sha256")
NO_DOMAIN = "unknown"  # of rows without one
# What tables of Hugging Face, known by file_name, call our columns; of several for one the first that is there counts.
HUGGING_FACE = {
    "file_name": "path",
    "description": "caption",
    "transcription": "transcript",
    "sentence": "transcript",
    "normalized_text": "transcript",
}
MAX_TEXT = 10_000  # characters; no caption is longer, a mis-quoted file easily is
MAX_PATH = 1_024
NOTHING = ("nan", "NaN", "None", "<NA>")
MAX_HEAD = 100_000  # characters of a first line
MAX_FAULTS = 100  # lines shown; the rest is counted


@dataclass(frozen=True, slots=True)
class Row:
    """One recording. ``path`` is as written, ``file`` where it lies; texts are "" where there is none."""

    line: int
    path: str
    file: Path
    caption: str = ""
    transcript: str = ""
    split: str = ""
    domain: str = NO_DOMAIN
    licence: str = ""
    sha256: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    def text(self, source: Source) -> str:
        """Return what a model with this text source is told."""
        return {"off": "", "caption": self.caption, "transcript": self.transcript}[source]


def read_manifest(path: Path) -> tuple[Row, ...]:
    """Return all rows of a manifest or a folder. Raises ConfigError listing every fault with its line."""
    if os.path.isdir(path):
        from sagasr.data.folders import rows_in

        return rows_in(path)
    readers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines}
    reader = readers.get(path.suffix.lower())
    if reader is None and not path.suffix and not os.path.exists(path):
        raise ConfigError(f"{path}: no such file or folder; name a manifest, or a folder of recordings")
    if reader is None:
        remedy = {".xlsx": "; save the table as CSV", ".xls": "; save the table as CSV"}.get(path.suffix.lower(), "")
        raise ConfigError(
            f"{path}: a manifest is .csv, .parquet or .jsonl, not {path.suffix or 'a file without suffix'!r}"
            f"{remedy or '; recordings are named by their folder, or by a manifest of them'}"
        )
    if not os.path.isfile(path):
        reason = "is not a file" if os.path.exists(path) else "no such file"
        hint = like(path) or "; name a manifest, or a folder of recordings"
        raise ConfigError(f"{path}: {reason}{hint}")
    faults: list[str] = []
    rows: list[Row] = []
    lines: dict[str, int] = {}

    def report(line: int | None, fault: str) -> None:
        fault = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in fault)  # it goes to a terminal
        faults.append(f"{path}: {fault}" if line is None else f"{path}: line {line}: {fault}")

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


def rows_for(path: Path, split: Split) -> tuple[Row, ...]:
    """Return the rows of one split; all rows where the manifest has no ``split`` column. Raises ConfigError."""
    return _marked(path, split, read_manifest(path))


def rows_of(data: Data, split: Split) -> tuple[Row, ...]:
    """Return the rows of one split of a configuration's data. Raises ConfigError.

    A folder whose layout says nothing of a split, named for both, is split by content or speaker (``folders.divided``).
    """
    return rows_among(data, split, read_manifest(Path(getattr(data, split))))


def rows_among(data: Data, split: Split, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return ``rows_of`` one split, of which all rows are given."""
    path = Path(getattr(data, split))
    if same_source(data) and path.is_dir() and not any(row.split for row in rows):
        from sagasr.data.folders import divided

        return tuple(row for row in divided(path, rows) if row.split == split)
    return _marked(path, split, rows)


def _marked(path: Path, split: Split, rows: Sequence[Row]) -> tuple[Row, ...]:
    chosen = tuple(row for row in rows if row.split in (split, ""))
    if not chosen:
        found = ", ".join(sorted({row.split for row in rows}))
        remedy = f"mark some, or name another manifest as data.{split}"
        raise ConfigError(f"{path}: no row has split {split!r} (found: {found}); {remedy}")
    return chosen


def same_source(data: Data) -> bool:
    """Return whether one manifest or folder is named for training and validation."""
    return os.path.realpath(data.train) == os.path.realpath(data.val)


class Checked(NamedTuple):
    """The rows of a split that planning can use, what is wrong, and by split and path why rows are left out."""

    rows: tuple[Row, ...]
    problems: list[str]
    left_out: dict[tuple[str, str], str]


def usable_rows(data: Data, split: Split) -> tuple[tuple[Row, ...], list[str]]:
    """Return the rows and problems of ``checked_rows``. Raises ConfigError for the manifest."""
    return checked_rows(data, split)[:2]


def checked_rows(data: Data, split: Split) -> Checked:
    """Return the rows of a split, and what planning can see wrong with their files (see ``header_problems``).

    With ``data.policy: quarantine`` such rows are left out instead; their reasons do not name the file. Raises
    ConfigError for the manifest.
    """
    rows = rows_of(data, split)
    if data.policy != "quarantine":
        return Checked(rows, [reason for reason in header_problems(rows) if reason], {})
    checked = list(zip(rows, _reasons(rows), strict=True))
    left_out: dict[tuple[str, str], str] = {
        (split, row.path): reason.removeprefix(f"{row.file}: ") for row, reason in checked if reason
    }
    return Checked(tuple(row for row, reason in checked if not reason), [], left_out)


def _reasons(rows: Sequence[Row]) -> list[str | None]:
    """Return for each row why it is left out by quarantine, or None."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda row, seen: seen or hash_or_problem(row)[1], rows, header_problems(rows)))


def header_problems(rows: Iterable[Row]) -> list[str | None]:
    """Return for each row why its file is missing or has no readable header, or None.

    Quick enough for planning: contents are checked when they are encoded.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_header_problem, rows))


def content_hashes(rows: Iterable[Row]) -> list[str]:
    """Return the sha256 of each recording's file, in the order of the rows.

    Raises DataError naming every file that cannot be read, or that is not what the manifest's ``sha256`` says.
    """
    rows = list(rows)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(hash_or_problem, rows))
    problems = [problem for _, problem in found if problem]
    if problems:
        raise DataError("\n".join(problems))
    return [digest for digest, _ in found]


def shared_problems(data: Data, train: Mapping[str, Row], val: Mapping[str, Row]) -> list[str]:
    """Return a line for each recording that is learnt from and scored too; the rows are given by their sha256."""
    shared = [digest for digest in val if digest in train]
    if shared and same_source(data) and not any(row.split for row in val.values()):
        return [f"{data.train}: learnt from and scored too; add a column 'split' (train, val), or name two manifests"]
    from sagasr.data.same import same_sounds  # brings what decodes

    pairs = [(train[digest], val[digest], "recording") for digest in shared]
    pairs += [(one, other, "sound") for one, other in same_sounds(train, val)]
    return [
        f"{scored.file}: the same {what} stands in training ({learnt.file}); remove one of the two"
        for learnt, scored, what in pairs
    ]


def manifest_fingerprint(rows: Iterable[Row]) -> str:
    """Return the identity of what the rows hold: sound, texts and domains; not paths, order or other columns."""
    rows = list(rows)
    return fingerprint(
        sorted(
            [digest, row.caption, row.transcript, row.domain]
            for row, digest in zip(rows, content_hashes(rows), strict=True)
        )
    )


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
                if len(cells) != len(header):
                    report(
                        line, f"{len(cells)} columns where the header has {len(header)}; quote texts that hold commas"
                    )
                    continue
                yield line, dict(zip(header, cells, strict=True))
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
    found = list(names)
    for theirs, ours in HUGGING_FACE.items():
        if theirs in found and ours not in found:
            found[found.index(theirs)] = ours
    return found


def _header_is_good(header: list[str], report: Report) -> bool:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        report(1, f"column {_shown(twice[0])} stands twice; remove or rename one")
    for name in header if "path" in header else ():
        if name not in KNOWN and name.casefold() in KNOWN:
            report(1, f"column {_shown(name)} would not be read; rename it {name.casefold()!r}")
    if "path" not in header:
        if not header:
            hint = "; the file is empty: begin with a line of column names, such as path,text,split"
        elif len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
            hint = "; separate columns by commas"
        else:
            hint = _rename(name[:80] for name in header[:20])
        report(1, f"no column 'path'{hint}")
    return not twice and "path" in header


def _rename(names: Iterable[str]) -> str:
    """Return which of the columns that are there should be called ``path``."""
    told = did_you_mean("path", names).replace("did you mean", "rename")
    return told.replace("; known:", "; rename the one that names the recordings:")


def _parquet(path: Path, report: Report) -> Iterator[tuple[int, Record]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        table = table.rename_columns(_columns(table.column_names))
        records = table.to_pylist() if _header_is_good(table.column_names, report) else []
    except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:  # last two: dates beyond Python's
        report(None, f"not readable as Parquet ({str(error).splitlines()[0][:200]})")
        return
    for line, record in enumerate(records, start=1):
        yield line, _as_texts(record, line, report)


def _json_lines(path: Path, report: Report) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as handle:
        for line, raw in enumerate(handle, start=1):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once)
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice")
    return record


def _as_texts(record: Mapping[str, Any], line: int, report: Report) -> Record:
    """Return the cells of a typed format as CSV would hold them, after reporting those that hold no single text."""
    for name in KNOWN:
        if isinstance(value := record.get(name), (list, dict)):
            report(line, f"{name} is a {'list' if isinstance(value, list) else 'mapping'}; give one text")
    return {name: _as_text(value) for name, value in record.items()}


def _as_text(value: Any) -> str:
    """Return a cell of a typed format as CSV would hold it."""
    if value is None or value != value:  # NaN, as tables have it where nothing is
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _row(manifest: Path, line: int, record: Record, report: Report) -> Row | None:
    """Return the record as a Row, or None after reporting all that is wrong with it."""
    faults: list[str] = []
    cells = {name: record.get(name, "").strip() for name in KNOWN}
    path = cells["path"]
    faults += _path_faults(path)
    for name in ("text", "caption", "transcript", "domain", "licence"):
        if len(cells[name]) > MAX_TEXT:
            faults.append(
                f"{name} is {len(cells[name]):,} characters long, at most {MAX_TEXT:,}; is a quotation mark unclosed?"
            )
        elif cells[name] in NOTHING:
            faults.append(f"{name} {_shown(cells[name])} stands for nothing; leave the cell empty")
        elif _has_control_characters(cells[name]):
            faults.append(f"{name} {_shown(cells[name])} holds control characters; remove them")
    if "split" in record and cells["split"] not in MARKS:
        faults.append(
            f"split {_shown(cells['split'])} is none of train, val, test{did_you_mean(cells['split'][:80], MARKS)}"
        )
    if cells["domain"] == "all":
        faults.append("domain 'all' means all domains together in the results; choose another word")
    if cells["sha256"] and not (len(cells["sha256"]) == 64 and set(cells["sha256"].lower()) <= set("0123456789abcdef")):
        faults.append(f"sha256 {_shown(cells['sha256'])} is not 64 hexadecimal digits")
    for fault in faults:
        report(line, fault)
    if faults:
        return None
    return Row(
        line=line,
        path=path,
        file=on_disk(manifest.parent / path),
        caption=_one_line(cells["caption"] if "caption" in record else cells["text"]),
        transcript=_one_line(cells["transcript"] if "transcript" in record else cells["text"]),
        split=cells["split"],
        domain=cells["domain"] or NO_DOMAIN,
        licence=cells["licence"],
        sha256=cells["sha256"].lower(),
        extra={name: value for name, value in record.items() if name not in KNOWN},
    )


def _path_faults(path: str) -> list[str]:
    """Return why a path does not name a file below the manifest's folder."""
    if not path:
        return ["path is empty"]
    if len(path) > MAX_PATH:
        return [f"path is {len(path):,} characters long; is a quotation mark unclosed?"]
    if is_no_name(path):
        return [f"path {_shown(path)} holds control characters"]
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute() or PureWindowsPath(path).drive:
        return [f"path {_shown(path)} is absolute; write it relative to the manifest, so that the data can move"]
    if "\\" in path:
        return [f"path {_shown(path)} holds a backslash; separate folders by /"]
    if ".." in PurePosixPath(path).parts:
        return [f"path {_shown(path)} leaves the manifest's folder; move the manifest above all recordings"]
    return []


def is_no_name(path: str) -> bool:
    """Whether a path holds what no list of files can: line ends, control codes, bytes that are not UTF-8."""
    return _has_control_characters(path) or "\n" in path or "\r" in path


def _has_control_characters(text: str) -> bool:
    """Whether a text holds what no name or caption does: NUL, escape codes, lone surrogates. Line ends are fine."""
    return any((mark < " " and mark not in "\t\r\n") or mark == "\x7f" or "\ud800" <= mark <= "\udfff" for mark in text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shown(text: str) -> str:
    """Return a value quoted, and cut to what fits a line."""
    return f"'{text if len(text) <= 80 else text[:79] + '…'}'"


def _header_problem(row: Row) -> str | None:
    from sagasr.audio.files import header_problem

    problem = header_problem(row.file)
    return problem and f"{row.file}: {problem}{_named(row)}"


def _named(row: Row) -> str:
    """Return where a file is named that is not there, or cannot be, as its name is too long; else nothing."""
    return "" if os.path.exists(row.file) else f" (named in line {row.line} of the manifest)"


def hash_or_problem(row: Row) -> tuple[str, str | None]:
    """Return the sha256 of a recording's file, and why it cannot be read or is not the one meant, or None."""
    try:
        digest = content_of(row.file)
    except FileNotFoundError:
        return "", f"{row.file}: no such file{_named(row)}"
    except OSError as error:
        return "", f"{row.file}: cannot be read ({error.strerror or error}){_named(row)}"
    if row.sha256 and digest != row.sha256:
        told = f"sha256 {digest[:12]}…, line {row.line} of the manifest says {row.sha256[:12]}…"
        return digest, f"{row.file}: is not the recording that was meant ({told})"
    return digest, None
