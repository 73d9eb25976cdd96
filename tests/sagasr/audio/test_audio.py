"""Recordings are read whole or refused by name; the roll-off is that of the paper."""

import os
import re
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from scipy import signal

from sagasr.audio import files, spectrum
from sagasr.audio.decoders import SUFFIXES
from sagasr.audio.files import MIN_SAMPLES, decode, oddities, problem_of, read_audio, write_flac
from sagasr.audio.spectrum import BIN_HZ, NUM_BINS, cutoff_bin, mono, rolloff_hz, stft, stft_magnitude
from sagasr.constants import SAMPLE_RATE
from sagasr.io.errors import DataError
from tests.encoded import encoded, piped, with_streams

SECOND = SAMPLE_RATE


def noise(samples: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Return white noise [C, T] with standard deviation 0.1."""
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def tone(frequency_hz: float, rate: int, seconds: float) -> np.ndarray:
    """Return a sine [T] of amplitude 0.5."""
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(rate * seconds)) / rate)


def write(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, **options: str) -> Path:
    soundfile.write(path, samples.T, rate, **options)
    return path


def cut(path: Path, share: float) -> Path:
    """Return a copy of the file that ends after this share of its bytes."""
    target = path.with_name(f"cut-{path.name}")
    target.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return target


def refusal(path: Path) -> str:
    """Return the reason of refusal, after checking that it is one line that begins with the file."""
    with pytest.raises(DataError) as caught:
        read_audio(path, 1)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    reason = problem_of(path)
    assert reason is not None
    assert message == f"{path}: {reason}"
    return reason


# reading


def released_rolloff_hz(audio: np.ndarray | torch.Tensor) -> float:
    """The last bin that does not reach the share, as the authors' code reads it."""
    return max(0.0, rolloff_hz(audio) - BIN_HZ)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff"])
def test_samples_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    samples = noise(SECOND, channels=2)
    audio = read_audio(write(tmp_path / name, samples, subtype="PCM_16"), 2)
    assert (audio.dtype, audio.shape) == (np.float32, (2, SECOND))
    assert audio.flags.c_contiguous
    assert np.abs(audio - samples).max() <= 1 / 32_768


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_files_keep_their_length_and_their_tone(tmp_path: Path, name: str) -> None:
    audio = read_audio(write(tmp_path / name, tone(1_000, SAMPLE_RATE, 1)[None]), 1)
    assert audio.shape == (1, SECOND)
    assert abs(np.abs(np.fft.rfft(audio[0])).argmax() - 1_000) <= 1


def test_mono_is_duplicated_and_stereo_is_averaged(tmp_path: Path) -> None:
    mono, stereo = noise(SECOND), noise(SECOND, channels=2)
    of_mono = read_audio(write(tmp_path / "mono.wav", mono, subtype="FLOAT"), 2)
    of_stereo = read_audio(write(tmp_path / "stereo.wav", stereo, subtype="FLOAT"), 1)
    assert np.array_equal(of_mono, np.concatenate([mono, mono]))
    assert np.allclose(of_stereo[0], (stereo[0] + stereo[1]) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [7_350, 8_000, 11_025, 22_050, 44_099, 48_000, 96_000, 192_000])
def test_every_rate_becomes_44100_with_pitch_level_and_length_kept(tmp_path: Path, rate: int) -> None:
    audio = read_audio(write(tmp_path / "a.wav", tone(1_000, rate, 1)[None], rate), 1)
    assert abs(audio.shape[1] - SECOND) <= 2
    middle = audio[0, SECOND // 4 : 3 * SECOND // 4]
    expected = tone(1_000, SAMPLE_RATE, 1)[SECOND // 4 : 3 * SECOND // 4]
    assert np.abs(middle - expected).max() < 0.005


def test_silence_offset_clipping_and_eight_bits_are_read_as_they_are(tmp_path: Path) -> None:
    assert not read_audio(write(tmp_path / "silent.wav", np.zeros((1, SECOND))), 1).any()
    assert np.allclose(read_audio(write(tmp_path / "offset.wav", np.full((1, SECOND), 0.5)), 1), 0.5)
    clipped = read_audio(write(tmp_path / "clipped.wav", np.clip(20 * noise(SECOND), -1, 1)), 1)
    assert (np.abs(clipped) > 0.999).mean() > 0.5
    coarse = read_audio(write(tmp_path / "coarse.wav", noise(SECOND), subtype="PCM_U8"), 1)
    assert np.abs(coarse - noise(SECOND)).max() <= 1 / 128


def test_a_header_with_further_chunks_is_read_past(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.wav", noise(SECOND)).read_bytes()
    start = whole.index(b"data")
    odd = b"LIST" + (5).to_bytes(4, "little") + b"hello\0"
    path = tmp_path / "b.wav"
    path.write_bytes(b"RIFF" + (len(whole) + len(odd) - 8).to_bytes(4, "little") + whole[8:start] + odd + whole[start:])
    assert read_audio(path, 1).shape == (1, SECOND)
    assert "declares 88,200 bytes" in refusal(cut(path, 0.5))


# refusing


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.rf64", {"format": "RF64"}),
        ("a.w64", {}),
        ("a.caf", {}),
        ("a.au", {}),
        ("a.aiff", {}),
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.mp3", {}),
    ],
)
def test_a_file_that_was_cut_is_refused_whatever_its_format(
    tmp_path: Path, name: str, options: dict[str, str], share: float
) -> None:
    whole = write(tmp_path / name, noise(2 * SECOND), **options)
    assert problem_of(whole) is None
    reason = refusal(cut(whole, share))
    assert re.match("cut off|damaged|not readable as audio", reason)


def test_a_cut_wav_says_how_much_is_missing(tmp_path: Path) -> None:
    reason = refusal(cut(write(tmp_path / "a.wav", noise(SECOND)), 0.5))
    assert reason == "cut off; its header declares 88,200 bytes of audio, 44,078 are there"


@pytest.mark.parametrize("name", ["a.flac", "a.ogg"])
def test_one_wrong_byte_is_noticed_where_the_format_has_checksums(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, noise(SECOND))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    reason = refusal(path)
    assert "checksum" in reason or "flac decoder" in reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_counted(tmp_path: Path, value: float) -> None:
    samples = noise(SECOND)
    samples[0, [5, 77]] = value
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert refusal(path) == "holds 2 NaN or infinite samples"


def test_integers_stored_as_floats_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.round(32_768 * noise(SECOND)), subtype="FLOAT")
    assert "full scale is 1" in refusal(path)


def test_what_is_no_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    assert refusal(tmp_path / "empty.wav") == "the file is empty"
    assert refusal(tmp_path / "missing.wav") == "no such file"
    assert "cannot be read" in refusal(tmp_path)
    for name in ("random.wav", "random.flac", "random.ogg", "random.raw"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(9_999))
        assert "not readable as audio" in refusal(tmp_path / name)


def test_lengths_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "none.wav", noise(0))) == "holds no samples"
    assert refusal(write(tmp_path / "short.wav", noise(100))) == "2.3 ms long; at least 46.4 ms are needed"
    assert "46.4 ms" in refusal(write(tmp_path / "almost.wav", noise(MIN_SAMPLES - 1)))
    assert problem_of(write(tmp_path / "enough.wav", noise(MIN_SAMPLES))) is None
    hours = write(tmp_path / "long.flac", np.zeros((1, 3 * 3600 * 4_000), np.float32), rate=4_000)
    assert hours.stat().st_size < 1_000_000  # silence compresses; only the declared length can tell
    assert refusal(hours) == "180 minutes at 4,000 Hz is too long; split it into parts"


