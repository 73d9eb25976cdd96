"""A trained model on a user's own recordings: lengths, rates, joints, the kept low band, the command, its refusals."""

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import butter, sosfilt

from sagasr.audio.degrade import Draw, degrade
from sagasr.audio.files import read_audio
from sagasr.audio.low_band import Kind
from sagasr.audio.spectrum import rolloff_hz, stft_magnitude
from sagasr.audio.stream import array_source
from sagasr.cli.train import train
from sagasr.cli.upsample import upsample
from sagasr.codec.codec import build_codec
from sagasr.codec.latents import LatentNorm
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import Config
from sagasr.constants import SAMPLE_RATE
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import write_text
from sagasr.model.saga import build_model
from sagasr.upsample.files import plan_files
from sagasr.upsample.upsampler import Settings, Upsampler
from sagasr.upsample.windows import Stream, window_starts

ROOT = Path(__file__).parents[3]
RECORDINGS = ROOT / "sagasr/recordings"
CHOSEN = {"train": ("speech/sp_001", "speech/sp_003", "effects/ef_001", "effects/ef_003"), "val": ("effects/ef_004",)}
WINDOW = 16_384  # samples; validation.segment of tiny.yaml
FEW = Settings(steps=2)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of 30 steps, by the command that users have."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("upsample")
    rows = ["path,split,domain,text"]
    for split, names in CHOSEN.items():
        for name in names:
            shutil.copy(RECORDINGS / f"{name}.flac", folder)
            rows.append(f"{Path(name).name}.flac,{split},sounds,a dog barks")
    write_text(folder / "all.csv", "\n".join(rows) + "\n")
    settings = {
        "data.train": folder / "all.csv",
        "data.val": folder / "all.csv",
        "degradation.variants": 1,
        "training.steps": 30,
        "validation.every": 1_000,
        "evaluation.sampler.steps": 2,
    }
    text = (ROOT / "search_spaces/tiny.yaml").read_text(encoding="utf-8")
    write_text(folder / "config.yaml", text)
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert train([str(folder / "config.yaml"), "--out", str(folder / "trial"), *changes]) == 0
    shutil.rmtree(folder / "trial" / "encoded")  # what follows needs the trial alone
    return folder / "trial"


@pytest.fixture(scope="module")
def upsampler(trial: Path) -> Upsampler:
    return Upsampler.load(trial)


