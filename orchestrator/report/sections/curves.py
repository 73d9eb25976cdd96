"""Training and validation over the steps, and when each factor acts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup

from orchestrator.analysis.estimates import effect_curves
from orchestrator.analysis.load import Sweep
from orchestrator.analysis.tables import numbers
from orchestrator.report.charts import NOTHING, NUM_SERIES, Axis, Plot, axis, grid, line, path, polylines, svg
from orchestrator.report.cost import hours_per_step
from orchestrator.report.page_data import PageData

MAX_LINES = 240  # curves drawn in one panel
MAX_POINTS = 160  # of one curve


@dataclass(frozen=True)
class Curve:
    """One training: its name, the index of each factor's level, its table of step and value, its hours a step."""

    name: str
    levels: tuple[int, ...]
    table: pd.DataFrame
    hours: float | None = None


def curves_section(data: PageData) -> dict[str, Any]:
    """Return panels of training and validation, and of each main effect over the training."""
    on_gpus = numbers(data.sweep.runs, "gpu_seconds").gt(0).any()
    return {
        "curves": _panels(data),
        "courses": _effect_panels(data.sweep),
        "hours_of": "GPU-hours" if on_gpus else "hours",
    }


def _panels(data: PageData) -> list[Plot]:
    """Return panels of training and validation on one axis of steps; each training once where variants share it."""
    path = data.paths.table("curves")
    table = pq.read_table(path).to_pandas() if path.exists() else pd.DataFrame()
    if table.empty or not {"replicate", "step", "metric", "value"} <= set(table):
        return []
    table["replicate"] = table["replicate"].astype(str)
    known = data.replicates.drop_duplicates("replicate").set_index("replicate")
    table = table[table["replicate"].isin(known.index)]
    factors = data.sweep.factors
    pace = hours_per_step(pq.read_table(data.paths.table("replicates")).to_pandas(), [f.name for f in factors])
    paces = [pace[replicate] for replicate in known.index if replicate in pace]
    last = float(table["step"].max())
    steps = axis([float(table["step"].min()), last], 5, 0.01)
    hours = axis([0.0, last * max(paces)], 5, 0.01) if paces else None
    panels = []
    for metric in ("train/loss", "val/loss", f"val/{data.sweep.metric.name}"):
        lines = _lines(data.sweep, table[table["metric"] == metric], known, pace)
        panels.append(_curve_panel(metric, lines, [factor.levels for factor in factors], steps, hours))
    return [panel for panel in panels if panel]


def _lines(sweep: Sweep, rows: pd.DataFrame, known: pd.DataFrame, pace: Mapping[str, float]) -> list[Curve]:
    """Return a curve for each training: variants of one training have the same values."""
    indices = {factor.name: {level: index for index, level in enumerate(factor.levels)} for factor in sweep.factors}
    curves: dict[Any, Curve] = {}
    for replicate, table in rows.groupby("replicate", sort=False):
        row = known.loc[replicate]
        training = (row["trial"], tuple(table["value"])) if row["trial"] else replicate
        if training not in curves:
            levels = tuple(indices[factor.name].get(str(row["@" + factor.name]), 0) for factor in sweep.factors)
            name = f"{row['cell']}, seed {row['seed']}"
            curves[training] = Curve(name, levels, table, pace.get(str(replicate)))
    return list(curves.values())


def _effect_panels(sweep: Sweep) -> list[dict[str, Any]]:
    """Return a panel for each main effect over the training: its line, its interval as a band, the line of no effect.

    All have one scale of steps and one of effects.
    """
    curves = effect_curves(sweep)
    if not curves:
        return []
    x = axis([float(curves[0].steps[0]), float(curves[0].steps[-1])], 4, 0.01)
    values = np.concatenate([curve.estimate for curve in curves])
    ends = np.concatenate([end for curve in curves for end in (curve.low, curve.high)])
    reach = 4 * float(np.abs(values).max() or 1.0)
    y = axis([0.0, *values, *np.clip(ends[np.isfinite(ends)], -reach, reach)], 4)
    zero = line(0, round(100 - y.at(0.0), 2), 100, round(100 - y.at(0.0), 2), "zero")
    panels = []
    for curve in curves:
        low, high, middle = (
            _places(pd.Series(end, index=curve.steps).dropna(), x, y) for end in (curve.low, curve.high, curve.estimate)
        )
        corners = " ".join(f"{place:g},{round(100 - height, 2):g}" for place, height in [*high, *low[::-1]])
        interval = Markup('<polygon points="{}" class="interval"/>').format(corners)
        compared, title = curve.comparison, curve.comparison.contrast
        label = f"{title} over training steps, from {curve.estimate[0]:+.3g} to {curve.estimate[-1]:+.3g}"
        drawing = svg(label, 170, [*grid(x, y), polylines([interval, path(middle, "mean s0")]), zero], "course")
        panels.append({"factor": compared.factor, "level": compared.level, "plot": Plot(title, drawing, x, y)})
    return panels