def test_channels_and_rates_out_of_range_are_named(tmp_path: Path) -> None:
    assert "6 channels" in refusal(write(tmp_path / "a.wav", noise(SECOND, channels=6)))
    assert "2,000 Hz" in refusal(write(tmp_path / "b.wav", noise(SECOND), rate=2_000))


# what libsndfile reads in part, or not at all


def said(path: Path) -> list[str]:
    """Return what is said of a recording, after checking that it is read in blocks as it is whole."""
    sound = decode(path)
    with files.opened(path) as reading:
        assert np.array_equal(np.concatenate(list(reading.blocks), axis=1), sound.samples)
    return oddities(sound)


def quiet_then_loud() -> np.ndarray:
    """Return six seconds whose first frames say little of the others."""
    return np.concatenate([1e-4 * noise(2 * SECOND), noise(4 * SECOND)], axis=1)


OPEN_END = "its header does not state its length; read to its end"


@pytest.mark.parametrize(
    "settings", [{"global_quality": "472", "flags": "+qscale"}, {"b": "128000"}, {"b": "320000"}], ids=str
)
def test_an_mp3_without_a_count_of_its_frames_is_read_to_its_end(tmp_path: Path, settings: dict[str, str]) -> None:
    samples = quiet_then_loud()
    path = encoded(tmp_path / "a.mp3", samples, SECOND, "libmp3lame", {"write_xing": "0"}, **settings)
    read = read_audio(path, 1)
    assert 0 <= read.shape[1] - samples.shape[1] < 3 * 1_152  # the encoder's own delay and padding
    assert np.std(read[0, -SECOND:]) > 0.05
    assert said(path) == [f"{OPEN_END}, {read.shape[1] / SECOND:.2f} s"]
    assert refusal(cut(path, 0.5)) == "cut off within its last frame"


