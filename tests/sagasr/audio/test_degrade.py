"""Low is what the paper makes of high: nothing above the cutoff, in step with it, drawn alike for every seed."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest
from scipy import signal

from sagasr.audio.degrade import RIPPLE_DB, STOPBAND_DB, Draw, degrade, draw_degradation, frozen_degradation
from sagasr.audio.spectrum import BIN_HZ, rolloff_hz
from sagasr.config.settings import Degradation, FilterFamily, Validation
from sagasr.constants import NYQUIST, SAMPLE_RATE

FAMILIES: tuple[FilterFamily, ...] = get_args(FilterFamily)


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((channels, samples))).astype(np.float32)


def level_db(audio: np.ndarray, least_hz: float, most_hz: float) -> float:
    """Return the mean power of white-noise input left in a band, relative to that input, in dB."""
    power = np.abs(np.fft.rfft(audio[0])) ** 2
    frequency = np.fft.rfftfreq(audio.shape[1], 1 / SAMPLE_RATE)
    inside = (frequency >= least_hz) & (frequency < most_hz)
    return float(10 * np.log10(power[inside].mean() / (0.01 * audio.shape[1])))


def filter_alone(audio: np.ndarray, draw: Draw) -> np.ndarray:
    """Return the zero-phase filter of the released code without its resampling, designed here anew."""
    design = {
        "chebyshev1": lambda: signal.cheby1(draw.order, RIPPLE_DB, draw.cutoff_hz, output="sos", fs=SAMPLE_RATE),
        "butterworth": lambda: signal.butter(draw.order, draw.cutoff_hz, output="sos", fs=SAMPLE_RATE),
        "bessel": lambda: signal.bessel(draw.order, draw.cutoff_hz, output="sos", fs=SAMPLE_RATE),
        "elliptic": lambda: signal.ellip(
            draw.order, RIPPLE_DB, STOPBAND_DB, draw.cutoff_hz, output="sos", fs=SAMPLE_RATE
        ),
    }
    return np.ascontiguousarray(signal.sosfiltfilt(design[draw.family](), audio))


@pytest.mark.parametrize(
    ("family", "order", "filter_only_hz", "resampled_hz"),
    [
        ("butterworth", 2, 8204, 3984),
        ("butterworth", 10, 4221, 4027),
        ("bessel", 2, 8355, 3919),
        ("bessel", 10, 3639, 3424),
        ("chebyshev1", 2, 11305, 4091),
        ("elliptic", 2, 11305, 4091),
        ("elliptic", 10, 3984, 4091),
    ],
)
def test_resampling_removes_what_the_filter_leaks(
    family: FilterFamily, order: int, filter_only_hz: int, resampled_hz: int
) -> None:
    audio, draw = noise(10 * SAMPLE_RATE), Draw(family, order, 4_000.0)
    assert rolloff_hz(degrade(audio, draw)) == pytest.approx(resampled_hz, abs=2 * BIN_HZ)
    assert rolloff_hz(filter_alone(audio, draw)) == pytest.approx(filter_only_hz, rel=0.01)


@pytest.mark.parametrize("cutoff_hz", [2_000.0, 4_050.0, 15_950.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_low_is_the_filter_and_then_the_rates_of_the_released_code(family: FilterFamily, cutoff_hz: float) -> None:
    audio, draw = noise(30_000, channels=2), Draw(family, 7, cutoff_hz)
    down = signal.resample_poly(filter_alone(audio, draw), int(2 * cutoff_hz), SAMPLE_RATE, axis=1)
    expected = signal.resample_poly(down, SAMPLE_RATE, int(2 * cutoff_hz), axis=1)[:, : audio.shape[1]]
    assert np.abs(degrade(audio, draw) - expected).max() < 1e-6


@pytest.mark.parametrize("cutoff_hz", [2_000.0, 4_050.0, 7_950.0, 16_000.0])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", [2, 10])
def test_the_low_band_stays_and_the_high_band_goes(family: FilterFamily, order: int, cutoff_hz: float) -> None:
    low = degrade(noise(2 * SAMPLE_RATE), Draw(family, order, cutoff_hz))
    assert abs(level_db(low, 0, 0.25 * cutoff_hz)) < 1.5
    assert level_db(low, 1.15 * cutoff_hz, NYQUIST) < -45


@pytest.mark.parametrize("samples", [64, 8_191, 65_536])
@pytest.mark.parametrize("cutoff_hz", [2_000.0, 6_650.0, 15_950.0])
def test_low_has_the_length_channels_and_type_of_high(samples: int, cutoff_hz: float) -> None:
    low = degrade(noise(samples, channels=2), Draw("elliptic", 10, cutoff_hz))
    assert (low.shape, low.dtype) == ((2, samples), np.float32)
    assert np.isfinite(low).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_low_is_not_delayed(family: FilterFamily) -> None:
    slow = np.sin(2 * np.pi * 300 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)[None]
    low = degrade(slow, Draw(family, 5, 4_000.0))
    assert np.abs(low - slow)[:, 2_000:-2_000].max() < 0.03  # one sample of delay would make 0.043


def test_channels_are_degraded_independently() -> None:
    stereo = noise(10_000, channels=2)
    both, draw = degrade(stereo, Draw("bessel", 4, 3_000.0)), Draw("bessel", 4, 3_000.0)
    assert np.allclose(both[1:], degrade(stereo[1:], draw), atol=1e-7)


def test_silence_stays_silent() -> None:
    assert not degrade(np.zeros((1, 5_000), np.float32), Draw("chebyshev1", 8, 4_000.0)).any()


def test_the_same_seed_gives_the_same_draw_on_every_machine() -> None:
    """Other draws are other data: a change here must raise RESULT_VERSION."""
    draws = [draw_degradation(Degradation(), 20_000.0, seed) for seed in range(3)]
    assert draws == [draw_degradation(Degradation(), 20_000.0, seed) for seed in range(3)]
    assert draws == [Draw("elliptic", 8, 7_900.0), Draw("chebyshev1", 9, 12_700.0), Draw("elliptic", 10, 2_750.0)]


def test_draws_cover_families_orders_and_cutoffs_evenly() -> None:
    draws = [draw_degradation(Degradation(), 22_050.0, seed) for seed in range(4_000)]
    families, orders = Counter(draw.family for draw in draws), Counter(draw.order for draw in draws)
    assert set(families) == set(FAMILIES)
    assert min(families.values()) > 850
    assert set(orders) == set(range(2, 11))
    assert min(orders.values()) > 350
    cutoffs = np.array([draw.cutoff_hz for draw in draws])
    assert (cutoffs.min(), cutoffs.max()) == (2_000, 16_000)
    assert not (cutoffs % 50).any()
    assert np.histogram(cutoffs, bins=7, range=(1_975, 16_025))[0].min() > 450


@pytest.mark.parametrize("rolloff", [2_500.0, 5_000.0, 9_999.0])
def test_a_cutoff_leaves_something_to_generate(rolloff: float) -> None:
    cutoffs = [draw_degradation(Degradation(), rolloff, seed).cutoff_hz for seed in range(500)]
    assert min(cutoffs) == 2_000
    assert 0.94 * rolloff - 50 < max(cutoffs) <= 0.94 * rolloff


@pytest.mark.parametrize("rolloff", [0.0, 500.0, 2_100.0])
def test_a_cutoff_never_falls_below_the_floor(rolloff: float) -> None:
    assert {draw_degradation(Degradation(), rolloff, seed).cutoff_hz for seed in range(50)} == {2_000.0}


def test_ranges_of_a_configuration_are_kept() -> None:
    config = Degradation(filters=("bessel",), order=(3, 4), cutoff_hz=(3_010.0, 3_190.0), rolloff_cap=1.0)
    draws = {draw_degradation(config, 22_050.0, seed) for seed in range(200)}
    assert {(draw.family, draw.order) for draw in draws} == {("bessel", 3), ("bessel", 4)}
    assert {draw.cutoff_hz for draw in draws} == {3_050.0, 3_100.0, 3_150.0}


def test_a_cutoff_at_nyquist_can_still_be_filtered() -> None:
    config = Degradation(cutoff_hz=(NYQUIST, NYQUIST), rolloff_cap=1.0)
    draw = draw_degradation(config, NYQUIST, 0)
    assert draw.cutoff_hz == 22_050.0 - 50
    assert np.isfinite(degrade(noise(5_000), draw)).all()


def test_validation_is_degraded_as_configured_but_capped_and_floored_as_training() -> None:
    validation, degradation = Validation(cutoff_hz=4_000.0), Degradation()
    assert frozen_degradation(validation, degradation, 20_000.0) == Draw("chebyshev1", 8, 4_000.0)
    assert frozen_degradation(validation, degradation, 4_000.0) == Draw(
        "chebyshev1", 8, 3_750.0
    )  # 0.94 x 4,000 = 3,760
    assert frozen_degradation(validation, degradation, 0.0) == Draw("chebyshev1", 8, 2_000.0)
    assert frozen_degradation(Validation(cutoff_hz=1_000.0), degradation, 0.0).cutoff_hz == 1_000.0
