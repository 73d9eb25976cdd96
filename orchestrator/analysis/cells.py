"""What single cells reached: their runs, the best cell, the paper's, the trivial answers beside them, run noise."""

import math
from collections.abc import Mapping

import pandas as pd

from orchestrator.analysis.load import Sweep
from orchestrator.analysis.tables import has_levels
from orchestrator.grid.factors import PAPER

SAGA = ("text", "rolloff")
REFERENCES = {"low": "low input", "shaped_noise": "low + shaped noise", "untrained": "untrained, best cell"}


def baseline_cell(sweep: Sweep) -> dict[str, str]:
    return {factor.name: factor.baseline for factor in sweep.factors}


def best_cell(sweep: Sweep) -> dict[str, str]:
    """Return the levels of the best cell among those with the most finished seeds; empty where none has a value."""
    if sweep.runs.empty:
        return {}
    names = [factor.name for factor in sweep.factors]
    groups = sweep.runs.groupby(["@" + name for name in names], sort=False)[sweep.metric.name]
    means = groups.mean()[groups.count() == groups.count().max()].dropna()
    if means.empty:
        return {}
    best = means.idxmin() if sweep.metric.better == "lower" else means.idxmax()
    return dict(zip(names, best if isinstance(best, tuple) else (best,), strict=True))


def paper_cell(sweep: Sweep) -> dict[str, str]:
    """Return the cell of the paper's own choices among those that finished; empty where the grid has none.

    Factors that the paper does not decide, or not at a level of this grid, stand at their baseline; text and roll-off,
    which make SAGA-SR what it is, must be there.
    """
    chosen = {factor.name: PAPER[factor.name] for factor in sweep.factors if PAPER.get(factor.name) in factor.levels}
    if not set(SAGA) <= set(chosen):
        return {}
    levels = baseline_cell(sweep) | chosen
    return levels if len(runs_of(sweep, levels)) else {}


def best_trial(sweep: Sweep) -> str | None:
    """Return the training of the best cell's first seed; None where the table does not name it."""
    runs = runs_of(sweep, best_cell(sweep))
    return str(runs["trial"].iloc[0]) if "trial" in runs and len(runs) else None


def runs_of(sweep: Sweep, levels: Mapping[str, str]) -> pd.DataFrame:
    """Return the finished replicates of a cell."""
    return pd.DataFrame(sweep.runs[has_levels(sweep.runs, levels)])


def reference_rows(sweep: Sweep, subject: str, levels: Mapping[str, str]) -> pd.DataFrame:
    """Return the scores of a trivial answer, of this cell where they are kept per cell."""
    rows = sweep.references
    if rows is None or "subject" not in rows:
        return pd.DataFrame()
    rows = rows[rows["subject"] == subject]
    for name, level in levels.items() if set(levels) <= set(rows) else ():
        rows = rows[rows[name].astype(str) == level]
    return rows


def levels_beside(
    sweep: Sweep, best: Mapping[str, str], cells: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, Mapping[str, str], pd.DataFrame]]:
    """Return title, levels and rows of the trivial answers, of ``cells``, of the ``best`` one and of the paper's."""
    tables: list[tuple[str, Mapping[str, str], pd.DataFrame]]
    tables = [(title, {}, reference_rows(sweep, subject, best)) for subject, title in REFERENCES.items()]
    chosen = {**cells, "best cell": best, "the paper's choices": paper_cell(sweep)}
    tables += [(f"trained, {title}", levels, runs_of(sweep, levels)) for title, levels in chosen.items() if levels]
    return [(title, levels, rows) for title, levels, rows in tables if len(rows)]


def means_beside(sweep: Sweep, best: Mapping[str, str]) -> dict[str, float]:
    """Return the metric's mean for the trivial answers, the ``baseline`` and the ``best`` cell."""
    if sweep.runs.empty:
        return {}
    metric = sweep.metric.name
    tables = {subject: reference_rows(sweep, subject, best) for subject in REFERENCES}
    tables |= {"baseline": runs_of(sweep, baseline_cell(sweep)), "best": runs_of(sweep, best)}
    return {key: float(rows[metric].mean()) for key, rows in tables.items() if metric in rows and len(rows)}


def run_spread(sweep: Sweep) -> float:
    """Return the standard deviation of runs left when cells and seeds are taken out; NaN with one seed."""
    runs, metric = sweep.valued, sweep.metric.name
    cells = runs.groupby(["@" + factor.name for factor in sweep.factors])
    rest = runs[metric] - cells[metric].transform("mean")
    rest = rest - rest.groupby(runs["seed"]).transform("mean")
    df = len(runs) - cells.ngroups - (runs["seed"].nunique() - 1)
    return math.sqrt((rest**2).sum() / df) if df > 0 else float("nan")
