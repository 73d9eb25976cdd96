"""What a sweep is judged by: what its plan states of a metric, what the table of metrics says, and metrics made here.

Made of whole runs, all exploratory: *Speed* (of the plan's metric on validation, from curves.parquet): its mean over
the logarithm of the steps, and the steps until it is as good as the baseline cell ends, at most all steps (a restricted
mean). *Middle half*: the mean of the clips between the quartiles, for metrics with heavy tails, which no clip can move.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.design_matrix import Array
from orchestrator.sweep_folder.plan_file import PlanRead
from sagasr.metrics.table import Better, find_metric

HEAVY_TAILED = ("si_sdr", "sispec", "log_sispec", "seam")
MIN_POINTS = 3  # of a curve


@dataclass(frozen=True)
class Metric:
    """One scored quantity. ``delta`` is the smallest effect that matters, in ``unit``; None when nobody named one."""

    name: str
    better: Better
    unit: str
    delta: float | None = None
    definition: str = ""

    @property
    def sign(self) -> int:
        """+1 when a positive difference is an improvement, -1 otherwise."""
        return 1 if self.better == "higher" else -1


def metrics_of(plan: PlanRead, columns: Iterable[str]) -> tuple[Metric, ...]:
    """Return the plan's metric first, then every other metric that ``columns`` holds."""
    metrics = []
    for name in dict.fromkeys((plan.metric.column, *columns)):
        stated, known = plan.stated(name), find_metric(name)
        better, unit, definition = (known.better, known.unit, known.definition) if known else ("lower", "", "")
        metrics.append(Metric(name, stated.better or better, str(stated.unit or unit), stated.delta, definition))
    return tuple(metrics)


def knows_direction(plan: PlanRead, name: str) -> bool:
    """Return whether it is stated, or known, which way a metric is good."""
    return plan.stated(name).better is not None or find_metric(name) is not None


@dataclass(frozen=True)
class Curves:
    """The plan's metric on validation: ``values`` [runs, steps] at the ``steps`` that runs share; NaN where none."""

    steps: Array
    values: Array


def shared_curves(curves: pd.DataFrame | None, runs: pd.DataFrame, metric: str) -> Curves | None:
    """Return the validation curves of the finished ``runs``, in their order; None where fewer than two runs have one.

    ``curves`` has the columns replicate, step, metric, value. Runs whose validations lie at other steps have no curve.
    """
    if curves is None or "replicate" not in runs or not {"replicate", "step", "metric", "value"} <= set(curves):
        return None
    rows = curves[(curves["metric"] == f"val/{metric}") & (curves["step"] > 0)]
    rows = rows.assign(replicate=rows["replicate"].astype(str))
    table = rows.pivot_table("value", "replicate", "step", "last")
    table = table.reindex(runs["replicate"].astype(str)) if len(table) else table
    have = table.notna().any(axis=1)
    if have.sum() < 2:
        return None
    common = table.columns[table[have].notna().mean() > 0.5]  # steps that most runs have
    if len(common) < MIN_POINTS:
        return None
    values = table[common].to_numpy(dtype=float, copy=True)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return Curves(common.to_numpy(dtype=float), values)


def speed(curves: Curves, baseline: NDArray[np.bool_], metric: Metric) -> dict[Metric, Array]:
    """Return both measures of speed, a value per run. ``baseline`` marks the runs of the baseline cell (bool)."""
    steps, values = curves.steps, curves.values
    log_steps = np.log(steps)
    area = np.asarray(np.trapezoid(values, log_steps, axis=1) / (log_steps[-1] - log_steps[0]))
    measures = {Metric("learning_area", metric.better, metric.unit): area}
    ends = values[baseline, -1]
    if np.isfinite(ends).any():
        reached = _steps_to(steps, -values * metric.sign, -float(np.nanmean(ends)) * metric.sign)
        measures[Metric("steps_to_reach", "lower", "steps")] = reached
    return measures


def _steps_to(steps: Array, values: Array, goal: float) -> Array:
    """Return where ``values`` [runs, steps], the lower the better, first come down to ``goal``; the last step if never.

    Between two validations the curve counts as straight.
    """
    reached = values <= goal
    out = np.full(len(values), steps[-1])
    for run in np.flatnonzero(reached.any(axis=1)):
        at = int(reached[run].argmax())
        out[run] = steps[at]
        if at:
            above, below = values[run, at - 1], values[run, at]
            out[run] = steps[at - 1] + (above - goal) / (above - below) * (steps[at] - steps[at - 1])
    return np.where(np.isfinite(values).all(axis=1), out, np.nan)


def middle_halves(clips: pd.DataFrame, count: int, metrics: Mapping[str, Metric]) -> dict[Metric, Array]:
    """Return, per heavy-tailed metric, the mean of each run's clips between the quartiles (25 % trimmed mean).

    ``clips`` has a ``row`` into the ``count`` runs. A clip that some run lacks counts for none.
    """
    made = {}
    for name in HEAVY_TAILED:
        if name not in clips or name not in metrics:
            continue
        table = clips.pivot_table(name, "row", "clip", "mean", dropna=False).replace([np.inf, -np.inf], np.nan)
        table = table.loc[table.notna().mean(axis=1) > 0.5]
        shared = table[table.columns[table.notna().all()]].to_numpy(dtype=float)
        cut = shared.shape[1] // 4
        if not len(shared) or cut == 0:
            continue
        values = np.full(count, np.nan)
        values[table.index.to_numpy(dtype=int)] = np.sort(shared, axis=1)[:, cut:-cut].mean(axis=1)
        metric = metrics[name]
        made[Metric(f"{name}_middle", metric.better, metric.unit)] = values
    return made
