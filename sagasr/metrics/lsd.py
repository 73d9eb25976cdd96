"""Log-spectral distance: root mean square over bins of log10(P_high / P_estimate), then the mean over frames.

The named definitions differ in floor, hop and channels. A gain g costs 2 |log10 g| in each of them, two independent
noises of one spectrum are 0.788 apart, and noise smoothed to constant magnitude is 0.557 from itself.
"""

import math

import torch
from torch import Tensor

from sagasr.audio.spectrum import NUM_BINS
from sagasr.metrics.spectra import SSR_EPSILON, Pair


def lsd(pair: Pair) -> float | None:
    """Power clipped at 1e-8, hop 512, channels averaged (AP-BWE)."""
    below, above = pair.log_distances
    return _mean(torch.hypot(below, above), NUM_BINS)


def lsd_lf(pair: Pair) -> float | None:
    """``lsd`` over the bins below the cutoff; None without such bins."""
    return _mean(pair.log_distances[0], pair.cutoff)


def lsd_hf(pair: Pair) -> float | None:
    """``lsd`` over the bins at or above the cutoff; None without such bins."""
    return _mean(pair.log_distances[1], NUM_BINS - pair.cutoff)


def lsd_ssr(pair: Pair) -> float | None:
    """As ssr_eval: log10(T^2 / (E + eps)^2 + eps), hop 441, mono mix."""
    estimate = (pair.estimate.ssr_magnitude + SSR_EPSILON).square_()
    ratio = torch.div(pair.high.ssr_power, estimate, out=estimate).add_(SSR_EPSILON)
    return _mean(torch.linalg.vector_norm(ratio.log10_(), dim=-1), NUM_BINS)


def _mean(norms: Tensor, bins: int) -> float | None:
    """Return the mean over channels and frames of the root mean square over so many bins; None without bins."""
    return float(norms.mean()) / math.sqrt(bins) if bins else None
