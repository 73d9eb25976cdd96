"""Low-frequency replacement passes low exactly below the cutoff and the generated clip above it."""

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from sagasr.audio.degrade import Draw, degrade
from sagasr.audio.low_band import level_ratio, low_share, replace_low_band
from sagasr.audio.spectrum import BIN_HZ, NUM_BINS, cutoff_bin, rolloff_hz, stft

GUARD = 3  # bins: what a Hann window spreads of a splice


def noise(batch: int = 1, channels: int = 1, samples: int = 65_536, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(seed))


def cutoffs(*values: float) -> Tensor:
    return torch.tensor(values)


def largest_difference(one: Tensor, other: Tensor, bins: slice) -> float:
    """Return the largest spectral difference over bins, relative to the largest magnitude of ``other``.

    Frames that reach beyond an end are left out: a signal that breaks off is not band-limited.
    """
    first, second = stft(one)[..., 4:-4, bins], stft(other)[..., 4:-4, bins]
    return float((first - second).abs().max() / second.abs().max())


def test_off_is_the_generated_clip_itself() -> None:
    generated = noise()
    assert replace_low_band(generated, noise(seed=1), cutoffs(4_000.0), "off") is generated


@pytest.mark.parametrize("kind", ["hard", "crossfade"])
def test_a_generator_that_returns_low_gives_low(kind: str) -> None:
    high = noise()
    low = torch.from_numpy(degrade(high[0].numpy(), Draw("chebyshev1", 8, 4_000.0)))[None]
    result = replace_low_band(low.clone(), low, cutoffs(rolloff_hz(low[0])), kind)  # type: ignore[arg-type]
    assert (result - low).abs().max() < 1e-4 * low.abs().max()


@pytest.mark.parametrize(("kind", "edge"), [("hard", 1.0), ("crossfade", 0.9)])
def test_the_low_band_of_any_generator_becomes_that_of_low(kind: str, edge: float) -> None:
    high, cutoff_hz = noise(seed=1), 4_000.0
    low = torch.from_numpy(degrade(high[0].numpy(), Draw("butterworth", 2, cutoff_hz)))[None]
    for generated in (high, noise(seed=2)):
        result = replace_low_band(generated, low, cutoffs(cutoff_hz), kind)  # type: ignore[arg-type]
        below = slice(0, cutoff_bin(edge * cutoff_hz) - GUARD)
        assert largest_difference(result, low, below) < (1e-2 if kind == "hard" else 1e-3)
        deep = slice(0, cutoff_bin(0.5 * cutoff_hz))
        assert largest_difference(result, low, deep) < 1e-4
    assert largest_difference(high, low, slice(0, cutoff_bin(0.5 * cutoff_hz))) > 0.01  # there was something to replace


@pytest.mark.parametrize(("kind", "edge"), [("hard", 1.0), ("crossfade", 1.1)])
def test_the_high_band_stays_that_of_the_generated_clip(kind: str, edge: float) -> None:
    generated, low, cutoff_hz = noise(seed=1), noise(seed=2), 4_000.0
    result = replace_low_band(generated, low, cutoffs(cutoff_hz), kind)  # type: ignore[arg-type]
    assert largest_difference(result, generated, slice(cutoff_bin(2 * cutoff_hz), None)) < 1e-4
    assert largest_difference(result, generated, slice(cutoff_bin(edge * cutoff_hz) + GUARD, None)) < 1e-2


def test_a_hard_share_is_all_or_nothing_at_the_cutoff_bin() -> None:
    share = low_share(cutoffs(4_000.0, 186 * BIN_HZ), "hard")
    expected = (torch.arange(NUM_BINS) < 186).float()
    assert torch.equal(share, torch.stack([expected, expected]))


def test_a_crossfade_is_a_smooth_cosine_between_0_9_and_1_1_of_the_cutoff() -> None:
    cutoff_hz = 8_000.0
    share = low_share(cutoffs(cutoff_hz), "crossfade")[0].double()
    frequency = BIN_HZ * torch.arange(NUM_BINS).double()
    assert bool((share[frequency <= 0.9 * cutoff_hz] == 1).all())
    assert bool((share[frequency >= 1.1 * cutoff_hz] == 0).all())
    inside = (frequency > 0.9 * cutoff_hz) & (frequency < 1.1 * cutoff_hz)
    expected = np.cos(np.pi / 2 * (frequency[inside].numpy() / cutoff_hz - 0.9) / 0.2) ** 2
    assert np.allclose(share[inside].numpy(), expected, atol=1e-5)
    steps = share.diff()
    assert bool((steps <= 0).all())
    assert float(steps.abs().max()) < 0.03
    assert float(steps.diff().abs().max()) < 0.001  # no kink where the fade begins or ends


