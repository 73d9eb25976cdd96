"""Run-level metrics made from what is there: how fast a run learned, and means that no single clip can move.

*Speed* (of the plan's metric on validation, from curves.parquet): its mean over the logarithm of the steps, and the
steps until it is as good as the baseline cell ends, at most all steps (a restricted mean). *Middle half*: the mean of
the clips between the quartiles, for metrics with heavy tails. All are exploratory.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator.analysis.design_matrix import Array
from orchestrator.analysis.metrics import Metric

HEAVY_TAILED = ("si_sdr", "sispec", "log_sispec", "seam")
MIN_POINTS = 3  # of a curve


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


def speed(curves: Curves, baseline: Array, metric: Metric) -> dict[Metric, Array]:
    """Return both measures of speed, a value per run. ``baseline`` marks the runs of the baseline cell (bool)."""
    steps, values = curves.steps, curves.values
    found = {Metric("learning_area", metric.better, metric.unit): _log_mean(steps, values)}
    ends = values[baseline.astype(bool), -1]
    if np.isfinite(ends).any():
        goal = float(np.nanmean(ends))
        found[Metric("steps_to_reach", "lower", "steps")] = _steps_to(steps, -values * metric.sign, -goal * metric.sign)
    return found


def _log_mean(steps: Array, values: Array) -> Array:
    """Return the mean of ``values`` [runs, steps] over log(step)."""
    x = np.log(steps)
    return np.asarray(np.trapezoid(values, x, axis=1) / (x[-1] - x[0]))


def _steps_to(steps: Array, values: Array, goal: float) -> Array:
    """Return where ``values`` [runs, steps], the lower the better, first come down to ``goal``; the last step if never.

    Between two validations the curve counts as straight.
    """
    reached = values <= goal
    first = np.where(reached.any(axis=1), reached.argmax(axis=1), -1)
    out = np.full(len(values), steps[-1])
    for run in np.flatnonzero(first >= 0):
        at = int(first[run])
        if at == 0:
            out[run] = steps[0]
            continue
        above, below = values[run, at - 1], values[run, at]
        share = (above - goal) / (above - below)
        out[run] = steps[at - 1] + share * (steps[at] - steps[at - 1])
    return np.where(np.isfinite(values).all(axis=1), out, np.nan)


def middle_halves(clips: pd.DataFrame, count: int, metrics: Mapping[str, Metric]) -> dict[Metric, Array]:
    """Return, per heavy-tailed metric, the mean of each run's clips between the quartiles (25 % trimmed mean).

    ``clips`` has a ``row`` into the ``count`` runs. A clip that some run lacks counts for none.
    """
    found = {}
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
        found[Metric(f"{name}_middle", metric.better, metric.unit)] = values
    return found
