"""Failures as an outcome of their own: do some levels fail more often? Fisher's exact test, trainings as the unit."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from orchestrator.analysis.load import Sweep
from orchestrator.analysis.verdict import adjust


@dataclass(frozen=True)
class FailureRate:
    """Failed and all ended trainings at a level and at the baseline; ``p`` of Fisher's test, ``p_adjusted`` by Holm."""

    factor: str
    level: str
    baseline: str
    failed: int
    ended: int
    failed_baseline: int
    ended_baseline: int
    p: float
    p_adjusted: float


def failure_rates(sweep: Sweep) -> list[FailureRate]:
    """Return a comparison for each level of each factor that decides trainings; none where nothing failed.

    Trainings count, not replicates: a training that fails takes all its variants with it.
    """
    trained = [one for one in sweep.factors if one.stage != "eval"]
    ended: dict[tuple[str, ...], bool] = {}
    for row in sweep.runs[[*("@" + one.name for one in trained), "seed"]].itertuples(index=False):
        ended.setdefault(tuple(map(str, row)), False)
    for lost in sweep.lost:
        if lost.kind == "failed":
            ended[(*(str(lost.levels[one.name]) for one in trained), lost.seed)] = True
    if not any(ended.values()):
        return []
    found: list[tuple[str, str, str, tuple[int, int, int, int]]] = []
    for index, factor in enumerate(trained):
        for level in factor.levels[1:]:
            mine, base = (
                [failed for key, failed in ended.items() if key[index] == at] for at in (level, factor.baseline)
            )
            if mine and base:
                counts = (sum(mine), len(mine), sum(base), len(base))
                found.append((factor.name, level, factor.baseline, counts))
    p = [float(stats.fisher_exact(np.array([[a, b - a], [c, d - c]])).pvalue) for *_, (a, b, c, d) in found]
    adjusted = adjust(p, "primary")
    return [
        FailureRate(factor, level, baseline, *counts, one, corrected)
        for (factor, level, baseline, counts), one, corrected in zip(found, p, adjusted, strict=True)
    ]