def noise(samples: int, rate: int = SAMPLE_RATE, cutoff_hz: float = 3_000.0, channels: int = 1) -> np.ndarray:
    """Stationary noise [C, T] with nothing above a cutoff."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal((channels, samples)))
    spectrum[:, np.fft.rfftfreq(samples, 1 / rate) > cutoff_hz] = 0
    audio = np.fft.irfft(spectrum, samples)
    return (0.1 * audio / audio.std()).astype(np.float32)


# ------------------------------------------------------------------------------------------ length and layout


@pytest.mark.parametrize(("rate", "samples"), [(8_000, 9_001), (22_050, 12_345), (44_100, 30_001), (48_000, 20_003)])
def test_output_has_exactly_the_samples_of_the_resampled_input(upsampler: Upsampler, rate: int, samples: int) -> None:
    audio = upsampler.upsample(noise(samples, rate)[0], rate, FEW)
    assert audio.shape == (-(-samples * SAMPLE_RATE // rate),)
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()


@pytest.mark.parametrize("samples", [1, 777, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 63])
def test_any_length_comes_back_to_the_sample(upsampler: Upsampler, samples: int) -> None:
    assert upsampler.upsample(noise(max(samples, 64))[:, :samples], SAMPLE_RATE, FEW).shape == (1, samples)


@pytest.mark.parametrize("total", [1, 255, 256, 257, 449, 450, 1_000, 12_345])
def test_windows_cover_everything_and_overlap_by_a_quarter(total: int) -> None:
    starts = window_starts(total, 256)
    assert starts[0] == 0
    assert starts[-1] + 256 == max(total, 256)
    assert all(0 < then - now <= 192 for now, then in pairwise(starts))


def test_a_mono_model_gives_each_channel_of_a_stereo_recording_what_it_would_give_it_alone(
    upsampler: Upsampler,
) -> None:
    low = noise(20_000, channels=2)
    both = upsampler.upsample(low, SAMPLE_RATE, FEW)
    assert both.shape == low.shape
    for channel in range(2):
        alone = upsampler.upsample(low[channel], SAMPLE_RATE, FEW)
        np.testing.assert_allclose(both[channel], alone, atol=1e-5)


def test_equal_channels_stay_equal(upsampler: Upsampler) -> None:
    left, right = upsampler.upsample(np.repeat(noise(20_000), 2, axis=0), SAMPLE_RATE, FEW)
    np.testing.assert_allclose(left, right, atol=1e-6)


@pytest.fixture(scope="module")
def stereo(upsampler: Upsampler) -> Upsampler:
    """A stereo model whose weights are drawn: which channels it takes and gives does not depend on what it learned."""
    config = parse(Config, patch(upsampler.config.model_dump(mode="json"), {"audio.channels": 2}), "test")
    norm = LatentNorm(*(part.repeat(2) for part in upsampler.model.norm))
    model = build_model(config, norm, upsampler.facts.vocabulary)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(std=0.05, generator=generator)
    return Upsampler(config, upsampler.facts, model, build_codec(config.codec, 2))


def test_a_stereo_model_hears_both_channels_at_once(stereo: Upsampler) -> None:
    low = noise(20_000, channels=2)
    free = Settings(steps=2, lfr="off")
    both = stereo.upsample(low, SAMPLE_RATE, free)
    assert both.shape == low.shape
    assert np.abs(both[0] - both[1]).max() > 1e-3
    other = stereo.upsample(low * [[1.0], [-0.5]], SAMPLE_RATE, free)
    assert np.abs(both[0] - other[0]).max() > 1e-3  # what the right channel is matters to the left one


def test_a_stereo_model_takes_mono_twice_and_its_answers_are_averaged(stereo: Upsampler) -> None:
    low = noise(20_000)
    both = stereo.upsample(np.repeat(low, 2, axis=0), SAMPLE_RATE, FEW)
    alone = stereo.upsample(low[0], SAMPLE_RATE, FEW)
    np.testing.assert_allclose(alone, both.mean(0), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_stereo_model_keeps_the_low_band_of_each_channel(stereo: Upsampler, channels: int) -> None:
    low = noise(40_000, channels=channels) * np.array([[1.0], [0.3]], np.float32)[:channels]
    result = stereo.upsample(low, SAMPLE_RATE, Settings(steps=2, cutoff_hz=3_000.0))
    for before, after in zip(low, result, strict=True):
        assert low_band_error_db(before[None], after[None], 2_500.0) < 0.1


def test_recordings_that_share_batches_come_back_in_their_order_and_unmixed(upsampler: Upsampler) -> None:
    recordings = [(noise(20_000), SAMPLE_RATE), (np.zeros((1, 5_000), np.float32), SAMPLE_RATE), (noise(3_000), 8_000)]
    together = list(upsampler.upsample_each(recordings, FEW))
    for audio, (low, rate) in zip(together, recordings, strict=True):
        np.testing.assert_allclose(audio, upsampler.upsample(low, rate, FEW), atol=1e-5)


def test_progress_adds_up_to_the_length_of_the_recording(upsampler: Upsampler) -> None:
    heard: list[float] = []
    upsampler.upsample(noise(50_000, channels=2), SAMPLE_RATE, FEW, heard.append)
    assert sum(heard) == pytest.approx(50_000 / SAMPLE_RATE)


# ------------------------------------------------------------------------------------------ what it does


def test_a_high_band_appears(upsampler: Upsampler) -> None:
    low = noise(40_000)
    high = upsampler.upsample(low, SAMPLE_RATE, FEW)
    above = slice(int(4_000 * 2_048 / SAMPLE_RATE), None)
    bands = [float(stft_magnitude(torch.from_numpy(audio[0]))[:, above].square().mean()) for audio in (high, low)]
    assert bands[0] > 10 * bands[1]


def test_silence_stays_silence(upsampler: Upsampler) -> None:
    assert not upsampler.upsample(np.zeros((2, 40_000)), SAMPLE_RATE, FEW).any()


def test_the_result_is_as_much_louder_as_the_recording(upsampler: Upsampler) -> None:
    low = noise(40_000)
    loud, quiet = (upsampler.upsample(gain * low, SAMPLE_RATE, FEW) for gain in (1.0, 0.01))
    np.testing.assert_allclose(0.01 * loud, quiet, atol=1e-5)


def low_band_error_db(before: np.ndarray, after: np.ndarray, below_hz: float) -> float:
    """Return the largest difference in power below a frequency: of a frequency over time, or of a moment over them."""
    powers = [
        stft_magnitude(torch.from_numpy(audio[0]).double())[:, : int(below_hz * 2_048 / SAMPLE_RATE)].square()
        for audio in (before, after)
    ]
    ratios = []
    for axis in (0, 1):
        was, now = (power.sum(axis) for power in powers)
        loud = was > 1e-6 * was.max()
        ratios.append(now[loud] / was[loud])
    return float((10 * torch.cat(ratios).log10()).abs().max())


@pytest.mark.parametrize("kind", ["crossfade", "hard"])
def test_the_low_band_is_that_of_the_input_within_a_tenth_of_a_decibel(upsampler: Upsampler, kind: Kind) -> None:
    low = degrade(read_audio(RECORDINGS / "effects/ef_001.flac", 1), Draw("chebyshev1", 8, 4_000.0))
    result = upsampler.upsample(low, SAMPLE_RATE, Settings(steps=2, lfr=kind))
    assert low_band_error_db(low, result, 0.85 * rolloff_hz(low)) < 0.1
    given = upsampler.upsample(low, SAMPLE_RATE, Settings(steps=2, lfr=kind, cutoff_hz=4_000.0))
    assert low_band_error_db(low, given, 3_400.0) < 0.1
    free = upsampler.upsample(low, SAMPLE_RATE, Settings(steps=2, lfr="off"))
    assert low_band_error_db(low, free, 0.85 * rolloff_hz(low)) > 0.1  # the bound can be missed


def test_joints_do_not_click(upsampler: Upsampler) -> None:
    """Second differences, in which a step stands out, are at the joints as they are elsewhere."""
    samples = 12 * WINDOW
    result = upsampler.upsample(noise(samples)[0], SAMPLE_RATE, Settings(steps=2, lfr="off"))
    curvature = np.abs(np.diff(result, 2))
    starts = [2_048 * start for start in window_starts(samples // 2_048, WINDOW // 2_048)]
    # Both edges of each overlap, its middle, where its cross-fade begins and ends, and where settled latents end.
    edges = [
        place
        for now, then in pairwise(starts)
        for place in (
            then,
            now + WINDOW,
            *((then + now + WINDOW) // 2 + offset for offset in (-1_536, -1_024, 0, 1_024, 1_536)),
        )
    ]
    at_joints = np.array([curvature[place - 8 : place + 8].max() for place in edges])
    elsewhere = curvature[: len(curvature) // 16 * 16].reshape(-1, 16).max(1)
    assert at_joints.max() <= elsewhere.max()
    assert np.median(at_joints) < 1.5 * np.median(elsewhere)
    stepped = result.copy()
    stepped[starts[3] :] += 4 * result.std()
    assert np.abs(np.diff(stepped, 2))[starts[3] - 8 : starts[3] + 8].max() > elsewhere.max()  # what it would notice


def high_band(audio: np.ndarray) -> np.ndarray:
    """Return what was generated of audio [T] whose low band ends at 3 kHz."""
    return sosfilt(butter(8, 5_000, "high", output="sos", fs=SAMPLE_RATE), audio)


def test_joints_keep_the_level_of_what_is_generated(upsampler: Upsampler) -> None:
    """Level in frames of 12 ms round 36 joints against those elsewhere: on average, at worst, and in their spread."""
    samples, frame = 28 * WINDOW, 512
    result = upsampler.upsample(noise(samples)[0], SAMPLE_RATE, Settings(steps=4, lfr="off", rolloff_target=0.8))
    power = np.square(high_band(result))
    starts = [2_048 * start for start in window_starts(samples // 2_048, WINDOW // 2_048)]
    middles = [(then + now + WINDOW) // 2 for now, then in pairwise(starts)]
    assert len(middles) == 36
    level = 10 * np.log10(power[: samples // frame * frame].reshape(-1, frame).mean(1) / power.mean())
    for offset in range(-2_048, 2_049, 512):  # all of an overlap, its cross-fade and the ends of what is settled
        places = [middle + offset for middle in middles]
        at_joints = 10 * np.log10([power[place - 256 : place + 256].mean() / power.mean() for place in places])
        assert abs(10 * np.log10(np.mean(10 ** (at_joints / 10)))) < 0.5
        assert at_joints.min() > level.min() - 1.0
        assert at_joints.max() < level.max() + 1.0


def test_windows_agree_where_they_are_mixed(upsampler: Upsampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions of a stretch that differ lose up to 3 dB when they are mixed; these are the same."""
    made: dict[int, np.ndarray] = {}
    plain = Stream.finish

    def keep(stream: Stream, index: int, audio: np.ndarray, *rest: object) -> None:
        made[stream.starts[index]] = audio[0]
        plain(stream, index, audio, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Stream, "finish", keep)
    upsampler.upsample(noise(6 * WINDOW + 4_321)[0], SAMPLE_RATE, Settings(steps=4, lfr="off"))
    for now, then in pairwise(sorted(made)):
        middle = (now + WINDOW + then) // 2
        first, second = (made[start][middle - 1_024 - start : middle + 1_024 - start] for start in (now, then))
        assert np.square(first - second).mean() < 1e-4 * np.square(first).mean()


