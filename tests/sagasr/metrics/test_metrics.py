"""Metrics give what theory or an independent computation gives, and nothing undefined looks like a number."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

import sagasr
from sagasr.audio.degrade import Draw, degrade
from sagasr.audio.files import read_audio
from sagasr.audio.low_band import replace_low_band
from sagasr.audio.spectrum import BIN_HZ, HOP, cutoff_bin, rolloff_hz, stft
from sagasr.constants import N_FFT, SAMPLE_RATE
from sagasr.metrics.score import Reference, score_many
from sagasr.metrics.table import METRICS

CUTOFF_HZ = 4_000.0
LONG = 10 * SAMPLE_RATE  # enough noise for the third decimal


def score(high: Tensor, estimate: Tensor, low_cutoff_hz: float) -> dict[str, float | None]:
    return Reference(high, low_cutoff_hz).score(estimate)


def noise(samples: int = 65_536, seed: int = 0, channels: int = 1) -> Tensor:
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


def value(high: Tensor, estimate: Tensor, name: str, cutoff_hz: float = CUTOFF_HZ) -> float:
    found = score(high, estimate, cutoff_hz)[name]
    assert found is not None
    return found


@pytest.fixture(scope="module")
def recording() -> Tensor:
    """Speech shipped with the package, [1, T]; its quiet bins show what single precision adds to them."""
    path = max(Path(sagasr.__file__).parent.joinpath("recordings").rglob("*.flac"))
    return torch.from_numpy(read_audio(path, 1))[:, : 3 * SAMPLE_RATE]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Clips are too small to share between threads, which only wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def released_rolloff_hz(audio: np.ndarray | torch.Tensor) -> float:
    """The last bin that does not reach the share, as the authors' code reads it."""
    return max(0.0, rolloff_hz(audio) - BIN_HZ)


# what every metric promises


def test_every_metric_has_its_unit_direction_and_definition() -> None:
    higher = ("log_sispec", "sispec", "ssim", "si_sdr")
    assert [*METRICS] == ["lsd", "lsd_lf", "lsd_hf", "lsd_ssr", *higher, "hf_ratio", "rolloff_error", "seam"]
    for name, metric in METRICS.items():
        assert metric.name == name
        assert all((metric.unit or name == "ssim", metric.definition, metric.identity, metric.silence))
        assert metric.better == ("higher" if name in higher else "lower")
        assert metric.unit != "dB" or not name.startswith("lsd")  # ten times the number that the field means


def test_an_identical_estimate_has_the_best_score(recording: Tensor) -> None:
    for high in (noise(), noise(channels=2), recording):
        scores = score(high, high.clone(), CUTOFF_HZ)
        assert scores["si_sdr"] == pytest.approx(100)
        for name in ("lsd", "lsd_lf", "lsd_hf", "hf_ratio", "rolloff_error", "seam"):
            assert scores[name] == 0
        assert scores["ssim"] == pytest.approx(1, abs=1e-12)
        assert scores["sispec"] > 100  # type: ignore[operator]
        assert scores["log_sispec"] > 100  # type: ignore[operator]


def test_what_the_table_says_of_identical_clips_is_so(recording: Tensor) -> None:
    scores = score(recording, recording.clone(), CUTOFF_HZ)
    for name, metric in METRICS.items():
        expected = metric.identity.split(",")[0]
        if expected.isdecimal():
            assert scores[name] == pytest.approx(float(expected), abs=1e-5)
        else:
            assert expected == "near 100 or above"
            assert scores[name] > 90  # type: ignore[operator]


def test_better_means_better_for_an_estimate_nearer_to_the_high_clip(recording: Tensor) -> None:
    texture = 0.1 * noise(recording.shape[1], seed=1)
    near, far = (
        score(recording, recording + 0.01 * texture, CUTOFF_HZ),
        score(recording, recording + texture, CUTOFF_HZ),
    )
    for name in set(METRICS) - {"seam"}:
        better, worse = (near, far) if METRICS[name].better == "lower" else (far, near)
        assert better[name] < worse[name]  # type: ignore[operator]


