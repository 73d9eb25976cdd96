"""Metrics beside the spectral distances: waveform, level of the high band, roll-off, seam of a replaced band."""

import math

import torch

from sagasr.audio.spectrum import NUM_BINS
from sagasr.metrics.spectra import POWER_FLOOR, Pair

LIMIT_DB = 100.0
SEAM_BAND = 4  # bins of each of the three bands, 86 Hz: the width of the window's main lobe


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
