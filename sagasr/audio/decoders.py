"""What decoders give of a recording: all its samples, block by block, and what its container says of their number.

Two libraries share the work. libsndfile reads WAV, AIFF, FLAC, Ogg and their kin, whose header tells their length.
FFmpeg reads all else, and what libsndfile would read in part: MP3, whose length is guessed from its first frames where
no header counts them, and files whose length their writer did not know. Ogg and FLAC streams that stand one behind
another in one file are read one after another, each as a file of its own.
"""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soundfile

from sagasr.audio.containers import Part, frames_counted, mpeg_frame_bytes, parts_of, stated_bytes
from sagasr.io.errors import DataError

if TYPE_CHECKING:
    from av import AudioFrame

BLOCK = 1 << 17  # samples of each channel read at once, about
SUFFIXES = {  # of files taken for recordings, with FFmpeg's name of their container; no other container is read
    **dict.fromkeys((".wav", ".wave", ".bwf", ".rf64"), "wav"),
    **dict.fromkeys((".ogg", ".oga", ".opus", ".spx"), "ogg"),
    **dict.fromkeys((".mp3", ".mp2", ".mpga"), "mp3"),
    **dict.fromkeys((".m4a", ".m4b", ".mp4", ".mov", ".3gp"), "mov"),
    **dict.fromkeys((".aif", ".aiff", ".aifc"), "aiff"),
    **dict.fromkeys((".wma", ".asf"), "asf"),
    **dict.fromkeys((".mka", ".mkv", ".webm"), "matroska"),
    **dict.fromkeys((".au", ".snd"), "au"),
    **{f".{name}": name for name in ("flac", "w64", "caf", "aac", "ac3", "amr", "ape", "avi", "tta", "voc", "wv")},
    ".sph": "nistsphere",
}
LIBSNDFILE = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b"caff", b".snd", b"fLaC", b"OggS")  # first bytes
ROUNDING = 0.1  # seconds, of lengths in milliseconds, in frames, or with padding
SLACK = {  # seconds that may be missing of the length that a container states; in Ogg the pages tell
    **dict.fromkeys(("wav", "w64", "caf", "au", "aiff", "nistsphere", "flac", "wv", "tta", "ape"), 0.0),
    **dict.fromkeys(("mov", "matroska", "asf", "avi"), ROUNDING),
    "ogg": math.inf,
}
SELF_FRAMING = ("mp3", "aac", "ac3", "amr")  # streams of frames alone, often with something else around them
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")  # of MP3 files, before, behind and between streams

_LOADING = threading.Lock()  # two threads that load it at once are given half of it, and an ImportError


class Reading(NamedTuple):
    """An opened recording: rate in Hz, channels, libsndfile's name of its samples, and its blocks, float32 [C, n].

    ``samples`` of each channel is None where only decoding tells. ``notes`` is complete once the blocks are used up.
    """

    rate: int
    channels: int
    subtype: str
    samples: int | None
    blocks: Iterator[np.ndarray]
    notes: list[str]