def test_an_mp3_that_counts_its_frames_keeps_its_length_whatever_stands_around_it(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp3", noise(SECOND), SECOND, "libmp3lame")
    stream = path.read_bytes()
    assert said(path) == []
    for name, content in {
        "tagged": stream + b"TAG" + bytes(125),
        "lyrics": b"ID3\x04\0\0\0\0\x40\0" + bytes(8_192) + stream,
        "padded": stream + bytes(500),
    }.items():
        (tmp_path / f"{name}.mp3").write_bytes(content)
        assert np.array_equal(read_audio(tmp_path / f"{name}.mp3", 1), read_audio(path, 1))
    assert said(tmp_path / "padded.mp3") == ["its last 500 bytes cannot be decoded, and are left out"]


def test_mp3_files_one_behind_another_are_read_to_the_end(tmp_path: Path) -> None:
    stream = encoded(tmp_path / "a.mp3", noise(2 * SECOND), SECOND, "libmp3lame").read_bytes()
    (tmp_path / "two.mp3").write_bytes(stream + stream)
    assert abs(read_audio(tmp_path / "two.mp3", 1).shape[1] - 4 * SECOND) < 3 * 1_152
    assert "its header states 2.0" in said(tmp_path / "two.mp3")[0]


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_an_mp3_with_a_hole_is_refused(tmp_path: Path, place: float) -> None:
    content = bytearray(encoded(tmp_path / "a.mp3", noise(2 * SECOND), SECOND, "libmp3lame").read_bytes())
    start = int(place * len(content))
    content[start : start + 2_000] = np.random.default_rng(0).bytes(2_000)
    (tmp_path / "a.mp3").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "a.mp3")


@pytest.mark.parametrize("form", ["VORBIS", "OPUS", "flac in Ogg", "FLAC"])
def test_streams_one_behind_another_are_read_one_after_another(tmp_path: Path, form: str) -> None:
    rate, parts = 48_000, []
    for number, seconds in enumerate((1, 2)):
        path, samples = tmp_path / f"{number}.ogg", noise(rate * seconds, number)
        if form == "flac in Ogg":
            encoded(path, samples, rate, "flac")
        else:
            options = {"format": "FLAC"} if form == "FLAC" else {"format": "OGG", "subtype": form}
            write(path, samples, rate, **options)
        parts.append(path)
    chained = tmp_path / "chained.ogg"
    chained.write_bytes(b"".join(part.read_bytes() for part in [*parts, parts[0]]))
    expected = [decode(part).samples for part in [*parts, parts[0]]]
    assert np.array_equal(decode(chained).samples, np.concatenate(expected, axis=1))
    assert said(chained) == ["3 recordings one behind another, read as one"]
    assert "cut off" in refusal(cut(chained, 0.9)) or "flac decoder" in refusal(cut(chained, 0.9))


def test_a_chain_that_changes_its_rate_or_breaks_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.ogg", noise(SECOND)).read_bytes()
    second = write(tmp_path / "b.ogg", noise(SECOND), 22_050).read_bytes()
    (tmp_path / "c.ogg").write_bytes(first + second)
    assert refusal(tmp_path / "c.ogg").startswith(
        "part 2 of 2 has 22,050 Hz and 1 channel, the first 44,100 Hz and 1 channel; "
    )
    (tmp_path / "d.ogg").write_bytes(first + b"x" + first[1:])
    assert "no page begins" in refusal(tmp_path / "d.ogg")