def snr_db(before: np.ndarray, after: np.ndarray, below_hz: float) -> float:
    """Return how far what changed of a recording's own band lies below it, in its worse channel."""
    bins = np.fft.rfftfreq(before.shape[1], 1 / SAMPLE_RATE) < below_hz
    was, now = (np.fft.rfft(audio * np.hanning(audio.shape[1]))[:, bins] for audio in (before, after))
    return float(10 * np.log10(np.square(np.abs(was)).sum(1) / np.square(np.abs(now - was)).sum(1)).min())


def cancelling(case: str) -> np.ndarray:
    """Return stereo with a band to 8 kHz of which the mean of its channels has little or nothing."""
    wide, narrow = noise(60_000, cutoff_hz=8_000.0), noise(60_000, cutoff_hz=500.0)
    match case:
        case "opposite":
            return np.concatenate([wide, -wide])
        case "side":
            return np.concatenate([narrow + wide, narrow - wide])
        case "quiet side":
            return np.concatenate([narrow + 0.01 * wide, narrow - 0.01 * wide])
        case "one quiet channel":
            return np.concatenate([narrow, 0.03 * wide])
    raise AssertionError(case)


@pytest.mark.parametrize("case", ["opposite", "side", "quiet side", "one quiet channel"])
@pytest.mark.parametrize("model", ["stereo", "upsampler"])
def test_what_cancels_in_the_mean_of_channels_is_kept(request: pytest.FixtureRequest, model: str, case: str) -> None:
    low = cancelling(case)
    result = next(request.getfixturevalue(model).upsample_blocks([array_source(low, SAMPLE_RATE)], FEW))
    after = np.concatenate(list(result.blocks), axis=1)
    assert result.cutoffs_hz[1] == pytest.approx(8_000, rel=0.03)
    assert snr_db(low[1:], after[1:], 7_000.0) > 50
    assert snr_db(low, after, 400.0) > 50


