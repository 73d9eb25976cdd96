"""What the files of rows hold: whether they are there, readable and the ones that were meant; which are the same sound.

Loads without torch.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sagasr.audio.files import BLOCK, opened, problem_of
from sagasr.data.rows import Row
from sagasr.io.errors import DataError
from sagasr.io.fingerprint import content_of, fingerprint
from sagasr.io.machine import cpus_here


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