@pytest.mark.parametrize(
    ("name", "kind", "codec", "options"),
    [
        ("a.wav", "wav", "pcm_s16le", {}),
        ("a.wav", "wav", "pcm_s24le", {}),
        ("a.wav", "wav", "pcm_f32le", {}),
        ("a.rf64", "wav", "pcm_s16le", {"rf64": "always"}),
        ("a.w64", "w64", "pcm_s16le", {}),
        ("a.aiff", "aiff", "pcm_s16be", {}),
        ("a.caf", "caf", "pcm_s16be", {}),
        ("a.au", "au", "pcm_s16be", {}),
        ("a.flac", "flac", "flac", {}),
        ("a.mka", "matroska", "flac", {}),
        ("a.wv", "wv", "wavpack", {}),
    ],
)
def test_what_was_written_into_a_pipe_is_read_to_its_end(
    tmp_path: Path, name: str, kind: str, codec: str, options: dict[str, str]
) -> None:
    samples = noise(SECOND, channels=2)
    path = piped(tmp_path / name, samples, SECOND, codec, kind, **options)
    read = read_audio(path, 2)
    assert read.shape == samples.shape
    assert np.abs(read - samples).max() <= 1 / 32_768
    assert said(path) == [f"{OPEN_END}, 1.00 s"]


@pytest.mark.parametrize("riff", [0, 36, 0x7FFFF024, 0xFFFFFFFF])
@pytest.mark.parametrize("data", [0, 0x7F000000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF])
def test_a_wav_that_does_not_know_its_length_is_read_to_its_end(tmp_path: Path, riff: int, data: int) -> None:
    whole = write(tmp_path / "a.wav", noise(SECOND))
    content, expected = bytearray(whole.read_bytes()), decode(whole).samples
    content[4:8] = riff.to_bytes(4, "little")
    content[40:44] = data.to_bytes(4, "little")
    whole.write_bytes(content)
    assert np.array_equal(decode(whole).samples, expected)
    assert said(whole) == [f"{OPEN_END}, 1.00 s"]


def test_a_flac_without_a_length_is_held_against_its_checksums(tmp_path: Path) -> None:
    path = piped(tmp_path / "a.flac", noise(2 * SECOND), SECOND, "flac", "flac")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "b.flac").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "b.flac")
    assert "damaged" in refusal(cut(path, 0.5))


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW", "G721_32"])
def test_a_wav_of_any_coding_is_read(tmp_path: Path, subtype: str) -> None:
    write(tmp_path / "a.wav", tone(440, 8_000, 1)[None], 8_000, subtype=subtype)
    read = decode(tmp_path / "a.wav")
    assert 8_000 <= read.samples.shape[1] < 8_000 + 1_024
    assert 0.3 < np.std(read.samples[:, :8_000]) < 0.4
    assert not any("length" in note for note in said(tmp_path / "a.wav"))


