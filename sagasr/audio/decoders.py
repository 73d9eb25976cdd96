"""What decoders give of a recording: all its samples, block by block, and what its container says of their number.

Two libraries share the work. libsndfile reads WAV, AIFF, FLAC, Ogg and their kin, whose header tells their length.
FFmpeg reads all else, and what libsndfile would read in part: MP3, whose length is guessed from its first frames where
no header counts them, and files whose length their writer did not know. Ogg and FLAC streams that stand one behind
another in one file are read one after another, each as a file of its own.

Decoders are lenient: they read a file cut in half as a shorter recording. So the container is asked first, and what it
says is compared with what was there.
"""

import io
import math
import mmap
import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile

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
FLAC_START = b"fLaC\0\0\0\x22"  # with the header of its first block
ROUNDING = 0.1  # seconds, of lengths in milliseconds, in frames, or with padding
SLACK = {  # seconds that may be missing of the length that a container states; in Ogg the pages tell
    **dict.fromkeys(("wav", "w64", "caf", "au", "aiff", "nistsphere", "flac", "wv", "tta", "ape"), 0.0),
    **dict.fromkeys(("mov", "matroska", "asf", "avi"), ROUNDING),
    "ogg": math.inf,
}
SELF_FRAMING = ("mp3", "aac", "ac3", "amr")  # streams of frames alone, often with something else around them
COUNT = re.compile(
    rb"\xff([\xe2-\xff]).{11,34}(?:(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f]|VBRI.{10})(.{4})", re.S
)
BIT_RATES = {  # of MPEG frames in kbit/s, by whether they are of version 1, and their layer
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
UNKNOWN = (0, 0xFFFFFFFF)  # bytes of audio, in headers of those who wrote into a pipe, or were killed
UNLIKELY = (  # the same: the largest that 31, 32 or 64 bits have room for, as SoX, LAME and ALSA put there
    range(0x7EFFFFF0, 0x80000001),
    range(0xFFFFF000, 0xFFFFFFFF - 35),
    range(2**62, 2**64),
)
MAX_CHUNKS = 10_000  # before the samples; more are zeros, or no chunks
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")  # of MP3 files, before, behind and between streams

_LOADING = threading.Lock()  # two threads that load it at once are given half of it, and an ImportError
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


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


class Length(NamedTuple):
    """What a container says of its length, and how much less may be there without anything missing."""

    seconds: float
    slack: float


class Part(NamedTuple):
    """A stretch of a file that is a whole recording, and how many streams it interleaves."""

    start: int
    stop: int
    streams: int = 1


@contextmanager
def decoded(path: Path, whole: bool = True) -> Iterator[Reading]:
    """Open a recording. Raises DataError with the reason alone, or what a decoder raises; so do its blocks.

    Unless ``whole``, only its beginning is looked at, and what stands behind a first stream is not read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise DataError("the file is empty")
        parts = _parts(file, size) if whole else [Part(0, size)]
        behind = size - parts[-1].stop
        told = [f"its last {behind:,} bytes are no part of its Ogg stream, and are left out"] if behind else []
        if len(parts) == 1:
            with _one(file, parts[0], os.fsencode(path)) as reading:
                reading.notes.extend(told)
                yield reading
            return
        with _one(file, parts[0]) as first:
            notes = [*first.notes, f"{len(parts)} recordings one behind another, read as one", *told]
            head = Reading(first.rate, first.channels, first.subtype, None, iter(()), notes)
        yield head._replace(blocks=_chained(file, parts, head))


def _chained(file: BinaryIO, parts: list[Part], head: Reading) -> Iterator[np.ndarray]:
    for number, part in enumerate(parts, 1):
        with _one(file, part) as reading:
            if (reading.rate, reading.channels) != (head.rate, head.channels):
                raise DataError(
                    f"part {number} of {len(parts)} has {_form(reading.rate, reading.channels)}, the first "
                    f"{_form(head.rate, head.channels)}; split it, or convert it to FLAC or WAV"
                )
            present = 0
            for block in reading.blocks:
                present += block.shape[1]
                yield block
            if reading.samples is not None and present < reading.samples:
                raise DataError(f"part {number} of {len(parts)} is {cut_off(reading.samples, present)}")


def _form(rate: int, channels: int) -> str:
    return f"{rate:,} Hz and {channels} channel{'s' if channels > 1 else ''}"


def cut_off(declared: int, present: int) -> str:
    return f"cut off; its header declares {declared:,} samples, {present:,} are there"


@contextmanager
def _one(file: BinaryIO, part: Part, name: bytes | None = None) -> Iterator[Reading]:
    """Open one recording of a file, by libsndfile where it reads all of it, else by FFmpeg."""
    source = Stretch(file, part)
    magic, stated = source.read(4), _stated_bytes(source, part.stop - part.start)
    source.seek(0)
    with ExitStack() as stack:
        sound = None
        if magic in LIBSNDFILE and part.streams == 1:
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


# --------------------------------------------------------------------------------------------------------------- FFmpeg


def ffmpeg() -> Any:
    """Return FFmpeg's library, which loads slowly, and which few recordings need."""
    with _LOADING:
        import av
    return av


@contextmanager
def _by_ffmpeg(source: "Stretch", magic: bytes, open_end: bool) -> Iterator[Reading]:
    av = ffmpeg()

    options = {"format_whitelist": ",".join(sorted(set(SUFFIXES.values())))}  # no playlists, which name other files
    options |= {"ignore_length": "1"} if open_end and magic in (b"RIFF", b"RIFX", b"RF64") else {}
    counted = _frames_counted(source)
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
        others = [it.type for it in container.streams if it.type != "audio" and not _is_picture(it)]
        notes = [f"left out beside its audio: {', '.join(others)}"] if others else []
        frames = _frames(container.demux(stream), kind, open_end, notes)
        first = next(frames, None)
        if first is None:
            raise DataError("holds no samples")
        rate, channels = first.sample_rate, first.layout.nb_channels
        length = None if open_end else _length(container, stream, kind, counted / rate)
        blocks = _joined(first, frames, length, notes)
        yield Reading(rate, channels, stream.codec_context.name.upper(), None, blocks, notes)


def _length(container: Any, stream: Any, kind: str, counted: float) -> Length | None:
    """Return the length that a container states; what FFmpeg guesses from sizes and bit rates is none."""
    if stream.duration is not None:
        found = float(stream.duration * stream.time_base)
    else:
        found = (container.duration or 0) / 1e6
    if kind == "mp3":
        if not counted:
            return None
        gapless = stream.start_time and counted - ROUNDING < found <= counted  # else FFmpeg guessed: more lies behind
        return Length(found, 0) if gapless else Length(counted, ROUNDING)
    return Length(found, SLACK[kind]) if found > 0 and kind in SLACK else None


def _is_picture(stream: Any) -> bool:
    """Whether a stream is the picture of a cover and no film."""
    from av.stream import Disposition

    return Disposition.attached_pic in stream.disposition or stream.type == "attachment"


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
    first: "AudioFrame", frames: "Iterator[AudioFrame]", length: Length | None, notes: list[str]
) -> Iterator[np.ndarray]:
    """Yield frames in blocks, and check their form and their number against what is stated."""
    rate, channels = first.sample_rate, first.layout.nb_channels
    kept, held, present = [], 0, 0
    for frame in chain([first], frames):
        if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
            form = _form(frame.sample_rate, frame.layout.nb_channels)
            seconds = f"{present / rate:,.2f} s"
            raise DataError(f"changes from {_form(rate, channels)} to {form} after {seconds}; split it there")
        kept.append(_floats(frame))
        present, held = present + frame.samples, held + frame.samples
        if held >= BLOCK:
            yield np.concatenate(kept, axis=1)
            kept, held = [], 0
    if kept:
        yield np.concatenate(kept, axis=1)
    if length is None:
        notes.append(_open_end(present / rate))
    elif present < (length.seconds - length.slack) * rate - 0.5:
        raise DataError(cut_off(round(length.seconds * rate), present))
    elif present / rate > length.seconds + max(length.slack, ROUNDING):
        notes.append(f"its header states {length.seconds:,.2f} s; {present / rate:,.2f} s were read, to its end")


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
    told = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(told).split()).removeprefix("Error : ").rstrip(".") or type(error).__name__


