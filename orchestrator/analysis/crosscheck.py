"""The same answers without the formulas: sign flips of matched pairs, and a bootstrap of runs within cells x clips.

They flag primary results on which they disagree with the analytic interval; they never replace it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from orchestrator.analysis.contrasts import Line, lines
from orchestrator.analysis.design_matrix import Array
from orchestrator.analysis.findings import responses, shift
from orchestrator.analysis.load import Sweep, decisive
from orchestrator.analysis.split_plot import Layout, codes_of, layout
from orchestrator.analysis.variance import Estimate, Response, errors, judge

EXACT_PAIRS = 16  # up to here all 2^n sign patterns are enumerated
FLIPS, DRAWS, SEED = 20_000, 2_000, 20_251_122
WIDTH_RATIO = 1.25
MIN_PAIRS, MIN_RUNS = 6, 4  # fewer cannot disagree: 2^-5 is the least p, and a redraw of 3 runs is 18 % too narrow


def matched_differences(plan: Layout, values: Array, factor: int, level: int) -> Array:
    """Return level - baseline of every matched pair: equal in all other factors and the seed.

    Pairs are of trainings (means over their variants), or of variants inside a training for a factor that varies there.
    """
    if factor in plan.within_factors:
        codes, block = plan.codes, plan.run
    else:
        first = np.unique(plan.run, return_index=True)[1][plan.whole]
        codes, values = plan.codes[first][:, list(plan.between_factors)], plan.training_means(values)
        block, factor = plan.between.blocks, plan.between_factors.index(factor)
    keys = np.column_stack([np.delete(codes, factor, axis=1), block])
    pair = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    sums, counts = np.zeros((2, pair.max() + 1)), np.zeros((2, pair.max() + 1))
    for side, at in enumerate((0, level)):
        rows = codes[:, factor] == at
        np.add.at(sums[side], pair[rows], values[rows])
        np.add.at(counts[side], pair[rows], 1)
    both = (counts > 0).all(axis=0)
    return np.asarray(sums[1, both] / counts[1, both] - sums[0, both] / counts[0, both])


def sign_flip_p(differences: Array, flips: int = FLIPS) -> float:
    """Return the two-sided p of no effect if the sign of every matched difference is a coin toss.

    Exact up to 2^16 patterns, else (b + 1) / (B + 1) of a seeded draw.
    """
    count = len(differences)
    if not count:
        return float("nan")
    seen = abs(differences.sum()) * (1 - 1e-12)
    if count <= EXACT_PAIRS:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float((np.abs((2.0 * patterns - 1) @ differences) >= seen).mean())
    random = np.random.default_rng(SEED)
    signs = 2.0 * random.integers(0, 2, (flips, count), dtype=np.int8) - 1
    return float(((np.abs(signs @ differences) >= seen).sum() + 1) / (flips + 1))


def bootstrap_interval(plan: Layout, weights: Array, clips: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval when trainings are redrawn within their cell and clips once for all.

    ``weights`` [replicates] must be equal within a cell (a balanced design); ``clips`` is [replicates, clips].
    """
    random = np.random.default_rng(SEED)
    trainings = len(np.unique(plan.run))
    each = np.zeros((trainings, clips.shape[1]))
    np.add.at(each, plan.run, weights[:, None] * clips)
    cell = _training_cells(plan)
    counts = np.zeros((DRAWS, trainings))
    for one in np.unique(cell):
        mine = np.flatnonzero(cell == one)
        counts[:, mine] = random.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), DRAWS)
    picked = random.multinomial(clips.shape[1], np.full(clips.shape[1], 1 / clips.shape[1]), DRAWS) / clips.shape[1]
    low, high = np.quantile(((counts @ each) * picked).sum(axis=1), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def cross_check(sweep: Sweep) -> list[str]:
    """Return a sentence for each primary effect on which another method disagrees, or whose levels differ in noise."""
    sweep = decisive(sweep)
    _, _, response = next(responses(sweep))
    kept = np.isfinite(response.values)
    if not kept.any():
        return []
    plan = layout(sweep, *codes_of(sweep), kept)
    response = shift(response, kept)
    pooled = errors(plan, response)
    found: list[str] = []
    for line in lines(sweep, plan, primary_only=True):
        if line.weights is not None and np.isfinite(judge(line.weights, response, pooled).p()):
            found += _disagreements(sweep, plan, response, line, judge(line.weights, response, pooled))
    return [*found, *_unequal_noise(sweep, plan, response)]


def _disagreements(sweep: Sweep, plan: Layout, response: Response, line: Line, estimate: Estimate) -> Iterator[str]:
    assert line.weights is not None
    factor = [factor.name for factor in sweep.factors].index(line.factor)
    level = sweep.factors[factor].levels.index(line.level)
    pairs = matched_differences(plan, response.values, factor, level)
    p, flipped = estimate.p_runs(), sign_flip_p(pairs)
    if len(pairs) >= MIN_PAIRS and min(p, flipped) < 0.01 and max(p, flipped) > 0.1:
        yield f"{line.contrast}: sign flips of {len(pairs)} matched pairs give p = {flipped:.3g}, the t test {p:.3g}"
    if response.clips is None or estimate.variance <= response.floor**2 or not _balanced(plan, line.weights.rows):
        return  # of rounding alone no width can be compared
    low, high = bootstrap_interval(plan, line.weights.rows, response.clips)
    wide = estimate.interval(0.95)
    inflated = np.sqrt(1 + 2 * estimate.overlap / estimate.variance)  # it counts the residual three times (Owen 2007)
    ratio = (high - low) / (wide[1] - wide[0]) / inflated
    if not 1 / WIDTH_RATIO < ratio < WIDTH_RATIO:
        yield f"{line.contrast}: the bootstrap interval ({low:+.3g} … {high:+.3g}) is {ratio:.2f} times as wide"


def _unequal_noise(sweep: Sweep, plan: Layout, response: Response) -> Iterator[str]:
    """Yield the factors whose levels differ in run noise (Brown-Forsythe), so that a pooled error fits neither."""
    if plan.between.df < MIN_PAIRS:
        return
    rest = plan.between.residuals(plan.training_means(response.values))
    if np.abs(rest).max() <= response.floor:
        return  # all of it is rounding
    first = np.unique(plan.run, return_index=True)[1][plan.whole]
    for index in plan.between_factors:
        factor, codes = sweep.factors[index], plan.codes[first, index]
        groups = [rest[codes == level] for level in range(len(factor.levels)) if (codes == level).sum() > 2]
        if len(groups) > 1 and stats.levene(*groups, center="median").pvalue < 0.01:
            spread = ", ".join(f"{name} {np.std(rest[codes == at]):.3g}" for at, name in enumerate(factor.levels))
            yield f"runs differ in noise between levels of {factor.name} ({spread}); the intervals pool it"


def _training_cells(plan: Layout) -> NDArray[np.int64]:
    """Return the cell of every training: its levels of the factors that do not vary inside trainings."""
    first = np.unique(plan.run, return_index=True)[1]
    codes = plan.codes[first][:, list(plan.between_factors)]
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _balanced(plan: Layout, weights: Array) -> bool:
    """Return whether each cell has four trainings or more and weighs them alike, which the bootstrap needs."""
    if np.bincount(_training_cells(plan)).min() < MIN_RUNS:
        return False
    cell = np.unique(plan.codes, axis=0, return_inverse=True)[1].reshape(-1)
    mean = np.bincount(cell, weights) / np.bincount(cell)
    return bool(np.abs(weights - mean[cell]).max() < 1e-9)
