"""What the manifests of a sweep hold, read once for all its cells, and what must be said or refused of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.grid.space import Cell, SearchSpace
from sagasr.config.settings import Data, Words
from sagasr.data.contents import content_hashes, manifest_fingerprint
from sagasr.data.listing import Listing, list_data
from sagasr.data.rows import SPLITS, Row, Split
from sagasr.data.splits import checked_rows, shared_problems
from sagasr.io.errors import ConfigError, DataError, SagasrError
from sagasr.io.fingerprint import fingerprint
from sagasr.model.words import FEW, known_share, vocabulary_of

Source = Literal["off", "transcript", "caption"]


class Contents(NamedTuple):
    """What the manifests of a sweep hold: fingerprints and rows of each split, and the sha256 of every file by path.

    ``scored``: of the validation recordings and their domains alone; other texts make no other question.
    """

    train: Mapping[Data, str]
    val: Mapping[Data, str]
    scored: Mapping[Data, str]
    rows: Mapping[tuple[Data, Split], Sequence[Row]]
    files: Mapping[str, str]
    listings: Sequence[Listing]


def read_contents(cells: Sequence[Cell]) -> Contents:
    """Return the contents of each pair of manifests. Raises DataError naming every fault of all of them."""
    faults: list[str] = []
    read: dict[tuple[Data, Split], _SplitRead] = {}
    datas = list(dict.fromkeys(cell.config.data for cell in cells))
    for data in datas:
        sources = {cell.config.conditions.text.source for cell in cells if cell.config.data == data}
        for split in SPLITS:
            read[data, split] = _read_split(data, split, sorted(sources - {"off"}))
            faults.extend(read[data, split].faults)
        faults.extend(shared_problems(data, dict(read[data, "train"].pairs), dict(read[data, "val"].pairs)))
    if faults:
        raise DataError("\n".join(dict.fromkeys(faults)))
    clips = {cell.config.data: cell.config.validation.clips for cell in cells}
    return Contents(
        train={data: manifest_fingerprint(read[data, "train"].rows) for data in datas},
        val={data: manifest_fingerprint(read[data, "val"].rows) for data in datas},
        scored={data: fingerprint(sorted([h, row.domain] for h, row in read[data, "val"].pairs)) for data in datas},
        rows={key: part.rows for key, part in read.items()},
        files={str(row.file): digest for part in read.values() for digest, row in part.pairs},
        listings=[
            list_data(data, {**read[data, "train"].left_out, **read[data, "val"].left_out}, most)
            for data, most in clips.items()
        ],
    )


class _SplitRead(NamedTuple):
    """One split of a pair of manifests. ``pairs``: sha256 and row of each recording; ``left_out``: why files were."""

    rows: Sequence[Row] = ()
    pairs: Sequence[tuple[str, Row]] = ()
    left_out: Mapping[tuple[str, str], str] = {}
    faults: Sequence[str] = ()


def _read_split(data: Data, split: Split, sources: Sequence[Source]) -> _SplitRead:
    """Read a split; its faults are those of its rows, and the ``sources`` of texts that none of its rows has."""
    try:
        rows, problems, left_out = checked_rows(data, split)
        pairs = [] if problems else list(zip(content_hashes(rows), rows, strict=True))
    except SagasrError as error:
        return _SplitRead(faults=str(error).splitlines())
    manifest = getattr(data, split)
    for source in (source for source in sources if not any(row.text(source) for row in rows)):
        remedy = f"add the column {source!r}"
        if Path(manifest).is_dir():
            remedy = "write what is heard in NAME.wav into NAME.txt beside it"
        problems.append(
            f"{manifest}: no {split} recording has a {source}; {remedy}, or leave text={source} out "
            "(without a factor text: --set conditions.text.source=off)"
        )
    return _SplitRead(rows, pairs, left_out, problems)


def known_words(cells: Sequence[Cell], contents: Contents) -> dict[str, float]:
    """Return by source which share of the words of the validation texts a learned encoder knows, where it knows few."""
    shares: dict[str, float] = {}
    for data, text in dict.fromkeys((cell.config.data, cell.config.conditions.text) for cell in cells):
        if text.source != "off" and isinstance(text.encoder, Words):
            train, val = ([row.text(text.source) for row in contents.rows[data, split]] for split in SPLITS)
            share = known_share(val, vocabulary_of(train), text.encoder.max_tokens)
            shares[text.source] = min(share, shares.get(text.source, 1.0))
    return {source: share for source, share in shares.items() if share < FEW}


def without_texts(cells: Sequence[Cell], contents: Contents) -> tuple[str, ...]:
    """Return a line for each source of texts and split where some recordings have none, which are then without text."""
    notes = []
    for data, source in dict.fromkeys((cell.config.data, cell.config.conditions.text.source) for cell in cells):
        for split in SPLITS if source != "off" else ():
            rows = contents.rows[data, split]
            if missing := sum(not row.text(source) for row in rows):
                notes.append(f"{missing:,} of {len(rows):,} {split} recordings have no {source}: they go without text")
    return tuple(notes)


def check_scored(space: SearchSpace, cells: Sequence[Cell], data: Contents) -> None:
    """Raise ConfigError where cells are scored on other recordings than the first."""
    if len({data.scored[cell.config.data] for cell in cells}) > 1:
        names = {cell.config.data.val: cell.name for cell in reversed(cells)}
        where = "; ".join(f"{path} ('{name}')" for path, name in names.items())
        raise ConfigError(
            f"{space.source}: data.val: cells are scored on different recordings, so they are not comparable: {where}; "
            "give all of them the same data.val, or make a sweep of each"
        )
