"""What the sections of the page draw from: the report, the plan and the files of the sweep folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from orchestrator.analysis.cells import best_cell
from orchestrator.analysis.load import Sweep
from orchestrator.report.report import Report
from orchestrator.sweep_folder.design import cell_name, word_of
from orchestrator.sweep_folder.paths import SweepPaths
from orchestrator.sweep_folder.plan_file import levels_of_cell


@dataclass(frozen=True)
class PageData:
    """A report with its folder. ``plan`` is plan.json."""

    report: Report
    paths: SweepPaths
    plan: Mapping[str, Any]

    @property
    def sweep(self) -> Sweep:
        return self.report.sweep

    @property
    def effects(self) -> pd.DataFrame:
        return self.report.effects

    @cached_property
    def primary(self) -> pd.DataFrame:
        """The main effects on the metric of the verdicts."""
        return self.effects[self.effects["family"] == "primary"]

    @cached_property
    def best(self) -> dict[str, str]:
        """The best cell; empty where none has a value."""
        return best_cell(self.sweep)

    @cached_property
    def replicates(self) -> pd.DataFrame:
        """Replicate, trial, cell, seed and levels of all that the plan, or the results, know by id."""
        rows = []
        for cell in self.sweep.plan.cells if self.sweep.plan else ():
            levels = {f"@{name}": level for name, level in levels_of_cell(cell.levels, self.sweep.factors).items()}
            rows += [
                {
                    "replicate": str(row.replicate),
                    "trial": str(row.trial or ""),
                    "cell": str(cell.cell or ""),
                    "seed": word_of(row.seed),
                    **levels,
                }
                for row in cell.replicates or ()
                if row.replicate
            ]
        if rows:
            return pd.DataFrame(rows)
        runs = self.sweep.runs
        if "replicate" not in runs:
            return pd.DataFrame(columns=["replicate", "trial", "cell", "seed"])
        runs = runs.assign(cell=[self.name_of(row) for row in runs.to_dict("records")])
        return runs.assign(trial=runs["trial"] if "trial" in runs else runs["replicate"])

    def name_of(self, row: Mapping[Any, Any]) -> str:
        """Return the name of the cell of a replicate's row."""
        return cell_name({factor.name: row["@" + factor.name] for factor in self.sweep.factors})


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with None for missing numbers, for words."""
    return [{key: None if value != value else value for key, value in row.items()} for row in rows_of(table)]


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with NaN for missing numbers, for drawing."""
    return [dict(zip(map(str, table.columns), row, strict=True)) for row in table.to_numpy().tolist()]
