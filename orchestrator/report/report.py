"""The answer of a sweep: results in; effects.parquet, page and forest plot out. No torch, Ray or server."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from orchestrator.analysis.crosscheck import cross_check
from orchestrator.analysis.effects import effects, write_effects
from orchestrator.analysis.findings import clips_left_out
from orchestrator.analysis.interim import resting_on
from orchestrator.analysis.load import Sweep, read_sweep
from orchestrator.analysis.outlying_seeds import far_out
from orchestrator.analysis.preferences import Preference, gather, write_preferences
from orchestrator.sweep_folder.paths import SweepPaths


class Report(NamedTuple):
    """What was read, what was found, and on what the cross-checks disagree: all that any form of the report shows."""

    sweep: Sweep
    effects: pd.DataFrame
    notes: list[str]
    preferences: list[Preference]


def report(folder: Path, sheets: Sequence[Path] = ()) -> Report:
    """Analyse the sweep in ``folder``, write results/effects.parquet and return what every form of the report shows.

    ``sheets``: answers of blind tests beside those in the sweep's report/.
    """
    sweep = read_sweep(folder)
    table = effects(sweep)
    write_effects(table, SweepPaths(folder).table("effects"))
    preferences, notes = gather(sweep, folder, sheets)
    write_preferences(preferences, SweepPaths(folder).table("preferences"))
    return Report(
        sweep,
        table,
        [*resting_on(sweep), *far_out(sweep), *clips_left_out(sweep), *cross_check(sweep), *notes],
        preferences,
    )


def write_report(found: Report, folder: Path) -> Path:
    """Write report/index.html and, where anything was trained, report/effects.svg; return the page's path."""
    from orchestrator.report.forest import write_forest
    from orchestrator.report.page import write_page

    page = write_page(found.sweep, found.effects, found.notes, folder, preferences=found.preferences)
    if len(found.sweep.runs):
        write_forest(found.sweep, found.effects, folder)
    return page


def exit_code(sweep: Sweep) -> int:
    """Return 0 when every replicate asked for has its values, else 1."""
    ended = len(sweep.valued) + len(sweep.unneeded)
    unnamed = not sweep.lost and sweep.early_stopping.get("policy") != "blocks" and ended < sweep.expected
    return 1 if sweep.lost or unnamed else 0


def summary(
    sweep: Sweep, table: pd.DataFrame, notes: Sequence[str] = (), preferences: Sequence[Preference] = ()
) -> dict[str, Any]:
    """Return the answer as plain JSON values."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return {
        "name": sweep.name,
        "question": sweep.question,
        "metric": {"name": sweep.metric.name, "better": sweep.metric.better, "delta": sweep.metric.delta},
        "replicates": {"done": len(sweep.valued), "expected": sweep.expected},
        "lost": [{"cell": one.cell, "seed": one.seed, "kind": one.kind, "reason": one.reason} for one in sweep.lost],
        "notes": [*sweep.notes, *notes],
        "preferences": [
            {key: value if value == value else None for key, value in asdict(one).items()} for one in preferences
        ],
        "effects": rows,
    }
