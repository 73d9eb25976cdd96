"""The verdicts, the forest of main effects, the same effects on other metrics, and what was promoted."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from orchestrator.report import forest, summary
from orchestrator.report.page_data import PageData, records, rows_of
from orchestrator.sweep_folder.design import cell_name
from orchestrator.sweep_folder.json_files import read_decisions


def effects_section(data: PageData) -> dict[str, Any]:
    """Return main effects with their forest, dependences, captions beside distances, and effects on other metrics."""
    delta = data.sweep.metric.delta
    scale = forest.axis_of(data.primary, delta)
    return {
        "primary": records(data.primary),
        "scale": scale,
        "forest": [forest.svg_row(row, scale, delta) for row in rows_of(data.primary)],
        "depends": summary.dependences(data.sweep, data.effects),
        "beside_text": summary.beside_text(data.effects),
        "others": _on_others(data),
        "promotion": _promotion(data),
    }


def _on_others(data: PageData) -> list[dict[str, Any]]:
    """Return main effects on other metrics and in each domain, for the plan's contrasts."""
    effects, metric = data.effects, data.sweep.metric.name
    mains = effects[effects["family"].isin(["primary", "exploratory"])]
    mains = mains[mains["contrast"].isin(data.primary["contrast"])]
    by_metric = _crossed(mains[mains["domain"] == "all"], "metric")
    by_domain = _crossed(mains[(mains["metric"] == metric) & (mains["domain"] != "all")], "domain")
    by_metric["better"] = {metric.name: metric.better for metric in data.sweep.metrics}
    return [group for group in (by_metric, by_domain) if group["lines"]]


def _crossed(rows: pd.DataFrame, key: str) -> dict[str, Any]:
    """Return a line for each contrast, with a cell for each value of the column ``key``."""
    columns = list(dict.fromkeys(rows[key]))
    lines = []
    for contrast, part in rows.groupby("contrast", sort=False):
        cells = {row[key]: row for row in records(part)}
        lines.append({"contrast": contrast, "cells": [cells.get(column) for column in columns]})
    units = dict(zip(rows[key], rows["unit"], strict=True))
    return {"key": key, "columns": columns, "units": units, "lines": lines}


def _promotion(data: PageData) -> dict[str, Any] | None:
    """Return what was promoted and why, with each promoted effect where it was promoted to."""
    sweep, effects = data.sweep, data.effects
    if sweep.promote is None:
        return None
    decision = read_decisions(data.paths.root).of(sweep.plan_hash)
    if decision is None:
        at, to = cell_name(sweep.promote.source), cell_name(sweep.promote.target)
        return {"reason": f"Cells at {to} wait until {at} is decided.", "rows": []}
    target = cell_name(decision.target)
    there = effects[(effects["family"] == "simple") & (effects["domain"] == "all") & (effects["with"] == target)]
    after: Mapping[Any, Any] = {(row["factor"], row["level"]): row for row in records(there)}
    return {
        "reason": f"Decided: {decision.reason}.",
        "rows": [
            {"judged": judged, "after": after.get((judged.factor, judged.level)) if judged.promoted else None}
            for judged in decision.judged
        ],
        "at": cell_name(decision.source),
        "to": target,
        "gpu_hours": decision.gpu_hours,
        "budget": decision.budget,
    }
