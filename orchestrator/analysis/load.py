"""A sweep folder as the analysis sees it: plan.json and results/*.parquet, checked, with every level a word.

Only replicates that ran to their full budget carry values on; failed, stopped and missing ones keep their names.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.analysis.metrics import (
    Curves,
    Metric,
    knows_direction,
    metrics_of,
    middle_halves,
    shared_curves,
    speed,
)
from orchestrator.analysis.tables import (
    Lost,
    has_levels,
    lacks_combinations,
    linked_clips,
    linked_distances,
    lost_replicates,
    metric_columns,
    one_row_each,
    status_words,
    unlike_devices,
    unneeded_replicates,
    with_levels,
)
from orchestrator.sweep_folder.design import Factor, Promote, Step, word_of
from orchestrator.sweep_folder.json_files import Looks, read_looks
from orchestrator.sweep_folder.paths import SweepPaths
from orchestrator.sweep_folder.plan_file import PlanRead, read_plan
from sagasr.config.parsing import parse
from sagasr.config.settings import Config
from sagasr.config.stages import scored_on
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.states import State
from sagasr.model.words import said_of_known

QUESTION = "@scored on"  # column of runs: in words, what was scored, where that is not the same for all of them


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
    notes: tuple[str, ...] = ()
    unneeded: tuple[Lost, ...] = ()  # not run, because the looks had decided before
    looks: Looks = field(default=Looks())
    promote: Promote | None = None
    distances: pd.DataFrame | None = None  # of distributions, by domain; column `row` points into `runs`
    curves: Curves | None = None  # the metric of the verdicts on validation, a row per run
    known_words: Mapping[str, float] = field(default_factory=dict)  # by level of ``text``, where few are known
    plan: PlanRead | None = None
    by_pairs: bool = False  # the design lacks combinations of levels: only cells that differ in one factor compare

    @property
    def metric(self) -> Metric:
        return self.metrics[0]

    @property
    def valued(self) -> pd.DataFrame:
        """The finished replicates that have a value of the metric of the verdicts."""
        values = self.runs[self.metric.name].to_numpy(dtype=float, na_value=np.nan)
        return pd.DataFrame(self.runs[np.isfinite(values)])

    @property
    def nested(self) -> bool:
        """Whether some factor acts only beside some levels of others."""
        return any(factor.under for factor in self.factors)


def read_sweep(folder: Path) -> Sweep:
    """Return the sweep in ``folder``. Raises DataError naming the file and what it lacks."""
    paths = SweepPaths(folder)
    plan = read_plan(paths.plan)
    factors = plan.design_factors()
    try:
        ladder, promote = plan.design_ladder(factors), plan.design_promote(factors)
    except ValueError as error:
        raise DataError(f"{paths.plan}: {error}") from error
    path = paths.table("replicates")
    table = _parquet(path)
    if table is None:
        raise DataError(f"{path}: no such file; run the sweep first, or name the sweep's own folder")
    notes = [f"{each.name} acts only where {each.where}, and is compared there" for each in factors if each.under]
    table = with_levels(table, plan, factors, path, notes)
    scored = _parquet(paths.table("clips"))
    columns = metric_columns(plan, table, scored, factors)
    undirected = [name for name in columns if not knows_direction(plan, name)]
    metrics = metrics_of(plan, [name for name in columns if name not in undirected])
    _check_metric(metrics[0], plan, table, paths)
    table["status"] = status_words(table, plan.factors)
    table = one_row_each(table, factors, notes)
    if (questions := _questions(plan)) and "trial" in table:
        table[QUESTION] = table["trial"].astype(str).map(questions).fillna("")
    runs = table[table["status"] == State.DONE].reset_index(drop=True)
    lost = lost_replicates(table, plan, factors, metrics[0].name)
    notes += unlike_devices(runs)
    distances, dropped = linked_distances(_parquet(paths.table("distances")), runs, notes)
    metrics = tuple(metric for metric in metrics if metric.name not in dropped)
    clips = linked_clips(scored, runs, factors, metrics)
    if clips is None and scored is not None and len(scored) and len(runs):
        notes.append("clips.parquet is not used: no columns tie its rows to the finished replicates")
    curve_rows = _parquet(paths.table("curves"), [("metric", "=", f"val/{metrics[0].name}")])
    curves = shared_curves(curve_rows, runs, metrics[0].name)
    runs, metrics = _with_derived(runs, metrics, factors, clips, curves)
    runs = runs.replace([np.inf, -np.inf], np.nan)  # else such a value makes its cell the best, and its means nothing
    known_words = plan.known_words or {}
    looks = read_looks(folder)
    notes += [f"{name} is not judged: 'metrics' of plan.json does not say which way is good" for name in undirected]
    notes += account.notes() if (account := looks.of(plan.plan_hash)) else ()
    notes += [said_of_known(source, share) for source, share in known_words.items()]
    return Sweep(
        name=str(plan.name or folder.name),
        question=str(plan.question or ""),
        plan=plan,
        factors=factors,
        metrics=metrics,
        ladder=ladder,
        seeds=tuple(map(word_of, plan.seeds or sorted(table["seed"].unique()))),
        early_stopping=plan.early_stopping or {},
        plan_hash=plan.plan_hash,
        expected=plan.expected_replicates or len(table) + sum(replicate.kind == State.MISSING for replicate in lost),
        runs=runs,
        lost=lost,
        clips=clips,
        references=_parquet(paths.table("references")),
        notes=tuple(notes),
        unneeded=unneeded_replicates(table, factors),
        looks=looks,
        promote=promote,
        distances=distances,
        curves=curves,
        known_words=known_words,
        by_pairs=lacks_combinations(plan, table, factors),
    )


def _check_metric(metric: Metric, plan: PlanRead, table: pd.DataFrame, paths: SweepPaths) -> None:
    """Make the column of the plan's metric numbers. Raises DataError where it cannot be judged by."""
    name, path = metric.name, paths.table("replicates")
    if name not in table:
        raise DataError(f"{path}: no column {name!r}, the metric that plan.json names")
    if not knows_direction(plan, name):
        raise DataError(
            f"{paths.plan}: metric {name!r} does not say which way is good; add 'better': 'higher' or 'lower' to it"
        )
    try:
        table[name] = pd.to_numeric(table[name])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: column {name!r} holds something other than numbers ({error})") from error


