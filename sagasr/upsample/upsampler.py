"""A trained model at work on a user's own recordings, of any length and rate, mono or stereo.

A recording of T samples at rate R becomes exactly ceil(T * 44,100 / R) samples at 44,100 Hz. It passes through in
windows as long as the validation clips, whose scores are thus those to expect, and never lies in memory as a whole.
Windows overlap by at least a quarter. Every other one is sampled first; those between them start from the same noise
and continue both neighbours, whose latents stand in the overlap: so the two versions that are cross-faded there are
one and the same, and no level is lost to two that differ. One gain brings the whole recording to the level at which
the model works and is undone at the end. Low-frequency replacement runs over the joined whole: it keeps what lies
below the end of the recording's band, which is found in its spectrum, or below a frequency that is given.

A mono model takes the channels of a stereo recording one by one, from equal noise; a stereo model takes a mono
recording twice and the two answers are averaged. Windows of silence pass unchanged.
"""

import math
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sagasr.audio.files import SUFFIXES, problem_of
from sagasr.audio.low_band import Kind, replace_low_band
from sagasr.audio.spectrum import HOP, N_FFT, rolloff_hz
from sagasr.audio.stream import (
    Buffer,
    Source,
    Spectrum,
    array_source,
    centred,
    file_source,
    overflow_of,
    resampled,
    write_blocks,
)
from sagasr.codec.codec import Codec, build_codec
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import NYQUIST, SAMPLE_RATE, Config, OwnCodec, Sampler
from sagasr.config.stages import trained_parts
from sagasr.config.strict import Strict
from sagasr.data.encoded_record import gain_at
from sagasr.data.listing import files_below
from sagasr.data.measures import STEP, estimate_rolloff, rms_of
from sagasr.data.quality import SILENCE_RMS
from sagasr.data.store import Store
from sagasr.io.errors import ConfigError, DataError, did_you_mean
from sagasr.io.files import check_writable, read_json, read_yaml, write_json
from sagasr.io.fingerprint import seed_of
from sagasr.model.conditions import ConditionInputs
from sagasr.model.saga import SagaModel, build_model
from sagasr.model.text import WordEncoder
from sagasr.model.words import words_of
from sagasr.plugins.parts import identity, sources
from sagasr.training import checkpoint

FACTS = "model.json"
OVERLAP = 4  # windows share at least one part in so many
CONTEXT = 16  # latent frames encoded on both sides of a window and left out: training crops whole recordings, too
LEVEL_RANGE = 100.0  # windows more than 40 dB below the loudest do not count towards the level of a recording
BATCH_SAMPLES = 2**18  # per batch of windows, so that memory does not depend on the length of a window
BLOCK = 256 * HOP  # samples that are finished at once: their low band is replaced, and they are written
CLIPS_PEAK, CLIPS_SHARE = 2.0, 1e-3  # what FLAC may clip: decoded MP3 and Ogg files pass full scale now and then
NOISE_FRAMES = 256  # of one draw of noise
ALL_KEPT_HZ = 2.0 * NYQUIST  # a splice above everything: a silent channel stays silent beside one that is not


class Facts(Strict):
    """``model.json``: what a trained model needs to know of its training set beside configuration and weights."""

    vocabulary: tuple[str, ...]
    rolloff_regression: dict[str, Any]
    parts: dict[str, str] = Field(default_factory=dict, description="sources of the classes of a user's own")


@dataclass(frozen=True)
class Settings:
    """How recordings are upsampled. Raises ConfigError for what cannot be meant."""

    rolloff_target: float | Literal["estimated"] = "estimated"  # share of 22,050 Hz, or guessed per window
    lfr: Kind = "crossfade"
    steps: int | None = None  # None: as the model was validated
    guidance: tuple[float, float] | None = None  # audio, text; None: as the model was validated
    text: str = ""
    seed: int = 0
    cutoff_hz: float | None = None  # below it the recording is kept; None: found in its spectrum

    def __post_init__(self) -> None:
        target = self.rolloff_target
        if target != "estimated" and not (isinstance(target, (int, float)) and 0 <= target <= 1):
            raise ConfigError(f"roll-off target {target!r}: a share of {NYQUIST:g} Hz from 0 to 1, or 'estimated'")
        if self.lfr not in (kinds := ("off", "hard", "crossfade")):
            raise ConfigError(f"lfr {self.lfr!r} is not known{did_you_mean(self.lfr, kinds)}")
        if self.guidance is not None and not all(0 <= strength < math.inf for strength in self.guidance):
            raise ConfigError(f"guidance {self.guidance[0]:g},{self.guidance[1]:g}: two strengths of at least 0")
        if self.cutoff_hz is not None and not 0 < self.cutoff_hz < NYQUIST:
            raise ConfigError(f"cutoff {self.cutoff_hz:g} Hz: a frequency between 0 and {NYQUIST:g}")


