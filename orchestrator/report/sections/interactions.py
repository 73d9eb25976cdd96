"""Does one factor depend on another? A panel of cell means for each pair of factors."""

import math
from typing import Any, NamedTuple

import pandas as pd

from orchestrator.analysis.cells import run_spread
from orchestrator.report.charts import NUM_SERIES, Axis, Plot, axis, dot, grid, line, path, polylines, svg
from orchestrator.report.page_data import PageData
from orchestrator.sweep_folder.design import Factor

PANELS_SHOWN = 6


class _Pair(NamedTuple):
    """Two factors: mean and standard error for each of their levels, and the least adjusted p of an interaction."""

    lines: Factor
    across: Factor
    means: pd.DataFrame
    error: pd.DataFrame
    p: float


def interactions_section(data: PageData) -> dict[str, Any]:
    """Return a panel for each pair of factors, the surest interaction first."""
    pairs = _pairs(data) if len(data.sweep.valued) > 1 else []
    ends = [end for pair in pairs for end in (pair.means - pair.error, pair.means + pair.error, pair.means)]
    y = axis([value for end in ends for value in end.to_numpy().ravel()], 4)
    panels = []
    for pair in sorted(pairs, key=lambda pair: (math.isnan(pair.p), pair.p)):
        title = f"{pair.lines.name} × {pair.across.name}"
        label = f"mean {data.sweep.metric.name} for each level of {pair.lines.name} and {pair.across.name}"
        plot = _panel(title, label, pair.means, pair.error, y)
        panels.append({"plot": plot, "p": pair.p, "lines": pair.lines, "across": pair.across})
    return {"interactions": panels, "panels_shown": PANELS_SHOWN}


def _pairs(data: PageData) -> list[_Pair]:
    runs, effects, metric = data.sweep.valued, data.effects, data.sweep.metric.name
    spread = run_spread(data.sweep)
    pairs = []
    for place, across in enumerate(data.sweep.factors):
        for lines in data.sweep.factors[:place]:
            groups = runs.groupby(["@" + lines.name, "@" + across.name])
            trainings = groups["trial"].nunique() if "trial" in runs else groups.size()
            means, error = (
                values.unstack().reindex(index=list(lines.levels), columns=list(across.levels))
                for values in (groups[metric].mean(), trainings.pow(-0.5).mul(spread))
            )
            rows = effects[(effects["family"] == "interaction") & (effects["factor"] == lines.name)]
            p = rows.loc[rows["with"] == across.name, "p_adjusted"].min()
            pairs.append(_Pair(lines, across, means, error, float(p)))
    return pairs


def _panel(title: str, label: str, means: pd.DataFrame, error: pd.DataFrame, y: Axis) -> Plot:
    """Return one panel: a line for each row of ``means`` over its columns, bars of +- ``error``; y is shared."""
    rows, columns = list(means.index), list(means.columns)
    places = [(index + 0.5) / len(columns) * 100 for index in range(len(columns))]
    x = Axis(0.0, 100.0, tuple((round(place, 2), name) for place, name in zip(places, columns, strict=True)))
    lines, marks = [], []
    for index, row in enumerate(rows):
        colour = f"s{index % NUM_SERIES}"
        shift = (index - (len(rows) - 1) / 2) * 1.6
        points = []
        for place, column in zip(places, columns, strict=True):
            value, bar = (float(table.loc[row, column]) for table in (means, error))  # type: ignore[arg-type]
            if not math.isfinite(value):
                continue
            at, height = round(place + shift, 2), y.at(value)
            points.append((at, height))
            if math.isfinite(bar):
                marks.append(line(at, 100 - y.at(value - bar), at, 100 - y.at(value + bar), f"bar {colour}"))
            marks.append(dot(at, round(100 - height, 2), 4, f"point {colour}", f"{row}, {column}: {value:.4g}"))
        lines.append(path(points, f"mean {colour}"))
    return Plot(title, svg(label, 190, [*grid(None, y), polylines(lines), *marks], "interaction"), x, y)
