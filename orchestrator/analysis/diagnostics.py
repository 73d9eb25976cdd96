"""What speaks against believing a verdict, in sentences for the reader; no verdict changes.

*Cross-checks*: sign flips of matched pairs, and a bootstrap of runs within cells x clips, where they disagree with the
analytic interval; levels that differ in noise. *Outlying seeds*: seeds whose values are far from the other seeds' for
the same cell. A training's value is its cell's mean, plus what its seed adds to all cells, plus noise. First the noise
of single trainings is tested, by the largest studentised residual of a two-way table (Stefansky 1972, Technometrics 14,
469), then what the seeds add (Grubbs 1969, Technometrics 11, 1). Several far values hide each other from such a test,
so the largest ones are removed in turn, and the last that is too far decides how many are (Rosner 1983, Technometrics
25, 165). Unlike a rule of so many median deviations, this marks few of the seeds of a normal sample however small.
*Failure rates*: levels at which trainings fail more often, by Fisher's exact test.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from orchestrator.analysis.contrasts import Comparison, comparisons
from orchestrator.analysis.design_matrix import Array
from orchestrator.analysis.estimates import responses, shift
from orchestrator.analysis.load import Sweep, decisive
from orchestrator.analysis.split_plot import Layout, codes_of, layout_of
from orchestrator.analysis.tables import has_levels
from orchestrator.analysis.variance import Estimate, Response, errors, judge
from orchestrator.analysis.verdict import adjust
from orchestrator.sweep_folder.design import Factor, cell_name

EXACT_PAIRS = 16  # up to here all 2^n sign patterns are enumerated
FLIPS, DRAWS, SEED = 20_000, 2_000, 20_251_122
WIDTH_RATIO = 1.25
MIN_PAIRS, MIN_RUNS = 6, 4  # fewer cannot disagree: 2^-5 is the least p, and a redraw of 3 runs is 18 % too narrow
MIN_SEEDS = 4  # of three, none can be told from the other two
OUTLIER_ALPHA = 0.01  # of marking anything in a sound sweep, for trainings and for seeds each
MAX_OUTLIERS = 20  # trainings marked in one sweep
REPLICATES_SHOWN = 3  # of one seed


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


def matched_differences(layout: Layout, values: Array, factor: int, level: int) -> Array:
    """Return level - baseline of every matched pair: equal in all other factors and the seed.

    Pairs are of trainings (means over their variants), or of variants inside a training for a factor that varies there.
    """
    if factor in layout.within_factors:
        codes, block = layout.codes, layout.run
    else:
        first = np.unique(layout.run, return_index=True)[1][layout.whole]
        codes, values = layout.codes[first][:, list(layout.between_factors)], layout.training_means(values)
        block, factor = layout.between.blocks, layout.between_factors.index(factor)
    cells = pd.Series(values).groupby([*np.delete(codes, factor, axis=1).T, block, codes[:, factor]])
    means = cells.mean().unstack().reindex(columns=[0, level])
    return (means[level] - means[0]).dropna().to_numpy()


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


def bootstrap_interval(layout: Layout, weights: Array, clips: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval when trainings are redrawn within their cell and clips once for all.

    ``weights`` [replicates] must be equal within a cell (a balanced design); ``clips`` is [replicates, clips].
    """
    random = np.random.default_rng(SEED)
    trainings = len(np.unique(layout.run))
    each = np.zeros((trainings, clips.shape[1]))
    np.add.at(each, layout.run, weights[:, None] * clips)
    cell = _training_cells(layout)
    counts = np.zeros((DRAWS, trainings))
    for each_cell in np.unique(cell):
        members = np.flatnonzero(cell == each_cell)
        counts[:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), DRAWS)
    num_clips = clips.shape[1]
    picked = random.multinomial(num_clips, np.full(num_clips, 1 / num_clips), DRAWS) / num_clips
    low, high = np.quantile(((counts @ each) * picked).sum(axis=1), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def cross_check(sweep: Sweep) -> list[str]:
    """Return a sentence for each primary effect on which another method disagrees, or whose levels differ in noise."""
    sweep = decisive(sweep)
    _, _, response = next(responses(sweep))
    kept = np.isfinite(response.values)
    if not kept.any():
        return []
    layout = layout_of(sweep, *codes_of(sweep), kept)
    response = shift(response, kept)
    pooled = errors(layout, response)
    notes: list[str] = []
    for comparison in comparisons(sweep, layout, primary_only=True):
        estimate = judge(comparison.weights, response, pooled) if comparison.weights else None
        if estimate and np.isfinite(estimate.p()):
            notes += _disagreements(sweep, layout, response, comparison, estimate)
    return [*notes, *_unequal_noise(sweep, layout, response)]


def _disagreements(
    sweep: Sweep, layout: Layout, response: Response, comparison: Comparison, estimate: Estimate
) -> Iterator[str]:
    assert comparison.weights is not None
    contrast, weights = comparison.contrast, comparison.weights.rows
    factor = [factor.name for factor in sweep.factors].index(comparison.factor)
    level = sweep.factors[factor].levels.index(comparison.level)
    pairs = matched_differences(layout, response.values, factor, level)
    p, flipped = estimate.p_runs(), sign_flip_p(pairs)
    if len(pairs) >= MIN_PAIRS and min(p, flipped) < 0.01 and max(p, flipped) > 0.1:
        yield f"{contrast}: sign flips of {len(pairs)} matched pairs give p = {flipped:.3g}, the t test {p:.3g}"
    if response.clips is None or estimate.variance <= response.floor**2 or not _balanced(layout, weights):
        return  # of rounding alone no width can be compared
    low, high = bootstrap_interval(layout, weights, response.clips)
    wide = estimate.interval(0.95)
    inflated = np.sqrt(1 + 2 * estimate.overlap / estimate.variance)  # it counts the residual three times (Owen 2007)
    ratio = (high - low) / (wide[1] - wide[0]) / inflated
    if not 1 / WIDTH_RATIO < ratio < WIDTH_RATIO:
        yield f"{contrast}: the bootstrap interval ({low:+.3g} … {high:+.3g}) is {ratio:.2f} times as wide"


def _unequal_noise(sweep: Sweep, layout: Layout, response: Response) -> Iterator[str]:
    """Yield the factors whose levels differ in run noise (Brown-Forsythe), so that a pooled error fits neither."""
    if layout.between.df < MIN_PAIRS:
        return
    rest = layout.between.residuals(layout.training_means(response.values))
    if np.abs(rest).max() <= response.floor:
        return  # all of it is rounding
    first = np.unique(layout.run, return_index=True)[1][layout.whole]
    for index in layout.between_factors:
        factor, codes = sweep.factors[index], layout.codes[first, index]
        groups = [rest[codes == level] for level in range(len(factor.levels)) if (codes == level).sum() > 2]
        if len(groups) > 1 and stats.levene(*groups, center="median").pvalue < 0.01:
            spread = ", ".join(f"{name} {np.std(rest[codes == at]):.3g}" for at, name in enumerate(factor.levels))
            yield f"runs differ in noise between levels of {factor.name} ({spread}); the intervals pool it"


def _training_cells(layout: Layout) -> NDArray[np.int64]:
    """Return the cell of every training: its levels of the factors that do not vary inside trainings."""
    first = np.unique(layout.run, return_index=True)[1]
    codes = layout.codes[first][:, list(layout.between_factors)]
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _balanced(layout: Layout, weights: Array) -> bool:
    """Return whether each cell has four trainings or more and weighs them alike, which the bootstrap needs."""
    if np.bincount(_training_cells(layout)).min() < MIN_RUNS:
        return False
    cell = np.unique(layout.codes, axis=0, return_inverse=True)[1].reshape(-1)
    mean = np.bincount(cell, weights) / np.bincount(cell)
    return bool(np.abs(weights - mean[cell]).max() < 1e-9)


def outlying_seeds(sweep: Sweep) -> list[str]:
    """Return a sentence for each seed that lies far out, with its replicates."""
    runs, metric = sweep.valued, sweep.metric.name
    names = ["@" + factor.name for factor in sweep.factors if factor.stage != "eval"]
    runs = runs.assign(_cell=["\n".join(levels) for levels in runs[names].to_numpy()])
    table = runs.pivot_table(metric, "_cell", "seed", "mean", sort=False)
    table = table[table.count(axis="columns") >= MIN_SEEDS].dropna(axis="columns", how="all")
    if table.empty:
        return []
    values = table.to_numpy(dtype=float)
    single = outlying(values, max(1, values.size // 10)) if len(values) > 1 else np.zeros(values.shape, dtype=bool)
    rest = np.where(single, np.nan, values)
    whole = outlying(_seed_effects(rest)[None], (values.shape[1] - 1) // 3)[0]
    notes = []
    for place, seed in enumerate(table.columns):
        cells = table.index[single[:, place] | whole[place]]
        rows = runs[(runs["seed"] == seed) & runs["_cell"].isin(cells)]
        records = rows.to_dict("records")
        far = sorted(filter(None, (_beside_others(sweep, row) for row in records)), key=lambda far: -far[0])
        shown = "; ".join(words for _, words in far[:REPLICATES_SHOWN])
        more = f"; and {len(far) - REPLICATES_SHOWN} more" if len(far) > REPLICATES_SHOWN else ""
        if far:
            notes.append(
                f"seed {seed} lies far from the other seeds ({shown}{more}); the verdicts "
                "count it like any other, so look at its trainings"
            )
    return notes


def outlying(values: Array, most: int) -> NDArray[np.bool_]:
    """Return which of [cells, seeds] lie too far from what cell and seed lead to expect (one cell: from its mean).

    At most ``min(most, MAX_OUTLIERS)`` do; NaN stands for what is missing.
    """
    left, taken, count = values.copy(), [], 0
    for _ in range(min(most, MAX_OUTLIERS)):
        rest = left - _seed_effects(left) if len(left) > 1 else left
        rest = rest - np.nanmean(rest, axis=1, keepdims=True)
        there = np.isfinite(left)
        size = int(there.sum())
        df = size - len(left) - (int(there.any(axis=0).sum()) - 1 if len(left) > 1 else 0)
        far = np.nan_to_num(np.abs(rest))
        if df < 2 or far.max() <= 1e-9 * np.nanmax(np.abs(values)):
            break  # all of it is rounding
        square = far.max() ** 2 / (np.nansum(rest**2) / size)
        t = np.sqrt(square * (df - 1) / (df - square)) if df - square > 1e-9 else np.inf
        tied = far > far.max() * (1 - 1e-6)  # as both are of a seed that has two cells: the one far from its own cell
        own = np.nan_to_num(np.abs(left - np.nanmedian(left, axis=1, keepdims=True)))
        taken.append(np.unravel_index(np.argmax(np.where(tied, own, -1)), values.shape))
        if 2 * size * stats.t.sf(t, df - 1) < OUTLIER_ALPHA:
            count = len(taken)
        left[taken[-1]] = np.nan
    marked = np.zeros(values.shape, dtype=bool)
    for place in taken[:count]:
        marked[place] = True
    return marked


def _seed_effects(values: Array) -> Array:
    """Return what each seed adds to the cells' means; NaN for one without a value."""
    seeds = np.zeros(values.shape[1])
    some = np.isfinite(values).any(axis=0)
    for _ in range(100):  # once where nothing is missing
        cells = np.nanmean(values - seeds, axis=1, keepdims=True)
        now = np.full(len(seeds), np.nan)
        now[some] = np.nanmean((values - cells)[:, some], axis=0)
        if np.allclose(now, seeds, rtol=1e-9, atol=0, equal_nan=True):
            break
        seeds = now
    return seeds


def _beside_others(sweep: Sweep, row: Mapping[Any, Any]) -> tuple[float, str] | None:
    """Return how far a replicate lies from the other seeds' of its cell, and words for it; None if it lies among them.

    Among them lies what is far from its expectation only because another training of its seed or cell is.
    """
    runs, metric = sweep.valued, sweep.metric.name
    levels = {factor.name: row["@" + factor.name] for factor in sweep.factors}
    others = runs.loc[has_levels(runs, levels) & (runs["seed"] != row["seed"]).to_numpy(), metric].astype(float)
    value = float(row[metric])
    if others.min() <= value <= others.max():
        return None
    cell = cell_name(levels)
    name = f", replicate {row['replicate']}" if row.get("replicate") else ""
    words = f"{cell}{name}: {metric} {value:.4g}, others {others.min():.4g} to {others.max():.4g}"
    return abs(value - float(others.median())), words


def failure_rates(sweep: Sweep) -> list[FailureRate]:
    """Return Fisher's exact test of each level of each factor that decides trainings; none where nothing failed.

    Trainings count, not replicates: a training that fails takes all its variants with it.
    """
    factors = [factor for factor in sweep.factors if factor.stage != "eval"]
    failed: dict[tuple[str, ...], bool] = {}  # by training: its levels and seed
    for row in sweep.runs[[*("@" + factor.name for factor in factors), "seed"]].itertuples(index=False):
        failed.setdefault(tuple(map(str, row)), False)
    for lost in sweep.lost:
        if lost.kind == "failed":
            failed[(*(str(lost.levels[factor.name]) for factor in factors), lost.seed)] = True
    if not any(failed.values()):
        return []
    rows: list[tuple[Factor, str, tuple[int, int, int, int]]] = []
    for index, factor in enumerate(factors):
        for level in factor.levels[1:]:
            here, there = ([end for key, end in failed.items() if key[index] == at] for at in (level, factor.baseline))
            if here and there:
                rows.append((factor, level, (sum(here), len(here), sum(there), len(there))))
    p = [float(stats.fisher_exact(np.array([[a, b - a], [c, d - c]])).pvalue) for _, _, (a, b, c, d) in rows]
    return [
        FailureRate(factor.name, level, factor.baseline, *counts, raw, adjusted)
        for (factor, level, counts), raw, adjusted in zip(rows, p, adjust(p, "primary"), strict=True)
    ]