def test_silence_and_broken_sound_are_remarked_on() -> None:
    high, silence, broken = noise(), torch.zeros(1, 65_536), torch.full((1, 65_536), math.nan)
    assert Reference(high, CUTOFF_HZ).remark(high) == ""
    assert Reference(high, CUTOFF_HZ).remark(silence) == "estimate is digital silence"
    assert Reference(high, CUTOFF_HZ).remark(2 / high.abs().max() * high) == "estimate passes full scale"
    assert Reference(silence, CUTOFF_HZ).remark(silence) == "high is digital silence; estimate is digital silence"
    assert Reference(high, CUTOFF_HZ).remark(broken) == "estimate is not finite"


def test_silence_is_defined_and_never_mistaken_for_zero_error() -> None:
    high, silence = noise(), torch.zeros(1, 65_536)
    both = score(silence, silence, CUTOFF_HZ)
    assert both["lsd"] == both["lsd_hf"] == both["seam"] == 0
    assert both["lsd_ssr"] == pytest.approx(12)  # as ssr_eval has it for digital silence
    assert both["si_sdr"] is both["rolloff_error"] is None
    assert both["hf_ratio"] == 0
    assert both["ssim"] == pytest.approx(1)
    assert both["sispec"] == pytest.approx(-120)
    of_silence = score(silence, high, CUTOFF_HZ)
    assert of_silence["si_sdr"] is of_silence["rolloff_error"] is None
    assert of_silence["lsd"] > 8  # type: ignore[operator]
    assert of_silence["lsd_ssr"] == pytest.approx(12)
    assert of_silence["sispec"] == pytest.approx(-120)
    silent_estimate = score(high, silence, CUTOFF_HZ)
    assert silent_estimate["si_sdr"] == pytest.approx(-100)
    assert silent_estimate["rolloff_error"] == rolloff_hz(high)
    assert silent_estimate["sispec"] == pytest.approx(-120)
    assert abs(silent_estimate["ssim"]) < 0.1  # type: ignore[arg-type]
    assert all(math.isfinite(number) for number in silent_estimate.values())


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e30])
def test_an_estimate_that_is_not_finite_has_no_scores(wrong: float) -> None:
    estimate = noise(seed=1)
    estimate[0, 1_000] = wrong
    assert set(score(noise(), estimate, CUTOFF_HZ).values()) == {None}


def test_a_band_without_bins_has_no_score() -> None:
    assert score(noise(), noise(seed=1), 0.0)["lsd_lf"] is None
    assert score(noise(), noise(seed=1), 30_000.0)["lsd_hf"] is None
    assert score(noise(), noise(seed=1), 30_000.0)["seam"] is None
    assert score(noise(), noise(seed=1), 0.0)["lsd_hf"] == score(noise(), noise(seed=1), 0.0)["lsd"]


def test_shapes_that_differ_are_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"\[1, 65535\] and high \[1, 65536\]"):
        score(noise(), noise(65_535), CUTOFF_HZ)


@pytest.mark.parametrize("samples", [1, 100, 2_047, 10_001])
def test_short_and_odd_clips_have_finite_scores(samples: int) -> None:
    scores = score(noise(samples) + 0.1, noise(samples, seed=1), CUTOFF_HZ)
    assert all(number is None or math.isfinite(number) for number in scores.values())
    assert scores["lsd"] is not None


def test_a_reference_scores_many_estimates_alike() -> None:
    highs, estimates = [noise(seed=1), noise(seed=2)], [noise(seed=3), noise(seed=4)]
    references = [Reference(high, CUTOFF_HZ) for high in highs]
    expected = [score(high, estimate, CUTOFF_HZ) for high, estimate in zip(highs, estimates, strict=True)]
    assert score_many(references, estimates) == expected
    assert score_many(references, estimates) == expected  # what is kept of a reference is not used up
    with pytest.raises(ValueError):
        score_many(references, estimates[:1])


