"""From an estimate to a verdict: families of tests, equivalence, the five verdicts, and what more seeds would show."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats
from scipy.optimize import brentq

from orchestrator.analysis.metrics import Metric
from orchestrator.analysis.variance import Estimate
from orchestrator.formats import count

ALPHA = 0.05
MORE_SEEDS_SHOWN = 50  # beyond this, seeds are not the remedy
HOLM = ("primary", "ladder")  # families whose claims are confirmatory; the others are exploratory


def adjust(p: Sequence[float], family: str) -> list[float]:
    """Return p values corrected over one family: Holm where it is confirmatory, Benjamini-Hochberg where exploratory.

    Comparisons without a p value (NaN) keep none and do not count.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN sorts last
    ordered, size = values[order], len(order)
    if family in HOLM:
        corrected = np.maximum.accumulate(ordered * np.arange(size, 0, -1))
    else:
        corrected = np.minimum.accumulate((ordered / (np.arange(1, size + 1) / size))[::-1])[::-1]
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(corrected, 1.0)
    return [float(value) for value in adjusted]


def verdict(estimate: Estimate, adjusted: float, metric: Metric, tests: int, num_seeds: int) -> str:
    """Return the word for an estimate; undecided says what would decide. ``tests`` is the size of the family."""
    if not np.isfinite(estimate.p()):
        if np.isfinite(estimate.se_run) and estimate.se_run == 0:
            return "not estimable (runs of different seeds are identical, so nothing says how sure this is)"
        why = "one seed leaves" if num_seeds == 1 else f"{num_seeds} seeds leave"
        return f"undecided ({why} no error to judge by; at least 1 more seed)"
    low, high = estimate.interval(1 - 2 * ALPHA)  # two one-sided tests at 5 %
    within = metric.delta is not None and -metric.delta < low and high < metric.delta
    if within or (estimate.value == 0 and estimate.se == 0):
        return "no relevant effect"
    if adjusted <= ALPHA:
        return "improves" if estimate.value * metric.sign > 0 else "harms"
    if seeds := seeds_needed(estimate, metric.delta, tests, num_seeds):
        return f"undecided (about {count(seeds - num_seeds, 'more seed')})"
    clips = " and more clips" if estimate.variance > 2 * estimate.variance_run else ""
    return f"undecided (over {MORE_SEEDS_SHOWN} more seeds{clips})"


def seeds_needed(estimate: Estimate, delta: float | None, tests: int, num_seeds: int, power: float = 0.8) -> int | None:
    """Return how many seeds in all would decide with ``power`` were the estimate true; None when seeds never would.

    The run variance falls with the number of seeds; the clip variance stays until clips are added.
    """
    seeds = np.arange(num_seeds + 1, num_seeds + MORE_SEEDS_SHOWN + 1)
    fixed = max(estimate.variance - estimate.variance_run, 0.0)
    run = estimate.variance_run * num_seeds / seeds
    clips = fixed**2 / (estimate.num_clips - 1) if estimate.num_clips > 1 else 0.0
    df = (run + fixed) ** 2 / (run**2 / (max(estimate.df_run, 1.0) * seeds / num_seeds) + clips)
    reach = special.stdtrit(df, power)
    wanted = (special.stdtrit(df, 1 - ALPHA / (2 * max(tests, 1))) + reach) * np.sqrt(run + fixed)
    decided = wanted <= abs(estimate.value)
    if delta is not None:
        decided |= (special.stdtrit(df, 1 - ALPHA) + reach) * np.sqrt(run + fixed) <= delta - abs(estimate.value)
    return int(seeds[decided.argmax()]) if decided.any() else None


def detectable(se: float, df: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the effect that a two-sided t test at ``alpha`` finds with ``power`` when its standard error is ``se``.

    Infinity where that is too far away to say, which is so with one degree of freedom and a small ``alpha``.
    """
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def lacking(shift: float) -> float:
        missed = stats.nct.cdf(critical, df, shift) - np.nan_to_num(stats.nct.cdf(-critical, df, shift))
        return float(1 - missed - power)  # the lower tail underflows to NaN for large shifts; it is nothing there

    far = critical + 20
    return float(brentq(lacking, 1e-6, far)) * se if lacking(far) > 0 else float("inf")


def smallest_found(effects: pd.DataFrame) -> float | None:
    """Return the least size at which every main effect would be found; None where one has no error to be judged by."""
    rows = effects[effects["family"] == "primary"]
    errors = rows["se_total"].fillna(rows["se_run"])
    if rows.empty or not (errors.gt(0) & rows["df"].gt(0)).all():
        return None
    size = max(detectable(se, df, ALPHA / len(rows)) for se, df in zip(errors, rows["df"], strict=True))
    return size if np.isfinite(size) else None
