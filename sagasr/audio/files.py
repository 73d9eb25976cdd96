"""Reading recordings strictly and writing predictions. Audio is float32 [C, T] at 44,100 Hz everywhere else.

A recording is used whole and as it was meant, or refused with one line that names it; the README of sagasr says what is
refused. Silence, a constant offset, clipped and 8-bit recordings are read as they are. Not noticed: wrong bytes
inside the samples of a WAV or AIFF file, which hold no checksum, and a cut in a file that does not state its length.
"""

import errno
import io
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sagasr.audio.decoders import Reading, check_whole, decoded, ffmpeg, reason_of
from sagasr.constants import SAMPLE_RATE
from sagasr.io.errors import DataError, SagasrError
from sagasr.io.files import LOOP, write_whole

MIN_SAMPLES = 2_048  # one analysis window at 44,100 Hz; the filters of degradation need 64
MAX_SECONDS = 3_600
MAX_CHANNELS = 2
RATES = (4_000, 384_000)  # Hz
MAX_LEVEL = 100.0  # full scale is 1; integers stored as floats reach 32,768
MAX_SAMPLES = 400_000_000  # over all channels, 1.6 GB decoded; silence compresses to almost nothing

DECODERS_RAISE = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, MemoryError)  # soundfile's, too

CLIPPED_RUN = 4  # neighbouring samples at the same peak; a sine of full scale has one or two
CLIPPED_SHARE = 1e-4  # of all samples; a single loud drum hit stays below


class Sound(NamedTuple):
    """A recording as stored: float32 [C, T] with full scale 1, its rate in Hz, libsndfile's name of its samples, and
    what is to be said of how it was read.
    """

    samples: np.ndarray
    rate: int
    subtype: str
    notes: tuple[str, ...] = ()


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
    with opened(path) as reading:
        if reading.samples is None:
            samples = np.concatenate(list(reading.blocks), axis=1)
        else:  # a list of blocks beside the whole would take twice its memory
            samples, filled = np.empty((reading.channels, reading.samples), np.float32), 0
            for block in reading.blocks:
                samples[:, filled : filled + block.shape[1]] = block
                filled += block.shape[1]
        return Sound(samples, reading.rate, reading.subtype, tuple(reading.notes))


def oddities(sound: Sound) -> list[str]:
    """Return what is unusual about a recording that is used all the same: how it was read, 8-bit samples, clipping."""
    notes = list(sound.notes)
    if sound.rate < SAMPLE_RATE:
        notes.append(f"sampled at {sound.rate:,} Hz, so it holds nothing above {sound.rate / 2:,.0f} Hz")
    if sound.subtype in ("PCM_U8", "PCM_S8"):
        notes.append("8 bits per sample, so noise stands 48 dB below full scale")
    if (share := _clipped_share(sound.samples)) >= CLIPPED_SHARE:
        notes.append(f"clipped: {100 * share:.2g} % of its samples stand at its peak")
    return notes


