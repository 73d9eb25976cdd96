"""Which rows train and which validate, what their files hold, and what is wrong with them before they are encoded.

Loads without torch.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sagasr.audio.decoders import BLOCK, SUFFIXES
from sagasr.audio.files import opened, problem_of
from sagasr.config.settings import Data
from sagasr.data.folders import is_vctk, layout_of
from sagasr.data.manifest import read_table
from sagasr.data.rows import Row, Split
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.fingerprint import content_of, fingerprint, seed_of
from sagasr.io.machine import cpus_here

VAL_SHARE = 10  # one in so many validates


def hash_or_problem(row: Row) -> tuple[str, str | None]:
    """Return the sha256 of a recording's file, and why it cannot be read or is not the one meant, or None."""
    try:
        digest = content_of(row.file)
    except FileNotFoundError:
        return "", f"{row.file}: no such file{_named(row)}"
    except OSError as error:
        return "", f"{row.file}: cannot be read ({error.strerror or error}){_named(row)}"
    if row.sha256 and digest != row.sha256:
        difference = f"sha256 {digest[:12]}…, line {row.line} of the manifest says {row.sha256[:12]}…"
        return digest, f"{row.file}: is not the recording that was meant ({difference})"
    return digest, None


def content_hashes(rows: Iterable[Row]) -> list[str]:
    """Return the sha256 of each recording's file, in the order of the rows.

    Raises DataError naming every file that cannot be read, or that is not what the manifest's ``sha256`` says.
    """
    with ThreadPoolExecutor() as pool:
        hashed = list(pool.map(hash_or_problem, rows))
    if problems := [problem for _, problem in hashed if problem]:
        raise DataError("\n".join(problems))
    return [digest for digest, _ in hashed]


def header_problems(rows: Iterable[Row]) -> list[str | None]:
    """Return for each row why its file is missing or has no readable header, or None.

    Quick enough for planning: contents are checked when they are encoded.
    """

    def header_problem(row: Row) -> str | None:
        problem = problem_of(row.file, whole=False)
        return problem and f"{row.file}: {problem}{_named(row)}"

    with ThreadPoolExecutor() as pool:
        return list(pool.map(header_problem, rows))


def _named(row: Row) -> str:
    """Return where a file is named that is not there, or cannot be, as its name is too long; else nothing."""
    return "" if os.path.exists(row.file) else f" (named in line {row.line} of the manifest)"


def manifest_fingerprint(rows: Iterable[Row]) -> str:
    """Return the identity of what the rows hold: sound, texts and domains; not paths, order or other columns."""
    rows = list(rows)
    return fingerprint(sorted([digest, *row.meaning] for digest, row in zip(content_hashes(rows), rows, strict=True)))


def same_sounds(train: Mapping[str, Row], val: Mapping[str, Row]) -> list[tuple[Row, Row]]:
    """Return who stands in both splits in files that differ, as a WAV and its FLAC. Rows are given by their sha256.

    Only recordings that begin like one of the other split are read as a whole.
    """
    sides = [
        [row for digest, row in side.items() if digest not in other] for side, other in ((train, val), (val, train))
    ]
    with ThreadPoolExecutor(cpus_here()) as pool:
        starts = [list(pool.map(_start, (row.file for row in rows))) for rows in sides]
        shared = set(starts[0]) & set(starts[1]) - {None}
        sides = [
            [row for row, start in zip(rows, side, strict=True) if start in shared]
            for rows, side in zip(sides, starts, strict=True)
        ]
        learnt, scored = (
            list(zip(pool.map(_samples, (row.file for row in rows)), rows, strict=True)) for rows in sides
        )
    row_of = dict(reversed(learnt))
    return [(row_of[samples], row) for samples, row in scored if samples and samples in row_of]


def _start(file: Path) -> tuple[int, bytes] | None:
    """Return the rate and what is equal for recordings that begin alike, mono or doubled; None for unreadable ones."""
    try:
        with opened(file, whole=False) as reading:
            samples = next(reading.blocks)[:, :BLOCK].T  # time by time, as blocks may be of any length
    except DataError:
        return None
    doubled = (samples == samples[:, :1]).all()
    return reading.rate, hashlib.sha256((samples[:, :1] if doubled else samples).tobytes()).digest()


