"""The forms of what the analysis reads of plan.json, whoever wrote it: a level may be a word or a number."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sagasr.io.errors import DataError, did_you_mean, nearest

BETTER, STAGES = ("lower", "higher"), ("train", "eval")

Word = str | bool | int | float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Metric(_Part):
    name: str
    delta: Any = None
    better: Any = None


class _Factor(_Part):
    levels: list[Word] | None = None
    baseline: Word = None
    stage: Any = None
    under: dict[str, list[Word]] | None = None


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
    known_words: dict[str, float] | None = None


_Cells = TypeAdapter(list[_Cell])


def cells_of(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the cells that a plan lists, none where it lists them in another form: rows and factors say as much."""
    cells: list[Mapping[str, Any]] = plan.get("cells") or []
    try:
        _Cells.validate_python(cells)
    except ValidationError:
        return []
    return cells


def _check_words(plan: Mapping[str, Any], path: Path) -> None:
    """Raise DataError for a word or number that would turn verdicts round, or be passed over in silence."""
    for key, spec in _metrics(plan):
        better, delta = spec.get("better"), spec.get("delta")
        if better is not None and better not in BETTER:
            raise DataError(f"{path}: {key}.better: {better!r} is none of lower, higher{nearest(str(better), BETTER)}")
        a_number = isinstance(delta, (int, float)) and not isinstance(delta, bool)
        if delta is not None and not (a_number and math.isfinite(delta) and delta >= 0):
            raise DataError(
                f"{path}: {key}.delta: {delta!r:.60} is no size of an effect; give a number of at least 0, or null"
            )
    factors = plan["factors"]
    for name, spec in factors.items():
        stage = (spec or {}).get("stage")
        if stage is not None and stage not in STAGES:
            hint = nearest(str(stage), STAGES)
            raise DataError(f"{path}: factors.{name}.stage: {stage!r} is none of train, eval{hint}")
    for position, step in enumerate(plan.get("ladder") or ()):
        levels = step.get("levels")
        named = set(step) - {"step", "versus", "levels"} if levels is None else levels
        for name in named:
            if name not in factors:
                raise DataError(f"{path}: ladder.{position}: unknown factor {name!r}{did_you_mean(name, factors)}")


def _metrics(plan: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what is said of each metric, with the key under which it stands."""
    listed = plan.get("metrics") or {}
    pairs = listed.items() if isinstance(listed, Mapping) else enumerate(listed)
    for key, spec in (("metric", plan["metric"]), *((f"metrics.{name}", spec) for name, spec in pairs)):
        if isinstance(spec, Mapping):
            yield key, spec


def check_form(plan: Mapping[str, Any], path: Path) -> None:
    """Raise DataError naming the first key of a plan that has another form than what is read of it."""
    try:
        _Plan.model_validate(plan)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and part.startswith("_")))
        found = f"{first['msg'].lower()} (found {first['input']!r:.60})"
        raise DataError(f"{path}: {key}: {found}; write the plan again with sagasr-sweep") from error
    _check_words(plan, path)
