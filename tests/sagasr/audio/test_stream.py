"""Streams of audio: block by block they are what the whole is, and what they write appears whole or not at all."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sagasr.audio import stream
from sagasr.audio.degrade import Draw, degrade
from sagasr.audio.files import read_audio, resample
from sagasr.audio.spectrum import rolloff_hz
from sagasr.audio.stream import Buffer, Spectrum, array_source, file_source, resampled, write_blocks
from sagasr.constants import SAMPLE_RATE
from sagasr.io.errors import DataError
from tests.encoded import encoded

RECORDINGS = Path(__file__).parents[3] / "sagasr/recordings"


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((channels, samples))).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 44_101, 48_000, 96_000])
@pytest.mark.parametrize("samples", [1, 700, 9_001, 100_003])
def test_blocks_are_resampled_as_the_whole_is(monkeypatch: pytest.MonkeyPatch, rate: int, samples: int) -> None:
    monkeypatch.setattr(stream, "BLOCK", 4_000)
    audio = noise(samples, channels=2)
    source = array_source(audio, rate)
    blocks = list(resampled(source))
    assert sum(block.shape[1] for block in blocks) == source.length == -(-samples * SAMPLE_RATE // rate)
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), resample(audio, rate), atol=1e-7)


def test_a_file_is_read_in_blocks_as_it_is_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(30_001, 2).T, 48_000, subtype="FLOAT")
    monkeypatch.setattr("sagasr.audio.decoders.BLOCK", 4_000)
    source = file_source(tmp_path / "a.wav")
    for _ in range(2):  # it can be read again
        blocks = np.concatenate(list(resampled(source)), axis=1)
        np.testing.assert_allclose(blocks, read_audio(tmp_path / "a.wav", None), atol=1e-7)


def test_a_file_whose_length_only_decoding_tells_is_counted(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp3", noise(300_001, 2), 48_000, "libmp3lame", {"write_xing": "0"})
    source = file_source(path)
    assert source.samples == sum(block.shape[1] for block in source.blocks()) >= 300_001
    for _ in range(2):
        blocks = np.concatenate(list(resampled(source)), axis=1)
        np.testing.assert_allclose(blocks, read_audio(path, None), atol=1e-7)


def test_a_file_that_breaks_between_two_readings_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(300_000)[0], SAMPLE_RATE)
    source = file_source(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:200_000])
    with pytest.raises(DataError, match=r"a\.flac: (not readable|cut off)"):
        list(resampled(source))


@pytest.mark.parametrize("samples", [1, 511, 2_048, 50_001])
def test_the_roll_off_of_a_stream_is_that_of_the_whole(samples: int) -> None:
    audio = noise(samples).cumsum(1)
    spectrum = Spectrum()
    for start in range(0, samples, 3_000):
        spectrum.add(audio[0, start : start + 3_000])
    spectrum.close()
    assert spectrum.frames == samples // 512 + 1
    assert spectrum.rolloff_hz == rolloff_hz(audio)


def cutoff_of(audio: np.ndarray) -> float:
    spectrum = Spectrum()
    spectrum.add(audio[0])
    spectrum.close()
    return spectrum.cutoff_hz


@pytest.mark.parametrize("name", ["speech/sp_001", "music/mu_001", "effects/ef_001"])
@pytest.mark.parametrize(
    ("family", "order", "least"),
    [("chebyshev1", 8, 0.8), ("elliptic", 10, 0.7), ("butterworth", 2, 0.6), ("bessel", 4, 0.6)],
)
def test_the_end_of_the_band_is_found_whatever_filter_made_it(name: str, family: Any, order: int, least: float) -> None:
    high = read_audio(RECORDINGS / f"{name}.flac", 1)
    for cutoff_hz in (2_500.0, 4_000.0, 8_000.0):
        if rolloff_hz(high) > 1.5 * cutoff_hz:
            low = degrade(high, Draw(family, order, cutoff_hz))
            assert least * cutoff_hz < cutoff_of(low) < 1.1 * cutoff_hz
            assert cutoff_of(low) >= rolloff_hz(low)


def test_a_band_that_ends_far_above_the_roll_off_is_kept() -> None:
    """Bass makes the roll-off; what lies between it and the end of the band is no less real."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(8 * SAMPLE_RATE))
    frequency = np.fft.rfftfreq(8 * SAMPLE_RATE, 1 / SAMPLE_RATE)
    spectrum *= np.where(frequency < 12_000, np.maximum(frequency, 50) ** -1.5, 0)
    audio = np.fft.irfft(spectrum)[None].astype(np.float32)
    audio *= 0.1 / audio.std()
    assert rolloff_hz(audio) < 9_500
    assert cutoff_of(audio) == pytest.approx(12_000, rel=0.03)


