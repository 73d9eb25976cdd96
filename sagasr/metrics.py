"""How far an estimate is from the high clip: one registry of metrics, each a number per clip, or None without meaning.

The spectra of a high clip are computed once (``Reference``) and serve every estimate of it. Logarithms of power ratios
are base 10 without a factor, as the field does, so an LSD is near 1 and never near 30.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from sagasr.audio.spectrum import BIN_HZ, NUM_BINS, cutoff_bin, rolloff_bin, stft_power

POWER_FLOOR = 1e-8  # clip of every power before its logarithm (AP-BWE)
SSR_HOP = 441  # 10 ms, ssr_eval
SSR_EPSILON = 1e-12
SI_SDR_LIMIT_DB = 100.0
LARGEST = 1e12  # samples whose power spectrum still fits single precision
SEAM_BAND = 4  # bins of each of the three bands, 86 Hz: the width of the window's main lobe

Scores = dict[str, float | None]


class Spectra:
    """What the metrics read of one clip, float [C, T]; each part is computed when first asked for."""

    def __init__(self, audio: Tensor) -> None:
        self.audio = audio.detach().float()

    @cached_property
    def is_finite(self) -> bool:
        """Whether every sample is a number whose spectrum can be squared."""
        least, most = self.audio.aminmax()
        return bool(least > -LARGEST) and bool(most < LARGEST)  # no comparison holds for NaN

    @cached_property
    def centred(self) -> Tensor:
        """Samples without their mean, double [C, T]."""
        audio = self.audio.double()
        return audio - audio.mean(-1, keepdim=True)

    @cached_property
    def mono(self) -> Tensor:
        return self.audio.mean(0)

    @cached_property
    def power(self) -> Tensor:
        """Squared magnitudes [C, N, F], hop 512."""
        return stft_power(self.audio)

    @cached_property
    def log_power(self) -> Tensor:
        """Base-10 logarithm of the clipped power, [C, N, F]."""
        return self.power.clamp_min(POWER_FLOOR).log10_()

    @cached_property
    def ssr_power(self) -> Tensor:
        """Squared magnitudes [N, F] of the mono mix, hop 441."""
        return stft_power(self.mono, SSR_HOP, precise=True)

    @cached_property
    def rolloff_hz(self) -> float | None:
        """Roll-off of the mono mix in Hz, or None for silence."""
        power = self.power[0] if self.audio.shape[0] == 1 else stft_power(self.mono)
        summed = power.sqrt().sum(0)
        return BIN_HZ * rolloff_bin(summed) if float(summed.sum()) > 0 else None


class Pair:
    """A high clip and one estimate of it, with what several metrics share."""

    def __init__(self, high: Spectra, estimate: Spectra, cutoff: int, splice: int) -> None:
        self.high, self.estimate, self.cutoff, self.splice = high, estimate, cutoff, splice

    @cached_property
    def squared(self) -> Tensor:
        """Squared log-spectral difference [C, N, F]."""
        return (self.high.log_power - self.estimate.log_power).square_()


@dataclass(frozen=True)
class Metric:
    """One column of the results: what it means, and how it is computed of a pair."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    definition: str
    compute: Callable[[Pair], float | None]


def _log_spectral_distance(squared: Tensor) -> float | None:
    """Return the mean over channels and frames of the root of the mean over bins; None without bins."""
    return float(squared.mean(-1).sqrt_().mean()) if squared.shape[-1] else None


def _lsd(pair: Pair) -> float | None:
    return _log_spectral_distance(pair.squared)


def _lsd_lf(pair: Pair) -> float | None:
    return _log_spectral_distance(pair.squared[..., : pair.cutoff])


def _lsd_hf(pair: Pair) -> float | None:
    return _log_spectral_distance(pair.squared[..., pair.cutoff :])


def _lsd_ssr(pair: Pair) -> float | None:
    estimate = pair.estimate.ssr_power.sqrt().add_(SSR_EPSILON).square_()
    ratio = torch.div(pair.high.ssr_power, estimate, out=estimate).add_(SSR_EPSILON)
    return _log_spectral_distance(ratio.log10_().square_())


def _si_sdr(pair: Pair) -> float | None:
    high, estimate = pair.high.centred, pair.estimate.centred
    energy = high.square().sum(-1)
    if not bool((energy > 0).all()):
        return None
    target = ((high * estimate).sum(-1) / energy)[:, None] * high
    wanted, rest = target.square().sum(-1), (estimate - target).square().sum(-1)
    least = 10 ** (-SI_SDR_LIMIT_DB / 10)
    ratio = ((wanted + least * rest) / (rest + least * wanted)).nan_to_num(least)  # 0 / 0 is a silent estimate
    return float(10 * ratio.log10().mean())


