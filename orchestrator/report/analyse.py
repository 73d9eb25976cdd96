"""Analyse a sweep folder: write the tables of effects and preferences, and gather what the reader must be told."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.analysis.diagnostics import cross_check, outlying_seeds
from orchestrator.analysis.effects import effects, write_effects
from orchestrator.analysis.estimates import clips_left_out
from orchestrator.analysis.interim import incomplete_blocks
from orchestrator.analysis.load import read_sweep
from orchestrator.analysis.preferences import gather, write_preferences
from orchestrator.report.report import Report
from orchestrator.sweep_folder.paths import SweepPaths


def analyse(folder: Path, sheets: Sequence[Path] = ()) -> Report:
    """Analyse the sweep in ``folder``, write results/effects.parquet and return what every form of the report shows.

    ``sheets``: answers of blind tests beside those in the sweep's report/.
    """
    sweep = read_sweep(folder)
    table = effects(sweep)
    write_effects(table, SweepPaths(folder).table("effects"))
    preferences, left_out = gather(sweep, folder, sheets)
    write_preferences(preferences, SweepPaths(folder).table("preferences"))
    checks = (incomplete_blocks(sweep), outlying_seeds(sweep), clips_left_out(sweep), cross_check(sweep), left_out)
    return Report(sweep, table, [note for notes in checks for note in notes], preferences)
