"""How each metric of ``sagasr.metrics.table`` is computed, and estimates scored by all of them against high clips.

Log-spectral distance: root mean square over bins of log10(P_high / P_estimate), then the mean over frames. The named
definitions differ in floor, hop and channels. A gain g costs 2 |log10 g| in each of them, two independent noises of one
spectrum are 0.788 apart, and noise smoothed to constant magnitude is 0.557 from itself.

Side metrics of ssr_eval (https://github.com/haoheliu/ssr_eval): its formulas were read and are restated here, on the
magnitudes that its LSD reads; on silence they give what they give there, which is a number.

Transforms are in double precision, since single precision reaches quiet bins 140 dB below the loudest and moves an LSD
by 1e-5; what follows them is in single precision, which moves none by 1e-6.
"""

import math
from collections.abc import Callable, Collection, Iterable
from functools import cached_property

import torch
from torch import Tensor

from sagasr.audio.spectrum import BIN_HZ, NUM_BINS, cutoff_bin, rolloff_bin, stft_power
from sagasr.metrics.table import METRICS

Scores = dict[str, float | None]

POWER_FLOOR = 1e-8  # clip of every power before its logarithm (AP-BWE)
SSR_HOP = 441  # 10 ms, ssr_eval
SSR_EPSILON = 1e-12
PATCH = 7  # frames and bins, the window of structural similarity
LARGEST = 1e12  # root of the summed squares of samples whose power spectrum still fits single precision
LIMIT_DB = 100.0
SEAM_BAND = 4  # bins of each of the three bands, 86 Hz: the width of the window's main lobe
# Structural similarity of floats without a stated range: scikit-image, up to 0.20, took it to be from -1 to 1.
_RANGE = 2.0
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
_UNBIASED = PATCH**2 / (PATCH**2 - 1)


class Spectra:
    """One clip, float [C, T], and what is computed of it. Frames N come before frequencies F = 1,025."""

    def __init__(self, audio: Tensor) -> None:
        self.audio = audio.detach().float()

    @cached_property
    def is_finite(self) -> bool:
        """Whether every sample is a number whose spectrum can be squared."""
        samples = self.audio.flatten()
        return float(samples.dot(samples)) < LARGEST**2  # which does not hold for NaN

    @cached_property
    def centred(self) -> Tensor:
        """Samples without their mean, double [C, T]."""
        audio = self.audio.double()
        return audio - audio.mean(-1, keepdim=True)

    @cached_property
    def mono(self) -> Tensor:
        """Mean over the channels, [T]."""
        return self.audio.mean(0) if len(self.audio) > 1 else self.audio[0]

    @cached_property
    def power(self) -> Tensor:
        """Squared magnitudes [C, N, F], hop 512."""
        return stft_power(self.audio, precise=True)

    @cached_property
    def log_power(self) -> Tensor:
        """Base-10 logarithm of the clipped power, [C, N, F]."""
        return self.power.clamp_min(POWER_FLOOR).log10_()

    @cached_property
    def rolloff_hz(self) -> float | None:
        """Roll-off of the mono mix in Hz, or None for silence."""
        power = self.power[0] if self.audio.shape[0] == 1 else stft_power(self.mono, precise=True)
        summed = power.sqrt().sum(0)
        return BIN_HZ * rolloff_bin(summed) if float(summed.sum()) > 0 else None

    @cached_property
    def ssr_magnitude(self) -> Tensor:
        """Magnitudes [N, F] of the mono mix, hop 441."""
        return stft_power(self.mono, SSR_HOP, precise=True).sqrt_()

    @cached_property
    def ssr_power(self) -> Tensor:
        """Squared magnitudes [N, F] of the mono mix, hop 441."""
        return self.ssr_magnitude.square()

    @cached_property
    def ssr_log(self) -> Tensor:
        """Base-10 logarithm of magnitude + 1e-12, [N, F]."""
        return (self.ssr_magnitude + SSR_EPSILON).log10_()

    @cached_property
    def ssr_patches(self) -> tuple[Tensor, Tensor]:
        """Mean, and mean square, of the magnitudes in every patch of 7 x 7 bins, [N - 6, F - 6]."""
        return patch_mean(self.ssr_magnitude), patch_mean(self.ssr_power)


class Pair:
    """A high clip and one estimate of it; ``cutoff`` divides low from high band, ``splice`` is where low was put in."""

    def __init__(self, high: Spectra, estimate: Spectra, cutoff: int, splice: int) -> None:
        self.high, self.estimate, self.cutoff, self.splice = high, estimate, cutoff, splice

    @cached_property
    def log_distances(self) -> tuple[Tensor, Tensor]:
        """Roots of the summed squares of the log-spectral difference below, and at or above, the cutoff, [C, N]."""
        difference = self.high.log_power - self.estimate.log_power
        below, above = difference[..., : self.cutoff], difference[..., self.cutoff :]
        return torch.linalg.vector_norm(below, dim=-1), torch.linalg.vector_norm(above, dim=-1)


def patch_mean(image: Tensor) -> Tensor:
    """Return the mean of every 7 x 7 patch of an image [N, F] that lies wholly inside it, [N - 6, F - 6]."""
    return _sum_of_seven(_sum_of_seven(image, 0), 1).div_(PATCH**2)


