"""Which recordings are the same sound in different files, such as a WAV and its FLAC. Loads without torch."""

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from sagasr.audio.files import Sound, decode
from sagasr.data.manifest import Row
from sagasr.errors import DataError

BEGINNING = 4_096  # samples that are compared before recordings are read as a whole


def same_sounds(train: Mapping[str, Row], val: Mapping[str, Row]) -> list[tuple[Row, Row]]:
    """Return who stands in both splits in files that differ. Rows are given by the sha256 of their file.

    Only recordings as long as one of the other split are read, and only those that begin alike as a whole.
    """
    sides = [[row for digest, row in one.items() if digest not in other] for one, other in ((train, val), (val, train))]
    with ThreadPoolExecutor() as pool:
        for look in (_size, _beginning, _samples):
            keyed = [list(zip(pool.map(look, [row.file for row in rows]), rows, strict=True)) for rows in sides]
            both = {key for key, _ in keyed[0]} & {key for key, _ in keyed[1]} - {None}
            keyed = [[(key, row) for key, row in side if key in both] for side in keyed]
            sides = [[row for _, row in side] for side in keyed]
    learnt = dict(reversed(keyed[0]))
    return [(learnt[key], row) for key, row in keyed[1]]


def _size(file: Path) -> object:
    """Return the length, rate and channels of a recording; None where it cannot be read."""
    try:
        info = soundfile.info(os.fsencode(file))
        return info.frames, info.samplerate, info.channels
    except (soundfile.SoundFileError, TypeError, OSError):
        return _of_decoded(file, lambda sound: (sound.samples.shape[1], sound.rate, sound.samples.shape[0]))


def _beginning(file: Path) -> object:
    try:
        return _digest(soundfile.read(os.fsencode(file), BEGINNING, dtype="float32", always_2d=True)[0].T)
    except (soundfile.SoundFileError, TypeError, OSError):
        return _of_decoded(file, lambda sound: _digest(sound.samples[:, :BEGINNING]))


def _samples(file: Path) -> object:
    """Return the identity of all samples; None for silence, which is refused elsewhere."""
    return _of_decoded(file, lambda sound: _digest(sound.samples) if np.ptp(sound.samples) else None)


def _digest(samples: np.ndarray) -> bytes:
    return hashlib.sha256(samples.tobytes()).digest()


def _of_decoded(file: Path, look: Callable[[Sound], object]) -> object:
    try:
        return look(decode(file))
    except DataError:
        return None
