"""Low-frequency replacement: what the low input already knew is put back after generation (SAGA-SR section 3.4).

A post-process, so it needs no training of its own. Bins of the short-time spectrum below the cutoff come from low, the
others from the generated clip. The released code also divides low by a gain read at a single bin, which breaks the
exact passage of low; that is not done here.
"""

import math
from typing import Literal, assert_never

import torch
from torch import Tensor

from sagasr.audio.spectrum import BIN_HZ, HOP, N_FFT, NUM_BINS, window

Kind = Literal["off", "hard", "crossfade"]
CROSSFADE = (0.9, 1.1)  # x cutoff: all low below, all generated above


def replace_low_band(generated: Tensor, low: Tensor, cutoff_hz: Tensor, kind: Kind) -> Tensor:
    """Return generated [B, C, T] with the band below cutoff_hz [B] taken from low [B, C, T]; none at cutoff 0."""
    if kind == "off":
        return generated
    share = low_share(cutoff_hz.to(generated), kind)
    # Only the difference is filtered: where both agree the result is exact, and one transform does for two.
    correction = _filtered((low - generated).flatten(0, 1), share.repeat_interleave(generated.shape[1], dim=0))
    return generated + correction.view_as(generated)


def low_share(cutoff_hz: Tensor, kind: Literal["hard", "crossfade"]) -> Tensor:
    """Return the weight [B, F] of low at each bin: 1 in the low band, 0 in the high band."""
    frequency = BIN_HZ * torch.arange(NUM_BINS, dtype=cutoff_hz.dtype, device=cutoff_hz.device)
    cutoff = cutoff_hz[:, None]
    match kind:
        case "hard":
            return (frequency < cutoff - 1e-3).to(cutoff_hz)
        case "crossfade":
            start, end = CROSSFADE
            progress = ((frequency - start * cutoff) / ((end - start) * cutoff).clamp_min(BIN_HZ)).clamp(0, 1)
            return 0.5 * (1 + torch.cos(math.pi * progress)) * (cutoff > 0)
        case unknown:
            assert_never(unknown)


def _filtered(audio: Tensor, gain: Tensor) -> Tensor:
    """Return audio [B, T] with each bin of its short-time spectrum scaled by gain [B, F]."""
    hann = window(audio.dtype, audio.device)
    spectrum = torch.stft(audio, N_FFT, HOP, window=hann, pad_mode="constant", return_complex=True)
    return torch.istft(spectrum * gain[:, :, None], N_FFT, HOP, window=hann, length=audio.shape[-1])