@contextmanager
def decoded(path: Path, whole: bool = True) -> Iterator[Reading]:
    """Open a recording. Raises DataError with the reason alone, or what a decoder raises; so do its blocks.

    Unless ``whole``, only its beginning is looked at, and what stands behind a first stream is not read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise DataError("the file is empty")
        parts = parts_of(file, size) if whole else [Part(file, 0, size)]
        behind = size - parts[-1].stop
        leftover = [f"its last {behind:,} bytes are no part of its Ogg stream, and are left out"] if behind else []
        if len(parts) == 1:
            with _opened(parts[0], os.fsencode(path)) as reading:
                reading.notes.extend(leftover)
                yield reading
            return
        with _opened(parts[0]) as first:
            notes = [*first.notes, f"{len(parts)} recordings one behind another, read as one", *leftover]
        yield first._replace(samples=None, blocks=_chained(parts, first), notes=notes)


def _chained(parts: list[Part], head: Reading) -> Iterator[np.ndarray]:
    for number, part in enumerate(parts, 1):
        with _opened(part) as reading:
            if (reading.rate, reading.channels) != (head.rate, head.channels):
                raise DataError(
                    f"part {number} of {len(parts)} has {_form(reading.rate, reading.channels)}, the first "
                    f"{_form(head.rate, head.channels)}; split it, or convert it to FLAC or WAV"
                )
            present = 0
            for block in reading.blocks:
                present += block.shape[1]
                yield block
            check_whole(reading.samples, present, f"part {number} of {len(parts)} is ")


def _form(rate: int, channels: int) -> str:
    return f"{rate:,} Hz and {channels} channel{'s' if channels > 1 else ''}"


def check_whole(declared: int | None, present: int, part: str = "") -> None:
    """Raise DataError where fewer samples are there than are declared."""
    if declared is not None and present < declared:
        raise DataError(f"{part}cut off; its header declares {declared:,} samples, {present:,} are there")


@contextmanager
def _opened(source: Part, name: bytes | None = None) -> Iterator[Reading]:
    """Open one recording of a file, by libsndfile where it reads all of it, else by FFmpeg."""
    stated = stated_bytes(source)
    source.seek(0)
    magic = source.read(4)
    source.seek(0)
    with ExitStack() as stack:
        sound = None
        if magic in LIBSNDFILE and source.streams == 1:
            try:
                sound = stack.enter_context(soundfile.SoundFile(name or source))
            except (soundfile.SoundFileError, TypeError):  # TypeError: soundfile knows better, by the suffix
                source.seek(0)
        if sound and 0 < sound.frames < 2**62 and not sound.subtype.startswith("MPEG"):
            notes = [_open_end(sound.frames / sound.samplerate)] if stated is None else []
            blocks = _sound_blocks(sound)
            yield Reading(sound.samplerate, sound.channels, sound.subtype, sound.frames, blocks, notes)
        else:
            source.seek(0)
            yield stack.enter_context(_by_ffmpeg(source, magic, stated is None))


def _open_end(seconds: float) -> str:
    return f"its header does not state its length; read to its end, {seconds:,.2f} s"


def _sound_blocks(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while len(samples := sound.read(BLOCK, dtype="float32", always_2d=True)):
        yield samples.T


def ffmpeg() -> Any:
    """Return FFmpeg's library, which loads slowly, and which few recordings need."""
    with _LOADING:
        import av
    return av


@contextmanager
def _by_ffmpeg(source: Part, magic: bytes, open_end: bool) -> Iterator[Reading]:
    av = ffmpeg()
    options = {"format_whitelist": ",".join(sorted(set(SUFFIXES.values())))}  # no playlists, which name other files
    options |= {"ignore_length": "1"} if open_end and magic in (b"RIFF", b"RIFX", b"RF64") else {}
    counted = frames_counted(source)
    source.seek(0)
    with av.open(source, "r", options=options, metadata_errors="replace") as container:
        streams = container.streams.audio
        if not streams:
            raise DataError("holds no audio")
        if len(streams) > 1:
            raise DataError(f"holds {len(streams)} audio streams; save the one that is meant as FLAC or WAV")
        stream, kind = streams[0], container.format.name.split(",")[0]
        if stream.codec_context is None:
            raise DataError("no decoder is known for its audio; convert it to FLAC or WAV")
        stream.codec_context.options = {"err_detect": "crccheck+explode"}  # FFmpeg leaves checksums unread otherwise
        others = [
            other.type
            for other in container.streams
            if other.type not in ("audio", "attachment") and av.stream.Disposition.attached_pic not in other.disposition
        ]
        notes = [f"left out beside its audio: {', '.join(others)}"] if others else []
        frames = _frames(container.demux(stream), kind, open_end, notes)
        first = next(frames, None)
        if first is None:
            raise DataError("holds no samples")
        rate, channels = first.sample_rate, first.layout.nb_channels
        length, slack = (None, 0.0) if open_end else _length(container, stream, kind, counted / rate)
        blocks = _joined(first, frames, length, slack, notes)
        yield Reading(rate, channels, stream.codec_context.name.upper(), None, blocks, notes)


