"""Clip by clip: the means of each clip at a level and at the baseline."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from orchestrator.report.charts import NUM_SERIES, Axis, Plot, axis, dot, grid, path, polylines, svg
from orchestrator.report.page_data import PageData, records

CLIPS_SHOWN = 4  # best and worst of each contrast


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
