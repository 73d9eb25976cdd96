"""What every form of the report shows: the sweep, its effects, notes to the reader, preferences. As JSON, exit code."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from orchestrator.analysis.cells import best_cell
from orchestrator.analysis.load import Sweep
from orchestrator.analysis.preferences import Preference


@dataclass(frozen=True)
class Report:
    """A sweep analysed. ``effects`` is effects.parquet; ``notes`` are sentences on what to mind when reading it."""

    sweep: Sweep
    effects: pd.DataFrame
    notes: Sequence[str] = ()
    preferences: Sequence[Preference] = ()

    @cached_property
    def primary(self) -> pd.DataFrame:
        """The main effects on the metric of the verdicts."""
        return self.effects[self.effects["family"] == "primary"]

    @cached_property
    def best(self) -> dict[str, str]:
        """The best cell; empty where none has a value."""
        return best_cell(self.sweep)


def exit_code(sweep: Sweep) -> int:
    """Return 0 when every replicate asked for has its values, else 1."""
    ended = len(sweep.valued) + len(sweep.unneeded)
    unnamed = not sweep.lost and sweep.early_stopping.get("policy") != "blocks" and ended < sweep.expected
    return 1 if sweep.lost or unnamed else 0


def summary(report: Report) -> dict[str, Any]:
    """Return the answer as plain JSON values."""
    sweep, table = report.sweep, report.effects
    return {
        "name": sweep.name,
        "question": sweep.question,
        "metric": {"name": sweep.metric.name, "better": sweep.metric.better, "delta": sweep.metric.delta},
        "replicates": {"done": len(sweep.valued), "expected": sweep.expected},
        "lost": [{key: getattr(lost, key) for key in ("cell", "seed", "kind", "reason")} for lost in sweep.lost],
        "notes": [*sweep.notes, *report.notes],
        "preferences": [
            {key: value if value == value else None for key, value in asdict(preference).items()}
            for preference in report.preferences
        ],
        "effects": table.astype(object).where(table.notna(), None).to_dict("records"),
    }
