"""Short-time spectra and the roll-off: one convention for metrics, conditions and low-frequency replacement.

Periodic Hann window of 2,048 samples, centred on multiples of the hop, zeros beyond the ends (as librosa does), so T
samples give 1 + T // hop frames. Frames come before frequencies: [..., N, F] with F = 1,025.
"""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from sagasr.constants import N_FFT, ROLLOFF_SHARE, SAMPLE_RATE

HOP = 512
NUM_BINS = N_FFT // 2 + 1
BIN_HZ = SAMPLE_RATE / N_FFT
CANCELS_DB = 20.0  # what the mean of two channels lacks of them where they cancel; unrelated ones lose 3 dB

# Frames transformed at once: they stay in the cache, torch starts no threads for so few, and memory stays small.
_BLOCK = 31
_LOOKED_AT = 4_096  # frames by which ``cancels`` judges, spread evenly; all of them would take as long as encoding


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


def rolloff_hz(audio: np.ndarray | Tensor) -> float:
    """Return the frequency below which 98.5 % of the magnitude of audio [C, T], summed over time, lies; 0 for silence.

    It is the first bin where the share is reached, as librosa's spectral_rolloff; the authors' code takes the bin
    before. Channels are averaged first, as there (see ``mono``).
    """
    return _rolloff_hz(mono(np.asarray(audio, np.float32)))


def magnitudes(signal: np.ndarray, hop: int = HOP, at_once: int = _BLOCK) -> Iterator[Tensor]:
    """Yield the magnitudes of a signal [T] in pieces [n, F] of so many frames."""
    for frames in _frames(torch.from_numpy(np.ascontiguousarray(signal)), hop).split(at_once):
        yield _spectrum(frames).abs()


def _rolloff_hz(signal: np.ndarray, hop: int = HOP) -> float:
    summed = torch.zeros(NUM_BINS, dtype=torch.float64)
    for part in magnitudes(signal, hop):
        summed += part.sum(0)
    return BIN_HZ * rolloff_bin(summed)


def mono(audio: np.ndarray) -> np.ndarray:
    """Return the signal [T] by which the roll-off of audio [C, T] is measured: the mean of its channels.

    Where they cancel in it, that says nothing of them: then it is the louder one.
    """
    return _louder(audio) if cancels(audio) else np.asarray(audio.mean(0))


def cancels(audio: np.ndarray) -> bool:
    """Return whether channels [C, T] cancel in their mean: all of them, as left = -right, or their upper half of the
    band at least, as a side signal that reaches further up than the middle.
    """
    if len(audio) == 1:
        return False
    if cancelled_db(audio) >= CANCELS_DB:
        return True
    hop = HOP * max(1, audio.shape[-1] // HOP // _LOOKED_AT)
    return _rolloff_hz(audio.mean(0), hop=hop) < _rolloff_hz(_louder(audio), hop=hop) / 2


def _louder(audio: np.ndarray) -> np.ndarray:
    return np.asarray(audio[_covariance(audio).diagonal().argmax()])


def _covariance(audio: np.ndarray) -> np.ndarray:
    """Return the covariance [C, C] of channels [C, T] in double precision, without a copy of them in it."""
    centre, total = audio.mean(-1, keepdims=True, dtype=np.float64), np.zeros((len(audio), len(audio)))
    for start in range(0, audio.shape[-1], 2**16):
        part = audio[:, start : start + 2**16] - centre
        total += part @ part.T
    return np.asarray(total / audio.shape[-1])


def cancelled_db(audio: np.ndarray) -> float:
    """Return by how much the mean of channels [C, T] is quieter than they are, offsets aside; 0 for silence."""
    if len(audio) == 1:
        return 0.0
    covariance = _covariance(audio)
    channels, mean = covariance.diagonal().mean(), covariance.mean()  # the latter is the variance of their mean
    return 10 * math.log10(channels / max(mean, 1e-12 * channels)) if channels > 0 else 0.0


def rolloff_bin(summed: Tensor) -> int:
    """Return the roll-off as a bin of the magnitudes summed over time, [F]; 0 for silence."""
    cumulative = summed.double().cumsum(0)
    return int(torch.searchsorted(cumulative, ROLLOFF_SHARE * cumulative[-1]))


def _frames(audio: Tensor, hop: int) -> Tensor:
    """Return overlapping windows [..., N, 2048] of audio [..., T], a view."""
    return torch.nn.functional.pad(audio, (N_FFT // 2, N_FFT // 2)).unfold(-1, N_FFT, hop)


def _spectrum(frames: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.rfft(frames * window(frames.dtype, frames.device))
    return spectrum