def test_a_silent_channel_stays_silent_beside_one_that_is_not(stereo: Upsampler) -> None:
    low = noise(40_000, channels=2) * [[1.0], [0.0]]
    result = stereo.upsample(low, SAMPLE_RATE, FEW)
    assert np.abs(result[1]).max() < 1e-6 < np.abs(result[0]).max()


@pytest.mark.parametrize("lfr", ["off", "crossfade"])
def test_an_offset_changes_nothing_and_stays(upsampler: Upsampler, lfr: Kind) -> None:
    low = 0.1 * noise(40_000, channels=2)
    plain = upsampler.upsample(low, SAMPLE_RATE, Settings(steps=2, lfr=lfr))
    moved = upsampler.upsample(np.add(low, [[0.05], [-0.02]]), SAMPLE_RATE, Settings(steps=2, lfr=lfr))
    np.testing.assert_allclose(moved - plain, np.broadcast_to([[0.05], [-0.02]], low.shape), atol=5e-5)


# ------------------------------------------------------------------------------------------ memory

# The peak of this process alone: ru_maxrss begins with that of the parent, here a whole run of tests.
PEAK = r"""
import re, sys
from pathlib import Path
from sagasr.upsample import Settings, Upsampler
from sagasr.upsample.files import upsample_files

upsampler, settings = Upsampler.load(sys.argv[1]), Settings(steps=1, guidance=(1.0, 1.0))
for name in ("short", "long"):
    folder = Path(sys.argv[2])
    upsample_files([(folder / f"{name}.wav", folder / f"{name}.flac")], upsampler, settings)
    print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(trial: Path, tmp_path: Path) -> None:
    """Peak of a process: five minutes of stereo, mostly silence, take what 15 s take; a copy of them has 106 MB."""
    piece = np.pad(noise(48_000, 48_000, channels=2).T, ((0, 14 * 48_000), (0, 0)))
    for name, repeated in (("short", 1), ("long", 20)):
        soundfile.write(tmp_path / f"{name}.wav", np.tile(piece, (repeated, 1)), 48_000)
    command = [sys.executable, "-c", PEAK, str(trial), str(tmp_path)]
    short, long = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert soundfile.info(tmp_path / "long.flac").frames == 300 * SAMPLE_RATE
    assert long < 2_000
    assert long - short < 60


def test_equal_seeds_give_equal_audio_and_others_do_not(upsampler: Upsampler, trial: Path) -> None:
    low = noise(20_000)
    first, again, other = (upsampler.upsample(low, SAMPLE_RATE, Settings(steps=2, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, Upsampler.load(trial).upsample(low, SAMPLE_RATE, Settings(steps=2, seed=1)))
    assert np.abs(first - other).max() > 1e-4


@pytest.mark.parametrize(
    "change", [{"rolloff_target": 0.3}, {"guidance": (1.0, 1.0)}, {"steps": 3}, {"text": "a dog"}, {"lfr": "hard"}]
)
def test_each_setting_changes_the_result(upsampler: Upsampler, change: dict) -> None:
    low = noise(WINDOW)
    plain = upsampler.upsample(low, SAMPLE_RATE, FEW)
    assert np.abs(plain - upsampler.upsample(low, SAMPLE_RATE, Settings(**{"steps": 2} | change))).max() > 0


def test_averaged_and_raw_weights_differ(upsampler: Upsampler, trial: Path) -> None:
    low = noise(WINDOW)
    raw = Upsampler.load(trial, weights="raw").upsample(low, SAMPLE_RATE, FEW)
    assert np.abs(raw - upsampler.upsample(low, SAMPLE_RATE, FEW)).max() > 0


# ------------------------------------------------------------------------------------------ the command


def test_a_folder_becomes_a_folder_of_flac_files(
    trial: Path, upsampler: Upsampler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    soundfile.write(tmp_path / "in/a.wav", noise(9_000, 16_000, channels=2).T, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "in/deep/b.flac", noise(9_000)[0], SAMPLE_RATE)
    (tmp_path / "in/notes.txt").write_text("not a recording")
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--checkpoint", str(trial), "--steps", "2"]
    assert upsample([*arguments, "--rolloff-target", "0.8", "--guidance", "1.2,1.0"]) == 0
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
        "a.flac",
        "deep/b.flac",
    ]
    assert soundfile.info(tmp_path / "out/a.flac").channels == 2
    assert soundfile.info(tmp_path / "out/a.flac").frames == -(-9_000 * SAMPLE_RATE // 16_000)
    assert capsys.readouterr().out.count(".flac") == 2
    expected = upsampler.upsample(
        read_audio(tmp_path / "in/deep/b.flac", None),
        SAMPLE_RATE,
        Settings(steps=2, rolloff_target=0.8, guidance=(1.2, 1.0)),
    )
    np.testing.assert_allclose(read_audio(tmp_path / "out/deep/b.flac", None), expected, atol=1e-5)


def upsample_loudly(
    trial: Path, tmp_path: Path, source: str, target: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Upsample ``loud.wav``, which reaches 3, or what lies beside it; return the code and what was printed."""
    (tmp_path / "in").mkdir()
    low = noise(60_000)[0]
    soundfile.write(tmp_path / "in/loud.wav", 3 / np.abs(low).max() * low, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "in/plain.wav", low, SAMPLE_RATE, subtype="FLOAT")
    code = upsample([str(tmp_path / source), str(tmp_path / target), "--checkpoint", str(trial), "--steps=2"])
    return code, *capsys.readouterr()