def _length(container: Any, stream: Any, kind: str, counted: float) -> tuple[float | None, float]:
    """Return the seconds that a container states, and how much less may be there without anything missing.

    What FFmpeg guesses from sizes and bit rates is None.
    """
    has_own = stream.duration is not None
    stated = float(stream.duration * stream.time_base) if has_own else (container.duration or 0) / 1e6
    if kind == "mp3" and counted:
        gapless = stream.start_time and counted - ROUNDING < stated <= counted  # else FFmpeg guessed: more lies behind
        return (stated, 0.0) if gapless else (counted, ROUNDING)
    return (stated, SLACK[kind]) if stated > 0 and kind in SLACK else (None, 0.0)


def _frames(packets: Iterator[Any], kind: str, open_end: bool, notes: list[str]) -> "Iterator[AudioFrame]":
    """Yield the frames of all packets. Raises DataError where some between others cannot be decoded.

    Streams of frames alone may have something else around them, tags or a broken first frame, which is noted.
    """
    from av.error import FFmpegError

    self_framing = kind in SELF_FRAMING
    last, failed = b"", 0
    for packet in packets:
        if packet.is_corrupt and not open_end and not self_framing:
            raise DataError("cut off or damaged; a packet of its audio is not all there")
        try:
            frames = list(packet.decode())
        except FFmpegError as error:
            if not self_framing:
                raise DataError(f"damaged; its audio cannot be decoded ({reason_of(error)})") from error
            failed += 0 if bytes(packet)[:8].startswith(TAGS) else packet.size
            continue
        if any(frame.is_corrupt for frame in frames) or (kind == "flac" and len(frames) > 1):  # it holds one frame
            raise DataError("damaged or cut off; a packet of its audio fails its checksum")
        if frames and failed and last:
            raise DataError(f"damaged; {failed:,} bytes in the middle of its audio cannot be decoded")
        if frames and failed:
            notes.append(f"its first {failed:,} bytes cannot be decoded, and are left out")
        if frames and packet.size:
            last, failed = bytes(packet), 0
        yield from frames
    if (kind == "mp3" and len(last) < mpeg_frame_bytes(last)) or (kind != "mp3" and failed and last):
        raise DataError("cut off within its last frame")
    if failed and last:
        notes.append(f"its last {failed:,} bytes cannot be decoded, and are left out")


def _joined(
    first: "AudioFrame", frames: "Iterator[AudioFrame]", length: float | None, slack: float, notes: list[str]
) -> Iterator[np.ndarray]:
    """Yield frames in blocks, and check their form and their number against what is stated."""
    rate, channels = first.sample_rate, first.layout.nb_channels
    pending, waiting, present = [], 0, 0
    for frame in chain([first], frames):
        if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
            form = _form(frame.sample_rate, frame.layout.nb_channels)
            seconds = f"{present / rate:,.2f} s"
            raise DataError(f"changes from {_form(rate, channels)} to {form} after {seconds}; split it there")
        pending.append(_floats(frame))
        present, waiting = present + frame.samples, waiting + frame.samples
        if waiting >= BLOCK:
            yield np.concatenate(pending, axis=1)
            pending, waiting = [], 0
    if pending:
        yield np.concatenate(pending, axis=1)
    if length is None:
        notes.append(_open_end(present / rate))
    elif present < (length - slack) * rate - 0.5:
        check_whole(round(length * rate), present)
    elif present / rate > length + max(slack, ROUNDING):
        notes.append(f"its header states {length:,.2f} s; {present / rate:,.2f} s were read, to its end")


def _floats(frame: "AudioFrame") -> np.ndarray:
    """Return the samples of a frame as float32 [C, n] with full scale 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    scale = 1 if samples.dtype.kind == "f" else 1 << (8 * samples.itemsize - 1)
    return samples.astype(np.float32) / np.float32(scale)


def reason_of(error: Exception) -> str:
    """Return what a decoder says, without the names of files and functions."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).removeprefix("Error : ").rstrip(".") or type(error).__name__