def test_a_recording_without_an_end_of_its_band_is_measured_by_its_roll_off() -> None:
    audio = noise(100_000)
    assert cutoff_of(audio) == rolloff_hz(audio)
    assert cutoff_of(np.zeros((1, 9_000), np.float32)) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "add", "drop"]), st.integers(1, 40)), max_size=12), st.data())
def test_a_buffer_is_a_window_on_an_endless_recording(steps: list, data: st.DataObject) -> None:
    buffer, model = Buffer(2), np.zeros((2, 2_000), np.float32)
    for number, (step, size) in enumerate(steps):
        match step:
            case "append":
                model[:, buffer.stop : buffer.stop + size] += number + 1
                buffer.append(np.full((2, size), number + 1, np.float32))
            case "add":
                start = data.draw(st.integers(buffer.start, buffer.stop))
                model[:, start : start + size] += number + 1
                buffer.add(start, np.full((2, size), number + 1, np.float32))
            case "drop":
                buffer.drop(min(buffer.start + size, buffer.stop))
    model[:, : buffer.start] = 0
    start = data.draw(st.integers(0, 500))
    stop = start + data.draw(st.integers(0, 500))
    np.testing.assert_array_equal(buffer.cut(start, stop), model[:, start:stop])


# ------------------------------------------------------------------------------------------ writing


def test_blocks_become_one_file(tmp_path: Path) -> None:
    audio = noise(100_001, 2)
    blocks = (audio[:, start : start + 4_096] for start in range(0, 100_001, 4_096))
    assert write_blocks(tmp_path / "deep/a.flac", blocks, 2, 100_001) == 0
    np.testing.assert_allclose(read_audio(tmp_path / "deep/a.flac", None), audio, atol=2**-23)


@pytest.mark.parametrize(("most", "kind"), [(stream.WAV_BYTES, "WAV"), (10_000, "RF64")])
def test_a_wav_file_holds_floats_and_one_of_more_than_four_gigabytes_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int, kind: str
) -> None:
    monkeypatch.setattr(stream, "WAV_BYTES", most)
    audio = 30 * noise(9_000, 2)
    assert write_blocks(tmp_path / "a.wav", [audio[:, :4_000], audio[:, 4_000:]], 2, 9_000) == 0
    assert soundfile.info(tmp_path / "a.wav").format == kind
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", None), audio)


def test_a_flac_file_ends_at_full_scale_and_what_it_clips_is_counted(tmp_path: Path) -> None:
    audio = 10 * noise(9_000, 2)
    clipped = write_blocks(tmp_path / "a.flac", [audio[:, :4_000], audio[:, 4_000:]], 2, 9_000)
    assert clipped == np.sum(np.abs(audio) > 1) > 0
    np.testing.assert_allclose(read_audio(tmp_path / "a.flac", None), np.clip(audio, -1, 1), atol=2**-22)


def test_the_last_of_several_falls_ends_the_band() -> None:
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE))
    frequency = np.fft.rfftfreq(4 * SAMPLE_RATE, 1 / SAMPLE_RATE)
    spectrum *= np.where(frequency < 1_000, 1, np.where(frequency < 8_000, 10**-2.5, 0))
    audio = (np.fft.irfft(spectrum) * np.hanning(4 * SAMPLE_RATE))[None].astype(np.float32)
    assert cutoff_of(audio) == pytest.approx(8_000, rel=0.03)


@pytest.mark.parametrize("line_hz", [[8_000.0], [15_625.0], [15_625.0, 19_000.0]])
@pytest.mark.parametrize("level", [1e-4, 1e-3])
def test_a_faint_line_above_the_band_is_no_part_of_it(line_hz: list[float], level: float) -> None:
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE))
    spectrum[np.fft.rfftfreq(4 * SAMPLE_RATE, 1 / SAMPLE_RATE) > 4_000] = 0
    audio = np.fft.irfft(spectrum)
    seconds = np.arange(len(audio)) / SAMPLE_RATE
    lines = level * sum(np.sin(2 * np.pi * frequency * seconds) for frequency in line_hz)
    audio = (0.05 / audio.std() * audio + lines) * np.hanning(len(audio))  # no click at its ends
    assert cutoff_of(audio[None].astype(np.float32)) == pytest.approx(4_000, rel=0.03)


def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_text("old")
    with pytest.raises(DataError, match="NaN"):
        write_blocks(path, [noise(9_000), np.full((1, 9), np.nan, np.float32)], 1, 9_009)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.flac"]


@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
def test_a_full_disk_is_one_line_and_no_file(tmp_path: Path, name: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # writes fail from there on, as on a full disk
    try:
        with pytest.raises(DataError, match=rf"{name}: could not be written whole; is the disk full\?"):
            write_blocks(tmp_path / name, (noise(60_000) for _ in range(5)), 1, 300_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
