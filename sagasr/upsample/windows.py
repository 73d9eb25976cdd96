"""How a recording passes through a model in windows: laid out, faded into one another, and joined."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sagasr.audio.low_band import Kind, replace_low_band
from sagasr.audio.spectrum import HOP
from sagasr.audio.stream import Buffer, Source, resampled
from sagasr.constants import N_FFT, NYQUIST, SAMPLE_RATE
from sagasr.data.encoded_record import SILENCE_RMS
from sagasr.data.measures import STEP

# Called with the seconds of audio that were finished since the last call; they sum to the length of a recording.
Progress = Callable[[float], object]
OVERLAP = 4  # windows share at least one part in so many
CONTEXT = 16  # latent frames encoded on both sides of a window and left out: training crops whole recordings, too
BLOCK = 256 * HOP  # samples that are finished at once: their low band is replaced, and they are written
ALL_KEPT_HZ = 2.0 * NYQUIST  # a splice above everything: a silent channel stays silent beside one that is not


class Stream:
    """What passes through the model as one signal: channels of a recording, and what was made of them so far."""

    def __init__(self, channels: tuple[int, ...], starts: Sequence[int], length: int, ratio: int) -> None:
        self.channels = list(channels)
        self.starts, self.length, self.ratio = starts, length, ratio
        self.gain = 1.0
        self.generated = Buffer(len(channels))
        self.latents: dict[int, Tensor] = {}  # of windows whose neighbours are still to come, normalised [D, N]
        self.open = set(range(len(starts)))

    @property
    def settled(self) -> float:
        """Return the sample up to which nothing will change, infinity when nothing will change any more."""
        return self.starts[min(self.open)] if self.open else math.inf

    def finish(self, index: int, audio: np.ndarray, latents: Tensor | None, total: int) -> None:
        """Add a generated window [C, length], faded where it meets its neighbours."""
        start = self.starts[index]
        self.generated.add(start, (audio * self._weight(index))[:, : total - start])
        self.open.discard(index)
        if latents is not None and index % 2 == 0:
            self.latents[index] = latents
        for done in [done for done in self.latents if not self.open & {done - 1, done + 1}]:
            del self.latents[done]

    def _weight(self, index: int) -> np.ndarray:
        """Return the share of a window in each of its samples; the shares of all windows sum to 1 everywhere."""
        weight = np.ones(self.length)
        if index > 0:
            weight *= self._rise(index - 1, self.starts[index])
        if index + 1 < len(self.starts):
            weight *= 1 - self._rise(index, self.starts[index])
        return weight.astype(np.float32)

    def _rise(self, joint: int, start: int) -> np.ndarray:
        """Return the fade-in at a joint, for the window from ``start``: half the shortest overlap, amid the real one.

        The outer quarters of the overlap stay out, as a codec is less exact at the ends of what it decodes. Amplitudes
        sum to 1, not powers: both sides hold the same latents.
        """
        centre = (self.starts[joint] + self.length + self.starts[joint + 1]) / 2
        length = shortest_overlap(self.length) / 2
        progress = (start + np.arange(self.length) - (centre - length / 2)) / length
        return 0.5 - 0.5 * np.cos(np.pi * progress.clip(0, 1))


class Window(NamedTuple):
    """One window of one stream of a recording."""

    recording: "Recording"
    stream: Stream
    number: int

    @property
    def start(self) -> int:
        """Return its first sample at 44,100 Hz."""
        return self.stream.starts[self.number]


class Recording:
    """A recording on its way through: of its low and its generated audio, only what is still needed is held."""

    def __init__(
        self,
        source: Source,
        offset: np.ndarray,
        cutoffs_hz: Sequence[float],
        streams: Sequence[Stream],
        on_progress: Progress,
        ready: deque[Window],
    ) -> None:
        self.total, self.offset, self.streams = source.length, offset, streams
        self.cutoffs_hz = cutoffs_hz
        self.splices_hz = torch.tensor([cutoff_hz or ALL_KEPT_HZ for cutoff_hz in cutoffs_hz])
        self.starts, self.length = streams[0].starts, streams[0].length
        self.seconds = self.total / SAMPLE_RATE
        self.share = self.seconds / (len(streams) * len(self.starts))  # of one window in the progress
        self.on_progress, self.ready = on_progress, ready
        self.channels = source.channels
        self.low, self.input = Buffer(source.channels), resampled(source)
        self.emitted = 0

    @property
    def finished(self) -> bool:
        return self.emitted == self.total

    def low_of(self, window: Window, before: int = 0, after: int = 0) -> np.ndarray:
        """Return the low audio [C, T] of a window, with so many samples around it, as if silence followed its end."""
        start, stop = window.start - before, window.start + self.length + after
        while self.low.stop < min(stop, self.total):
            self.low.append(next(self.input))
        return self.low.cut(start, stop)[window.stream.channels]

    def passed_silent(self, window: Window) -> bool:
        """Let a window of silence pass as it is; return whether it was one."""
        low = self.low_of(window)
        if float(np.std(low, axis=-1).max()) >= SILENCE_RMS:
            return False
        self.on_progress(self.share)
        self.finish(window, low, None)
        return True

    def finish(self, window: Window, generated: np.ndarray, latents: Tensor | None) -> None:
        """Take what was made of a window; the windows beside it may be ready then."""
        stream, index = window.stream, window.number
        stream.finish(index, generated, latents, self.total)
        for beside in (index - 1, index + 1):
            if beside % 2 and beside in stream.open and not stream.open & {beside - 1, beside + 1}:
                between = Window(self, stream, beside)
                if not self.passed_silent(between):
                    self.ready.append(between)

    def blocks(self, lfr: Kind) -> Iterator[np.ndarray]:
        """Yield what is settled and was not yielded before, as blocks [C, n] in the channels of the recording."""
        settled = min(stream.settled for stream in self.streams)
        while not self.finished and (settled == math.inf or settled >= self.emitted + BLOCK + N_FFT):
            stop = min(self.emitted + BLOCK, self.total)
            parts = [self._replaced(stream, stop, lfr) for stream in self.streams]
            audio = np.concatenate(parts)
            audio = audio if len(audio) == self.channels else audio.mean(0, keepdims=True)
            yield audio + self.offset
            self.emitted = stop
        self._forget()

    def _replaced(self, stream: Stream, stop: int, kind: Kind) -> np.ndarray:
        """Return what was generated up to a sample, its low band taken from low: equal to replacing it in the whole."""
        if kind == "off":
            return stream.generated.cut(self.emitted, stop)
        before = min(self.emitted, N_FFT)  # a multiple of the hop: the analysis windows stand where they would
        start, end = self.emitted - before, min(stop + N_FFT, self.total)
        generated = torch.from_numpy(stream.generated.cut(start, end))
        low = torch.from_numpy(self.low.cut(start, end)[stream.channels])
        splices_hz = self.splices_hz[stream.channels]  # each channel is a clip of its own
        replaced = replace_low_band(generated[:, None], low[:, None], splices_hz, kind)[:, 0]
        return replaced[:, before : before + stop - self.emitted].numpy()

    def _forget(self) -> None:
        needed = self.emitted - N_FFT
        for stream in self.streams:
            stream.generated.drop(needed)
            needed = min(needed, int(min(stream.settled, self.total)) - CONTEXT * stream.ratio)
        self.low.drop(needed)


def shortest_overlap(length: int) -> int:
    """Return the samples that windows of ``length`` samples share at least."""
    return STEP * max(1, length // STEP // OVERLAP)


def window_starts(total: int, length: int) -> list[int]:
    """Return where windows of a length begin: as few as cover the total, spread evenly; all in steps of STEP."""
    hop = length - max(1, length // OVERLAP)
    more = max(0, math.ceil((total - length) / hop))
    return [0, *(round(index * (total - length) / more) for index in range(1, more + 1))]
