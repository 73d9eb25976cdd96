"""The forms of what the analysis reads of plan.json, whoever wrote it: a level may be a word or a number."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sagasr.errors import DataError

Word = str | bool | int | float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Metric(_Part):
    name: str
    delta: float | None = None
    better: str | None = None


class _Factor(_Part):
    levels: list[Word] | None = None
    baseline: Word = None
    stage: str | None = None


class _Step(_Part):
    step: Word
    levels: dict[str, Word] | None = None
    versus: Word = None


class _Replicate(_Part):
    seed: Word


class _Cell(_Part):
    levels: dict[str, Word]
    cell: Word = None
    replicates: list[_Replicate] | None = None


class _Plan(_Part):
    metric: str | _Metric
    metrics: dict[str, Any] | list[str | _Metric] | None = None
    factors: dict[str, _Factor | None]
    ladder: list[_Step] | None = None
    seeds: list[Word] | None = None
    early_stopping: dict[str, Any] | None = None
    expected_replicates: int | None = None


_Cells = TypeAdapter(list[_Cell])


def cells_of(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the cells that a plan lists, none where it lists them in another form: rows and factors say as much."""
    cells: list[Mapping[str, Any]] = plan.get("cells") or []
    try:
        _Cells.validate_python(cells)
    except ValidationError:
        return []
    return cells


def check_form(plan: Mapping[str, Any], path: Path) -> None:
    """Raise DataError naming the first key of a plan that has another form than what is read of it."""
    try:
        _Plan.model_validate(plan)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and part.startswith("_")))
        found = f"{first['msg'].lower()} (found {first['input']!r:.60})"
        raise DataError(f"{path}: {key}: {found}; write the plan again with sagasr-sweep") from error
