"""Recordings of any length, block by block: read and resampled, measured, kept while needed, written as one file.

Memory never depends on the length of a recording, and nothing else does: a recording that is streamed has the samples
and the measures of one that is held whole.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from scipy.ndimage import median_filter
from scipy.signal import firwin, resample_poly

from sagasr.audio.decoders import BLOCK
from sagasr.audio.files import opened
from sagasr.audio.spectrum import BIN_HZ, HOP, NUM_BINS, rolloff_bin, window
from sagasr.constants import N_FFT, SAMPLE_RATE
from sagasr.io.errors import DataError
from sagasr.io.files import write_whole

TAPS = 10  # of the polyphase filter, per input sample on each side; with its window, scipy's default
SMOOTHING = 9  # bins, 200 Hz, over which levels are averaged where the end of the band is looked for
CLIFF_DB, CLIFF_SPAN = 30.0, 1.25  # a recording ends where its level falls by so much within so large a ratio
BAND = 47  # bins, 1 kHz: a line, as a television's at 15,625 Hz, is narrower than half of it, and no band
HEARD_DB = 100.0  # below the loudest; what filters leave behind lies deeper
EDGE_DB = 6.0  # below the level before the cliff: its resampling filter's answer at the cutoff itself
WAV_BYTES = 2**32 - 2**16  # of samples: a WAV file counts its bytes in 32 bits, RF64 is the same file with 64


class Source(NamedTuple):
    """A recording that can be read more than once: rate in Hz, channels, samples per channel, and its blocks [C, n]."""

    rate: int
    channels: int
    samples: int
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def length(self) -> int:
        """Return the number of samples at 44,100 Hz."""
        return -(-self.samples * SAMPLE_RATE // self.rate)


def file_source(path: Path) -> Source:
    """Return a recording in a file, decoded once to count its samples where only that tells. Raises DataError, as
    reading its blocks does.
    """

    def blocks() -> Iterator[np.ndarray]:
        with opened(path) as reading:
            yield from reading.blocks

    with opened(path) as reading:
        samples = reading.samples or sum(block.shape[1] for block in reading.blocks)
        return Source(reading.rate, reading.channels, samples, blocks)


def array_source(audio: Any, rate: int) -> Source:
    """Return audio [T] or [C, T], mono or stereo, as a recording. Raises DataError when it is not audio."""
    samples = np.atleast_2d(np.asarray(audio, dtype=np.float32))
    if samples.ndim != 2 or not 1 <= len(samples) <= 2 or samples.shape[-1] == 0:
        raise DataError(f"audio of shape {np.shape(audio)}; expected [samples], or [channels, samples], mono or stereo")
    if not np.isfinite(samples).all():
        raise DataError("the audio holds NaN or infinite samples")
    if rate != int(rate) or rate <= 0:
        raise DataError(f"a sample rate of {rate} Hz; expected a whole number above 0")
    starts = range(0, samples.shape[1], BLOCK)
    channels, length = samples.shape
    return Source(int(rate), channels, length, lambda: (samples[:, start : start + BLOCK] for start in starts))


def centred(source: Source) -> tuple[Source, np.ndarray]:
    """Return a recording without the constant offsets of its channels, and the offsets [C, 1]; it is read once."""
    offset = sum(block.sum(1, keepdims=True, dtype=np.float64) for block in source.blocks()) / source.samples
    offset = np.asarray(offset, np.float32)
    return source._replace(blocks=lambda: (block - offset for block in source.blocks())), offset


def overflow_of(source: Source) -> tuple[float, float]:
    """Return the largest magnitude of a recording's samples, where full scale is 1, and the share of them beyond it."""
    peak, beyond = 0.0, 0
    for block in source.blocks():
        magnitudes = np.abs(block)
        peak, beyond = max(peak, float(magnitudes.max())), beyond + int(np.count_nonzero(magnitudes > 1))
    return peak, beyond / (source.samples * source.channels)


