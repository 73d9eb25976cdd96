"""What the metrics read of a clip, each part computed when first asked for: a high clip's serves all its estimates.

Transforms are in double precision, since single precision reaches quiet bins 140 dB below the loudest and moves an LSD
by 1e-5; what follows them is in single precision, which moves none by 1e-6.
"""

from functools import cached_property

import torch
from torch import Tensor

from sagasr.audio.spectrum import BIN_HZ, rolloff_bin, stft_power

POWER_FLOOR = 1e-8  # clip of every power before its logarithm (AP-BWE)
SSR_HOP = 441  # 10 ms, ssr_eval
SSR_EPSILON = 1e-12
PATCH = 7  # frames and bins, the window of structural similarity
LARGEST = 1e12  # root of the summed squares of samples whose power spectrum still fits single precision


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