@pytest.mark.parametrize(
    ("name", "codec", "rate", "loss"),
    [
        ("a.opus", "libopus", 48_000, 0),
        ("a.webm", "libopus", 48_000, 0),
        ("a.oga", "flac", 44_100, 0),
        ("a.aifc", "pcm_s16be", 44_100, 0),
        ("a.w64", "pcm_s16le", 44_100, 1),
        ("a.caf", "pcm_s16be", 44_100, 0),
        ("a.mka", "flac", 44_100, 0),
        ("alac.m4a", "alac", 44_100, 0),
        ("aac.m4a", "aac", 44_100, 1_024),
        ("a.mp4", "aac", 44_100, 1_024),
        ("a.wv", "wavpack", 44_100, 0),
        ("a.tta", "tta", 44_100, 0),
        ("a.wma", "wmav2", 44_100, 4_096),
        ("a.mp2", "mp2", 44_100, 2_304),
        ("a.aac", "aac", 44_100, 2_048),
        ("a.ac3", "ac3", 44_100, 3_072),
        ("a.avi", "pcm_s16le", 44_100, 0),
    ],
)
def test_what_the_libraries_can_decode_is_read(tmp_path: Path, name: str, codec: str, rate: int, loss: int) -> None:
    path = encoded(tmp_path / name, tone(1_000, rate, 2)[None], rate, codec)
    assert path.suffix in SUFFIXES
    read = decode(path)
    assert read.rate == rate
    assert abs(read.samples.shape[1] - 2 * rate) <= loss
    middle = read.samples[0, rate // 2 : rate // 2 + rate]
    assert abs(np.abs(np.fft.rfft(middle)).argmax() - 1_000) <= 1
    assert np.std(middle) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    states_none = path.suffix in (".mp2", ".aac", ".ac3")
    assert [note.startswith(OPEN_END) for note in said(path)] == [True] * states_none
    assert re.match("cut off|damaged|not readable as audio", refusal(cut(path, 0.51)))


def test_of_several_streams_the_one_of_sound_is_taken(tmp_path: Path) -> None:
    path = with_streams(tmp_path / "a.mkv", [noise(SECOND)], SECOND, "flac", film=True)
    assert read_audio(path, 1).shape == (1, SECOND)
    assert said(path) == ["left out beside its audio: video"]
    assert "holds 2 audio streams" in refusal(with_streams(tmp_path / "b.mka", 2 * [noise(SECOND)], SECOND, "flac"))
    assert refusal(with_streams(tmp_path / "c.mkv", [], SECOND, "flac", film=True)) == "holds no audio"


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    encoded(tmp_path / "a.mp3", noise(SECOND), SECOND, "libmp3lame")
    (tmp_path / "list.mp3").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.mp3\n#EXT-X-ENDLIST\n")
    assert "not readable as audio" in refusal(tmp_path / "list.mp3")


def test_a_length_that_only_decoding_tells_is_limited_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encoded(tmp_path / "a.mp3", noise(9 * SECOND), SECOND, "libmp3lame", {"write_xing": "0"})
    monkeypatch.setattr(files, "MAX_SECONDS", 6)
    assert re.fullmatch("more than 0 minutes at 44,100 Hz is too long; split it into parts", refusal(path))
    short = encoded(tmp_path / "b.mp3", noise(100), SECOND, "libmp3lame", {"write_xing": "0"}, b="64000")
    monkeypatch.setattr(files, "MIN_SAMPLES", 9_000)
    assert "ms are needed" in refusal(short)


def test_tags_that_are_not_utf_8_do_no_harm(tmp_path: Path) -> None:
    tag = b"TIT2" + (4).to_bytes(4) + b"\0\0\x03\xff\xfe\xfd"
    stream = encoded(tmp_path / "a.mp3", noise(SECOND), SECOND, "libmp3lame", {"write_xing": "0"}).read_bytes()
    path = tmp_path / "b.mp3"
    path.write_bytes(b"ID3\x04\0\0" + bytes([0, 0, 0, len(tag)]) + tag + stream)
    assert np.array_equal(read_audio(path, 1), read_audio(tmp_path / "a.mp3", 1))
    odd = tmp_path / os.fsdecode(b"\xff.mp3")
    odd.write_bytes(stream)
    assert np.array_equal(read_audio(odd, 1), read_audio(tmp_path / "a.mp3", 1))


# writing


def test_flac_comes_back_within_24_bits_and_clipped(tmp_path: Path) -> None:
    samples = noise(SECOND + 1, channels=2)
    samples[0, 0] = 3.0
    write_flac(tmp_path / "deep" / "a.flac", samples)
    assert np.abs(read_audio(tmp_path / "deep" / "a.flac", 2) - np.clip(samples, -1, 1)).max() <= 2**-23
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "a.flac"]


def test_audio_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        write_flac(tmp_path / "a.flac", np.full((1, 100), np.nan))
    assert not list(tmp_path.iterdir())


# spectra


