"""How low is made from high: a zero-phase low-pass, then down to twice the cutoff and up again (SAGA-SR section 3.1).

Without the resampling, filters of low order leave so much above the cutoff that the answer leaks into the question.
Cutoffs are multiples of 50 Hz: the resampling ratios stay small, which takes milliseconds where 1 Hz steps take 100.
"""

import math
import random
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import signal

from sagasr.config.settings import Degradation, FilterFamily, Validation
from sagasr.constants import NYQUIST, SAMPLE_RATE

CUTOFF_STEP_HZ = 50
Kind = Literal["cheby1", "butter", "bessel", "ellip"]  # scipy's names
KINDS: Mapping[str, Kind] = {"chebyshev1": "cheby1", "butterworth": "butter", "bessel": "bessel", "elliptic": "ellip"}
RIPPLE_DB = 0.1  # Chebyshev and elliptic pass band, released code
STOPBAND_DB = 60.0  # elliptic, released code


class Draw(NamedTuple):
    """One degradation: filter family, order, and cutoff in Hz, a multiple of 50."""

    family: FilterFamily
    order: int
    cutoff_hz: float


def draw_degradation(config: Degradation, rolloff_hz: float, seed: int) -> Draw:
    """Return the draw of ``seed`` for a clip with this roll-off: family, order and cutoff uniform over their ranges.

    The cutoff is at most ``rolloff_cap`` times the roll-off, so that something is left to generate, and never below the
    range's lower end.
    """
    uniform = random.Random(seed).random  # the one stream that Python promises never to change
    family = config.filters[int(uniform() * len(config.filters))]
    least, most = config.order
    order = least + int(uniform() * (most - least + 1))
    floor, ceiling = config.cutoff_hz
    first = _steps(floor, up=True)
    last = max(first, _steps(min(ceiling, config.rolloff_cap * rolloff_hz)))
    return Draw(family, order, float(CUTOFF_STEP_HZ * (first + int(uniform() * (last - first + 1)))))


def frozen_degradation(validation: Validation, degradation: Degradation, rolloff_hz: float) -> Draw:
    """Return the one degradation of a validation clip, as configured, its cutoff capped and floored as in training."""
    cap = max(degradation.rolloff_cap * rolloff_hz, degradation.cutoff_hz[0])
    cutoff_hz = float(CUTOFF_STEP_HZ * _steps(min(validation.cutoff_hz, cap)))
    return Draw(validation.filter, validation.order, cutoff_hz)


def degrade(high: np.ndarray, draw: Draw) -> np.ndarray:
    """Return low, float32 [C, T], of high [C, T], T > 63: same length, no delay, nothing left above the cutoff."""
    filtered = signal.sosfiltfilt(_filter(draw), high, axis=-1)
    ratio = Fraction(int(2 * draw.cutoff_hz), SAMPLE_RATE)
    down = signal.resample_poly(filtered, ratio.numerator, ratio.denominator, axis=-1)
    up = signal.resample_poly(down, ratio.denominator, ratio.numerator, axis=-1)
    return np.ascontiguousarray(up[..., : high.shape[-1]], dtype=np.float32)


@lru_cache(maxsize=256)
def _filter(draw: Draw) -> np.ndarray:
    """Return the second-order sections of the low-pass."""
    kind = KINDS[draw.family]
    return signal.iirfilter(
        draw.order, draw.cutoff_hz, RIPPLE_DB, STOPBAND_DB, "lowpass", ftype=kind, output="sos", fs=SAMPLE_RATE
    )


def _steps(frequency_hz: float, up: bool = False) -> int:
    """Return a frequency in steps of the cutoff, strictly inside 0 and Nyquist."""
    steps = frequency_hz / CUTOFF_STEP_HZ
    return max(1, min(math.ceil(steps) if up else math.floor(steps), math.ceil(NYQUIST / CUTOFF_STEP_HZ) - 1))
