"""What the sections of the page draw from: the report, the plan and the files of the sweep folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from orchestrator.report.report import Report
from orchestrator.sweep_folder.design import cell_name, word_of
from orchestrator.sweep_folder.paths import SweepPaths
from orchestrator.sweep_folder.plan_file import levels_of_cell


@dataclass(frozen=True, kw_only=True)
class PageData(Report):
    """A report with its folder. ``plan`` is plan.json."""

    paths: SweepPaths
    plan: Mapping[str, Any]

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


def records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows with None for missing numbers."""
    return table.astype(object).where(table.notna(), None).to_dict("records")
