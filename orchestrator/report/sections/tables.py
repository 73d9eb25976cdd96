"""The sections of tables: the verdicts with their forest, the ladder, what was promoted, what the numbers are worth."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from orchestrator.analysis.cells import baseline_cell, levels_beside, runs_of
from orchestrator.analysis.contrasts import step_change
from orchestrator.report import forest, summary
from orchestrator.report.page_data import PageData, records
from orchestrator.sweep_folder.design import cell_name
from orchestrator.sweep_folder.json_files import read_decisions

CELLS_SHOWN = 200


def effects_section(data: PageData) -> dict[str, Any]:
    """Return main effects with their forest, dependences, captions beside distances, and effects on other metrics."""
    delta = data.sweep.metric.delta
    scale = forest.axis_of(data.primary, delta)
    return {
        "primary": records(data.primary),
        "scale": scale,
        "forest": [forest.svg_row(row, scale, delta) for row in records(data.primary)],
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
    units = dict(zip(rows[key], rows["unit"], strict=True))
    lines = []
    for contrast, part in rows.groupby("contrast", sort=False):
        cells = {row[key]: row for row in records(part)}
        lines.append({"contrast": contrast, "cells": [cells.get(column) for column in units]})
    return {"key": key, "columns": list(units), "units": units, "lines": lines}


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


def ladder_section(data: PageData) -> dict[str, Any]:
    """Return a row for each step: its cell's mean, what the step does, and what the grid says of the same factors."""
    sweep, effects = data.sweep, data.effects
    steps = {row["level"]: row for row in records(effects[effects["family"] == "ladder"])}
    mains = {(row["factor"], row["level"]): row for row in records(data.primary)}
    rows = []
    for step in sweep.ladder if len(sweep.runs) else ():
        before, changed = step_change(sweep, step)
        values = runs_of(sweep, step.levels)[sweep.metric.name]
        alone = before is not None and len(changed) == 1
        rows.append(
            {
                "step": step.step,
                "versus": step.versus,
                "cell": cell_name(step.levels),
                "changed": cell_name(changed),
                "mean": float(values.mean()) if len(values) else None,
                "effect": steps.get(step.step),
                "average": mains.get(next(iter(changed.items()))) if alone else None,
                "several": before is not None and len(changed) > 1,
            }
        )
    return {"ladder": rows}


def levels_section(data: PageData) -> dict[str, Any]:
    """Return means on every metric: of the trivial answers and some trained cells, and of every cell."""
    if data.sweep.runs.empty:
        return {"references": {"rows": []}, "cells": {"rows": [], "left": 0}}
    names = [metric.name for metric in data.sweep.metrics]
    tables = levels_beside(data.sweep, data.best, {"baseline cell": baseline_cell(data.sweep)})
    rows = [
        {"words": title, "cell": cell_name(levels), "values": runs.reindex(columns=names).mean().tolist()}
        for title, levels, runs in tables
    ]
    return {"references": {"rows": rows}, "cells": _cells(data)}


def _cells(data: PageData) -> dict[str, Any]:
    """Return every cell's mean on every metric, best first."""
    sweep = data.sweep
    metrics = [metric.name for metric in sweep.metrics]
    groups = sweep.runs.groupby(["@" + factor.name for factor in sweep.factors], sort=False)
    table = groups[metrics].mean().assign(seeds=groups[sweep.metric.name].count())
    table = table.sort_values(sweep.metric.name, ascending=sweep.metric.better == "lower")
    rows = [
        {
            "levels": key if isinstance(key, tuple) else (key,),
            "seeds": int(row["seeds"]),
            "values": row[metrics].tolist(),
        }
        for key, row in table.head(CELLS_SHOWN).iterrows()
    ]
    return {"rows": rows, "left": max(0, len(table) - CELLS_SHOWN)}