def _clipped_share(samples: np.ndarray) -> float:
    """Return the share of samples [C, T] in runs of at least CLIPPED_RUN at the recording's own peak, either sign."""
    magnitudes = np.abs(samples)
    peak = float(magnitudes.max())
    if peak == 0:
        return 0.0
    from scipy.ndimage import binary_opening  # loads slowly

    in_runs = binary_opening(magnitudes >= peak * (1 - 1e-4), np.ones((1, CLIPPED_RUN), bool))
    return float(in_runs.mean())


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return samples [C, T] at 44,100 Hz, float32 [C, ceil(T * 44,100 / rate)], by a polyphase filter."""
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # loads slowly, and most recordings have this rate

        shared = math.gcd(rate, SAMPLE_RATE)
        samples = resample_poly(samples, SAMPLE_RATE // shared, rate // shared, axis=-1)
    return np.ascontiguousarray(samples, dtype=np.float32)


def problem_of(path: Path, whole: bool = True) -> str | None:
    """Return why ``read_audio`` would refuse the file, without its name, or None; decodes all of it, in blocks.

    Unless ``whole``, only its beginning is looked at, which is quick, whatever its size.
    """
    try:
        with opened(path, whole) as reading:
            for _ in reading.blocks if whole else ():
                pass
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


@contextmanager
def opened(path: Path, whole: bool = True) -> Iterator[Reading]:
    """Open a recording whose header can be used, to read its blocks once. Raises DataError, as its blocks do."""
    with ExitStack() as stack:
        with _naming(path):
            reading = stack.enter_context(decoded(path, whole))
            _check_form(reading)
        yield reading._replace(blocks=_checked(path, reading))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong in decoders into a DataError of one line that names the file."""
    try:
        yield
    except SagasrError as error:
        raise DataError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:
        FFmpegError = ffmpeg().error.FFmpegError
        if isinstance(error, OSError) and not isinstance(error, FFmpegError):
            why = LOOP if error.errno == errno.ELOOP else f"cannot be read ({error.strerror or error})"
            raise DataError(f"{path}: {why}") from error
        if isinstance(error, (FFmpegError, *DECODERS_RAISE)):
            raise DataError(f"{path}: not readable as audio ({reason_of(error)})") from error
        raise


def _checked(path: Path, reading: Reading) -> Iterator[np.ndarray]:
    """Yield the blocks of an opened recording, each looked at. Raises DataError, also where samples are missing."""
    present, blocks = 0, reading.blocks
    while True:
        with _naming(path):
            block = next(blocks, None)
            if block is None:
                break
            present += block.shape[1]
            _check_length(present, reading)
            _check_samples(block)
        yield block
    with _naming(path):
        check_whole(reading.samples, present)
        _check_enough(present, reading.rate)


def write_flac(path: Path, audio: np.ndarray) -> None:
    """Write float [C, T] at 44,100 Hz as 24-bit FLAC, whole; values beyond full scale are clipped. Raises DataError."""
    if not np.isfinite(audio).all():
        raise DataError(f"{path}: the audio to be written holds NaN or infinite samples")
    encoded = io.BytesIO()  # in memory, so that a full disk shows as an OSError and not as a codec's
    soundfile.write(encoded, np.clip(audio, -1, 1).T, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    write_whole(path, lambda temporary: temporary.write_bytes(encoded.getvalue()))


def _check_form(reading: Reading) -> None:
    """Raise DataError where a recording need not be decoded at all."""
    if not RATES[0] <= reading.rate <= RATES[1]:
        raise DataError(f"sampled at {reading.rate:,} Hz; {RATES[0]:,} to {RATES[1]:,} Hz are read")
    if reading.channels > MAX_CHANNELS:
        raise DataError(f"{reading.channels} channels; mono or stereo is read, so mix it down first")
    if reading.samples is not None:
        _check_length(reading.samples, reading)
        _check_enough(reading.samples, reading.rate)


def _check_length(samples: int, reading: Reading) -> None:
    seconds = samples / reading.rate
    if seconds > MAX_SECONDS or samples * reading.channels > MAX_SAMPLES:
        least = "" if samples == reading.samples else "more than "
        raise DataError(f"{least}{seconds / 60:,.0f} minutes at {reading.rate:,} Hz is too long; split it into parts")


def _check_enough(samples: int, rate: int) -> None:
    ms, least = 1000 * samples / rate, 1000 * MIN_SAMPLES / SAMPLE_RATE
    if ms < least:
        raise DataError(f"{ms:.1f} ms long; at least {least:.1f} ms are needed")


def _check_samples(samples: np.ndarray) -> None:
    peak = float(np.abs(samples).max(initial=0.0))
    if not math.isfinite(peak):
        raise DataError(f"holds {np.count_nonzero(~np.isfinite(samples)):,} NaN or infinite samples")
    if peak > MAX_LEVEL:
        raise DataError(f"samples reach {peak:g} where full scale is 1; were integers stored as floats?")
