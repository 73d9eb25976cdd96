"""When a factor acts: each main effect estimated anew from the validation values at every step the runs share.

Run-level intervals, one step at a time; exploratory. The last step is not the verdict: that has its own scoring.
"""

from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.contrasts import lines
from orchestrator.analysis.design_matrix import Array
from orchestrator.analysis.findings import shift
from orchestrator.analysis.load import Sweep, decisive
from orchestrator.analysis.split_plot import codes_of, layout
from orchestrator.analysis.variance import Response, errors, judge

MAX_STEPS = 40


@dataclass(frozen=True)
class Course:
    """One main effect over the training: estimate and 95 % interval for new seeds, [steps] each."""

    factor: str
    level: str
    contrast: str
    steps: Array
    estimate: Array
    low: Array
    high: Array


def courses(sweep: Sweep) -> list[Course]:
    """Return the course of every main effect; none where runs share no validation curve."""
    sweep = decisive(sweep)
    if sweep.curves is None:
        return []
    kept = np.asarray(np.isfinite(sweep.curves.values).all(axis=1), dtype=bool).reshape(-1)
    if kept.sum() < 2:
        return []
    plan = layout(sweep, *codes_of(sweep), kept)
    places = np.unique(np.linspace(0, len(sweep.curves.steps) - 1, MAX_STEPS).round().astype(int))
    responses = [shift(Response(sweep.curves.values[:, place], None), kept) for place in places]
    pooled = [errors(plan, response) for response in responses]
    found = []
    for line in lines(sweep, plan, primary_only=True):
        if line.weights is None:
            continue
        judged = [judge(line.weights, response, error) for response, error in zip(responses, pooled, strict=True)]
        ends = np.array([one.interval_runs(0.95) for one in judged])
        estimate = np.array([one.value for one in judged])
        steps = sweep.curves.steps[places]
        found.append(Course(line.factor, line.level, line.contrast, steps, estimate, ends[:, 0], ends[:, 1]))
    return found