def _curve_panel(
    title: str, curves: Sequence[Curve], factors: Sequence[Sequence[str]], x: Axis, hours: Axis | None = None
) -> Plot | None:
    """Return one panel: a thin line for each training and, per factor, a thick mean for each of its levels.

    Means stop at the last step that all lines of the level share. Scale: the middle 99 % of the values, so that one
    divergence hides nothing. Where ``hours`` is given, each line says how to move to that axis: scale, then shift.
    """
    lines = [(curve, _thinned(curve.table)) for curve in curves if len(curve.table) > 1]
    values = np.concatenate([points.to_numpy() for _, points in lines]) if lines else np.zeros(0)
    if not len(values):
        return None
    low, high = np.quantile(values, [0.0, 0.995])
    y = axis([float(low), float(high)], 4)
    thin = [
        path(
            _places(points, x, y),
            "thin",
            Markup('data-levels="{}" {}').format(" ".join(map(str, curve.levels)), _moved(curve.hours, x, hours)),
            curve.name,
        )
        for curve, points in lines[:MAX_LINES]
    ]
    means = []
    for index, names in enumerate(factors):
        group = []
        for level, name in enumerate(names):
            at_level = [(curve, points) for curve, points in lines if curve.levels[index] == level]
            if at_level:
                shared = pd.concat([points for _, points in at_level], axis=1, join="inner").mean(axis=1)
                paces = [curve.hours for curve, _ in at_level if curve.hours]
                move = _moved(float(np.mean(paces)) if paces else None, x, hours)
                group.append(path(_places(shared, x, y), f"mean s{level % NUM_SERIES}", move, name))
        means.append(Markup('<g class="means" data-factor="{}">{}</g>').format(index, NOTHING.join(group)))
    left = len(lines) - MAX_LINES
    note = f"{MAX_LINES} of {len(lines)} trainings are drawn thin; the means hold all." if left > 0 else ""
    label = f"{title} over training steps, {len(lines)} trainings; values are in the tables"
    scales = grid(x, None)
    if hours is not None:
        form = '<g data-axis="{}" style="{}">{}</g>'
        drawn_at = [("steps", "", scales), ("hours", "display:none", grid(hours, None))]
        scales = [Markup(form).format(name, style, NOTHING.join(lines_)) for name, style, lines_ in drawn_at]
    drawn = svg(label, 240, [*scales, *grid(None, y), polylines([*thin, *means])], "curves")
    return Plot(title, drawn, x, y, note=note, other_x=hours)


def _moved(pace: float | None, x: Axis, hours: Axis | None) -> Markup:
    """Return how a place on the axis of steps moves to that of hours, at ``pace`` hours a step."""
    if pace is None or hours is None:
        return NOTHING
    spread = hours.high - hours.low
    scale = pace * (x.high - x.low) / spread
    shift = (pace * x.low - hours.low) / spread * 100
    return Markup('data-hours="{:.6g} {:.6g}"').format(scale, shift)


def _thinned(table: pd.DataFrame) -> pd.Series:
    """Return the finite values by step, the last of each step, as many as are drawn."""
    points = table[np.isfinite(table["value"])].groupby("step")["value"].last()
    places = np.linspace(0, len(points) - 1, min(len(points), MAX_POINTS))
    return pd.Series(points.iloc[places.round().astype(int)])


def _places(points: pd.Series, x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [(x.at(step), y.at(value)) for step, value in zip(points.index.to_numpy(float), points, strict=True)]
