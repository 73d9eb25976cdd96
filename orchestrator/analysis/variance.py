"""How sure: the run variance, the clip variance and their sum, with Satterthwaite degrees of freedom.

Two intervals. *These clips* (run variance alone): would new seeds agree? *Population* (run + clip): would new seeds and
new clips agree? The residual that both count is taken off once (Owen 2007, 10.1214/07-AOAS122).
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from orchestrator.analysis.design_matrix import Array, Fit
from orchestrator.analysis.split_plot import Layout, Weights

NAN = float("nan")


@dataclass(frozen=True)
class Response:
    """One metric on one domain: ``values`` [replicates], and ``clips`` [replicates, clips] if two or more."""

    values: Array
    clips: Array | None
    floor: float = 0.0  # differences up to here are rounding: they count as none


@dataclass(frozen=True)
class Errors:
    """Pooled error of each stratum: mean square of the run means, and of the clip residuals behind them."""

    between: float
    between_df: int
    clip_between: float
    within: float
    within_df: int
    clip_within: float


@dataclass(frozen=True)
class Estimate:
    """One contrast judged. Variances split as in the module text; NaN where the design leaves no error."""

    value: float
    variance_run: float
    df_run: float
    variance: float
    df: float
    overlap: float  # what the run and the clip variance both count, and the total once: the residual of runs x clips
    leverage: float  # variance_run in units of the pooled error: 4 / n for an on-off contrast of n runs
    clips_up: float  # shares of clips with a positive and with a negative difference
    clips_down: float
    num_clips: int

    @property
    def se_run(self) -> float:
        return float(np.sqrt(self.variance_run))

    @property
    def se(self) -> float:
        return float(np.sqrt(self.variance))

    def p(self) -> float:
        """Return the two-sided p value of no effect, for new seeds and clips."""
        return p_value(self.value, self.se, self.df)

    def p_runs(self) -> float:
        """Return the two-sided p value of no effect, for new seeds on these clips."""
        return p_value(self.value, self.se_run, self.df_run)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the population interval at ``level`` (0.95 for 95 %)."""
        return interval(self.value, self.se, self.df, level)

    def interval_runs(self, level: float) -> tuple[float, float]:
        """Return the interval for new seeds on these clips."""
        return interval(self.value, self.se_run, self.df_run, level)


def p_value(value: float, se: float, df: float) -> float:
    """Return the two-sided t p value; NaN without an error estimate."""
    if not (np.isfinite(se) and df > 0):
        return NAN
    if se == 0:
        return 1.0 if value == 0 else NAN
    return float(2 * special.stdtr(df, -abs(value) / se))


def interval(value: float, se: float, df: float, level: float) -> tuple[float, float]:
    """Return the t interval; (NaN, NaN) without an error estimate."""
    if not (np.isfinite(se) and df > 0):
        return NAN, NAN
    half = float(special.stdtrit(df, 0.5 + level / 2)) * se
    return value - half, value + half


def errors(layout: Layout, response: Response) -> Errors:
    """Return the pooled errors of both strata: residual mean squares after factors, two-way interactions and blocks."""
    values, clips, floor = response.values, response.clips, response.floor
    means = None if clips is None else layout.training_means(clips)
    inner = None if clips is None else clips[layout.inner]
    return Errors(
        *_stratum(layout.between, layout.training_means(values), means, floor),
        *_stratum(layout.within, values[layout.inner], inner, floor),
    )


def _stratum(fit: Fit | None, values: Array, clips: Array | None, floor: float) -> tuple[float, int, float]:
    """Return the mean square of the residuals, its degrees of freedom, and the mean square behind it of single clips.

    That is of what neither run nor clip explains.
    """
    if fit is None or fit.df <= 0:
        return NAN, 0, 0.0
    rest = fit.residuals(values)
    square = 0.0 if np.abs(rest).max() <= floor else float((rest**2).sum()) / fit.df
    if clips is None:
        return square, fit.df, 0.0
    rest = fit.residuals(clips)
    rest = rest - rest.mean(axis=1, keepdims=True)
    return square, fit.df, float((rest**2).sum() / (fit.df * (rest.shape[1] - 1)))


def judge(weights: Weights, response: Response, pooled: Errors) -> Estimate:
    """Return the estimate of one contrast with both variances.

    With one or two degrees of freedom of the runs, Satterthwaite's of the sum are more than the data have: where the
    interval on these clips is the wider one, it stands for the population too.
    """
    value = float(weights.rows @ response.values)
    value = 0.0 if abs(value) <= response.floor else value
    between = float(weights.between @ weights.between)
    # where trainings have other variants than those in common, both parts hold the same variants' noise
    common = weights.rows - weights.within
    within = float(weights.within @ weights.within + 2 * common @ weights.within)
    parts = [
        (size * error, df, size * clip)
        for size, error, df, clip in (
            (between, pooled.between, pooled.between_df, pooled.clip_between),
            (within, pooled.within, pooled.within_df, pooled.clip_within),
        )
        if abs(size) > 1e-14
    ]
    run = sum(part for part, _, _ in parts) if all(df > 0 for _, df, _ in parts) else NAN
    df_run = _satterthwaite(run, [(part, df) for part, df, _ in parts])
    alone = pooled.within * float(weights.rows @ weights.rows)  # the least: as if trainings did not differ
    if within < -1e-14 and run < alone:
        run, df_run = alone, float(pooled.within_df)
    reference = pooled.between if between > 1e-14 else pooled.within
    leverage = run / reference if np.isfinite(run) and reference > 0 else between + within
    if response.clips is None:
        return Estimate(value, run, df_run, run, df_run, 0.0, leverage, NAN, NAN, 1)
    clips = weights.rows @ response.clips
    count = len(clips)
    clip = float(np.var(clips, ddof=1)) / count
    both = sum(part for _, _, part in parts) / count
    total = max(run + clip - both, run, clip) if np.isfinite(run) else NAN
    df = _satterthwaite(total, [(run, df_run), (clip, count - 1)])
    if interval(0.0, float(np.sqrt(run)), df_run, 0.95)[1] > interval(0.0, float(np.sqrt(total)), df, 0.95)[1]:
        total, df = run, df_run
    up, down = float(np.mean(clips > 0)), float(np.mean(clips < 0))
    return Estimate(value, run, df_run, total, df, both, leverage, up, down, count)


def _satterthwaite(total: float, parts: list[tuple[float, float]]) -> float:
    """Return the degrees of freedom of a sum of variances, each with its own."""
    if not np.isfinite(total):
        return 0.0
    below = sum(part**2 / df for part, df in parts if df > 0)
    return total**2 / below if below > 0 else float(min((df for _, df in parts), default=0.0))
