"""Low-frequency replacement: what the low input already knew is put back after generation (SAGA-SR section 3.4).

A post-process, so it needs no training of its own. Bins of the short-time spectrum below the cutoff come from low, the
others from the generated clip. The released code (as AudioSR's) also divides low by a ratio of levels read at a single
bin. This breaks the exact passage of low, by up to 0.19 of LSD below the cutoff, so it is done on request only.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from sagasr.audio.spectrum import BIN_HZ, HOP, NUM_BINS, stft_magnitude, window
from sagasr.constants import N_FFT

Kind = Literal["off", "hard", "crossfade"]
CROSSFADE = (0.9, 1.1)  # x cutoff: all low below, all generated above
RATIO = (0.8, 1.2)  # range of the released code's ratio of levels


def replace_low_band(
    generated: Tensor, low: Tensor, cutoff_hz: Tensor, kind: Kind, ratio: Literal["off", "on"] = "off"
) -> Tensor:
    """Return generated [B, C, T] with the band below cutoff_hz [B] taken from low [B, C, T]; none at cutoff 0.

    With ``ratio``, low is divided by ``level_ratio`` first.
    """
    if kind == "off":
        return generated
    if ratio == "on":
        low = low / level_ratio(generated, low, cutoff_hz)[..., None]
    share = low_share(cutoff_hz.to(generated), kind)
    # Only the difference is filtered: where both agree the result is exact, and one transform does for two.
    correction = _filtered((low - generated).flatten(0, 1), share.repeat_interleave(generated.shape[1], dim=0))
    return generated + correction.view_as(generated)


def level_ratio(generated: Tensor, low: Tensor, cutoff_hz: Tensor) -> Tensor:
    """Return how much louder low is than the generated clip [B, C], at the last bin below the cutoff, in 0.8 to 1.2.

    Magnitudes at that bin are summed over time, each channel for itself; 1 where both are silent there.
    """
    place = torch.ceil(cutoff_hz / BIN_HZ - 1e-6).long().sub(1).clamp(0, NUM_BINS - 1).to(low.device)
    levels = [
        torch.stack([stft_magnitude(clip)[..., bin_].sum(-1) for clip, bin_ in zip(audio, place.tolist(), strict=True)])
        for audio in (low, generated)
    ]
    return torch.nan_to_num(levels[0] / levels[1], nan=1.0).clamp(*RATIO)


def low_share(cutoff_hz: Tensor, kind: Literal["hard", "crossfade"]) -> Tensor:
    """Return the weight [B, F] of low at each bin: 1 in the low band, 0 in the high band."""
    frequency = BIN_HZ * torch.arange(NUM_BINS, dtype=cutoff_hz.dtype, device=cutoff_hz.device)
    cutoff = cutoff_hz[:, None]
    if kind == "hard":
        return (frequency < cutoff - 1e-3).to(cutoff_hz)
    start, end = CROSSFADE
    progress = ((frequency - start * cutoff) / ((end - start) * cutoff).clamp_min(BIN_HZ)).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * progress)) * (cutoff > 0)


def _filtered(audio: Tensor, gain: Tensor) -> Tensor:
    """Return audio [B, T] with each bin of its short-time spectrum scaled by gain [B, F]."""
    hann = window(audio.dtype, audio.device)
    spectrum = torch.stft(audio, N_FFT, HOP, window=hann, pad_mode="constant", return_complex=True)
    return torch.istft(spectrum * gain[:, :, None], N_FFT, HOP, window=hann, length=audio.shape[-1])