def test_two_equal_channels_score_as_one() -> None:
    high, estimate = noise(seed=1), noise(seed=2)
    one, two = score(high, estimate, CUTOFF_HZ), score(high.repeat(2, 1), estimate.repeat(2, 1), CUTOFF_HZ)
    assert {name: pytest.approx(number, rel=1e-5) for name, number in one.items()} == two


def test_channels_with_opposite_phase_do_not_cancel() -> None:
    high, estimate = noise(seed=1), noise(seed=2)
    opposite = score(torch.cat([high, -high]), torch.cat([estimate, -estimate]), CUTOFF_HZ)
    assert opposite["lsd"] == pytest.approx(score(high, estimate, CUTOFF_HZ)["lsd"], rel=1e-5)
    assert opposite["rolloff_error"] is None  # the mono mix is silent, as the definition of the roll-off has it


# log-spectral distances


@pytest.mark.parametrize(("gain", "expected"), [(1.05, 0.04238), (2.0, 0.60206), (0.5, 0.60206)])
@pytest.mark.parametrize("name", ["lsd", "lsd_lf", "lsd_hf", "lsd_ssr"])
def test_a_gain_costs_twice_its_logarithm(gain: float, expected: float, name: str) -> None:
    assert value(noise(), gain * noise(), name) == pytest.approx(expected, abs=2e-5)


def test_independent_white_noises_are_0_789_apart() -> None:
    scores = score(noise(LONG, seed=1), noise(LONG, seed=2), CUTOFF_HZ)
    for name in ("lsd", "lsd_lf", "lsd_hf", "lsd_ssr"):
        assert scores[name] == pytest.approx(0.789, abs=0.002)
        assert scores[name] == pytest.approx(math.pi / (math.sqrt(3) * math.log(10)), abs=0.004)


