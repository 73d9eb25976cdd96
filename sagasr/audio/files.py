"""Reading recordings strictly and writing predictions. Audio is float32 [C, T] at 44,100 Hz everywhere else.

A recording is used whole and as it was meant, or refused with one line that names it. Decoders are more lenient: they
read a WAV or OGG file cut in half as a shorter recording, without a word. What is refused: files that are missing,
empty, not audio, broken or cut off, that hold NaN, infinite or absurdly large samples, more than two channels, more
than an hour, less than one analysis window, or a sample rate outside 4 to 384 kHz. Silence, a constant offset, clipped
and 8-bit recordings are read as they are.
"""

import io
import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from scipy.signal import resample_poly

from sagasr.config import SAMPLE_RATE
from sagasr.errors import DataError
from sagasr.files import write_whole

MIN_SAMPLES = 2_048  # one analysis window at 44,100 Hz; the filters of degradation need 64
MAX_SECONDS = 3_600
MAX_CHANNELS = 2
RATES = (4_000, 384_000)  # Hz
MAX_LEVEL = 100.0  # full scale is 1; integers stored as floats reach 32,768
OGG_PAGE_MAX = 65_307  # bytes of the largest page


def read_audio(path: Path, channels: int) -> np.ndarray:
    """Return the recording as float32 [C, T] at 44,100 Hz; mono is duplicated to two channels, stereo averaged to one.

    Raises DataError: one line with the file and the reason.
    """
    samples, rate = _decode(path)
    if samples.shape[0] != channels:
        samples = samples.mean(0, keepdims=True) if channels == 1 else np.repeat(samples, channels, axis=0)
    if rate != SAMPLE_RATE:
        shared = math.gcd(rate, SAMPLE_RATE)
        samples = resample_poly(samples, SAMPLE_RATE // shared, rate // shared, axis=-1)
    return np.ascontiguousarray(samples, dtype=np.float32)


def problem_of(path: Path) -> str | None:
    """Return why ``read_audio`` would refuse the file, without its name, or None; decodes all of it."""
    try:
        _decode(path)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def write_flac(path: Path, audio: np.ndarray) -> None:
    """Write float [C, T] at 44,100 Hz as 24-bit FLAC, whole; values beyond full scale are clipped. Raises DataError."""
    if not np.isfinite(audio).all():
        raise DataError(f"{path}: the audio to be written holds NaN or infinite samples")
    encoded = io.BytesIO()  # in memory, so that a full disk shows as an OSError and not as a codec's
    soundfile.write(encoded, np.clip(audio, -1, 1).T, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    write_whole(path, lambda temporary: temporary.write_bytes(encoded.getvalue()))


def _decode(path: Path) -> tuple[np.ndarray, int]:
    """Return float32 [C, T] and its rate in Hz as stored. Raises DataError."""
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        cut = _cut_off(path)
        if cut:
            raise DataError(f"{path}: {cut}")
        with soundfile.SoundFile(path) as sound:
            _check_header(path, sound)
            samples = sound.read(dtype="float32", always_2d=True).T
            declared, rate = sound.frames, sound.samplerate
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless file, known by its suffix
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise DataError(f"{path}: not readable as audio ({reason})") from error
    if samples.shape[1] < declared:
        raise DataError(f"{path}: cut off; the header declares {declared:,} samples, {samples.shape[1]:,} are there")
    _check_samples(path, samples)
    return samples, rate


def _check_header(path: Path, sound: soundfile.SoundFile) -> None:
    """Raise DataError for what must not even be decoded, or is too short to be analysed."""
    seconds = sound.frames / sound.samplerate
    if sound.frames <= 0:
        raise DataError(f"{path}: holds no samples")
    if not RATES[0] <= sound.samplerate <= RATES[1]:
        raise DataError(f"{path}: sampled at {sound.samplerate:,} Hz; {RATES[0]:,} to {RATES[1]:,} Hz are read")
    if sound.channels > MAX_CHANNELS:
        raise DataError(f"{path}: {sound.channels} channels; mono or stereo is read, so mix it down first")
    if seconds > MAX_SECONDS:
        raise DataError(f"{path}: declares {seconds / 3600:,.1f} hours; split it into parts of at most one hour")
    if seconds * SAMPLE_RATE < MIN_SAMPLES:
        raise DataError(f"{path}: {1000 * seconds:.1f} ms long; at least {1000 * MIN_SAMPLES / SAMPLE_RATE:.1f} ms needed")


def _check_samples(path: Path, samples: np.ndarray) -> None:
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise DataError(f"{path}: holds {np.count_nonzero(~np.isfinite(samples)):,} NaN or infinite samples")
    if peak > MAX_LEVEL:
        raise DataError(f"{path}: samples reach {peak:g} where full scale is 1; were integers stored as floats?")


def _cut_off(path: Path) -> str | None:
    """Return why a container says that its end is missing, for those whose decoder would not notice, or None."""
    with path.open("rb") as handle:
        size = path.stat().st_size
        head = handle.read(12)
        if head[:4] in (b"RIFF", b"RF64", b"FORM"):
            declared = _declared_bytes(handle, ">" if head[:4] == b"FORM" else "<")
            if declared is not None and declared > (present := max(size - handle.tell(), 0)):
                return f"cut off; the header declares {declared:,} bytes of audio, {present:,} are there"
        if head[:4] == b"OggS":
            handle.seek(max(size - OGG_PAGE_MAX, 0))
            tail = handle.read()
            if not _ends_ogg_stream(tail[max(tail.rfind(b"OggS"), 0) :]):
                return "cut off; it does not end with the last page of an Ogg stream"
    return None


def _declared_bytes(handle: BinaryIO, order: str) -> int | None:
    """Return the size that a WAV or AIFF file gives its samples, the handle standing at the first of them; None if absent."""
    large = None  # RF64 keeps the true size in its first chunk
    while len(header := handle.read(8)) == 8:
        name, length = header[:4], struct.unpack(f"{order}I", header[4:])[0]
        if name in (b"data", b"SSND"):
            return large if large is not None and length == 0xFFFFFFFF else length
        body = handle.tell()
        if name == b"ds64" and len(sizes := handle.read(16)) == 16:
            large = struct.unpack("<QQ", sizes)[1]
        handle.seek(body + length + length % 2)
    return None


def _ends_ogg_stream(page: bytes) -> bool:
    """Return whether bytes are one whole Ogg page (RFC 3533) that is marked as the last of its stream."""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    segments = page[27 : 27 + page[26]]
    return bool(page[5] & 4) and len(page) >= 27 + len(segments) + sum(segments)
