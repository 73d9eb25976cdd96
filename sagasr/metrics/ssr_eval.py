"""The side metrics of ssr_eval (https://github.com/haoheliu/ssr_eval), on the magnitudes that its LSD reads.

Its formulas were read and are restated here; on silence they give what they give there, which is a number.
"""

import math

import torch
from torch import Tensor

from sagasr.metrics.spectra import PATCH, SSR_EPSILON, Pair, patch_mean

# Structural similarity of floats without a stated range: scikit-image, up to 0.20, took it to be from -1 to 1.
_RANGE = 2.0
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
_UNBIASED = PATCH**2 / (PATCH**2 - 1)


def sispec(pair: Pair) -> float | None:
    """Scale-invariant spectrogram-to-noise ratio of the magnitudes."""
    return _scale_invariant(pair.estimate.ssr_magnitude, pair.high.ssr_magnitude)


def log_sispec(pair: Pair) -> float | None:
    """The same of log10(magnitude + 1e-12)."""
    return _scale_invariant(pair.estimate.ssr_log, pair.high.ssr_log)


def ssim(pair: Pair) -> float | None:
    """Mean structural similarity of the magnitudes in windows of 7 frames x 7 bins; None under 7 frames."""
    if pair.high.ssr_magnitude.shape[0] < PATCH:
        return None
    (high, high_square), (estimate, estimate_square) = pair.high.ssr_patches, pair.estimate.ssr_patches
    product = patch_mean(pair.high.ssr_magnitude * pair.estimate.ssr_magnitude)
    both, squares = high * estimate, high.square().addcmul_(estimate, estimate)
    covariance = product.sub_(both).mul_(2 * _UNBIASED).add_(_C2)
    variances = (high_square + estimate_square).sub_(squares).mul_(_UNBIASED).add_(_C2)
    similarity = both.mul_(2).add_(_C1).mul_(covariance).div_(squares.add_(_C1).mul_(variances))
    return float(similarity.mean())


def _scale_invariant(estimate: Tensor, high: Tensor) -> float:
    """Return 10 log10 of the energy of the estimate's part along ``high`` over the energy of the rest."""
    share = float((estimate * high).sum(dtype=torch.float64)) / (_energy(high) + SSR_EPSILON)
    target = share * high
    return 10 * math.log10(_energy(target) / (_energy(estimate - target) + SSR_EPSILON) + SSR_EPSILON)


def _energy(values: Tensor) -> float:
    """Return the sum of squares; in double precision, or what a clip has in common with itself is not all of it."""
    return float(values.square().sum(dtype=torch.float64))
