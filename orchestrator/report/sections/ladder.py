"""The ladder, step by step."""

from typing import Any

from orchestrator.analysis.cells import runs_of, step_change
from orchestrator.report.page_data import PageData, records
from orchestrator.sweep_folder.design import cell_name


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
