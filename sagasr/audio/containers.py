"""What containers say of a recording: its streams, where each begins and ends, and how much audio there should be.

Decoders are lenient: they read a file cut in half as a shorter recording. So the container is asked here.
"""

import io
import mmap
import os
import re
import zlib
from typing import Any, BinaryIO, Literal

from sagasr.io.errors import DataError

FLAC_START = b"fLaC\0\0\0\x22"  # with the header of its first block
COUNT = re.compile(
    rb"\xff([\xe2-\xff]).{11,34}(?:(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f]|VBRI.{10})(.{4})", re.S
)
BIT_RATES = {  # of MPEG frames in kbit/s, by whether they are of version 1, and their layer
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    **dict.fromkeys(((False, 3), (False, 2)), (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)),
}
UNKNOWN = (0, 0xFFFFFFFF)  # bytes of audio, in headers of those who wrote into a pipe, or were killed
UNLIKELY = (  # the same: the largest that 31, 32 or 64 bits have room for, as SoX, LAME and ALSA put there
    range(0x7EFFFFF0, 0x80000001),
    range(0xFFFFF000, 0xFFFFFFFF - 35),
    range(2**62, 2**64),
)
CHUNKS: dict[bytes, tuple[int, Literal["little", "big"], int, bytes]] = {  # by first bytes: ``_chunk``'s arguments
    **dict.fromkeys((b"RIFF", b"RF64"), (12, "little", 4, b"data")),
    b"RIFX": (12, "big", 4, b"data"),
    b"FORM": (12, "big", 4, b"SSND"),
    b"riff": (40, "little", 8, b"data"),
    b"caff": (8, "big", 8, b"data"),
}
MAX_CHUNKS = 10_000  # before the samples; more are zeros, or no chunks
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Part(io.RawIOBase):
    """A stretch of a file that is a whole recording, as a file of its own; and how many streams it interleaves."""

    def __init__(self, file: BinaryIO, start: int, stop: int, streams: int = 1) -> None:
        self._file, self.start, self.stop, self.streams, self._at = file, start, stop, streams, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.stop - self.start}[whence]
        self._at = min(max(0, base + offset), 2**62)  # broken files ask for places beyond what C can count
        return self._at

    def readinto(self, buffer: Any) -> int:
        view, start = memoryview(buffer), self.start + self._at
        if start >= self.stop:
            return 0
        self._file.seek(start)
        data = self._file.read(min(len(view), self.stop - start))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def parts_of(file: BinaryIO, size: int) -> list[Part]:
    """Return the recordings that stand one behind another in a file, mostly one. Raises DataError for a broken one."""
    magic = file.read(8)
    if magic[:4] == b"OggS":
        return _ogg_parts(file)
    starts = [0]
    if magic == FLAC_START:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            while (place := content.find(FLAC_START, starts[-1] + 1)) > 0:
                starts.append(place)
    return [Part(file, start, stop) for start, stop in zip(starts, [*starts[1:], size], strict=True)]


def stated_bytes(source: Part) -> int | None:
    """Return the bytes of audio that a container states, None where it states none that can be true.

    Raises DataError where fewer are there: the file is cut off. Formats that are no chunks of bytes state their size.
    """
    source.seek(0)
    magic, size = source.read(4), source.stop - source.start
    if magic == b".snd":
        start, declared = (int.from_bytes(source.read(4)) for _ in range(2))
    elif magic in CHUNKS and (chunk := _chunk(source, *CHUNKS[magic])):
        start, declared = chunk
    else:
        return size
    source.seek(4)
    if declared == 0 and int.from_bytes(source.read(4), "big" if magic in (b"FORM", b"RIFX") else "little") + 8 == size:
        raise DataError("holds no samples")  # as its header says
    if declared in UNKNOWN or any(declared in sizes for sizes in UNLIKELY):
        return None
    if declared > (present := max(size - start, 0)):
        raise DataError(f"cut off; its header declares {declared:,} bytes of audio, {present:,} are there")
    return declared


def _chunk(
    source: Part, start: int, order: Literal["little", "big"], width: int, wanted: bytes
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


def frames_counted(source: Part) -> int:
    """Return the number of samples that an MP3 stream states in its first frame, 0 where it has no such frame."""
    start = 0
    source.seek(start)
    while (head := source.read(64))[:3] == b"ID3" and len(head) == 64:
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        start += 10 + size + (10 if head[5] & 0x10 else 0)
        source.seek(start)
    count = COUNT.match(head)
    return int.from_bytes(count[2]) * (1_152 if count[1][0] & 8 else 576) if count else 0


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
    return [Part(file, *link) for link in zip(starts, [*starts[1:], stop], streams, strict=True)]


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of a page whose own is zeroed: most significant bit first, nothing inverted, unlike zlib's."""
    crc = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
