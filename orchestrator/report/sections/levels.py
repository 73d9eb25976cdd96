"""What the numbers are worth: trivial answers beside trained cells, and every cell."""

from typing import Any

from orchestrator.analysis.cells import REFERENCES, baseline_cell, paper_cell, reference_rows, runs_of
from orchestrator.report.page_data import PageData
from orchestrator.sweep_folder.design import cell_name

CELLS_SHOWN = 200


def levels_section(data: PageData) -> dict[str, Any]:
    """Return means on every metric: of the trivial answers and some trained cells, and of every cell."""
    if not len(data.sweep.runs):
        return {"references": {"rows": []}, "cells": {"rows": [], "left": 0}}
    return {"references": {"rows": _references(data)}, "cells": _cells(data)}


def _references(data: PageData) -> list[dict[str, Any]]:
    sweep = data.sweep
    cells = {"baseline cell": baseline_cell(sweep), "best cell": data.best}
    if paper := paper_cell(sweep):
        cells["the paper's own choices"] = paper
    tables = [(title, "", reference_rows(sweep, subject, data.best)) for subject, title in REFERENCES.items()]
    tables += [(f"trained, {title}", cell_name(levels), runs_of(sweep, levels)) for title, levels in cells.items()]
    names = [metric.name for metric in sweep.metrics]
    return [
        {"words": title, "cell": cell, "values": [rows[name].mean() if name in rows else None for name in names]}
        for title, cell, rows in tables
        if len(rows)
    ]


def _cells(data: PageData) -> dict[str, Any]:
    """Return every cell's mean on every metric, best first."""
    sweep = data.sweep
    metrics = [metric.name for metric in sweep.metrics]
    groups = sweep.runs.groupby(["@" + factor.name for factor in sweep.factors], sort=False)
    table = groups[[name for name in metrics if name in sweep.runs]].mean()
    table = table.assign(seeds=groups[sweep.metric.name].count())
    table = table.sort_values(sweep.metric.name, ascending=sweep.metric.better == "lower")
    rows = [
        {
            "levels": key if isinstance(key, tuple) else (key,),
            "seeds": int(row["seeds"]),
            "values": [row.get(name) for name in metrics],
        }
        for key, row in table.head(CELLS_SHOWN).iterrows()
    ]
    return {"rows": rows, "left": max(0, len(table) - CELLS_SHOWN)}