def _rolloff_error(pair: Pair) -> float | None:
    if pair.high.rolloff_hz is None:
        return None
    return abs((pair.estimate.rolloff_hz or 0.0) - pair.high.rolloff_hz)


def _seam(pair: Pair) -> float | None:
    start, end = pair.splice - 3 * SEAM_BAND // 2, pair.splice + 3 * SEAM_BAND // 2
    if start < 1 or end > NUM_BINS:
        return None
    difference = pair.estimate.log_power[..., start:end] - pair.high.log_power[..., start:end]
    bands = 10 * difference.mean((0, 1)).view(3, SEAM_BAND).mean(-1)
    return float(bands.max() - bands.min())


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "lsd", "log10 power", "lower",
            "log-spectral distance: mean over frames of the root mean square over bins of log10(P_high / P_estimate), "
            "power clipped at 1e-8, Hann 2048/512, channels averaged",
            _lsd,
        ),
        Metric("lsd_lf", "log10 power", "lower", "lsd over the bins below the cutoff of the low input", _lsd_lf),
        Metric("lsd_hf", "log10 power", "lower", "lsd over the bins at or above the cutoff of the low input", _lsd_hf),
        Metric(
            "lsd_ssr", "log10 power", "lower",
            "log-spectral distance as ssr_eval defines it: log10(T^2 / (E + 1e-12)^2 + 1e-12), Hann 2048/441, mono "
            "mix; not 0 for identical clips where they are digitally silent",
            _lsd_ssr,
        ),
        Metric(
            "si_sdr", "dB", "higher",
            "scale-invariant signal-to-distortion ratio of zero-mean signals, channels averaged, limited to +-100 dB; "
            "-100 for a silent estimate, none for a silent high clip",
            _si_sdr,
        ),
        Metric(
            "rolloff_error", "Hz", "lower",
            "distance of the roll-offs (98.5 % of the magnitude) of estimate and high clip; a silent estimate reads "
            "0 Hz, none for a silent high clip",
            _rolloff_error,
        ),
        Metric(
            "seam", "dB", "lower",
            "line or step at the splice: D(f), the mean over frames of 10 log10(P_estimate / P_high), powers clipped "
            "at 1e-8, is averaged over three adjoining bands of 86 Hz just below, across and just above the splice; "
            "the score is the largest of the three minus the smallest, 0 for identical clips",
            _seam,
        ),
    )
}  # fmt: skip


class Reference:
    """A high clip [C, T] against which estimates are scored; its spectra are computed once.

    ``cutoff_hz`` divides lsd_lf from lsd_hf; ``splice_hz`` is where low-frequency replacement joins, by default there.
    """

    def __init__(self, high: Tensor, cutoff_hz: float, splice_hz: float | None = None) -> None:
        self._high = Spectra(high)
        self._cutoff = cutoff_bin(cutoff_hz)
        self._splice = cutoff_bin(cutoff_hz if splice_hz is None else splice_hz)

    def score(self, estimate: Tensor) -> Scores:
        """Return every metric by name for an estimate [C, T]; None where undefined, all if it is not finite."""
        if estimate.shape != self._high.audio.shape:
            raise ValueError(f"estimate {list(estimate.shape)} and high {list(self._high.audio.shape)} differ in shape")
        pair = Pair(self._high, Spectra(estimate), self._cutoff, self._splice)
        if not (pair.high.is_finite and pair.estimate.is_finite):
            return dict.fromkeys(METRICS)
        scores = {name: metric.compute(pair) for name, metric in METRICS.items()}
        return {name: value if value is not None and math.isfinite(value) else None for name, value in scores.items()}


def score(high: Tensor, estimate: Tensor, low_cutoff_hz: float) -> Scores:
    """Return every metric by name for one estimate [C, T] of a high clip [C, T]."""
    return Reference(high, low_cutoff_hz).score(estimate)


def score_many(references: Iterable[Reference], estimates: Iterable[Tensor]) -> list[Scores]:
    """Return the scores of estimates [C, T], each against its reference; one by one, which is fastest on a CPU."""
    return [reference.score(estimate) for reference, estimate in zip(references, estimates, strict=True)]