class Upsampled(NamedTuple):
    """A recording on its way out: where the band of each of its channels ends, 0 for a silent one, and its blocks."""

    cutoffs_hz: tuple[float, ...]
    blocks: Iterator[np.ndarray]


class Written(NamedTuple):
    """What became of a recording. ``clipped`` samples passed full scale, at which a FLAC file ends."""

    path: Path
    seconds: float
    cutoffs_hz: tuple[float, ...]
    clipped: int


Progress = Callable[[float], object]
"""Called with the seconds of audio that were finished since the last call; they sum to the length of a recording."""


def write_facts(trial: Path, store: Store, config: Config) -> None:
    """Write ``model.json``, so that a trial folder is all that upsampling needs."""
    words = store.vocabulary(config.conditions.text.source)
    regression, parts = store.meta["rolloff_regression"], sources(trained_parts(config))
    facts = Facts(vocabulary=words, rolloff_regression=regression, parts=parts)
    write_json(trial / FACTS, facts.model_dump(mode="json", exclude_defaults=True))


class Upsampler:
    """A trained model with all it needs. Two with equal weights give equal audio for equal settings."""

    def __init__(self, config: Config, facts: Facts, model: SagaModel, codec: Codec) -> None:
        self.config = config
        self.facts = facts
        self.model = model.eval()
        self.codec = codec
        self.frames = config.validation.segment // codec.ratio

    @classmethod
    def load(
        cls,
        path: Path | str,
        weights: Literal["ema", "raw"] = "ema",
        device: str = "auto",
        parts: Sequence[str] = (),
    ) -> "Upsampler":
        """Return the model of a trial folder (its newest checkpoint that verifies) or of one of its checkpoints.

        ``device`` auto is a GPU where there is one. ``parts``: the classes of the user's own, FILE.py:CLASS, that it
        was trained with. Raises SagasrError naming the file that is missing or broken.
        """
        trial, folder = _locate(Path(path))
        config = parse(Config, read_yaml(trial / "config.yaml"), str(trial / "config.yaml"))
        facts = _read_facts(trial)
        config = _with_parts(config, facts, parts)
        state = checkpoint.load(folder)
        model = build_model(config, vocabulary=facts.vocabulary)
        try:
            tensors = {name.removeprefix("model."): value for name, value in state["state_dict"].items()}
            if weights == "ema":
                tensors |= {name: value for name, value in state["ema"].items() if name in tensors}
            model.load_state_dict(tensors)
        except (KeyError, AttributeError, RuntimeError) as error:
            raise DataError(
                f"{folder}: not a checkpoint of the model in {trial / 'config.yaml'} ({str(error).splitlines()[0]})"
            ) from error
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        codec = build_codec(config.codec, config.audio.channels)
        return cls(config, facts, model.to(device), codec.to(device))

    def upsample(
        self, audio: Any, sample_rate: int, settings: Settings | None = None, on_progress: Progress | None = None
    ) -> np.ndarray:
        """Return audio [T] or [C, T], mono or stereo, in that layout as float32 at 44,100 Hz, with a high band."""
        (result,) = self.upsample_each([(audio, sample_rate)], settings, on_progress)
        return result

    def upsample_each(
        self,
        recordings: Iterable[tuple[Any, int]],
        settings: Settings | None = None,
        on_progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield what ``upsample`` gives for pairs of audio and rate, one by one; short ones share a batch."""
        dimensions: deque[int] = deque()

        def sources() -> Iterator[Source]:
            for audio, rate in recordings:
                source = array_source(audio, rate)
                dimensions.append(np.ndim(audio))
                yield source

        for result in self.upsample_blocks(sources(), settings, on_progress):
            audio = np.concatenate(list(result.blocks), axis=1)
            yield audio[0] if dimensions.popleft() == 1 else audio

    def upsample_blocks(
        self, sources: Iterable[Source], settings: Settings | None = None, on_progress: Progress | None = None
    ) -> Iterator[Upsampled]:
        """Yield for each recording its result, whose blocks [C, n] are used up before the next one is asked for."""
        done = self._finished(sources, settings or Settings(), on_progress or (lambda seconds: None))
        for recording, pairs in groupby(done, key=itemgetter(0)):
            yield Upsampled(tuple(recording.cutoffs_hz), map(itemgetter(1), pairs))

    # --------------------------------------------------------------------------------------------------------- batches

    def _finished(
        self, sources: Iterable[Source], settings: Settings, on_progress: Progress
    ) -> Iterator[tuple["_Recording", np.ndarray]]:
        """Yield finished blocks with their recording, one recording after the other.

        A batch holds windows whose two neighbours are ready, then first windows, of the next recordings too where one
        recording has no more.
        """
        sampler, text = self._sampler(settings), self._prepared(settings.text)
        recordings: deque[_Recording] = deque()
        ready: deque[_Window] = deque()
        firsts = self._first_windows(sources, settings, on_progress, recordings, ready)
        at_once = max(1, BATCH_SAMPLES // (self.frames * self.codec.ratio))
        more = True
        while more:
            batch = [ready.popleft() for _ in range(min(at_once, len(ready)))]
            wanted = at_once - len(batch)
            taken = list(islice(firsts, wanted))
            batch += [window for window in taken if window is not None]
            if batch:
                self._generate(batch, settings, sampler, text)
            more = len(taken) == wanted or bool(ready)
            while recordings:
                yield from ((recordings[0], block) for block in recordings[0].blocks(settings.lfr))
                if not recordings[0].finished:
                    break
                recordings.popleft()

    def _first_windows(
        self,
        sources: Iterable[Source],
        settings: Settings,
        on_progress: Progress,
        recordings: "deque[_Recording]",
        ready: "deque[_Window]",
    ) -> "Iterator[_Window | None]":
        """Yield every other window of all recordings in their order, None for one of silence, which is done.

        Those between them become ``ready`` in time.
        """
        for source in sources:
            recording = self._recording(source, settings, on_progress, ready)
            recordings.append(recording)
            for index in range(0, len(recording.starts), 2):
                for stream in recording.streams:
                    window = _Window(recording, stream, index)
                    yield None if recording.passed_silent(window) else window

    # ------------------------------------------------------------------------------------------------------- its parts

    def _sampler(self, settings: Settings) -> Sampler:
        changes: dict[str, Any] = {} if settings.steps is None else {"steps": settings.steps}
        if settings.guidance is not None:
            changes["guidance"] = dict(zip(("audio", "text"), settings.guidance, strict=True))
        return parse(Sampler, patch(self.config.evaluation.sampler.model_dump(mode="json"), changes), "sampler")

    @torch.inference_mode()
    def _prepared(self, text: str) -> Tensor:
        """Return the prepared text [1, ...]. Raises ConfigError for one that the model would not notice."""
        encoder = self.model.conditioner.text
        if text and self.config.conditions.text.source == "off":
            raise ConfigError("this model was trained without text; leave --text out")
        if isinstance(encoder, WordEncoder) and text and not any(word in encoder.index for word in words_of(text)):
            known = did_you_mean(text, encoder.index) if len(encoder.index) < 50 else ""
            raise ConfigError(f"--text {text!r}: the model learned none of these words{known}")
        return self.model.prepare([text])

    def _recording(
        self, source: Source, settings: Settings, on_progress: Progress, ready: "deque[_Window]"
    ) -> "_Recording":
        """Return a recording with its windows laid out and its levels measured, for which it is read twice."""
        source, offset = centred(source)  # the model would take an offset for something loud
        ratio, channels = self.codec.ratio, self.codec.channels
        # As crops in training: some codecs' latents are those of a shifted recording at even shifts only.
        units = -(-source.length // STEP), self.frames * ratio // STEP
        starts = [STEP * start for start in window_starts(*units)]
        parts = [(channel,) for channel in range(source.channels)] if channels == 1 else [(0, source.channels - 1)]
        streams = [_Stream(part, starts, self.frames * ratio, ratio) for part in parts]
        cutoffs = self._measure(source, streams)
        if settings.cutoff_hz is not None:
            cutoffs = [settings.cutoff_hz] * source.channels
        return _Recording(source, offset, cutoffs, streams, on_progress, ready)

    def _measure(self, source: Source, streams: "Sequence[_Stream]") -> list[float]:
        """Set the gain of each stream, from the levels of its windows, and return where the band of each channel ends.

        Of each for itself: what one channel has above the end of the other is its own, and so it stays.
        """
        starts, length = streams[0].starts, streams[0].length
        audio, spectra = Buffer(source.channels), [Spectrum() for _ in range(source.channels)]
        levels: list[list[float]] = []
        for block in resampled(source):
            audio.append(block)
            for channel, spectrum in zip(block, spectra, strict=True):
                spectrum.add(channel)
            while len(levels) < len(starts) and min(starts[len(levels)] + length, source.length) <= audio.stop:
                window = audio.cut(starts[len(levels)], starts[len(levels)] + length)
                levels.append([rms_of(window[stream.channels]) for stream in streams])
                audio.drop(starts[min(len(levels), len(starts) - 1)])
        for stream, level in zip(streams, np.array(levels).T, strict=True):
            loud = level[level >= level.max() / LEVEL_RANGE]
            stream.gain = float(gain_at(self.config, math.sqrt(np.square(loud).mean())))
        for spectrum in spectra:
            spectrum.close()
        return [spectrum.cutoff_hz for spectrum in spectra]

    @torch.inference_mode()
    def _generate(self, batch: "Sequence[_Window]", settings: Settings, sampler: Sampler, text: Tensor) -> None:
        """Sample the high version of each window and hand it to its recording."""
        device = self.model.norm.mean.device
        lows = [window.recording.low_of(window) for window in batch]
        gain = torch.tensor([window.stream.gain for window in batch], device=device)[:, None, None]
        low = torch.cat([self._latents(window) for window in batch])
        noise = torch.stack([self._noise(window.start // self.codec.ratio, settings.seed) for window in batch])
        inputs = ConditionInputs(
            text.expand(len(batch), *text.shape[1:]).to(device),
            torch.tensor([self._rolloffs(audio, settings) for audio in lows], device=device),
            torch.tensor([[window.start / SAMPLE_RATE, window.recording.seconds] for window in batch], device=device),
        )
        known, share = (torch.stack(part).to(device) for part in zip(*map(self._known, batch), strict=True))

        def on_step() -> None:
            for window in batch:
                window.recording.on_progress(window.recording.share / sampler.steps)

        settled = (known, share) if share.any() else None
        latents = self.model.sample(self.model.norm.apply(low), inputs, noise.to(device), sampler, on_step, settled)
        audio = self.codec.decode(self.model.norm.invert(latents), self.frames * self.codec.ratio)
        for window, generated, found in zip(batch, (audio / gain).cpu().numpy(), latents.cpu(), strict=True):
            window.recording.finish(window, generated, found)

    def _latents(self, window: "_Window") -> Tensor:
        """Return the latents [1, D, N] of a window at the level of the model, encoded within its surroundings."""
        ratio = self.codec.ratio
        before = min(CONTEXT, window.start // ratio)
        around = window.recording.low_of(window, before * ratio, CONTEXT * ratio)
        audio = torch.from_numpy(around * np.float32(window.stream.gain)).to(self.model.norm.mean.device)
        return self.codec.encode(audio[None])[..., before : before + self.frames]

    def _known(self, window: "_Window") -> tuple[Tensor, Tensor]:
        """Return what the neighbours of a window made of it, [D, N], and 1 in the frames that they settle, [1, N].

        Those are the frames from their side to just behind the cross-fade: both versions agree wherever they are mixed
        and around it, which the codec hears as well. A soft end was tried: it raises the level there by 0.7 dB.
        """
        known, share = torch.zeros(self.codec.latent_channels, self.frames), torch.zeros(1, self.frames)
        behind = 3 * shortest_overlap(window.recording.length) // (8 * self.codec.ratio)
        for index in (window.number - 1, window.number + 1):
            latents = window.stream.latents.get(index)
            if latents is None:
                continue
            shift = (window.stream.starts[index] - window.start) // self.codec.ratio  # of the neighbour, in frames
            overlap = self.frames - abs(shift)
            count = min(overlap, overlap // 2 + behind)
            here = slice(0, count) if shift < 0 else slice(self.frames - count, self.frames)
            known[:, here], share[:, here] = latents[:, here.start - shift : here.stop - shift], 1.0
        return known, share

    def _noise(self, start: int, seed: int) -> Tensor:
        """Return the noise [D, N] of the frames from ``start`` on, the same whichever window asks."""
        first, last = start // NOISE_FRAMES, (start + self.frames - 1) // NOISE_FRAMES
        blocks = [_noise_block(self.codec.latent_channels, seed, number) for number in range(first, last + 1)]
        skip = start - first * NOISE_FRAMES
        return torch.cat(blocks, dim=1)[:, skip : skip + self.frames]

    def _rolloffs(self, low: np.ndarray, settings: Settings) -> tuple[float, float]:
        """Return the roll-off in Hz of a window [C, T] and the one that is asked for."""
        found = rolloff_hz(low)
        if settings.rolloff_target == "estimated":
            return found, estimate_rolloff(self.facts.rolloff_regression, low, found)
        return found, settings.rolloff_target * NYQUIST


class _Stream:
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


class _Window(NamedTuple):
    """One window of one stream of a recording."""

    recording: "_Recording"
    stream: _Stream
    number: int

    @property
    def start(self) -> int:
        """Return its first sample at 44,100 Hz."""
        return self.stream.starts[self.number]


class _Recording:
    """A recording on its way through: of its low and its generated audio, only what is still needed is held."""

    def __init__(
        self,
        source: Source,
        offset: np.ndarray,
        cutoffs_hz: Sequence[float],
        streams: Sequence[_Stream],
        on_progress: Progress,
        ready: deque[_Window],
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

    def low_of(self, window: _Window, before: int = 0, after: int = 0) -> np.ndarray:
        """Return the low audio [C, T] of a window, with so many samples around it, as if silence followed its end."""
        start, stop = window.start - before, window.start + self.length + after
        while self.low.stop < min(stop, self.total):
            self.low.append(next(self.input))
        return self.low.cut(start, stop)[window.stream.channels]

    def passed_silent(self, window: _Window) -> bool:
        """Let a window of silence pass as it is; return whether it was one."""
        low = self.low_of(window)
        if float(np.std(low, axis=-1).max()) >= SILENCE_RMS:
            return False
        self.on_progress(self.share)
        self.finish(window, low, None)
        return True

    def finish(self, window: _Window, generated: np.ndarray, latents: Tensor | None) -> None:
        """Take what was made of a window; the windows beside it may be ready then."""
        stream, index = window.stream, window.number
        stream.finish(index, generated, latents, self.total)
        for beside in (index - 1, index + 1):
            if beside % 2 and beside in stream.open and not stream.open & {beside - 1, beside + 1}:
                between = _Window(self, stream, beside)
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

    def _replaced(self, stream: _Stream, stop: int, kind: Kind) -> np.ndarray:
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


def upsample_files(
    pairs: Sequence[tuple[Path, Path]],
    upsampler: Upsampler,
    settings: Settings,
    on_progress: Progress | None = None,
    on_file: Callable[[Written], object] = lambda written: None,
) -> None:
    """Write the upsampled version of each file (source, target); ``on_file`` hears of each that is done."""
    sources = [file_source(source) for source, _ in pairs]
    results = upsampler.upsample_blocks(sources, settings, on_progress)
    for (_, target), source, result in zip(pairs, sources, results, strict=True):
        clipped = write_blocks(target, result.blocks, source.channels, source.length)
        on_file(Written(target, source.length / SAMPLE_RATE, result.cutoffs_hz, clipped))


def plan_files(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return what is read and where its result goes: a FLAC or WAV file, or one per file below a folder, in equal ones.

    In a folder they are FLAC, but WAV for recordings far beyond full scale. Nothing is written. Raises DataError naming
    every file that cannot be read, and what would overwrite its input.
    """
    if source.is_dir():
        if target.resolve().is_relative_to(source.resolve()):
            raise DataError(f"{target}: lies inside {source}, whose files are read; choose a folder outside it")
        found = [file for file in files_below(source) if file.is_recording]
        if not found:
            raise DataError(f"{source}: holds no recordings ({', '.join(SUFFIXES)})")
        if inside := [file.path for file in found if Path(file.real).is_relative_to(target.resolve())]:
            raise DataError(
                f"{inside[0]}: lies in {target} by a link, where results are written; choose another output"
            )
        pairs = [(it.path, (target / it.path.relative_to(source)).with_suffix(".flac")) for it in found]
    else:
        is_file = target.suffix in (".flac", ".wav") and not target.is_dir()
        if target.suffix and not is_file and not target.is_dir():
            names = " or ".join(target.with_suffix(suffix).name for suffix in (".flac", ".wav"))
            raise DataError(f"{target}: results are written as FLAC or WAV; name it {names}")
        pairs = [(source, target if is_file else target / f"{source.stem}.flac")]
    problems = [f"{path}: {problem}" for path, _ in pairs if (problem := problem_of(path))]
    problems += _clashes(pairs)
    if problems:
        raise DataError("\n".join(problems))
    pairs = _within_full_scale(pairs, target)
    if problems := _clashes(pairs):
        raise DataError("\n".join(problems))
    for _, result in pairs:
        check_writable(result)
    return pairs


def _within_full_scale(pairs: Sequence[tuple[Path, Path]], named: Path) -> list[tuple[Path, Path]]:
    """Return the pairs with a WAV file where a recording passes full scale by far or often, which no FLAC file holds.

    Raises DataError where the user has named a FLAC file for it. What passes it as loud MP3 files do is clipped.
    """
    found = []
    for source, target in pairs:
        peak, share = overflow_of(file_source(source)) if target.suffix == ".flac" else (0.0, 0.0)
        if peak > CLIPS_PEAK or share > CLIPS_SHARE:
            if target == named:
                raise DataError(
                    f"{source}: reaches {peak:.3g}, beyond full scale, where a FLAC file ends; name the result "
                    f"{target.with_suffix('.wav').name}, which holds it"
                )
            found.append((source, target.with_suffix(".wav")))
        else:
            found.append((source, target))
    return found


def seconds_of(paths: Iterable[Path]) -> float:
    """Return the length of readable recordings together."""
    return sum(source.samples / source.rate for source in map(file_source, paths))


def _clashes(pairs: Sequence[tuple[Path, Path]]) -> list[str]:
    sources = {path.resolve() for path, _ in pairs}
    first: dict[Path, Path] = {}
    lines = []
    for source, target in pairs:
        if target.resolve() in sources:
            lines.append(f"{target}: would overwrite a recording that is read; choose another output")
        elif (other := first.setdefault(target, source)) != source:
            lines.append(f"{source}: would be written to {target} as {other} is; rename one of the two")
    return lines


def _locate(path: Path) -> tuple[Path, Path]:
    """Return the trial folder and the checkpoint that ``path`` means. Raises DataError."""
    if (path / checkpoint.MANIFEST).is_file() or path.name.startswith("step-"):
        trial, folder = path.resolve().parent.parent, path
        if not path.is_dir():
            raise DataError(f"{path}: no such checkpoint")
        if not (trial / "config.yaml").is_file():
            raise DataError(f"{path}: lies in no trial folder; config.yaml is missing in {trial}")
        return trial, folder
    if not (path / "config.yaml").is_file():
        raise DataError(f"{path}: not a trial folder; it holds no config.yaml (what sagasr-train --out names does)")
    newest = checkpoint.newest(path / "checkpoints")
    if newest is None:
        raise DataError(f"{path}: no checkpoint yet; its training has not come so far")
    return path, newest


def _with_parts(config: Config, facts: Facts, given: Sequence[str]) -> Config:
    """Return the configuration with its parts of a user's own taken from the files ``given``. Raises DataError.

    A trial folder may be anybody's: of what it names, only what is installed or given by the user is run.
    """
    files, used = {Path(part).name: part for part in given}, set[str]()

    def own(family: str, part: str) -> str:
        name = Path(part).name
        if ":" not in part:
            return part
        if name not in files:
            raise DataError(
                f"{family} {name}: it would be run, so name it: {shlex.join(['--part', name])} with the folder in "
                f"which it lies; or install it as an entry point of the group sagasr.{family}s"
            )
        used.add(name)
        key = f"{family} {name}"
        if key in facts.parts and identity(family, files[name]) != facts.parts[key]:
            raise DataError(f"{files[name]}: changed since the model was trained; give the {family} of that time")
        return files[name]

    sampler = {"solver": own("sampler", config.evaluation.sampler.solver)}
    changes: dict[str, Any] = {"evaluation": {"sampler": sampler}}
    if isinstance(config.codec, OwnCodec):
        changes["codec"] = {"part": own("codec", config.codec.part)}
    changes["conditions"] = {"own": [own("conditioner", part) for part in config.conditions.own]}
    if unused := [part for name, part in files.items() if name not in used]:
        named = ", ".join(sorted(used)) or "none"
        raise ConfigError(
            f"--part {unused[0]}: to upsample, the model needs no such part (only: {named}); leave it out"
        )
    return parse(Config, patch(config.model_dump(mode="json"), changes), "--part")


def _read_facts(trial: Path) -> Facts:
    path = trial / FACTS
    if not path.is_file():
        raise DataError(
            f"{path}: missing; the training command of this trial given again writes it, a finished training is kept"
        )
    return parse(Facts, read_json(path), str(path))


@lru_cache(maxsize=64)
def _noise_block(channels: int, seed: int, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of("upsample", seed, number))
    return torch.randn(channels, NOISE_FRAMES, generator=generator)