# ----------------------------------------------------------------------------------------------------------- containers


class Stretch(io.RawIOBase):
    """A stretch of a file as a file of its own, for decoders."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file, self._part, self._at = file, part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._part.stop - self._part.start}[whence]
        self._at = min(max(0, base + offset), 2**62)  # broken files ask for places beyond what C can count
        return self._at

    def readinto(self, buffer: Any) -> int:
        view, start = memoryview(buffer), self._part.start + self._at
        if start >= self._part.stop:
            return 0
        self._file.seek(start)
        data = self._file.read(min(len(view), self._part.stop - start))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _parts(file: BinaryIO, size: int) -> list[Part]:
    """Return the recordings that stand one behind another in a file, mostly one. Raises DataError for a broken one."""
    magic = file.read(8)
    if magic[:4] == b"OggS":
        return _ogg_parts(file)
    starts = [0]
    if magic == FLAC_START:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            while (found := content.find(FLAC_START, starts[-1] + 1)) > 0:
                starts.append(found)
    return [Part(start, stop) for start, stop in zip(starts, [*starts[1:], size], strict=True)]


def _stated_bytes(source: Stretch, size: int) -> int | None:
    """Return the bytes of audio that a container states, None where it states none that can be true.

    Raises DataError where fewer are there: the file is cut off. Formats that are no chunks of bytes state their size.
    """
    source.seek(0)
    magic = source.read(4)
    match magic:
        case b"RIFF" | b"RF64":
            found = _chunk(source, 12, "little", 4, b"data")
        case b"RIFX":
            found = _chunk(source, 12, "big", 4, b"data")
        case b"FORM":
            found = _chunk(source, 12, "big", 4, b"SSND")
        case b"riff":
            found = _chunk(source, 40, "little", 8, b"data")
        case b"caff":
            found = _chunk(source, 8, "big", 8, b"data")
        case b".snd":
            start, declared = (int.from_bytes(source.read(4)) for _ in range(2))
            found = start, declared
        case _:
            return size
    if found is None:
        return size
    start, declared = found
    source.seek(4)
    if declared == 0 and int.from_bytes(source.read(4), "big" if magic in (b"FORM", b"RIFX") else "little") + 8 == size:
        raise DataError("holds no samples")  # as its header says
    if declared in UNKNOWN or any(declared in sizes for sizes in UNLIKELY):
        return None
    if declared > (present := max(size - start, 0)):
        raise DataError(f"cut off; its header declares {declared:,} bytes of audio, {present:,} are there")
    return declared


def _chunk(
    source: Stretch, start: int, order: Literal["little", "big"], width: int, wanted: bytes
) -> tuple[int, int] | None:
    """Return where the chunk of the samples begins in a file of chunks, and its size; None where there is none.

    Sizes are as ``width`` bytes. Of Sony's Wave64, with names of 16 bytes, they count their own header.
    """
    wave64 = order == "little" and width == 8
    large = None  # RF64 keeps the true size in its first chunk
    source.seek(start)
    for _ in range(MAX_CHUNKS):
        header = source.read((16 if wave64 else 4) + width)
        if len(header) < (16 if wave64 else 4) + width:
            return None
        name, length = header[:4], int.from_bytes(header[-width:], order)
        body = source.tell()
        if name == wanted:
            if large is not None and length == 0xFFFFFFFF:
                length = large
            return body, length - len(header) if wave64 and length < 2**62 else length
        if name == b"ds64" and len(sizes := source.read(16)) == 16:
            large = int.from_bytes(sizes[8:], "little")
        length = max(0, length - len(header)) if wave64 else length
        pad = -length % 8 if wave64 else length % 2 if width == 4 else 0
        if length >= 2**62:
            return None
        source.seek(body + length + pad)
    return None


def _frames_counted(source: Stretch) -> int:
    """Return the number of samples that an MP3 stream states in its first frame, 0 where it has no such frame."""
    start = 0
    source.seek(start)
    while (head := source.read(64))[:3] == b"ID3" and len(head) == 64:
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        start += 10 + size + (10 if head[5] & 0x10 else 0)
        source.seek(start)
    found = COUNT.match(head)
    return int.from_bytes(found[2]) * (1_152 if found[1][0] & 8 else 576) if found else 0


def mpeg_frame_bytes(frame: bytes) -> int:
    """Return the size that the header of an MPEG frame, layer II or III, gives it; 0 where it gives none."""
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] < 0xE2:
        return 0
    version, layer = frame[1] >> 3 & 3, 4 - (frame[1] >> 1 & 3)
    rates, rate = BIT_RATES.get((version == 3, layer), ()), frame[2] >> 2 & 3
    if rate == 3 or frame[2] >> 4 >= len(rates) or not rates[frame[2] >> 4]:
        return 0
    hertz = (44_100, 48_000, 32_000)[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    samples = 576 if version != 3 and layer == 3 else 1_152
    return samples * 125 * rates[frame[2] >> 4] // hertz + (frame[2] >> 1 & 1)


def _ogg_parts(file: BinaryIO) -> list[Part]:
    """Return the links of an Ogg file (RFC 3533). Raises DataError for a wrong checksum, or without a last page."""
    starts: list[int] = []
    streams: list[int] = []
    stop, pages, was_first, ended = 0, 0, False, False
    file.seek(0)
    while (header := file.read(27))[:4] == b"OggS" and len(header) == 27:
        segments = file.read(header[26])
        body = file.read(sum(segments))
        if len(segments) < header[26] or len(body) < sum(segments):
            raise DataError("cut off within a page of its Ogg stream")
        pages, is_first = pages + 1, bool(header[5] & 2)
        checksum = _ogg_checksum(header[:22] + bytes(4) + header[26:] + segments + body)
        if checksum != int.from_bytes(header[22:26], "little"):
            raise DataError(f"damaged; page {pages} of its Ogg stream fails its checksum")
        if is_first and not was_first:
            if starts and not ended:
                raise DataError(
                    f"cut off or damaged; part {len(starts)} of its Ogg stream does not end with a last page"
                )
            starts, streams = [*starts, stop], [*streams, 0]
        if is_first:
            streams[-1] += 1
        stop, was_first, ended = file.tell(), is_first, bool(header[5] & 4)
    if b"OggS" in header + file.read(1 << 24):
        raise DataError(f"damaged; behind page {pages} of its Ogg stream no page begins")
    if not ended or not starts:
        raise DataError("cut off or damaged; its Ogg stream does not end with a last page")
    return [Part(*it) for it in zip(starts, [*starts[1:], stop], streams, strict=True)]


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of a page whose own is zeroed: most significant bit first, nothing inverted, unlike zlib's."""
    crc = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