def _samples(file: Path) -> bytes | None:
    """Return the identity of all samples, of one channel where both are equal.

    None for silence, which is refused elsewhere, and what cannot be read.
    """
    every, left, doubled = hashlib.sha256(), hashlib.sha256(), True
    least, most = np.inf, -np.inf
    try:
        with opened(file) as reading:
            for block in reading.blocks:
                every.update(block.T.tobytes())
                left.update(block[0].tobytes())
                doubled = doubled and bool((block == block[0]).all())
                least, most = min(least, block.min()), max(most, block.max())
    except DataError:
        return None
    return (left if doubled else every).digest() if least < most else None


def read_manifest(path: Path) -> tuple[Row, ...]:
    """Return all rows of a manifest or a folder. Raises ConfigError listing every fault with its line."""
    if not os.path.isdir(path):
        return read_table(path)
    if not (rows := layout_of(path).rows):
        raise ConfigError(f"{path}: holds no recordings ({', '.join(SUFFIXES)}); name a manifest or another folder")
    return tuple(rows)


def rows_of(data: Data, split: Split, rows: Sequence[Row] | None = None) -> tuple[Row, ...]:
    """Return the rows of one split of a configuration's data, of all ``rows`` where they were read. Raises ConfigError.

    A folder whose layout says nothing of a split, named for both, is split by content or speaker (``divided``). Where
    no row is marked all are returned.
    """
    path = Path(getattr(data, split))
    rows = read_manifest(path) if rows is None else rows
    if same_source(data) and path.is_dir() and not any(row.split for row in rows):
        return tuple(row for row in divided(path, rows) if row.split == split)
    chosen = tuple(row for row in rows if row.split in (split, ""))
    if not chosen:
        marks = ", ".join(sorted({row.split for row in rows}))
        remedy = f"mark some, or name another manifest as data.{split}"
        raise ConfigError(f"{path}: no row has split {split!r} (found: {marks}); {remedy}")
    return chosen


def same_source(data: Data) -> bool:
    """Return whether one manifest or folder is named for training and validation."""
    return os.path.realpath(data.train) == os.path.realpath(data.val)


class Checked(NamedTuple):
    """The rows of a split that planning can use, what is wrong, and by split and path why rows are left out."""

    rows: tuple[Row, ...]
    problems: list[str]
    left_out: dict[tuple[str, str], str]


def checked_rows(data: Data, split: Split) -> Checked:
    """Return the rows of a split, and what planning can see wrong with their files (see ``header_problems``).

    With ``data.policy: quarantine`` such rows are left out instead; their reasons do not name the file. Raises
    ConfigError for the manifest.
    """
    rows = rows_of(data, split)
    if data.policy != "quarantine":
        return Checked(rows, [reason for reason in header_problems(rows) if reason], {})
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(lambda row, seen: seen or hash_or_problem(row)[1], rows, header_problems(rows))
        checked = list(zip(rows, reasons, strict=True))
    left_out: dict[tuple[str, str], str] = {
        (split, row.path): reason.removeprefix(f"{row.file}: ") for row, reason in checked if reason
    }
    return Checked(tuple(row for row, reason in checked if not reason), [], left_out)


def shared_problems(data: Data, train: Mapping[str, Row], val: Mapping[str, Row]) -> list[str]:
    """Return a line for each recording that is learnt from and scored too; the rows are given by their sha256."""
    shared = [digest for digest in val if digest in train]
    if shared and same_source(data) and not any(row.split for row in val.values()):
        return [f"{data.train}: learnt from and scored too; add a column 'split' (train, val), or name two manifests"]
    pairs = [(train[digest], val[digest], "recording") for digest in shared]
    pairs += [(learnt, scored, "sound") for learnt, scored in same_sounds(train, val)]
    return [
        f"{scored.file}: the same {kind} stands in training ({learnt.file}); remove one of the two"
        for learnt, scored, kind in pairs
    ]


def divided(folder: Path, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return rows without a split with one: about one speaker, or one recording, in ten validates. Raises DataError."""
    if is_vctk(folder):
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