def resampled(source: Source) -> Iterator[np.ndarray]:
    """Yield a recording at 44,100 Hz as float32 blocks [C, n]: what ``audio.files.resample`` makes of the whole."""
    shared = math.gcd(source.rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // shared, source.rate // shared
    if up == down:
        yield from source.blocks()
        return
    filter_ = _filter(max(up, down))
    step = down * math.ceil(BLOCK / down)  # blocks begin where input and output samples coincide
    margin = down * math.ceil((TAPS * max(up, down) / up + 1) / down)
    pending, start, done = np.zeros((source.channels, 0), np.float32), 0, 0  # input from ``start`` on; done to ``done``
    for block in chain(source.blocks(), [None]):
        if block is not None:
            pending = np.concatenate([pending, block], axis=1)
        have = start + pending.shape[1]
        while done < have and (block is None or have >= done + step + margin):
            stop = min(done + step, have)
            part = pending[:, : stop + margin - start]
            output = resample_poly(part, up, down, axis=-1, window=filter_)
            first = (done - start) * up // down
            yield np.ascontiguousarray(output[:, first : first + -(-(stop - done) * up // down)], dtype=np.float32)
            done = stop
            dropped = max(0, done - margin) - start
            pending, start = pending[:, dropped:], start + dropped


class Buffer:
    """A stretch of audio [C, ...] that grows at its end and is dropped at its beginning; silence lies around it."""

    def __init__(self, channels: int) -> None:
        self.start = 0
        self.audio = np.zeros((channels, 0), np.float32)

    @property
    def stop(self) -> int:
        return self.start + self.audio.shape[1]

    def append(self, block: np.ndarray) -> None:
        self.audio = np.concatenate([self.audio, block], axis=1)

    def add(self, start: int, audio: np.ndarray) -> None:
        """Add to what is there from sample ``start`` on."""
        missing = start + audio.shape[1] - self.stop
        if missing > 0:
            self.append(np.zeros((len(self.audio), missing), np.float32))
        self.audio[:, start - self.start : start - self.start + audio.shape[1]] += audio

    def cut(self, start: int, stop: int) -> np.ndarray:
        """Return a copy [C, stop - start], zeros where nothing is held."""
        first = min(max(start, self.start), stop)
        last = max(first, min(stop, self.stop))
        part = self.audio[:, max(first - self.start, 0) : max(last - self.start, 0)]
        return np.pad(part, ((0, 0), (first - start, stop - first - part.shape[1])))

    def drop(self, stop: int) -> None:
        """Forget all before sample ``stop``."""
        if stop > self.start:
            self.audio = self.audio[:, stop - self.start :].copy()
            self.start = stop


class Spectrum:
    """The long-term spectrum of one channel that arrives in blocks [n].

    Of one, since a mean of channels lacks what cancels in it.
    """

    def __init__(self) -> None:
        self.magnitudes, self.powers, self.frames = np.zeros(NUM_BINS), np.zeros(NUM_BINS), 0
        self._rest = torch.zeros(N_FFT // 2)  # zeros beyond the ends, as in ``audio.spectrum``

    def add(self, block: np.ndarray) -> None:
        rest = torch.cat([self._rest, torch.from_numpy(block)])
        count = max(0, (len(rest) - N_FFT) // HOP + 1)
        if count:
            frames = rest.unfold(0, N_FFT, HOP)
            for part in frames.split(256):
                magnitudes = torch.fft.rfft(part * window(part.dtype, part.device)).abs().double()
                self.magnitudes += magnitudes.sum(0).numpy()
                self.powers += magnitudes.square().sum(0).numpy()
        self.frames += count
        self._rest = rest[count * HOP :]

    def close(self) -> None:
        """Add the zeros behind the end."""
        self.add(np.zeros(N_FFT // 2, np.float32))

    @property
    def rolloff_hz(self) -> float:
        """Return the frequency below which 98.5 % of the magnitude lies, as ``audio.spectrum.rolloff_hz`` does."""
        return BIN_HZ * rolloff_bin(torch.from_numpy(self.magnitudes))

    @property
    def cutoff_hz(self) -> float:
        """Return where the channel's band ends: at a cliff in its spectrum, or, where there is none, its roll-off.

        The roll-off alone lies below the end of the band in music whose weight is in the bass: what is there above it
        would be thrown away.
        """
        edge = cliff_bin(self.powers / max(self.frames, 1))
        return max(self.rolloff_hz, 0.0 if edge is None else BIN_HZ * edge)


def cliff_bin(power: np.ndarray) -> int | None:
    """Return the last bin before the mean power [F] falls by 30 dB within a quarter of its frequency, for good.

    Of several falls the last one counts: what lies between them is quieter, and part of the recording all the same.
    Lines are left out, since nothing lies between them and the band.
    """
    smooth = np.convolve(power, np.ones(SMOOTHING) / SMOOTHING, mode="same")
    bands = median_filter(smooth, BAND, mode="nearest")
    levels = 10 * np.log10(np.maximum(bands, 10 ** (-HEARD_DB / 10) * max(smooth.max(), 1e-30)))
    ahead = np.maximum.accumulate(levels[::-1])[::-1]  # the loudest of all that follows
    bins = np.arange(NUM_BINS)
    falls = ahead - ahead[np.minimum(np.ceil(bins * CLIFF_SPAN).astype(int), NUM_BINS - 1)]
    falls[: N_FFT // 128] = 0  # below 340 Hz nothing is called a cutoff
    steep = np.flatnonzero(falls >= CLIFF_DB)
    if not len(steep):
        return None
    last = np.split(steep, np.flatnonzero(np.diff(steep) > 1) + 1)[-1]
    top = last[falls[last].argmax()]
    return int(np.flatnonzero(ahead >= ahead[top] - EDGE_DB)[-1])


def write_blocks(path: Path, blocks: Iterable[np.ndarray], channels: int, samples: int) -> int:
    """Write float blocks [C, n] at 44,100 Hz, ``samples`` per channel, as one file, and return how many were clipped.

    The name decides: ``.wav`` holds the floats as they are, any other is 24-bit FLAC, whose values end at full scale.
    Raises DataError when the disk is full or samples are not finite; the old file is then untouched.
    """
    if as_floats := path.suffix == ".wav":
        kind, subtype = "WAV" if 4 * channels * samples <= WAV_BYTES else "RF64", "FLOAT"
    else:
        kind, subtype = "FLAC", "PCM_24"
    clipped = 0

    def write(temporary: Path) -> None:
        nonlocal clipped
        try:
            name = os.fsencode(temporary)
            with soundfile.SoundFile(name, "w", SAMPLE_RATE, channels, subtype, format=kind) as sound:
                for block in blocks:
                    if not np.isfinite(block).all():
                        raise DataError(f"{path}: the audio to be written holds NaN or infinite samples")
                    if not as_floats:
                        clipped += int((np.abs(block) > 1).sum())
                    sound.write((block if as_floats else np.clip(block, -1, 1)).T)
            if soundfile.info(name).frames != samples:
                raise soundfile.SoundFileRuntimeError("samples are missing")
        except (soundfile.SoundFileError, AssertionError) as error:  # the codec does not say why: an assertion or less
            raise DataError(f"{path}: could not be written whole; is the disk full?") from error

    write_whole(path, write)
    return clipped


@lru_cache(maxsize=8)
def _filter(ratio: int) -> Any:
    """Return scipy's own filter for this ratio, once for all blocks."""
    return np.asarray(firwin(2 * TAPS * ratio + 1, 1 / ratio, window=("kaiser", 5.0)), dtype=np.float32)