@pytest.mark.parametrize(("samples", "hop"), [(10_000, 512), (10_001, 441), (512, 512), (1, 512)])
def test_the_spectrum_is_that_of_librosa(samples: int, hop: int) -> None:
    audio = noise(samples, channels=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # librosa warns of clips shorter than a window
        expected = librosa.stft(audio, n_fft=2_048, hop_length=hop).swapaxes(-1, -2)
    found = stft(torch.from_numpy(audio), hop)
    assert found.shape == (2, 1 + samples // hop, NUM_BINS)
    assert np.allclose(found.numpy(), expected, atol=2e-5)
    assert np.allclose(stft_magnitude(torch.from_numpy(audio), hop).numpy(), np.abs(expected), atol=2e-5)


def test_white_noise_rolls_off_at_bin_1009_or_1008_as_released() -> None:
    audio = noise(10 * SECOND)
    assert rolloff_hz(audio) == 1_009 * BIN_HZ
    assert released_rolloff_hz(audio) == 1_008 * BIN_HZ


def test_a_1_khz_sine_rolls_off_at_bin_49_or_48_as_released() -> None:
    audio = tone(1_000, SAMPLE_RATE, 30)[None]
    assert rolloff_hz(audio) == 49 * BIN_HZ
    assert released_rolloff_hz(audio) == 48 * BIN_HZ


def test_silence_has_roll_off_0_under_both_rules() -> None:
    assert rolloff_hz(np.zeros((1, SECOND))) == 0.0
    assert released_rolloff_hz(np.zeros((2, SECOND))) == 0.0


@pytest.mark.parametrize(
    ("cutoff_hz", "magnitude_hz", "power_hz"),
    [(2_000, 2153, 2089), (4_000, 4285, 4156), (8_000, 8419, 8226), (12_000, 12339, 12166), (16_000, 16128, 16021)],
)
def test_roll_off_of_filtered_noise_tells_magnitude_from_power(
    cutoff_hz: int, magnitude_hz: int, power_hz: int
) -> None:
    sections = signal.cheby1(8, 0.05, cutoff_hz, output="sos", fs=SAMPLE_RATE)
    audio = np.ascontiguousarray(signal.sosfiltfilt(sections, noise(20 * SECOND)))
    found = rolloff_hz(audio)
    assert abs(found - magnitude_hz) <= 1.1 * BIN_HZ
    assert abs(found - power_hz) > 2 * BIN_HZ


@pytest.mark.parametrize("seed", range(4))
def test_roll_off_is_that_of_librosa_over_the_summed_magnitudes(seed: int) -> None:
    coloured = signal.lfilter([1], [1, -0.9 + 0.2 * seed], noise(3 * SECOND + 17, seed, channels=2))
    magnitudes = np.abs(librosa.stft(coloured.mean(0).astype(np.float32), n_fft=2_048, hop_length=512))
    expected = librosa.feature.spectral_rolloff(
        S=magnitudes.astype(np.float64).sum(1, keepdims=True), sr=SAMPLE_RATE, n_fft=2_048, roll_percent=0.985
    )
    assert rolloff_hz(coloured) == pytest.approx(expected.item(), abs=1e-6)


def test_roll_off_of_a_long_recording_is_summed_over_all_of_it() -> None:
    quiet_then_bright = np.concatenate([0.01 * tone(1_000, SAMPLE_RATE, 40), noise(20 * SECOND)[0]])[None]
    assert rolloff_hz(quiet_then_bright) > 20_000
    assert rolloff_hz(quiet_then_bright[:, : 40 * SECOND]) < 1_100


def test_the_roll_off_of_stereo_is_that_of_its_mean_unless_that_lacks_the_upper_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spectrum, "_LOOKED_AT", 16)  # a long recording is looked at here and there
    plain = np.array([[1.0], [0.4]], np.float32) * noise(3 * SECOND) + 0.3 * noise(3 * SECOND, 1, channels=2)
    np.testing.assert_array_equal(mono(plain), plain.mean(0))
    middle = signal.sosfilt(signal.butter(8, 1_000, fs=SAMPLE_RATE, output="sos"), noise(3 * SECOND))
    side = noise(3 * SECOND, 1)
    wide = np.concatenate([middle + side, middle - side]).astype(np.float32)
    np.testing.assert_array_equal(mono(wide), wide[wide.var(1).argmax()])


def test_a_cutoff_belongs_to_the_first_bin_at_or_above() -> None:
    assert [cutoff_bin(k * BIN_HZ) for k in range(NUM_BINS)] == list(range(NUM_BINS))
    assert cutoff_bin(4_000) == 186
    assert 185 * BIN_HZ < 4_000 <= 186 * BIN_HZ
    assert (cutoff_bin(0), cutoff_bin(30_000)) == (0, NUM_BINS)