def _with_derived(
    runs: pd.DataFrame,
    metrics: tuple[Metric, ...],
    factors: tuple[Factor, ...],
    clips: pd.DataFrame | None,
    curves: Curves | None,
) -> tuple[pd.DataFrame, tuple[Metric, ...]]:
    """Return runs and metrics with the metrics made here."""
    made: dict[Metric, NDArray[np.float64]] = {}
    if curves is not None:
        baseline = has_levels(runs, {factor.name: factor.baseline for factor in factors})
        made |= speed(curves, baseline, metrics[0])
    if clips is not None:
        made |= middle_halves(clips, len(runs), {metric.name: metric for metric in metrics})
    made = {metric: values for metric, values in made.items() if metric.name not in runs}
    return runs.assign(**{metric.name: values for metric, values in made.items()}), (*metrics, *made)


def restricted(sweep: Sweep, kept: NDArray[np.bool_], wanted: Callable[[Lost], bool]) -> Sweep:
    """Return the sweep with the finished replicates marked in ``kept`` and the others that are ``wanted``."""
    return replace(
        sweep,
        runs=sweep.runs[kept].reset_index(drop=True),
        clips=_rows_of(sweep.clips, kept),
        distances=_rows_of(sweep.distances, kept),
        curves=replace(sweep.curves, values=sweep.curves.values[kept]) if sweep.curves is not None else None,
        lost=tuple(filter(wanted, sweep.lost)),
        unneeded=tuple(filter(wanted, sweep.unneeded)),
    )


def _rows_of(table: pd.DataFrame | None, kept: NDArray[np.bool_]) -> pd.DataFrame | None:
    """Return the rows of a table whose ``row`` points to a run that is ``kept``, pointing to its new place."""
    if table is None:
        return None
    row = table["row"].to_numpy()
    inside = kept[row]
    return pd.DataFrame(table[inside]).assign(row=(np.cumsum(kept) - 1)[row[inside]]).reset_index(drop=True)


def decisive(sweep: Sweep) -> Sweep:
    """Return the part of a sweep that its main effects rest on: all of it, or with ``promote`` the part at ``from``.

    The promoted runs were chosen by what that part said; pooled with it they would make its effects look larger.
    """
    if sweep.promote is None:
        return sweep
    source = sweep.promote.source
    part = restricted(
        sweep,
        has_levels(sweep.runs, source),
        lambda lost: all(lost.levels.get(name) == level for name, level in source.items()),
    )
    return replace(part, factors=tuple(each for each in sweep.factors if each.name not in source), promote=None)


def _parquet(path: Path, filters: list[tuple[str, str, str]] | None = None) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pd.DataFrame(pq.read_table(path, filters=filters).to_pandas())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from error


def _questions(plan: PlanRead) -> dict[str, str]:
    """Return, by trial, what of its configuration decides what was scored; nothing where that is the same for all."""
    scored: dict[str, dict[str, Any]] = {}
    for trial in plan.trials if isinstance(plan.trials, list) else ():
        with contextlib.suppress(ConfigError, KeyError, TypeError):  # a plan of others, or of an older version
            scored[str(trial["trial"])] = scored_on(parse(Config, trial["config"], ""))
    keys = dict.fromkeys(key for question in scored.values() for key in question)
    differing = [key for key in keys if len({str(question.get(key)) for question in scored.values()}) > 1]
    words = {trial: ", ".join(f"{key} {question.get(key)}" for key in differing) for trial, question in scored.items()}
    return words if differing else {}