def _sum_of_seven(image: Tensor, dim: int) -> Tensor:
    """Return the sums of seven neighbours in four additions; a pooling layer takes six times as long."""
    size = image.shape[dim]
    two = image.narrow(dim, 0, size - 1) + image.narrow(dim, 1, size - 1)
    four = two.narrow(dim, 0, size - 3) + two.narrow(dim, 2, size - 3)
    return (four.narrow(dim, 0, size - 6) + two.narrow(dim, 4, size - 6)).add_(image.narrow(dim, 6, size - 6))


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
    """Sums are in double precision, or what a clip has in common with itself is not all of it."""
    return float(values.square().sum(dtype=torch.float64))


def si_sdr(pair: Pair) -> float | None:
    """Scale-invariant signal-to-distortion ratio of zero-mean signals; None for a silent high channel."""
    high, estimate = pair.high.centred, pair.estimate.centred
    energy = high.square().sum(-1)
    if not bool((energy > 0).all()):
        return None
    target = ((high * estimate).sum(-1) / energy)[:, None] * high
    wanted, rest = target.square().sum(-1), (estimate - target).square().sum(-1)
    least = 10 ** (-LIMIT_DB / 10)
    ratio = ((wanted + least * rest) / (rest + least * wanted)).nan_to_num(least)  # 0 / 0 is a silent estimate
    return float(10 * ratio.log10().mean())


def rolloff_error(pair: Pair) -> float | None:
    """Distance of the roll-offs; None for a silent high clip, which has none."""
    if pair.high.rolloff_hz is None:
        return None
    return abs((pair.estimate.rolloff_hz or 0.0) - pair.high.rolloff_hz)


def hf_ratio(pair: Pair) -> float | None:
    """Level difference of the high bands, either way; None without bins at or above the cutoff."""
    if pair.cutoff >= NUM_BINS:
        return None
    bands = (side.power[..., pair.cutoff :].clamp_min(POWER_FLOOR) for side in (pair.high, pair.estimate))
    high, estimate = (float(band.sum(dtype=torch.float64)) for band in bands)
    return abs(10 * math.log10(estimate / high))


def seam(pair: Pair) -> float | None:
    """Line or step at the splice; None where its three bands do not fit into the spectrum."""
    start, end = pair.splice - 3 * SEAM_BAND // 2, pair.splice + 3 * SEAM_BAND // 2
    if start < 1 or end > NUM_BINS:
        return None
    difference = pair.estimate.log_power[..., start:end] - pair.high.log_power[..., start:end]
    bands = 10 * difference.mean((0, 1)).view(3, SEAM_BAND).mean(-1)
    return float(bands.max() - bands.min())


# In the table's order. Each returns None where the metric has no meaning, never a stand-in for it.
_COMPUTED = (lsd, lsd_lf, lsd_hf, lsd_ssr, log_sispec, sispec, ssim, si_sdr, hf_ratio, rolloff_error, seam)
COMPUTE: dict[str, Callable[[Pair], float | None]] = {metric.__name__: metric for metric in _COMPUTED}


class Reference:
    """A high clip [C, T] against which estimates are scored; its spectra are computed once.

    ``cutoff_hz`` divides lsd_lf from lsd_hf; ``splice_hz`` is where low-frequency replacement joins, by default there.
    """

    def __init__(self, high: Tensor, cutoff_hz: float, splice_hz: float | None = None) -> None:
        self._high = Spectra(high)
        self._cutoff = cutoff_bin(cutoff_hz)
        self._splice = cutoff_bin(cutoff_hz if splice_hz is None else splice_hz)

    def score(self, estimate: Tensor, names: Collection[str] = METRICS) -> Scores:
        """Return metrics by name for an estimate [C, T]; None where undefined, all if it is not finite."""
        if estimate.shape != self._high.audio.shape:
            raise ValueError(f"estimate {list(estimate.shape)} and high {list(self._high.audio.shape)} differ in shape")
        pair = Pair(self._high, Spectra(estimate), self._cutoff, self._splice)
        if not (pair.high.is_finite and pair.estimate.is_finite):
            return dict.fromkeys(names)
        scores = {name: COMPUTE[name](pair) for name in names}
        return {name: value if value is not None and math.isfinite(value) else None for name, value in scores.items()}

    def remark(self, estimate: Tensor) -> str:
        """Return what is odd about a clip, so that its scores are not taken for those of sound; mostly nothing."""
        sides = (("high", self._high), ("estimate", Spectra(estimate)))
        odd = [f"{name} is not finite" for name, side in sides if not side.is_finite]
        odd += [f"{name} is digital silence" for name, side in sides if not side.audio.any()]
        loud = [name for name, side in sides if side.is_finite and side.audio.abs().max() > 1]
        return "; ".join([*odd, *(f"{name} passes full scale" for name in loud)])


def score_many(references: Iterable[Reference], estimates: Iterable[Tensor]) -> list[Scores]:
    """Return the scores of estimates [C, T], each against its reference; one by one, which is fastest on a CPU."""
    return [reference.score(estimate) for reference, estimate in zip(references, estimates, strict=True)]
