"""Short-time spectra and the roll-off: one convention for metrics, conditions and low-frequency replacement.

Periodic Hann window of 2,048 samples, centred on multiples of the hop, zeros beyond the ends (as librosa does), so T
samples give 1 + T // hop frames. Frames come before frequencies: [..., N, F] with F = 1,025.
"""

import math
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sagasr.config import SAMPLE_RATE

N_FFT = 2_048
HOP = 512
NUM_BINS = N_FFT // 2 + 1
BIN_HZ = SAMPLE_RATE / N_FFT
ROLLOFF_SHARE = 0.985  # of the magnitude summed over a clip (SAGA-SR section 3.2)

# Frames transformed at once: they stay in the cache, torch starts no threads for so few, and memory stays small.
_BLOCK = 31


@cache
def window(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the window [2048], computed in double: in single precision its side lobes reach into quiet bins."""
    return torch.hann_window(N_FFT, dtype=torch.float64, device=device).to(dtype)


def stft(audio: Tensor, hop: int = HOP) -> Tensor:
    """Return the complex spectrum [..., N, F] of audio [..., T]."""
    return _spectrum(_frames(audio, hop))


def stft_power(audio: Tensor, hop: int = HOP, *, precise: bool = False) -> Tensor:
    """Return the squared magnitudes [..., N, F] of audio [..., T].

    ``precise`` transforms in double precision, at twice the time: right also in bins 140 dB below the loudest.
    """
    frames = _frames(audio.double() if precise else audio, hop)
    power = audio.new_empty(*frames.shape[:-1], NUM_BINS)
    for start in range(0, frames.shape[-2], _BLOCK):
        squares = torch.view_as_real(_spectrum(frames[..., start : start + _BLOCK, :])).square_()
        torch.add(squares[..., 0], squares[..., 1], out=power[..., start : start + _BLOCK, :])
    return power


def stft_magnitude(audio: Tensor, hop: int = HOP) -> Tensor:
    """Return the magnitudes [..., N, F] of audio [..., T]."""
    return stft_power(audio, hop).sqrt_()


def cutoff_bin(cutoff_hz: float) -> int:
    """Return the first bin at or above a frequency: bins below it are the low band, the others the high band."""
    return max(0, min(math.ceil(cutoff_hz / BIN_HZ - 1e-6), NUM_BINS))


def rolloff_hz(audio: np.ndarray | Tensor, rule: Literal["reached", "released"] = "reached") -> float:
    """Return the frequency below which 98.5 % of the magnitude of audio [C, T], summed over time, lies; 0 for silence.

    ``reached``: the first bin where the share is reached, as librosa's spectral_rolloff. ``released``: the last bin
    where it is not, one bin lower, as the authors' code reads it. Channels are averaged first, as there.
    """
    mono = torch.as_tensor(audio, dtype=torch.float32).mean(0)
    frames = _frames(mono, HOP)
    summed = torch.zeros(NUM_BINS, dtype=torch.float64)
    for start in range(0, len(frames), _BLOCK):
        summed += _spectrum(frames[start : start + _BLOCK]).abs().sum(0)
    return BIN_HZ * rolloff_bin(summed, rule)


def rolloff_bin(summed: Tensor, rule: Literal["reached", "released"] = "reached") -> int:
    """Return the roll-off as a bin of the magnitudes summed over time, [F]; 0 for silence."""
    cumulative = summed.double().cumsum(0)
    reached = int(torch.searchsorted(cumulative, ROLLOFF_SHARE * cumulative[-1]))
    return max(0, reached - (rule == "released"))


def _frames(audio: Tensor, hop: int) -> Tensor:
    """Return overlapping windows [..., N, 2048] of audio [..., T], a view."""
    return torch.nn.functional.pad(audio, (N_FFT // 2, N_FFT // 2)).unfold(-1, N_FFT, hop)


def _spectrum(frames: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.rfft(frames * window(frames.dtype, frames.device))
    return spectrum
