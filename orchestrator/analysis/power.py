"""What a design can show before it runs: the smallest effect found with 80 % power, in run standard deviations or LSD.

A main effect uses every run; a ladder step only two cells, so it sees 2.8 times less in a grid of sixteen.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq


@dataclass(frozen=True)
class Reach:
    """Minimum detectable effects of a 2^k grid with a number of seeds, in the unit of ``sigma``."""

    seeds: int
    runs: int
    df: int
    main: float
    main_holm: float
    interaction: float
    step: float
    step_holm: float


def detectable(se: float, df: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the effect that a two-sided t test at ``alpha`` finds with ``power`` when its standard error is ``se``."""
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def lacking(shift: float) -> float:
        missed = stats.nct.cdf(critical, df, shift) - np.nan_to_num(stats.nct.cdf(-critical, df, shift))
        return float(1 - missed - power)  # the lower tail underflows to NaN for large shifts; it is nothing there

    return float(brentq(lacking, 1e-6, critical + 20)) * se


def reach(seeds: int, factors: int = 4, sigma: float = 1.0, steps: int = 5) -> Reach:
    """Return what a full two-level grid with ``seeds`` blocks can detect (Holm over its factors and ladder steps)."""
    cells = 2**factors
    runs = cells * seeds
    df = runs - 1 - factors - factors * (factors - 1) // 2 - (seeds - 1)
    main = float(2 * sigma / np.sqrt(runs))
    step = float(sigma * np.sqrt(2 / seeds))
    return Reach(
        seeds, runs, df, detectable(main, df), detectable(main, df, 0.05 / factors), detectable(2 * main, df),
        detectable(step, df), detectable(step, df, 0.05 / steps),
    )  # fmt: skip


def sigma_interval(sigma: float, df: int, level: float = 0.95) -> tuple[float, float]:
    """Return the chi-square interval of a standard deviation estimated with ``df`` degrees of freedom."""
    high, low = (float(stats.chi2.ppf(0.5 + side * level / 2, df)) for side in (1, -1))
    return float(sigma * np.sqrt(df / high)), float(sigma * np.sqrt(df / low))
