"""A few hundred inputs of every kind that ``python -m tests.fuzz`` tries by the hundred thousand, and what it found."""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from sagasr.io.errors import SagasrError
from tests.fuzz import GRID, Readers, fuzz, refused

READERS = ("grid", "configuration", "manifest", "plan.json", "answers", "recording")


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_answers_with_a_traceback(reader: str, tmp_path: Path) -> None:
    outcomes = fuzz(150, tmp_path, reader)
    assert sum(outcomes.values()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"base": ""},
        {"base": "\0"},
        {"data": {"train": "\0", "val": "manifest.csv"}},
        {"storage": "\0"},
        {"storage": "~nobody-of-this-name/sweeps"},
    ],
)
def test_a_grid_that_once_ended_in_a_traceback_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    assert refused(Readers(tmp_path).grid, GRID | changes)


def test_dates_beyond_the_calendar_are_refused(tmp_path: Path) -> None:
    column = pa.array([datetime.date(2000, 1, 1), -719_163], pa.date32())
    with pytest.raises(SagasrError, match="not readable as Parquet"):
        Readers(tmp_path).parquet({"path": ["a.flac", "b.flac"], "split": column})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"ladder": [{"levels": {"text": "caption"}}]}, "ladder.0.step"),
        ({"factors": {"text": {"baseline": "off", "levels": True}}}, "factor 'text'"),
        ({"metric": {"name": "lsd", "better": "lower", "delta": ""}}, "metric"),
    ],
)
def test_a_plan_of_another_form_is_refused_by_its_key(changes: dict[str, object], key: str, tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    with pytest.raises(SagasrError, match=f"plan.json: {key}"):
        readers.plan(readers.plan_tree | changes)
