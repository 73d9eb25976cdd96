"""What listeners preferred, blind: files that the report page saves, counted and tested. The clip is the unit.

Several listeners who judged one clip count once: by which answer more of them preferred. Ties are reported and enter
no test. A file is data from outside: it is checked against a schema, and nothing in it is trusted.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field, StringConstraints
from scipy import stats

from orchestrator.analysis.load import Sweep
from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import read_json, write_whole

PATTERN = "preferences*.json"
MAX_BYTES = 2_000_000
Short = Annotated[str, StringConstraints(max_length=1_000)]


class Trial(Strict):
    """One clip judged: ``preferred`` is the answer called closer to high; None where it was not judged."""

    clip: Short
    shown_as_1: Literal["A", "B"]
    preferred: Literal["A", "B", "tie"] | None
    heard: dict[Short, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)


class Sheet(Strict):
    """What one listener saved: two answers and the clips judged."""

    sweep: Short
    plan_hash: Short
    test: Literal["preference"]
    seed: Short
    A: Short
    B: Short
    finished: Short
    trials: Annotated[tuple[Trial, ...], Field(max_length=10_000)]


@dataclass(frozen=True)
class Preference:
    """One pair of answers. ``share_b``: of the clips with a preference; its exact 95 % interval and sign test's p."""

    a: str
    b: str
    b_preferred: int
    a_preferred: int
    ties: int
    share_b: float
    low: float
    high: float
    p: float
    clips: int
    listeners: int


def read_sheet(path: Path) -> Sheet:
    """Return the answers in a file. Raises DataError: one line naming the file, the key and what was expected."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; save the answers of a blind test from the report page")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES / 1e6:g} MB, which no listening test is")
    try:
        tree = read_json(path)
        if not isinstance(tree, dict):
            raise DataError(f"{path}: expected the answers of a blind test, found a {type(tree).__name__}")
        sheet = parse(Sheet, tree, str(path))
    except ConfigError as error:
        raise DataError(str(error).splitlines()[0]) from error
    if sheet.A == sheet.B:
        raise DataError(f"{path}: A and B are the same answer; choose two on the report page")
    return sheet


def gather(sweep: Sweep, folder: Path, named: Sequence[Path] = ()) -> tuple[list[Preference], list[str]]:
    """Return the preferences of all sheets in the sweep's report/ and of those ``named``, and sentences on the rest.

    A sheet found and not readable is told of; one that was named and is not readable raises DataError.
    """
    notes: list[str] = []
    sheets: dict[str, Sheet] = {}
    saved = [path for path in sorted((folder / "report").glob(PATTERN)) if path not in named]
    for path in (*saved, *named):
        try:
            sheet = read_sheet(path)
            if sheet.sweep != sweep.name:
                raise DataError(
                    f"{path} is about the sweep {sheet.sweep!r}, not {sweep.name!r}; name a file of this sweep"
                )
        except DataError as error:
            if path in named:
                raise
            notes.append(f"left out: {str(error).replace(str(path), path.name)}")
            continue
        if sheet.plan_hash != sweep.plan_hash:
            notes.append(f"{path.name} was answered under another plan of this sweep")
        sheets[hashlib.sha256(sheet.model_dump_json().encode()).hexdigest()] = sheet  # a copy counts once
    return compare(sheets.values()), notes


def compare(sheets: Iterable[Sheet]) -> list[Preference]:
    """Return one row per pair of answers, whichever was called A."""
    pairs = defaultdict(list)
    for sheet in sheets:
        pairs[frozenset((sheet.A, sheet.B))].append(sheet)
    return [_preference((sheets[0].A, sheets[0].B), sheets) for sheets in pairs.values()]


def _preference(pair: tuple[str, str], sheets: Sequence[Sheet]) -> Preference:
    votes: Counter[str] = Counter()
    for sheet in sheets:
        turned = 1 if pair == (sheet.A, sheet.B) else -1
        for trial in sheet.trials:
            if trial.preferred is not None:
                votes[trial.clip] += {"A": -1, "tie": 0, "B": 1}[trial.preferred] * turned
    b, a = sum(vote > 0 for vote in votes.values()), sum(vote < 0 for vote in votes.values())
    share = low = high = p = float("nan")
    if a + b:
        test = stats.binomtest(b, a + b)
        interval = test.proportion_ci(0.95, method="exact")
        share, low, high, p = b / (a + b), float(interval.low), float(interval.high), float(test.pvalue)
    return Preference(*pair, b, a, len(votes) - a - b, share, low, high, p, len(votes), len(sheets))


def write_preferences(preferences: Sequence[Preference], path: Path) -> None:
    """Write the table, or remove an old one where nobody has judged."""
    if not preferences:
        path.unlink(missing_ok=True)
        return
    table = pd.DataFrame(list(map(asdict, preferences)))
    write_whole(path, lambda temporary: table.to_parquet(temporary, index=False))