@pytest.mark.parametrize("kind", ["hard", "crossfade"])
def test_each_clip_of_a_batch_has_its_own_cutoff(kind: str) -> None:
    generated, low = noise(3, 2, seed=1), noise(3, 2, seed=2)
    frequencies = cutoffs(2_000.0, 5_000.0, 11_000.0)
    together = replace_low_band(generated, low, frequencies, kind)  # type: ignore[arg-type]
    for index in range(3):
        one = slice(index, index + 1)
        alone = replace_low_band(generated[one], low[one], frequencies[one], kind)  # type: ignore[arg-type]
        assert torch.allclose(together[one], alone, atol=1e-6)
    middle = slice(cutoff_bin(3_000), cutoff_bin(4_000))
    assert largest_difference(together[0], generated[0], middle) < 1e-3
    assert largest_difference(together[1], low[1], middle) < 1e-3


def released(generated: np.ndarray, low: np.ndarray, cutoff: int) -> np.ndarray:
    """Return one channel with its bins below ``cutoff`` from low, by the released rule, from librosa's transforms."""
    ours, theirs = (librosa.stft(audio, n_fft=2_048, hop_length=512) for audio in (low, generated))
    ratio = np.abs(ours[cutoff - 1]).sum() / np.abs(theirs[cutoff - 1]).sum()
    theirs[:cutoff] = ours[:cutoff] / np.clip(ratio, 0.8, 1.2)
    return librosa.istft(theirs, n_fft=2_048, hop_length=512, length=len(low))


@pytest.mark.parametrize("gain", [0.1, 0.7, 1.0, 1.1, 3.0])
def test_with_the_ratio_it_is_the_released_rule_channel_by_channel(gain: float) -> None:
    generated, low = noise(2, 2, seed=1), gain * noise(2, 2, seed=2)
    cutoff_hz = cutoffs(186 * BIN_HZ, 400 * BIN_HZ)
    found = replace_low_band(generated, low, cutoff_hz, "hard", "on")
    for clip, cutoff in enumerate((186, 400)):
        for channel in range(2):
            expected = released(generated[clip, channel].numpy(), low[clip, channel].numpy(), cutoff)
            assert np.abs(found[clip, channel].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("kind", ["hard", "crossfade"])
def test_the_ratio_stays_within_0_8_and_1_2_and_breaks_the_exact_passage(kind: str) -> None:
    low, deep = noise(seed=2), slice(0, cutoff_bin(2_000))
    for level, ratio in ((10.0, 0.8), (0.1, 1.2), (1.0, 1.0), (1 / 1.1, 1.1)):
        assert level_ratio(level * low, low, cutoffs(4_000.0)).item() == pytest.approx(ratio, rel=1e-5)
        found = replace_low_band(level * low, low, cutoffs(4_000.0), kind, "on")  # type: ignore[arg-type]
        assert largest_difference(found, low / ratio, deep) < 1e-4
        exact = replace_low_band(level * low, low, cutoffs(4_000.0), kind)  # type: ignore[arg-type]
        assert largest_difference(exact, low, deep) < 1e-4


def test_the_ratio_of_silence_is_1_and_of_a_silent_generator_the_largest() -> None:
    low, silence = noise(), torch.zeros(1, 1, 65_536)
    assert level_ratio(silence, silence, cutoffs(4_000.0)).item() == 1
    assert level_ratio(silence, low, cutoffs(4_000.0)).item() == pytest.approx(1.2)
    assert level_ratio(low, silence, cutoffs(0.0)).item() == pytest.approx(0.8)
    assert not replace_low_band(silence, silence, cutoffs(4_000.0), "hard", "on").any()


def test_the_ratio_without_replacement_does_nothing() -> None:
    generated = noise()
    assert replace_low_band(generated, noise(seed=1), cutoffs(4_000.0), "off", "on") is generated


@pytest.mark.parametrize("kind", ["off", "hard", "crossfade"])
@pytest.mark.parametrize("samples", [1, 2_047, 10_001, 65_535])
def test_every_length_is_kept_up_to_its_ends(kind: str, samples: int) -> None:
    generated, low = noise(2, 2, samples, seed=1), noise(2, 2, samples, seed=2)
    result = replace_low_band(generated, low, cutoffs(30_000.0, 0.0), kind)  # type: ignore[arg-type]
    assert (result.shape, result.dtype) == ((2, 2, samples), torch.float32)
    if kind != "off":
        assert torch.allclose(result[0], low[0], atol=1e-5)  # a cutoff above Nyquist takes all of low
    assert torch.allclose(result[1], generated[1], atol=1e-6)  # a cutoff of 0 takes nothing