def test_a_wav_file_holds_what_passes_full_scale(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, _ = upsample_loudly(trial, tmp_path, "in/loud.wav", "out.wav", capsys)
    assert code == 0
    assert re.fullmatch(r"\S+out\.wav  1\.4 s  cutoff (2,9|3,0)\d\d Hz\n", told)
    assert soundfile.info(tmp_path / "out.wav").subtype == "FLOAT"
    before, after = (read_audio(tmp_path / name, None) for name in ("in/loud.wav", "out.wav"))
    assert np.abs(after).max() > 2
    assert low_band_error_db(before, after, 2_500.0) < 0.1


def test_a_flac_file_is_refused_to_what_passes_full_scale(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, error = upsample_loudly(trial, tmp_path, "in/loud.wav", "out.flac", capsys)
    assert (code, told) == (2, "")
    assert re.search(r"in/loud\.wav: reaches 3, beyond full scale.*name the result out\.wav", error)
    assert not (tmp_path / "out.flac").exists()


def test_in_a_folder_what_passes_full_scale_becomes_wav_and_the_line_says_so(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, _ = upsample_loudly(trial, tmp_path, "in", "out", capsys)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["loud.wav", "plain.flac"]
    assert ["passes full scale" in line for line in told.splitlines()] == [True, False]


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_loud_compressed_recordings_become_flac(
    trial: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    low = noise(60_000)
    source = tmp_path / f"in/a.{suffix}"
    source.parent.mkdir()
    soundfile.write(source, 1.02 / np.abs(low).max() * low[0], SAMPLE_RATE)
    assert np.abs(read_audio(source, None)).max() > 1
    for results in ("a.flac", "out"):
        given = source if results == "a.flac" else source.parent
        arguments = [str(given), str(tmp_path / results), "--checkpoint", str(trial), "--steps=1"]
        assert upsample(arguments) == 0
        assert re.search(r"a\.flac .*  [\d,]+ samples clipped at full scale", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("peak", "beyond", "suffix"), [(1.4, 50, ".flac"), (2.0, 1, ".flac"), (2.1, 1, ".wav"), (1.1, 70, ".wav")]
)
def test_only_what_passes_full_scale_by_far_or_often_needs_wav(
    tmp_path: Path, peak: float, beyond: int, suffix: str
) -> None:
    (tmp_path / "in").mkdir()
    audio = noise(60_000)[0] / 10
    audio[500 : 500 + beyond] = peak
    soundfile.write(tmp_path / "in/a.wav", audio, SAMPLE_RATE, subtype="FLOAT")
    ((_, result),) = plan_files(tmp_path / "in", tmp_path / "out")
    assert result == tmp_path / f"out/a{suffix}"


def test_a_wav_file_that_full_scale_asks_for_overwrites_no_input(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 30 * noise(9_000)[0], SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(DataError, match="would overwrite"):
        plan_files(tmp_path / "a.wav", tmp_path)


def test_the_line_says_how_many_samples_a_flac_file_has_clipped(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = noise(60_000)[0]
    soundfile.write(tmp_path / "a.wav", 0.9999 / np.abs(low).max() * low, SAMPLE_RATE, subtype="FLOAT")
    for name in ("a.flac", "b.wav"):
        arguments = [str(tmp_path / "a.wav"), str(tmp_path / name), "--checkpoint", str(trial), "--lfr=off"]
        assert upsample([*arguments, "--steps=1", "--guidance=4,1"]) == 0
    clipped = int(np.sum(np.abs(read_audio(tmp_path / "b.wav", None)) > 1))
    assert clipped
    assert f"  {clipped:,} samples clipped at full scale" in capsys.readouterr().out.splitlines()[0]


def test_names_of_files_are_kept_and_shown_harmlessly(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        b"<script>",
        b"a'b\"c$(x)",
        b"two\nlines",
        b"\x1b[31mred",
        "\u202egnp \N{MUSICAL NOTE}".encode(),
        b"\xff\xfe",
    ]
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "plain.wav", noise(4_000)[0], SAMPLE_RATE)
    for name in names:
        shutil.copy(tmp_path / "plain.wav", os.fsencode(tmp_path / "in") + b"/" + name + b".wav")
    command = [str(tmp_path / "in"), str(tmp_path / "out"), "--checkpoint", str(trial), "--steps", "1"]
    assert upsample(command) == 0
    assert sorted(os.fsencode(path.name) for path in (tmp_path / "out").iterdir()) == sorted(
        name + b".flac" for name in names
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names)
    assert all(line.isprintable() for line in lines)


def test_one_checkpoint_is_as_good_as_its_folder(trial: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(4_000)[0], SAMPLE_RATE)
    (folder,) = (trial / "checkpoints").iterdir()
    for checkpoint, name in ((trial, "x.flac"), (folder, "y.flac")):
        command = [str(tmp_path / "a.wav"), str(tmp_path / name), "--checkpoint", str(checkpoint), "--steps", "1"]
        assert upsample(command) == 0
    assert (tmp_path / "x.flac").read_bytes() == (tmp_path / "y.flac").read_bytes()


def test_all_unreadable_files_are_named_before_anything_is_written(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/good.wav", noise(9_000)[0], SAMPLE_RATE)
    (tmp_path / "in/empty.wav").touch()
    (tmp_path / "in/text.mp3").write_text("no music")
    assert upsample([str(tmp_path / "in"), str(tmp_path / "out"), "--checkpoint", str(trial)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"in/(\w+)\.", line)[1] for line in lines] == ["empty", "text"]  # type: ignore[index]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["in", "in/results"])
def test_results_never_land_among_the_recordings(tmp_path: Path, target: str) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/a.flac", noise(9_000)[0], SAMPLE_RATE)
    with pytest.raises(DataError, match="lies inside"):
        plan_files(tmp_path / "in", tmp_path / target)
    with pytest.raises(DataError, match="would overwrite"):
        plan_files(tmp_path / "in/a.flac", tmp_path / "in")


def test_two_recordings_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for suffix in ("wav", "flac"):
        soundfile.write(tmp_path / f"in/a.{suffix}", noise(9_000)[0], SAMPLE_RATE)
    with pytest.raises(DataError, match="rename one of the two"):
        plan_files(tmp_path / "in", tmp_path / "out")


# ------------------------------------------------------------------------------------------ errors


def test_unusable_trials_are_one_line_each(trial: Path, tmp_path: Path) -> None:
    def broken(damage: str) -> Path:
        copy = tmp_path / re.sub(r"\W", "", damage)
        shutil.copytree(trial, copy)
        (folder,) = (copy / "checkpoints").iterdir()
        match damage:
            case "config":
                (copy / "config.yaml").unlink()
            case "facts":
                (copy / "model.json").unlink()
            case "checkpoints":
                shutil.rmtree(folder)
            case "bytes":
                tensors = folder / "tensors.safetensors"
                tensors.write_bytes(tensors.read_bytes()[:-9])
            case "model":
                text = (copy / "config.yaml").read_text(encoding="utf-8")
                write_text(copy / "config.yaml", text.replace("depth: 2", "depth: 3"))
        return copy

    for damage, words in {
        "config": "not a trial folder",
        "facts": "model.json: missing",
        "checkpoints": "no checkpoint yet",
        "bytes": "does not match its hash",
        "model": "not a checkpoint of the model in",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            Upsampler.load(broken(damage))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="not a trial folder"):
        Upsampler.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint", "nowhere"], "not a trial folder"),
        (["--rolloff-target", "7"], "share of 22050"),
        (["--steps", "0"], "steps"),
        (["--guidance=-1,1"], "guidance -1,1: "),
        (["--text", "xylophone"], "learned none of these words"),
        (["--cutoff", "99999"], "between 0 and"),
    ],
)
def test_the_command_refuses_in_one_line_with_code_2(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    soundfile.write(tmp_path / "a.wav", noise(9_000)[0], SAMPLE_RATE)
    command = [str(tmp_path / "a.wav"), str(tmp_path / "x.flac"), "--checkpoint", str(trial), *arguments]
    try:
        code: object = upsample(command)
    except SystemExit as end:  # what the parser itself refuses
        code = end.code
    assert code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.flac").exists()


def test_audio_that_no_model_takes_is_refused(upsampler: Upsampler) -> None:
    for audio in (np.zeros((3, 100)), np.zeros((100, 2)), np.zeros(0), np.full((1, 100), np.nan)):
        with pytest.raises(DataError):
            upsampler.upsample(audio, SAMPLE_RATE)
    with pytest.raises(DataError, match="sample rate"):
        upsampler.upsample(np.zeros(100), 0)
    with pytest.raises(ConfigError, match="did you mean 'hard'"):
        Settings(lfr="hart")  # type: ignore[arg-type]
