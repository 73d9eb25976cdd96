"""Log-spectral distance: root mean square over bins of log10(P_high / P_estimate), then the mean over frames.

The named definitions differ in floor, hop and channels. A gain g costs 2 |log10 g| in each of them, two independent
noises of one spectrum are 0.788 apart, and noise smoothed to constant magnitude is 0.557 from itself.
"""

from torch import Tensor

from sagasr.metrics.spectra import SSR_EPSILON, Pair

# Below this the epsilon that ssr_eval adds to a ratio moves its logarithm by more than 1e-7.
_FAINT = -5.0


def lsd(pair: Pair) -> float | None:
    """Power clipped at 1e-8, hop 512, channels averaged (AP-BWE)."""
    return _mean_root(pair.squared)


def lsd_lf(pair: Pair) -> float | None:
    """``lsd`` over the bins below the cutoff; None without such bins."""
    return _mean_root(pair.squared[..., : pair.cutoff])


def lsd_hf(pair: Pair) -> float | None:
    """``lsd`` over the bins at or above the cutoff; None without such bins."""
    return _mean_root(pair.squared[..., pair.cutoff :])


def lsd_ssr(pair: Pair) -> float | None:
    """As ssr_eval: log10(T^2 / (E + eps)^2 + eps), hop 441, mono mix.

    Computed as a difference of logarithms that other metrics need too; the outer epsilon only counts where that is
    small, which is where the high clip is all but silent.
    """
    difference = pair.high.ssr_log_power.sub(pair.estimate.ssr_log, alpha=2)
    faint = difference < _FAINT
    if bool(faint.any()):
        difference[faint] = (10 ** difference[faint].double()).add_(SSR_EPSILON).log10_().float()
    return _mean_root(difference.square_())


def _mean_root(squared: Tensor) -> float | None:
    """Return the mean over channels and frames of the root of the mean over bins; None without bins."""
    return float(squared.mean(-1).sqrt_().mean()) if squared.shape[-1] else None