def test_a_flat_guess_of_noise_scores_0_557() -> None:
    """The estimate has one magnitude everywhere: an impulse per hop gives a flat spectrum in every frame."""
    estimate = torch.zeros(1, LONG)
    estimate[:, ::N_FFT] = 1.0  # a frame centred on an impulse sees the window's peak of 1 and no other impulse inside
    high = noise(LONG)
    frames = stft(high)[0, :: N_FFT // HOP].abs().square()
    # The best flat guess of log power has its mean; E[log10 of exponential power] lies 0.2507 below log10 of its mean.
    scale = torch.sqrt(frames.mean() * 10**-0.2507)
    squared = (frames.log10() - (scale * stft(estimate)[0, :: N_FFT // HOP].abs()).square().log10()).square()
    assert float(squared.mean(-1).sqrt()[1:-1].mean()) == pytest.approx(0.557, abs=0.003)


@pytest.mark.parametrize(("cutoff_hz", "expected"), [(4_000.0, 0.712), (8_000.0, 0.629)])
def test_a_perfect_low_band_with_independent_texture_above(cutoff_hz: float, expected: float) -> None:
    high = noise(LONG, seed=1)
    estimate = replace_low_band(noise(LONG, seed=2)[None], high[None], torch.tensor([cutoff_hz]), "hard")[0]
    scores = score(high, estimate, cutoff_hz)
    assert scores["lsd"] == pytest.approx(expected, abs=0.004)
    assert scores["lsd_hf"] == pytest.approx(0.789, abs=0.005)
    assert scores["lsd_lf"] < 0.08  # type: ignore[operator]  # what a window spreads over the splice


def test_the_two_bands_make_up_the_whole() -> None:
    """A gain of 2 above the cutoff alone: the mean square is that of the high band times its share of the bins."""
    high, bins = noise(), cutoff_bin(CUTOFF_HZ)
    louder = high + replace_low_band(high[None], torch.zeros(1, 1, 65_536), torch.tensor([CUTOFF_HZ]), "hard")[0]
    scores = score(high, louder, CUTOFF_HZ)
    assert scores["lsd_hf"] == pytest.approx(0.602, abs=0.01)
    assert scores["lsd_lf"] < 0.05  # type: ignore[operator]
    assert scores["lsd"] == pytest.approx(0.602 * math.sqrt(1 - bins / 1025), abs=0.01)


# on real recordings, against the definitions computed anew with librosa and numpy in double precision


def magnitude(audio: Tensor, hop: int) -> NDArray[np.float64]:
    """Return the magnitudes [N, F] of the mono mix of audio [C, T]."""
    mono = audio.mean(0).double().numpy()
    found: NDArray[np.float64] = np.abs(librosa.stft(mono, n_fft=2_048, hop_length=hop)).T
    return found


def root_mean(ratio: NDArray[np.float64]) -> float:
    return float(np.sqrt((np.log10(ratio) ** 2).mean(1)).mean())


def similarity(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Structural similarity as scikit-image documents it: 7 x 7 means, sample covariances, range 2, edges left out."""

    def mean(image: NDArray[np.float64]) -> Any:
        return uniform_filter(image, 7)[3:-3, 3:-3]

    means = mean(one), mean(other)
    variances = [49 / 48 * (mean(image**2) - part**2) for image, part in zip((one, other), means, strict=True)]
    covariance = 49 / 48 * (mean(one * other) - means[0] * means[1])
    luminance = (2 * means[0] * means[1] + 0.02**2) / (means[0] ** 2 + means[1] ** 2 + 0.02**2)
    structure = (2 * covariance + 0.06**2) / (variances[0] + variances[1] + 0.06**2)
    return float((luminance * structure).mean())


def ratio_db(estimate: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """SiSpec: the estimate's part along the target over the rest."""
    along = (estimate * target).sum() / ((target**2).sum() + 1e-12) * target
    return float(10 * np.log10((along**2).sum() / (((estimate - along) ** 2).sum() + 1e-12) + 1e-12))


def estimates_of(high: Tensor) -> Iterator[Tensor]:
    """Yield what models and their inputs do to a recording: empty bands, noise, a shift, a level."""
    low = torch.from_numpy(degrade(high.numpy(), Draw("chebyshev1", 8, CUTOFF_HZ))).float()
    yield low
    yield low + 1e-3 * noise(high.shape[1])
    yield 0.7 * high.roll(3, -1) + 1e-4 * noise(high.shape[1])


RECORDINGS = sorted(Path(sagasr.__file__).parent.joinpath("recordings").rglob("*.flac"))


@pytest.mark.parametrize("path", RECORDINGS[::30], ids=lambda path: path.stem)
def test_each_spectral_metric_is_its_formula_on_real_recordings(path: Path) -> None:
    high = torch.from_numpy(read_audio(path, 1))[:, :65_536]
    cutoff = cutoff_bin(CUTOFF_HZ)
    for audio in (high, torch.cat([high, high.roll(1_000, -1)])):
        for estimate in estimates_of(audio):
            scores = score(audio, estimate, CUTOFF_HZ)
            target, found = magnitude(audio, 441), magnitude(estimate, 441)
            assert scores["lsd_ssr"] == pytest.approx(root_mean(target**2 / (found + 1e-12) ** 2 + 1e-12), abs=1e-6)
            logs = np.log10(found + 1e-12), np.log10(target + 1e-12)
            assert scores["log_sispec"] == pytest.approx(ratio_db(*logs), abs=1e-4)
            assert scores["sispec"] == pytest.approx(ratio_db(found, target), abs=1e-4)
            assert scores["ssim"] == pytest.approx(similarity(found, target), abs=1e-6)
            channels = zip(audio[:, None], estimate[:, None], strict=True)
            powers = [[np.maximum(magnitude(one, 512) ** 2, 1e-8) for one in pair] for pair in channels]
            bands = {"lsd": slice(None), "lsd_lf": slice(cutoff), "lsd_hf": slice(cutoff, None)}
            for name, band in bands.items():
                expected = np.mean([root_mean(pair[0][:, band] / pair[1][:, band]) for pair in powers])
                assert scores[name] == pytest.approx(expected, abs=1e-6)
            energy = [sum(pair[side][:, cutoff:].sum() for pair in powers) for side in (0, 1)]
            assert scores["hf_ratio"] == pytest.approx(abs(10 * np.log10(energy[1] / energy[0])), abs=1e-4)


@pytest.mark.parametrize("path", RECORDINGS[::30], ids=lambda path: path.stem)
def test_the_roll_off_is_librosas_and_the_released_one_lies_one_bin_lower(path: Path) -> None:
    high = read_audio(path, 1)[:, :65_536]
    summed = magnitude(torch.from_numpy(high), 512).sum(0)
    expected = librosa.feature.spectral_rolloff(S=summed[:, None], sr=SAMPLE_RATE, roll_percent=0.985).item()
    assert rolloff_hz(high) == pytest.approx(expected, abs=1e-6)
    assert released_rolloff_hz(high) == pytest.approx(expected - BIN_HZ, abs=1e-6)
    shifted = torch.from_numpy(high).roll(5, -1)
    assert value(torch.from_numpy(high), shifted, "rolloff_error") <= BIN_HZ


def test_digital_silence_in_a_clip_counts_as_ssr_eval_counts_it() -> None:
    """Half of the clip is exact zeros: 12 in those frames even against itself, unlike the clipped definition."""
    high = noise()
    high[:, 32_768:] = 0
    assert value(high, high.clone(), "lsd") == 0
    target = magnitude(high, 441)
    expected = root_mean(target**2 / (target + 1e-12) ** 2 + 1e-12)
    assert 5 < expected < 7
    assert value(high, high.clone(), "lsd_ssr") == pytest.approx(expected, abs=1e-5)
    for estimate in (high + 1e-6 * noise(seed=1), high + 1e-3 * noise(seed=1), 1e-6 * high):
        found = magnitude(estimate, 441)
        expected = root_mean(target**2 / (found + 1e-12) ** 2 + 1e-12)
        assert value(high, estimate, "lsd_ssr") == pytest.approx(expected, abs=1e-5)


def test_the_level_of_the_high_band_counts_either_way() -> None:
    high = noise()
    for gain, expected in ((2.0, 6.02), (0.5, 6.02), (1.0, 0.0)):
        estimate = high_band_gain(high, gain, CUTOFF_HZ)
        assert value(high, estimate, "hf_ratio") == pytest.approx(expected, abs=0.05)
    assert value(high, high_band_gain(high, 0.0, CUTOFF_HZ), "hf_ratio") > 20  # what a window spreads over the splice
    low_band_louder = (
        high + replace_low_band(torch.zeros_like(high)[None], high[None], torch.tensor([CUTOFF_HZ]), "hard")[0]
    )
    assert value(high, low_band_louder, "hf_ratio") < 0.1


# SI-SDR and roll-off


@pytest.mark.parametrize("level", [1.0, 0.1, 1e-3])
def test_si_sdr_is_that_of_torchmetrics(recording: Tensor, level: float) -> None:
    high = torch.cat([recording, recording.roll(777, -1)]) + 0.05  # an offset that must not count
    estimate = 0.3 * high + level * noise(high.shape[1], channels=2) - 0.2
    expected = scale_invariant_signal_distortion_ratio(estimate.double(), high.double(), zero_mean=True).mean()
    assert value(high, estimate, "si_sdr") == pytest.approx(float(expected), abs=1e-4)


def test_si_sdr_of_noise_at_a_tenth_of_the_level_is_20_db() -> None:
    high = noise(LONG, seed=1)
    assert value(high, 3 * (high + 0.1 * noise(LONG, seed=2)), "si_sdr") == pytest.approx(20, abs=0.05)


def test_rolloff_error_is_the_distance_in_hertz() -> None:
    high = noise()
    low = torch.from_numpy(degrade(high.numpy(), Draw("chebyshev1", 8, 8_000.0)))
    expected = rolloff_hz(high) - rolloff_hz(low)
    assert 13_000 < expected < 14_500
    assert value(high, low, "rolloff_error") == pytest.approx(expected, abs=1e-6)
    assert value(low, high, "rolloff_error") == pytest.approx(expected, abs=1e-6)
    assert value(low, low.repeat(1, 1), "rolloff_error") == 0


# the seam


def add_line(audio: Tensor, frequency_hz: float, level: float) -> Tensor:
    time = torch.arange(audio.shape[-1]) / SAMPLE_RATE
    return audio + level * torch.sin(2 * math.pi * frequency_hz * time)


def high_band_gain(audio: Tensor, gain: float, cutoff_hz: float, kind: str = "hard") -> Tensor:
    """Return audio [1, T] with what lies above the cutoff scaled."""
    return replace_low_band(gain * audio[None], audio[None], torch.tensor([cutoff_hz]), kind)[0]  # type: ignore[arg-type]


def test_a_bright_line_at_the_cutoff_is_a_seam_and_grows_with_its_level() -> None:
    high = noise()
    quiet, loud = (value(high, add_line(high, CUTOFF_HZ, level), "seam") for level in (0.02, 0.1))
    assert 3 < quiet < loud - 8


def test_a_dark_line_at_the_cutoff_is_a_seam() -> None:
    high = noise()
    gap = high - high_band_gain(
        high_band_gain(high, 0.0, CUTOFF_HZ + 2 * BIN_HZ) - high_band_gain(high, 0.0, CUTOFF_HZ - 2 * BIN_HZ), 1.0, 0.0
    )
    assert value(high, gap, "seam") > 5


def test_a_line_elsewhere_is_no_seam() -> None:
    high = noise()
    for frequency_hz in (0.9 * CUTOFF_HZ, 1.1 * CUTOFF_HZ, 12_000.0):
        assert value(high, add_line(high, frequency_hz, 0.1), "seam") < 0.5


@pytest.mark.parametrize("gain_db", [-12, -6, 6, 12])
def test_a_level_step_at_the_cutoff_measures_its_height_and_a_crossfade_softens_it(gain_db: float) -> None:
    high, gain = noise(), 10 ** (gain_db / 20)
    hard = value(high, high_band_gain(high, gain, CUTOFF_HZ), "seam")
    soft = value(high, high_band_gain(high, gain, CUTOFF_HZ, "crossfade"), "seam")
    assert hard == pytest.approx(abs(gain_db), abs=1.0)
    assert soft < 0.6 * hard


def test_a_gain_or_a_tilt_over_the_whole_band_is_no_seam() -> None:
    high = noise()
    assert value(high, 3 * high, "seam") == pytest.approx(0, abs=1e-4)
    tilted = torch.nn.functional.pad(high, (1, 0))[:, :-1] * -0.5 + high  # 9.5 dB over the whole band
    assert value(high, tilted, "seam") < 0.5


def test_the_gap_that_a_splice_above_the_cutoff_leaves_is_a_seam_and_a_crossfade_fills_it() -> None:
    """The roll-off of band-limited noise lies above its cutoff, so a hard splice there takes a band that is empty."""
    high = noise(LONG // 4)
    low = torch.from_numpy(degrade(high.numpy(), Draw("chebyshev1", 8, CUTOFF_HZ)))
    splice_hz = CUTOFF_HZ + 150.0
    reference = Reference(high, CUTOFF_HZ, splice_hz)
    generated = high + 0.3 * noise(high.shape[1], seed=1)
    off, hard, crossfade = (
        reference.score(replace_low_band(generated[None], low[None], torch.tensor([splice_hz]), kind)[0])["seam"]
        for kind in ("off", "hard", "crossfade")
    )
    assert off < 0.5  # type: ignore[operator]
    assert hard > 10  # type: ignore[operator]
    assert off < crossfade < 0.6 * hard  # type: ignore[operator]


def test_the_seam_is_read_at_the_splice_and_the_bands_are_divided_at_the_cutoff() -> None:
    high = noise()
    estimate = add_line(high, 6_000.0, 0.1)
    at_cutoff, at_splice = (
        Reference(high, CUTOFF_HZ).score(estimate),
        Reference(high, CUTOFF_HZ, 6_000.0).score(estimate),
    )
    assert at_cutoff["seam"] < 0.5  # type: ignore[operator]
    assert at_splice["seam"] > 5  # type: ignore[operator]
    assert {**at_cutoff, "seam": None} == {**at_splice, "seam": None}
