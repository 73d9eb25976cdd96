"""Does the population interval cover? Runs x clips of a 2^4 grid without effect, and the shortcuts that do not.

Unit LSD: SD of a run .03, seed .02, clip .25, the tested factor's clip-specific effect .08, residual .12; 60 clips.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from orchestrator.analysis.design_matrix import Array
from orchestrator.analysis.load import Sweep
from orchestrator.analysis.metrics import Metric
from orchestrator.analysis.split_plot import Layout, codes_of, contrast, layout_of
from orchestrator.analysis.variance import Response, errors, judge
from orchestrator.sweep_folder.design import Factor
from tests.simulation.bands import CELLS, FACTORS, Check

CLIPS = 60
DRAWS = 200  # bootstrap draws of a control


def grid(seeds: int) -> Layout:
    """Return the shipped arrangement of the 2^4 grid with ``seeds`` blocks."""
    factors = tuple(Factor(name, ("off", "on"), "train") for name in FACTORS)
    rows = [{"seed": str(seed), **{"@" + f.name: f.levels[level] for f, level in zip(factors, cell, strict=True)}}
            for seed in range(seeds) for cell in CELLS]  # fmt: skip
    metrics = (Metric("lsd", "lower", "LSD"),)
    frame = pd.DataFrame(rows)
    sweep = Sweep("grid", "", factors, metrics, (), tuple(map(str, range(seeds))), {}, "", len(rows), frame, ())
    codes, sizes = codes_of(sweep)
    return layout_of(sweep, codes, sizes, np.ones(len(rows), dtype=bool))


def scores(plan: Layout, random: np.random.Generator, clip_effect: float = 0.08) -> tuple[Array, float]:
    """Return [runs, clips] of one experiment and the first factor's true effect on these very clips."""
    runs = len(plan.run)
    seed = random.normal(0, 0.02, len(np.unique(plan.seed)))[plan.seed]
    effect = random.normal(0, clip_effect, CLIPS)
    sign = 2.0 * plan.codes[:, 0] - 1
    noise = random.normal(0, 0.12, (runs, CLIPS)) + (random.normal(0, 0.03, runs) + seed)[:, None]
    return np.asarray(1.2 + random.normal(0, 0.25, CLIPS) + sign[:, None] * effect / 2 + noise), float(effect.mean())


def clip_checks(replicates: int, seed: int) -> Iterator[Check]:
    """Yield coverage of both intervals for 2, 3 and 5 seeds, and of the shortcuts that must fail."""
    for seeds in (2, 3, 5):
        plan, random = grid(seeds), np.random.default_rng([seed, seeds])
        weights = contrast(plan, {(0,): np.array([2.0])})
        assert weights is not None
        hits = np.zeros(6)
        for _ in range(replicates):
            clips, here = scores(plan, random)
            response = Response(clips.mean(axis=1), clips)
            estimate = judge(weights, response, errors(plan, response))
            hits += (
                _covers(estimate.interval(0.95), 0),
                _covers(estimate.interval_runs(0.95), here),
                _covers(estimate.interval_runs(0.95), 0),
                _covers(_seeds_alone(plan, weights.rows, clips, random), 0),
                _covers(_runs_per_clip(plan, weights.rows, clips, random), 0),
                _same_recipe_differs(scores(plan, random, clip_effect=0.0)[0]),
            )
        rate = 100 * hits / replicates
        yield Check(f"clips: {seeds} seeds: population interval covers, %", rate[0], 92.5, 97)
        yield Check(f"clips: {seeds} seeds: these-clips interval covers, %", rate[1], 93, 97)
        yield Check(f"control: {seeds} seeds: run means alone cover new clips, %", rate[2], 0, 90)
        yield Check(f"control: {seeds} seeds: bootstrap of seeds alone, %", rate[3], 0, 75)
        yield Check(f"control: {seeds} seeds: runs redrawn per clip, %", rate[4], 0, 65)
        yield Check(f"control: {seeds} seeds: paired t of clips, same recipe, %", rate[5], 20, 100)


def _covers(interval: tuple[float, float], truth: float) -> float:
    return float(interval[0] <= truth <= interval[1])


def _seeds_alone(plan: Layout, weights: Array, clips: Array, random: np.random.Generator) -> tuple[float, float]:
    """Control: redraw whole seeds, percentile interval."""
    seeds = len(np.unique(plan.seed))
    each = np.zeros(seeds)
    np.add.at(each, plan.seed, weights * seeds * clips.mean(axis=1))
    return _percentiles(each[random.integers(0, seeds, (DRAWS, seeds))].mean(axis=1))


def _runs_per_clip(plan: Layout, weights: Array, clips: Array, random: np.random.Generator) -> tuple[float, float]:
    """Control: redraw the runs of a cell separately for each clip, as if every clip had its own training."""
    cell = np.unique(plan.codes, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(cell, kind="stable").reshape(len(CELLS), -1)  # [cells, seeds]
    scale = weights[order[:, 0]] * order.shape[1]
    drawn = random.integers(0, order.shape[1], (DRAWS, *order.shape, clips.shape[1]))
    picked = np.take_along_axis(clips[order][None], drawn, axis=2).mean(axis=(2, 3))
    return _percentiles(picked @ scale)


def _percentiles(draws: Array) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _same_recipe_differs(clips: Array) -> float:
    """Control: a paired t test over clips calls two seeds of one cell different (1) or not (0)."""
    return float(stats.ttest_rel(clips[0], clips[len(CELLS)]).pvalue < 0.05)
