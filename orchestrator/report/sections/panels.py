"""The sections of drawings: cell means for each pair of factors, and each clip at a level against the baseline."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from orchestrator.analysis.cells import run_spread
from orchestrator.report.charts import NUM_SERIES, Axis, Plot, axis, dot, grid, line, path, polylines, svg
from orchestrator.report.page_data import PageData, records

PANELS_SHOWN = 6
CLIPS_SHOWN = 4  # best and worst of each contrast


def interactions_section(data: PageData) -> dict[str, Any]:
    """Return a panel for each pair of factors, the surest interaction first."""
    runs, effects, metric = data.sweep.valued, data.effects, data.sweep.metric.name
    pairs: list[dict[str, Any]] = []
    spread = run_spread(data.sweep) if len(runs) > 1 else math.nan
    for place, across in enumerate(data.sweep.factors if len(runs) > 1 else ()):
        for lines in data.sweep.factors[:place]:
            groups = runs.groupby(["@" + lines.name, "@" + across.name])
            trainings = groups["trial"].nunique() if "trial" in runs else groups.size()
            means, error = (
                values.unstack().reindex(index=list(lines.levels), columns=list(across.levels))
                for values in (groups[metric].mean(), trainings.pow(-0.5).mul(spread))
            )
            rows = effects[(effects["family"] == "interaction") & (effects["factor"] == lines.name)]
            p = float(rows.loc[rows["with"] == across.name, "p_adjusted"].min())
            pairs.append({"p": p, "lines": lines, "across": across, "means": means, "error": error})
    ends = [
        end for pair in pairs for end in (pair["means"] - pair["error"], pair["means"] + pair["error"], pair["means"])
    ]
    y = axis([value for end in ends for value in end.to_numpy().ravel()], 4)
    for pair in pairs:
        names = pair["lines"].name, pair["across"].name
        label = f"mean {metric} for each level of {names[0]} and {names[1]}"
        pair["plot"] = _panel(" × ".join(names), label, pair["means"], pair["error"], y)
    pairs.sort(key=lambda pair: (math.isnan(pair["p"]), pair["p"]))
    return {"interactions": pairs, "panels_shown": PANELS_SHOWN}


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


def clip_means(data: PageData) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return for each main effect the clips' means at level (y) and baseline (x), sorted by gain, best first."""
    sweep, metric = data.sweep, data.sweep.metric
    if sweep.clips is None or metric.name not in sweep.clips:
        return []
    clips = sweep.clips.assign(domain=sweep.clips.get("domain", ""))
    effects = []
    for row in records(data.primary):
        levels = sweep.runs["@" + row["factor"]].to_numpy()[clips["row"]]
        means = clips.assign(level=levels).pivot_table(metric.name, ["clip", "domain"], "level", "mean", observed=True)
        if {row["level"], row["baseline"]} <= set(means):
            table = means[[row["baseline"], row["level"]]].dropna().set_axis(["x", "y"], axis=1).reset_index()
            table = table.assign(gain=(table["y"] - table["x"]) * metric.sign)
            effects.append((row, table.sort_values("gain", ascending=False)))
    return [(row, table) for row, table in effects if len(table) > 1]


def clip_panel(metric: str, row: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """Return the scatter of one main effect, with its best and worst clips."""
    domains = sorted(map(str, set(table["domain"])))
    better, shown, rows = int((table["gain"] > 0).sum()), min(CLIPS_SHOWN, len(table) // 2), records(table)
    title = f"{row['factor']}: {row['level']} against {row['baseline']}"
    label = f"{title}, each clip's mean {metric}; better for {better} of {len(table)} clips"
    scale = axis([*table["x"], *table["y"]], 4)
    return {
        "plot": _scatter(title, label, table, scale, {domain: index for index, domain in enumerate(domains)}),
        "row": row,
        "domains": domains,
        "better": better,
        "clips": len(table),
        "best": rows[:shown],
        "worst": rows[::-1][:shown],
    }


def _scatter(title: str, label: str, points: pd.DataFrame, scale: Axis, kinds: Mapping[str, int]) -> Plot:
    """Return level against baseline, one dot a clip, with the diagonal of no effect. Columns: clip, domain, x, y."""
    diagonal = polylines([path([(0, 0), (100, 100)], "diagonal")])
    dots = [
        dot(scale.at(x), round(100 - scale.at(y), 2), 4.5, f"point s{kinds.get(domain, 0) % NUM_SERIES}",
            f"{clip}: {x:.4g} → {y:.4g}")
        for clip, domain, x, y in points[["clip", "domain", "x", "y"]].to_numpy().tolist()
    ]  # fmt: skip
    return Plot(title, svg(label, 260, [*grid(scale, scale), diagonal, *dots], "scatter"), scale, scale)
