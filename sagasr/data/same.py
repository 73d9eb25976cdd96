"""Which recordings are the same sound in different files, such as a WAV and its FLAC. Loads without torch."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sagasr.audio.files import BLOCK, opened
from sagasr.data.rows import Row
from sagasr.io.errors import DataError
from sagasr.io.machine import cpus_here

BEGINNING = 4_096  # samples by which all recordings are compared, whoever decodes them


class Start(NamedTuple):
    """How a recording begins: equal for equal sounds, but ``more`` only if both are of a kind."""

    rate: int
    beginning: bytes
    more: int | bytes  # the length, where libsndfile tells; else a first block, as counting would decode all of it

    @property
    def other_kind(self) -> tuple[int, bytes, type]:
        """What a recording of the other kind would have to have in ``own_kind``."""
        return self.rate, self.beginning, int if isinstance(self.more, bytes) else bytes

    @property
    def own_kind(self) -> tuple[int, bytes, type]:
        return self.rate, self.beginning, type(self.more)


def same_sounds(train: Mapping[str, Row], val: Mapping[str, Row]) -> list[tuple[Row, Row]]:
    """Return who stands in both splits in files that differ. Rows are given by the sha256 of their file.

    Only recordings that begin like one of the other split, and are as long where that is known, are read as a whole.
    """
    sides = [[row for digest, row in one.items() if digest not in other] for one, other in ((train, val), (val, train))]
    with ThreadPoolExecutor(cpus_here()) as pool:
        starts = [list(pool.map(_start, [row.file for row in rows])) for rows in sides]
        known = [{key for start in side if start for key in (start, start.own_kind)} for side in starts]
        sides = [
            [row for row, it in zip(rows, side, strict=True) if it and (it in other or it.other_kind in other)]
            for rows, side, other in zip(sides, starts, reversed(known), strict=True)
        ]
        keyed = [list(zip(pool.map(_samples, [row.file for row in rows]), rows, strict=True)) for rows in sides]
    learnt = dict(reversed(keyed[0]))
    return [(learnt[key], row) for key, row in keyed[1] if key and key in learnt]


def _start(file: Path) -> Start | None:
    """Return how a recording begins; None where it cannot be read."""
    try:
        with soundfile.SoundFile(os.fsencode(file)) as sound:
            beginning = sound.read(BEGINNING, dtype="float32", always_2d=True)
            return Start(sound.samplerate, _digest(beginning), sound.frames)
    except (soundfile.SoundFileError, TypeError, OSError):
        pass
    try:
        with opened(file, whole=False) as reading:
            first = next(reading.blocks).T
            return Start(reading.rate, _digest(first[:BEGINNING]), _digest(first[:BLOCK]))
    except DataError:
        return None


def _samples(file: Path) -> bytes | None:
    """Return the identity of all samples, of one channel where both are equal.

    None for silence, which is refused elsewhere, and what cannot be read.
    """
    every, left, doubled = hashlib.sha256(), hashlib.sha256(), True
    least, most = np.inf, -np.inf
    try:
        with opened(file) as reading:
            for block in reading.blocks:
                every.update(block.T.tobytes())
                left.update(block[0].tobytes())
                doubled = doubled and bool((block == block[0]).all())
                least, most = min(least, block.min()), max(most, block.max())
    except DataError:
        return None
    return (left if doubled else every).digest() if least < most else None


def _digest(samples: np.ndarray) -> bytes:
    """Return the digest of samples [n, C], time by time: in which blocks they come does not matter.

    Two equal channels are the same sound as one.
    """
    doubled = (samples == samples[:, :1]).all()
    return hashlib.sha256((samples[:, :1] if doubled else samples).tobytes()).digest()
