"""A sweep folder as the analysis sees it: plan.json and results/*.parquet, checked, with every level a word.

Only replicates that ran to their full budget carry values on; failed, stopped and missing ones keep their names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.analysis.metrics import Metric, metrics_of
from orchestrator.analysis.replicates import (
    Factor,
    Lost,
    level_of,
    linked_clips,
    lost_replicates,
    metric_columns,
    one_row_each,
    status_words,
    unneeded_replicates,
    with_levels,
    word_of,
)
from orchestrator.analysis.taken import Looks, read_looks
from sagasr.errors import DataError
from sagasr.files import read_json
from sagasr.fingerprint import fingerprint, short


@dataclass(frozen=True)
class Step:
    """One rung of the ladder: a level for every factor, and the step it is compared with (None for the first)."""

    step: str
    levels: Mapping[str, str]
    versus: str | None


@dataclass(frozen=True)
class Promote:
    """The part that decides (``source``: levels) and the costly part that runs for what mattered there (``target``)."""

    source: Mapping[str, str]
    target: Mapping[str, str]


@dataclass(frozen=True)
class Sweep:
    """Everything the analysis needs. ``runs`` holds finished replicates only, one row each, factor columns as words."""

    name: str
    question: str
    factors: tuple[Factor, ...]
    metrics: tuple[Metric, ...]  # the first is the metric of the verdicts
    ladder: tuple[Step, ...]
    seeds: tuple[str, ...]
    early_stopping: Mapping[str, Any]
    plan_hash: str
    expected: int
    runs: pd.DataFrame
    lost: tuple[Lost, ...]
    clips: pd.DataFrame | None = None  # column `row` points into `runs`
    references: pd.DataFrame | None = None
    notes: tuple[str, ...] = field(default=())
    unneeded: tuple[Lost, ...] = ()  # not run, because the looks had decided before
    looks: Looks = field(default=Looks())
    promote: Promote | None = None

    @property
    def metric(self) -> Metric:
        return self.metrics[0]


def read_sweep(folder: Path) -> Sweep:
    """Return the sweep in ``folder``. Raises DataError naming the file and what it lacks."""
    plan = _plan(folder / "plan.json")
    path = folder / "results" / "replicates.parquet"
    table = _parquet(path)
    if table is None:
        raise DataError(f"{path}: no such file; run the sweep first, or name the sweep's own folder")
    factors = _factors(plan, folder / "plan.json")
    steps = _ladder(plan, factors)
    table, stale = with_levels(table, plan, factors, path)
    clips = _parquet(folder / "results" / "clips.parquet")
    metrics = metrics_of(plan, metric_columns(plan, table, clips, factors))
    if metrics[0].name not in table:
        raise DataError(f"{path}: no column {metrics[0].name!r}, the metric that plan.json names")
    table["status"] = status_words(table)
    table = one_row_each(table, factors)
    runs = table[table["status"] == "done"].reset_index(drop=True)
    lost = lost_replicates(table, plan, factors)
    expected = int(plan.get("expected_replicates") or len(table) + sum(one.kind == "missing" for one in lost))
    plan_hash = str(plan.get("plan_hash") or short(fingerprint(plan)))
    looks = read_looks(folder)
    account = looks.of(plan_hash)
    return Sweep(
        name=str(plan.get("name") or folder.name),
        question=str(plan.get("question") or ""),
        factors=factors,
        metrics=metrics,
        ladder=steps,
        seeds=tuple(map(word_of, plan.get("seeds") or sorted(table["seed"].unique()))),
        early_stopping=plan.get("early_stopping") or {},
        plan_hash=plan_hash,
        expected=expected,
        runs=runs,
        lost=lost,
        clips=linked_clips(clips, runs, factors, metrics),
        references=_parquet(folder / "results" / "references.parquet"),
        notes=(*stale, *(account.notes() if account else ())),
        unneeded=unneeded_replicates(table, factors),
        looks=looks,
        promote=_promote(plan, factors, folder / "plan.json"),
    )


def restricted(sweep: Sweep, kept: NDArray[np.bool_], wanted: Callable[[Lost], bool]) -> Sweep:
    """Return the sweep with the finished replicates marked in ``kept`` and the others that are ``wanted``."""
    clips = sweep.clips
    if clips is not None:
        place = np.cumsum(kept) - 1
        inside = kept[clips["row"].to_numpy()]
        clips = clips[inside].assign(row=place[clips["row"].to_numpy()[inside]]).reset_index(drop=True)
    return replace(
        sweep,
        runs=sweep.runs[kept].reset_index(drop=True),
        clips=clips,
        lost=tuple(one for one in sweep.lost if wanted(one)),
        unneeded=tuple(one for one in sweep.unneeded if wanted(one)),
    )


def decisive(sweep: Sweep) -> Sweep:
    """Return the part of a sweep that its main effects rest on: all of it, or with ``promote`` the part at ``from``.

    The promoted runs were chosen by what that part said; pooled with it they would make its effects look larger.
    """
    if sweep.promote is None:
        return sweep
    source = sweep.promote.source
    kept = np.ones(len(sweep.runs), dtype=bool)
    for name, level in source.items():
        kept &= sweep.runs["@" + name].to_numpy() == level
    part = restricted(sweep, kept, lambda one: all(one.levels.get(name) == level for name, level in source.items()))
    return replace(part, factors=tuple(one for one in sweep.factors if one.name not in source), promote=None)


def _plan(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path}: no such file; a sweep folder holds plan.json and results/")
    plan = read_json(path)
    for key in ("metric", "factors"):
        if not isinstance(plan, dict) or not plan.get(key):
            raise DataError(f"{path}: key {key!r} is missing; write the plan again with sagasr-sweep")
    return dict(plan)


def _parquet(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pq.read_table(path).to_pandas()  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from error


def _factors(plan: Mapping[str, Any], path: Path) -> tuple[Factor, ...]:
    factors = []
    for name, spec in plan["factors"].items():
        if not isinstance(spec, Mapping) or not spec.get("levels"):
            raise DataError(f"{path}: factor {name!r}: expected a baseline, levels and a stage, found {spec!r}")
        levels = [word_of(level) for level in spec["levels"]]
        baseline = word_of(spec.get("baseline", levels[0] if levels else ""))
        if baseline not in levels:
            raise DataError(f"{path}: factor {name!r}: baseline {baseline!r} is none of its levels {levels}")
        ordered = (baseline, *(level for level in levels if level != baseline))
        factors.append(Factor(str(name), ordered, str(spec.get("stage") or "train")))
    return tuple(factors)


def _promote(plan: Mapping[str, Any], factors: tuple[Factor, ...], path: Path) -> Promote | None:
    spec = plan.get("promote")
    if not spec:
        return None
    known = {one.name: one.levels for one in factors}
    try:
        ends = [
            {str(name): level_of(level, known[name]) for name, level in spec[key].items()} for key in ("from", "to")
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: promote: expected from and to, each with levels of factors, found {spec!r}"
        ) from error
    return Promote(*ends)


def _ladder(plan: Mapping[str, Any], factors: tuple[Factor, ...]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for spec in plan.get("ladder") or []:
        named = spec.get("levels")
        named = (
            named if named is not None else {key: value for key, value in spec.items() if key not in ("step", "versus")}
        )
        levels = {one.name: level_of(named.get(one.name, one.baseline), one.levels) for one in factors}
        before = steps[-1].step if steps else None
        versus = spec.get("versus")
        steps.append(Step(word_of(spec["step"]), levels, before if versus is None else word_of(versus)))
    return tuple(steps)
