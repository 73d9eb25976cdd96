"""Seeds that lie far out: whose values are far from the other seeds' for the same cell. Told to the reader; no verdict
changes.

A training's value is its cell's mean, plus what its seed adds to all cells, plus noise. First the noise of single
trainings is looked at, as the largest studentised residual of a two-way table (Stefansky 1972, Technometrics 14, 469),
then what the seeds add (Grubbs 1969, Technometrics 11, 1). Several far values hide each other from such a test, so the
largest ones are taken away in turn, and the last that is too far decides how many are (Rosner 1983, Technometrics 25,
165). Unlike a rule of so many median deviations, this marks few of the seeds of a normal sample however small it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from orchestrator.analysis.design_matrix import Array
from orchestrator.analysis.load import Sweep

MIN_SEEDS = 4  # with three, none can be told from the other two
ALPHA = 0.01  # of marking anything in a sound sweep, for trainings and for seeds each
MOST = 20  # trainings marked in one sweep
SHOWN = 3  # replicates named of one seed


def far_out(sweep: Sweep) -> list[str]:
    """Return a sentence for each seed that lies far out, with its replicates."""
    runs, metric = sweep.valued, sweep.metric.name
    names = ["@" + one.name for one in sweep.factors if one.stage != "eval"]
    runs = runs.assign(_cell=["\n".join(levels) for levels in runs[names].to_numpy()])
    table = runs.pivot_table(metric, "_cell", "seed", "mean", sort=False)
    table = table[table.count(axis="columns") >= MIN_SEEDS].dropna(axis="columns", how="all")
    if table.empty:
        return []
    values = table.to_numpy(dtype=float)
    single = outlying(values, max(1, values.size // 10)) if len(values) > 1 else np.zeros(values.shape, dtype=bool)
    rest = np.where(single, np.nan, values)
    whole = outlying(_seed_effects(rest)[None], (values.shape[1] - 1) // 3)[0]
    found = []
    for place, seed in enumerate(table.columns):
        if not (single[:, place].any() or whole[place]):
            continue
        cells = table.index[single[:, place] | whole[place]]
        mine = runs[(runs["seed"] == seed) & runs["_cell"].isin(cells)]
        told = [one for one in (_beside_others(sweep, row) for row in mine.to_dict("records")) if one]
        if not told:
            continue
        shown = "; ".join(words for _, words in sorted(told, key=lambda one: -one[0])[:SHOWN])
        more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        found.append(
            f"seed {seed} lies far from the other seeds ({shown}{more}); the verdicts "
            "count it like any other, so look at its trainings"
        )
    return found


def outlying(values: Array, most: int) -> NDArray[np.bool_]:
    """Return which of [cells, seeds] lie too far from what cell and seed lead to expect (one cell: from its mean).

    At most ``min(most, MOST)`` do; NaN stands for what is missing.
    """
    left, taken, count = values.copy(), [], 0
    for _ in range(min(most, MOST)):
        rest, df = _residuals(left)
        far = np.nan_to_num(np.abs(rest))
        if df < 2 or far.max() <= 1e-9 * np.nanmax(np.abs(values)):
            break  # all of it is rounding
        size = int(np.isfinite(left).sum())
        square = far.max() ** 2 / (np.nansum(rest**2) / size)
        t = np.sqrt(square * (df - 1) / (df - square)) if df - square > 1e-9 else np.inf
        tied = far > far.max() * (1 - 1e-6)  # as both are of a seed that has two cells: the one far from its own cell
        own = np.nan_to_num(np.abs(left - np.nanmedian(left, axis=1, keepdims=True)))
        taken.append(np.unravel_index(np.argmax(np.where(tied, own, -1)), values.shape))
        if 2 * size * stats.t.sf(t, df - 1) < ALPHA:
            count = len(taken)
        left[taken[-1]] = np.nan
    found = np.zeros(values.shape, dtype=bool)
    for place in taken[:count]:
        found[place] = True
    return found


def _residuals(values: Array) -> tuple[Array, int]:
    """Return what is left of values when cells' means, and of several cells also seeds', are taken out; and its df."""
    seeds = _seed_effects(values) if len(values) > 1 else np.zeros(values.shape[1])
    rest = values - seeds
    rest = rest - np.nanmean(rest, axis=1, keepdims=True)
    size, present = int(np.isfinite(values).sum()), int(np.isfinite(values).any(axis=0).sum())
    return rest, size - len(values) - (present - 1 if len(values) > 1 else 0)


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
    same = np.ones(len(runs), dtype=bool)
    for one in sweep.factors:
        same &= (runs["@" + one.name] == row["@" + one.name]).to_numpy()
    others = runs.loc[same & (runs["seed"] != row["seed"]).to_numpy(), metric].astype(float)
    value = float(row[metric])
    if others.min() <= value <= others.max():
        return None
    cell = " ".join(f"{one.name}={row['@' + one.name]}" for one in sweep.factors)
    name = f", replicate {row['replicate']}" if row.get("replicate") else ""
    words = f"{cell}{name}: {metric} {value:.4g}, others {others.min():.4g} to {others.max():.4g}"
    return abs(value - float(others.median())), words
