"""A low clip made from a high one: filtered forward and backward, then down to twice the cutoff and up again."""

from functools import partial
from math import gcd

import numpy as np
from scipy import signal

from sagasr.audio.degrade import RIPPLE_DB, Draw, degrade
from sagasr.audio.files import read_audio
from sagasr.constants import SAMPLE_RATE
from tests.benchmarks.cell import RECORDINGS
from tests.benchmarks.measure import Row, in_turn


def against_released(quick: bool) -> Row:
    """Cutoffs in steps of 50 Hz against those of 1 Hz; quality: the same low clip where the cutoffs are the same."""
    highs = [read_audio(path, 1) for path in sorted(RECORDINGS.rglob("*.flac"))[:: 48 if quick else 12]]
    cutoffs = np.random.default_rng(0).integers(2_000, 16_000, len(highs)).tolist()
    pairs = list(zip(highs, cutoffs, strict=True))
    ours, theirs = in_turn(
        partial(_all, lambda high, cutoff: degrade(high, Draw("chebyshev1", 8, 50.0 * (cutoff // 50))), pairs),
        partial(_all, released, pairs),
        1 if quick else 5,
    )
    high, cutoff = highs[0], 50 * (cutoffs[0] // 50)
    low, same = degrade(high, Draw("chebyshev1", 8, float(cutoff))), released(high, cutoff)
    distance = 10 * np.log10(np.square(low).sum() / np.square(low - same).sum().clip(1e-12 * np.square(low).sum()))
    return Row([it / len(highs) for it in ours], [it / len(highs) for it in theirs], "clip of 1.5 s",
               f"error {distance:.0f} dB below the clip", distance > 60)  # fmt: skip


def _all(make: object, pairs: list[tuple[np.ndarray, int]]) -> None:
    assert callable(make)
    for high, cutoff in pairs:
        make(high, cutoff)


def released(high: np.ndarray, cutoff_hz: int) -> np.ndarray:
    """Return low as the released procedure makes it, at any whole cutoff."""
    sections = signal.cheby1(8, RIPPLE_DB, cutoff_hz, output="sos", fs=SAMPLE_RATE)
    filtered = signal.sosfiltfilt(sections, high, axis=-1)
    common = gcd(2 * cutoff_hz, SAMPLE_RATE)
    up, down = 2 * cutoff_hz // common, SAMPLE_RATE // common
    low = signal.resample_poly(signal.resample_poly(filtered, up, down, axis=-1), down, up, axis=-1)
    return low[..., : high.shape[-1]]
