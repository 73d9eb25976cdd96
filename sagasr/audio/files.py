"""Reading recordings strictly and writing predictions. Audio is float32 [C, T] at 44,100 Hz everywhere else.

A recording is used whole and as it was meant, or refused with one line that names it. Decoders are more lenient: they
read a WAV or OGG file cut in half as a shorter recording, without a word. What is refused: files that are missing,
empty, not audio, broken or cut off, that hold NaN, infinite or absurdly large samples, more than two channels, more
than an hour, less than one analysis window, a sample rate outside 4 to 384 kHz, or a format whose end cannot be
checked. Silence, a constant offset, clipped and 8-bit recordings are read as they are. Not noticed: wrong bytes inside
the samples of a WAV or AIFF file, which hold no checksum, and a cut MP3 file without a length in its header.
"""

import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile

from sagasr.config import SAMPLE_RATE
from sagasr.errors import DataError
from sagasr.files import write_whole

MIN_SAMPLES = 2_048  # one analysis window at 44,100 Hz; the filters of degradation need 64
MAX_SECONDS = 3_600
MAX_CHANNELS = 2
RATES = (4_000, 384_000)  # Hz
MAX_LEVEL = 100.0  # full scale is 1; integers stored as floats reach 32,768
MAX_SAMPLES = 400_000_000  # over all channels, 1.6 GB decoded; silence compresses to almost nothing
BLOCK = 1 << 17  # samples of each channel read at once
FORMATS = ("WAV", "WAVEX", "RF64", "AIFF", "FLAC", "OGG", "MP3")
SUFFIXES = (".wav", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc")

CLIPPED_RUN = 4  # neighbouring samples at the same peak; a sine of full scale has one or two
CLIPPED_SHARE = 1e-4  # of all samples; a single loud drum hit stays below

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Sound(NamedTuple):
    """A recording as stored: float32 [C, T] with full scale 1, its rate in Hz, and libsndfile's name of its samples."""

    samples: np.ndarray
    rate: int
    subtype: str


def read_audio(path: Path, channels: int | None) -> np.ndarray:
    """Return the recording as float32 [C, T] at 44,100 Hz; mono is duplicated to two channels, stereo averaged to one.

    ``channels`` None keeps what the file has. Raises DataError: one line with the file and the reason.
    """
    return as_heard(decode(path), channels)


def as_heard(sound: Sound, channels: int | None) -> np.ndarray:
    """Return a decoded recording as ``read_audio`` does."""
    samples = sound.samples
    if channels is not None and samples.shape[0] != channels:
        samples = samples.mean(0, keepdims=True) if channels == 1 else np.repeat(samples, channels, axis=0)
    return resample(samples, sound.rate)


def decode(path: Path) -> Sound:
    """Return the recording as stored, whole and finite. Raises DataError: one line with the file and the reason."""
    with opened(path) as sound:
        samples = sound.read(dtype="float32", always_2d=True).T
        declared, rate, subtype = sound.frames, sound.samplerate, sound.subtype
    _refuse(path, _sample_problem(samples, declared))
    return Sound(samples, rate, subtype)


def oddities(sound: Sound) -> list[str]:
    """Return what is unusual about a recording that is used all the same: 8-bit samples, clipping."""
    found = []
    if sound.subtype in ("PCM_U8", "PCM_S8"):
        found.append("8 bits per sample, so noise stands 48 dB below full scale")
    if (share := _clipped_share(sound.samples)) >= CLIPPED_SHARE:
        found.append(f"clipped: {100 * share:.2g} % of its samples stand at its peak")
    return found


def _clipped_share(samples: np.ndarray) -> float:
    """Return the share of samples [C, T] in runs of at least CLIPPED_RUN at the recording's own peak, either sign."""
    peak = float(np.abs(samples).max())
    if peak == 0 or samples.shape[-1] < CLIPPED_RUN:
        return 0.0
    at_peak = np.abs(samples) >= peak * (1 - 1e-4)
    runs = np.lib.stride_tricks.sliding_window_view(at_peak, CLIPPED_RUN, axis=1).all(-1)
    inside = np.zeros_like(at_peak)
    for shift in range(CLIPPED_RUN):
        inside[:, shift : shift + runs.shape[-1]] |= runs
    return float(inside.mean())


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return samples [C, T] at 44,100 Hz, float32 [C, ceil(T * 44,100 / rate)], by a polyphase filter."""
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # loads slowly, and most recordings have this rate

        shared = math.gcd(rate, SAMPLE_RATE)
        samples = resample_poly(samples, SAMPLE_RATE // shared, rate // shared, axis=-1)
    return np.ascontiguousarray(samples, dtype=np.float32)


def problem_of(path: Path) -> str | None:
    """Return why ``read_audio`` would refuse the file, without its name, or None; decodes all of it, in blocks."""
    try:
        with opened(path) as sound:
            for _ in blocks_of(path, sound):
                pass
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


@contextmanager
def opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a recording whose container and header can be used; raises DataError for that and what goes wrong inside."""
    try:
        _refuse(path, "the file is empty" if path.stat().st_size == 0 else _container_problem(path))
        with soundfile.SoundFile(os.fsencode(path)) as sound:  # soundfile refuses names that are not UTF-8
            _refuse(path, _header_problem(sound))
            yield sound
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless file, known by its suffix
        reason = str(getattr(error, "error_string", error)).strip().removeprefix("Error : ").rstrip(".")
        raise DataError(f"{path}: not readable as audio ({reason})") from error


def blocks_of(path: Path, sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Yield an opened recording as float32 [C, n] blocks at its own rate. Raises DataError as ``read_audio`` does."""
    present = 0
    while len(samples := sound.read(BLOCK, dtype="float32", always_2d=True)):
        present += len(samples)
        _refuse(path, _sample_problem(samples.T, len(samples)))
        yield samples.T
    if present < sound.frames:
        _refuse(path, f"cut off; its header declares {sound.frames:,} samples, {present:,} are there")


def write_flac(path: Path, audio: np.ndarray) -> None:
    """Write float [C, T] at 44,100 Hz as 24-bit FLAC, whole; values beyond full scale are clipped. Raises DataError."""
    if not np.isfinite(audio).all():
        raise DataError(f"{path}: the audio to be written holds NaN or infinite samples")
    encoded = io.BytesIO()  # in memory, so that a full disk shows as an OSError and not as a codec's
    soundfile.write(encoded, np.clip(audio, -1, 1).T, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    write_whole(path, lambda temporary: temporary.write_bytes(encoded.getvalue()))


def _refuse(path: Path, problem: str | None) -> None:
    if problem:
        raise DataError(f"{path}: {problem}")


def _header_problem(sound: soundfile.SoundFile) -> str | None:
    """Return why a recording need not be decoded at all, or None."""
    rate, seconds = sound.samplerate, sound.frames / sound.samplerate
    if sound.format not in FORMATS:
        return f"{sound.format} files are not read; convert it to FLAC or WAV"
    if sound.frames <= 0 or sound.frames >= 2**62:  # the latter stands for an unknown length
        return "its header declares no samples; write it again with a program that fills in the length"
    if not RATES[0] <= rate <= RATES[1]:
        return f"sampled at {rate:,} Hz; {RATES[0]:,} to {RATES[1]:,} Hz are read"
    if sound.channels > MAX_CHANNELS:
        return f"{sound.channels} channels; mono or stereo is read, so mix it down first"
    if seconds > MAX_SECONDS or sound.frames * sound.channels > MAX_SAMPLES:
        return f"{seconds / 60:,.0f} minutes at {rate:,} Hz is too long; split it into parts"
    if seconds * SAMPLE_RATE < MIN_SAMPLES:
        return f"{1000 * seconds:.1f} ms long; at least {1000 * MIN_SAMPLES / SAMPLE_RATE:.1f} ms are needed"
    return None


def _sample_problem(samples: np.ndarray, declared: int) -> str | None:
    """Return why decoded samples [C, T] cannot be used, or None."""
    present = samples.shape[1]
    if present < declared:
        return f"cut off; its header declares {declared:,} samples, {present:,} are there"
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        return f"holds {np.count_nonzero(~np.isfinite(samples)):,} NaN or infinite samples"
    if peak > MAX_LEVEL:
        return f"samples reach {peak:g} where full scale is 1; were integers stored as floats?"
    return None


def _container_problem(path: Path) -> str | None:
    """Return how a container shows that samples are missing or wrong, where its decoder would not tell, or None."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        match handle.read(12)[:4]:
            case b"RIFF" | b"RF64" | b"FORM" as name:
                declared = _declared_bytes(handle, "big" if name == b"FORM" else "little")
                present = max(size - handle.tell(), 0)
                if declared is not None and declared > present:
                    return f"cut off; its header declares {declared:,} bytes of audio, {present:,} are there"
            case b"OggS":
                handle.seek(0)
                return _ogg_problem(handle)
    return None


def _declared_bytes(handle: BinaryIO, order: Literal["big", "little"]) -> int | None:
    """Return the bytes that a WAV or AIFF file gives its samples, leaving the handle at the first; None if absent."""
    large = None  # RF64 keeps the true size in its first chunk
    while len(header := handle.read(8)) == 8:
        name, length = header[:4], int.from_bytes(header[4:], order)
        if name in (b"data", b"SSND"):
            return large if large is not None and length == 0xFFFFFFFF else length
        body = handle.tell()
        if name == b"ds64" and len(sizes := handle.read(16)) == 16:
            large = int.from_bytes(sizes[8:], "little")
        handle.seek(body + length + length % 2)
    return None


def _ogg_problem(handle: BinaryIO) -> str | None:
    """Return what is wrong with the pages of an Ogg file (RFC 3533): a checksum, or that the last one is missing."""
    pages, ended = 0, False
    while (header := handle.read(27))[:4] == b"OggS" and len(header) == 27:
        segments = handle.read(header[26])
        body = handle.read(sum(segments))
        if len(segments) < header[26] or len(body) < sum(segments):
            return "cut off within a page of its Ogg stream"
        pages, ended = pages + 1, bool(header[5] & 4)
        checksum = _ogg_checksum(header[:22] + bytes(4) + header[26:] + segments + body)
        if checksum != int.from_bytes(header[22:26], "little"):
            return f"damaged; page {pages} of its Ogg stream fails its checksum"
    return None if ended else "cut off or damaged; its Ogg stream does not end with a last page"


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of a page whose own is zeroed: most significant bit first, nothing inverted, unlike zlib's."""
    crc = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
