"""What the manifests of a sweep hold, read once for all its cells, and what must be said or refused of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.grid.space import Cell, SearchSpace
from sagasr.config.settings import Data, Words
from sagasr.data.listing import Listing, list_data
from sagasr.data.rows import SPLITS, Row, Split
from sagasr.data.splits import checked_rows, content_hashes, manifest_fingerprint, shared_problems
from sagasr.io.errors import ConfigError, DataError, SagasrError
from sagasr.model.words import FEW, known_share, vocabulary_of

Source = Literal["off", "transcript", "caption"]


class Content(NamedTuple):
    """What one split of a pair of manifests holds. ``pairs``: sha256 and row of each recording; empty with faults.

    ``left_out``: why files were left out.
    """

    rows: Sequence[Row] = ()
    pairs: Sequence[tuple[str, Row]] = ()
    fingerprint: str = ""
    left_out: Mapping[tuple[str, str], str] = {}
    faults: Sequence[str] = ()


Contents = Mapping[tuple[Data, Split], Content]


def read_contents(cells: Sequence[Cell]) -> Contents:
    """Return the contents of each pair of manifests. Raises DataError naming every fault of all of them."""
    faults: list[str] = []
    contents: dict[tuple[Data, Split], Content] = {}
    for data in dict.fromkeys(cell.config.data for cell in cells):
        sources = {cell.config.conditions.text.source for cell in cells if cell.config.data == data}
        for split in SPLITS:
            contents[data, split] = _read_split(data, split, sorted(sources - {"off"}))
            faults.extend(contents[data, split].faults)
        faults.extend(shared_problems(data, dict(contents[data, "train"].pairs), dict(contents[data, "val"].pairs)))
    if faults:
        raise DataError("\n".join(dict.fromkeys(faults)))
    return contents


def list_files(cells: Sequence[Cell], contents: Contents) -> list[Listing]:
    """Return what lies where the recordings are named, and what becomes of it."""
    clips = {cell.config.data: cell.config.validation.clips for cell in cells}
    left_out = {data: {**contents[data, "train"].left_out, **contents[data, "val"].left_out} for data in clips}
    return [list_data(data, left_out[data], most) for data, most in clips.items()]


def _read_split(data: Data, split: Split, sources: Sequence[Source]) -> Content:
    """Read a split; its faults are those of its rows, and the ``sources`` of texts that none of its rows has."""
    try:
        rows, problems, left_out = checked_rows(data, split)
        pairs = [] if problems else list(zip(content_hashes(rows), rows, strict=True))
    except SagasrError as error:
        return Content(faults=str(error).splitlines())
    manifest = getattr(data, split)
    for source in (source for source in sources if not any(row.text(source) for row in rows)):
        remedy = f"add the column {source!r}"
        if Path(manifest).is_dir():
            remedy = "write what is heard in NAME.wav into NAME.txt beside it"
        problems.append(
            f"{manifest}: no {split} recording has a {source}; {remedy}, or leave text={source} out "
            "(without a factor text: --set conditions.text.source=off)"
        )
    return Content(rows, pairs, "" if problems else manifest_fingerprint(rows), left_out, problems)


def known_words(cells: Sequence[Cell], contents: Contents) -> dict[str, float]:
    """Return by source which share of the words of the validation texts a learned encoder knows, where it knows few."""
    shares: dict[str, float] = {}
    for data, text in dict.fromkeys((cell.config.data, cell.config.conditions.text) for cell in cells):
        if text.source != "off" and isinstance(text.encoder, Words):
            train, val = ([row.text(text.source) for row in contents[data, split].rows] for split in SPLITS)
            share = known_share(val, vocabulary_of(train), text.encoder.max_tokens)
            shares[text.source] = min(share, shares.get(text.source, 1.0))
    return {source: share for source, share in shares.items() if share < FEW}


def without_texts(cells: Sequence[Cell], contents: Contents) -> tuple[str, ...]:
    """Return a line for each source of texts and split where some recordings have none, which are then without text."""
    notes = []
    for data, source in dict.fromkeys((cell.config.data, cell.config.conditions.text.source) for cell in cells):
        for split in SPLITS if source != "off" else ():
            rows = contents[data, split].rows
            if missing := sum(not row.text(source) for row in rows):
                notes.append(f"{missing:,} of {len(rows):,} {split} recordings have no {source}: they go without text")
    return tuple(notes)


def check_scored(space: SearchSpace, cells: Sequence[Cell], contents: Contents) -> None:
    """Raise ConfigError where cells are scored on other recordings or domains; other texts make no other question."""
    names = {cell.config.data.val: cell.name for cell in reversed(cells)}
    scored = {data: contents[data, "val"].pairs for data in dict.fromkeys(cell.config.data for cell in cells)}
    if len({tuple(sorted((digest, row.domain) for digest, row in pairs)) for pairs in scored.values()}) > 1:
        where = "; ".join(f"{path} ('{name}')" for path, name in names.items())
        raise ConfigError(
            f"{space.source}: data.val: cells are scored on different recordings, so they are not comparable: {where}; "
            "give all of them the same data.val, or make a sweep of each"
        )
