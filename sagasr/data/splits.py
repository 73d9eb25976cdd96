"""Which rows train and which validate, and what is wrong with them before they are encoded."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sagasr.audio.decoders import SUFFIXES
from sagasr.config.settings import Data
from sagasr.data.contents import content_hashes, hash_or_problem, header_problems, same_sounds
from sagasr.data.folders import is_vctk, layout_of
from sagasr.data.manifest import read_table
from sagasr.data.rows import Row, Split
from sagasr.io.errors import ConfigError
from sagasr.io.fingerprint import seed_of

VAL_SHARE = 10  # one in so many validates


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
