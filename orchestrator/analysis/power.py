"""What a design can show: the smallest effect that a t test finds with so much power."""

import numpy as np
from scipy import stats
from scipy.optimize import brentq


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
