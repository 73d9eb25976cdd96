"""A trained model at work on a user's own recordings, of any length and rate, mono or stereo.

A recording is resampled to 44,100 Hz, so T samples at rate R become exactly ceil(T * 44,100 / R), and leaves with so
many. It passes through in windows as long as the validation clips, whose scores are thus those to expect. Windows
overlap by at least a quarter; they start from noise that belongs to the place and not to the window, so that two of
them agree where they overlap, and are cross-faded there. One gain brings the whole recording to the level at which the
model works and is undone at the end. Low-frequency replacement runs over the joined whole: it keeps what lies below
the roll-off of the recording, or below a frequency that is given.

A mono model takes the channels of a stereo recording one by one, from equal noise; a stereo model takes a mono
recording twice and the two answers are averaged. Windows of silence pass unchanged.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from sagasr import checkpoint
from sagasr.audio.files import problem_of, read_audio, resample, write_flac
from sagasr.audio.spectrum import HOP, N_FFT, rolloff_hz
from sagasr.codec import Codec, build_codec
from sagasr.conditions import ConditionInputs
from sagasr.config import NYQUIST, SAMPLE_RATE, Config, Sampler, Strict, parse, patch
from sagasr.data.statistics import estimate_rolloff, rms_of
from sagasr.data.store import SILENCE_RMS, Store, clip_gain
from sagasr.errors import ConfigError, DataError, did_you_mean
from sagasr.files import read_json, read_yaml, write_json
from sagasr.fingerprint import seed_of
from sagasr.lfr import Kind, replace_low_band
from sagasr.model import SagaModel, build_model
from sagasr.text import WordEncoder, words_of

FACTS = "model.json"
OVERLAP = 4  # windows share at least one part in so many
CONTEXT = 16  # latent frames encoded on both sides of a window and left out: training crops whole recordings, too
LEVEL_RANGE = 100.0  # windows more than 40 dB below the loudest do not count towards the level of a recording
BATCH_SAMPLES = 2**19  # per batch of windows, so that memory does not depend on the length of a window
LFR_BLOCK = 1_024 * HOP  # samples whose low band is replaced at once
NOISE_FRAMES = 256  # of one draw of noise
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".rf64")


class Facts(Strict):
    """``model.json``: what a trained model needs to know of its training set beside configuration and weights."""

    vocabulary: tuple[str, ...]
    rolloff_regression: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How recordings are upsampled. Raises ConfigError for what cannot be meant."""

    rolloff_target: float | Literal["estimated"] = "estimated"  # share of 22,050 Hz, or guessed per window
    lfr: Kind = "crossfade"
    steps: int | None = None  # None: as the model was validated
    guidance: tuple[float, float] | None = None  # audio, text; None: as the model was validated
    text: str = ""
    seed: int = 0
    cutoff_hz: float | None = None  # below it the recording is kept; None: its own roll-off

    def __post_init__(self) -> None:
        target = self.rolloff_target
        if target != "estimated" and not (isinstance(target, (int, float)) and 0 <= target <= 1):
            raise ConfigError(f"roll-off target {target!r}: a share of {NYQUIST:g} Hz from 0 to 1, or 'estimated'")
        if self.lfr not in (kinds := ("off", "hard", "crossfade")):
            raise ConfigError(f"lfr {self.lfr!r} is not known{did_you_mean(self.lfr, kinds)}")
        if self.cutoff_hz is not None and not 0 < self.cutoff_hz < NYQUIST:
            raise ConfigError(f"cutoff {self.cutoff_hz:g} Hz: a frequency between 0 and {NYQUIST:g}")


Progress = Callable[[float], object]
"""Called with the seconds of audio that were finished since the last call; they sum to the length of a recording."""


def write_facts(trial: Path, store: Store, config: Config) -> None:
    """Write ``model.json``, so that a trial folder is all that upsampling needs."""
    words = store.vocabulary(config.conditions.text.source)
    facts = Facts(vocabulary=words, rolloff_regression=store.meta["rolloff_regression"])
    write_json(trial / FACTS, facts.model_dump(mode="json"))


class Upsampler:
    """A trained model with all it needs. Two with equal weights give equal audio for equal settings."""

    def __init__(self, config: Config, facts: Facts, model: SagaModel, codec: Codec) -> None:
        self.config = config
        self.facts = facts
        self.model = model.eval()
        self.codec = codec
        self.frames = config.validation.segment // codec.ratio

    @classmethod
    def load(cls, path: Path | str, weights: Literal["ema", "raw"] = "ema", device: str = "auto") -> "Upsampler":
        """Return the model of a trial folder (its newest checkpoint that verifies) or of one of its checkpoints.

        ``device`` auto is a GPU where there is one. Raises SagasrError naming the file that is missing or broken.
        """
        trial, folder = _locate(Path(path))
        config = parse(Config, read_yaml(trial / "config.yaml"), str(trial / "config.yaml"))
        facts = _read_facts(trial)
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

    @torch.inference_mode()
    def upsample_each(
        self,
        recordings: Iterable[tuple[Any, int]],
        settings: Settings | None = None,
        on_progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield what ``upsample`` gives for pairs of audio and rate, one by one; short ones share a batch."""
        settings = settings or Settings()
        sampler, text = self._sampler(settings), self._prepared(settings.text)
        waiting: deque[_Recording] = deque()
        windows = self._windows(recordings, settings, waiting, on_progress or (lambda seconds: None))
        at_once = max(1, BATCH_SAMPLES // (self.frames * self.codec.ratio))
        while batch := list(islice(windows, at_once)):
            self._generate(batch, settings, sampler, text)
            while waiting and waiting[0].missing == 0:
                yield waiting.popleft().result(settings)
        yield from (recording.result(settings) for recording in waiting)

    # ------------------------------------------------------------------------------------------------------- its parts

    def _sampler(self, settings: Settings) -> Sampler:
        changes: dict[str, Any] = {} if settings.steps is None else {"steps": settings.steps}
        if settings.guidance is not None:
            changes["guidance"] = dict(zip(("audio", "text"), settings.guidance, strict=True))
        return parse(Sampler, patch(self.config.evaluation.sampler.model_dump(mode="json"), changes), "sampler")

    def _prepared(self, text: str) -> Tensor:
        """Return the prepared text [1, ...]. Raises ConfigError for one that the model would not notice."""
        encoder = self.model.conditioner.text
        if text and self.config.conditions.text.source == "off":
            raise ConfigError("this model was trained without text; leave --text out")
        if isinstance(encoder, WordEncoder) and text and not any(word in encoder.index for word in words_of(text)):
            known = did_you_mean(text, encoder.index) if len(encoder.index) < 50 else ""
            raise ConfigError(f"--text {text!r}: the model learned none of these words{known}")
        return self.model.prepare([text])

    def _windows(
        self,
        recordings: Iterable[tuple[Any, int]],
        settings: Settings,
        waiting: "deque[_Recording]",
        on_progress: Progress,
    ) -> "Iterator[_Window]":
        """Yield the windows of all recordings in their order; each recording waits until its windows are done."""
        for audio, rate in recordings:
            recording = self._prepare(audio, rate, settings)
            waiting.append(recording)
            share = recording.low.shape[-1] / SAMPLE_RATE / recording.missing
            for stream in recording.streams:
                for index in range(len(stream.starts)):
                    window = _Window(recording, stream, index, stream.window(index), share, on_progress)
                    if float(np.std(window.low, axis=-1).max()) < SILENCE_RMS:
                        window.finish(window.low)
                        on_progress(share)
                    else:
                        yield window

    def _prepare(self, audio: Any, rate: int, settings: Settings) -> "_Recording":
        """Return a recording with its windows laid out and its levels measured. Raises DataError for unusable audio."""
        low = resample(_checked(audio, rate), int(rate))
        channels = self.codec.channels
        parts = list(low[:, None]) if channels == 1 else [np.broadcast_to(low, (channels, low.shape[-1]))]
        streams = [self._stream(np.ascontiguousarray(part), settings.cutoff_hz) for part in parts]
        missing = sum(len(stream.starts) for stream in streams)
        return _Recording(low, np.ndim(audio), streams, missing)

    def _stream(self, low: np.ndarray, cutoff_hz: float | None) -> "_Stream":
        ratio = self.codec.ratio
        starts = [ratio * start for start in window_starts(-(-low.shape[-1] // ratio), self.frames)]
        stream = _Stream(low, starts, self.frames * ratio, ratio)
        levels = np.array([rms_of(stream.window(index)) for index in range(len(starts))])
        level = math.sqrt(np.square(levels[levels >= levels.max() / LEVEL_RANGE]).mean())
        stream.gain = clip_gain(self.config, np.full((1, 1), level))  # a constant has the level it is made of
        stream.splice_hz = rolloff_hz(low) if cutoff_hz is None else cutoff_hz
        return stream

    def _generate(self, batch: "Sequence[_Window]", settings: Settings, sampler: Sampler, text: Tensor) -> None:
        """Sample the high version of each window and hand it to its recording."""
        device = self.model.norm.mean.device
        gain = torch.tensor([window.stream.gain for window in batch], device=device)[:, None, None]
        low = torch.cat([self._latents(window) for window in batch])
        noise = torch.stack([self._noise(window.start // self.codec.ratio, settings.seed) for window in batch])
        inputs = ConditionInputs(
            text.expand(len(batch), *text.shape[1:]).to(device),
            torch.tensor([self._rolloffs(window.low, settings) for window in batch], device=device),
            torch.tensor([[window.start / SAMPLE_RATE, window.total_seconds] for window in batch], device=device),
        )

        def on_step() -> None:
            for window in batch:
                window.on_progress(window.seconds / sampler.steps)

        latents = self.model.sample(self.model.norm.apply(low), inputs, noise.to(device), sampler, on_step)
        audio = self.codec.decode(self.model.norm.invert(latents), self.frames * self.codec.ratio)
        for window, generated in zip(batch, (audio / gain).cpu().numpy(), strict=True):
            window.finish(generated)

    def _latents(self, window: "_Window") -> Tensor:
        """Return the latents [1, D, N] of a window at the level of the model, encoded within its surroundings."""
        stream, ratio = window.stream, self.codec.ratio
        before = min(CONTEXT, window.start // ratio)
        around = stream.cut(window.start - before * ratio, window.start + stream.length + CONTEXT * ratio)
        audio = torch.from_numpy(around * np.float32(stream.gain)).to(self.model.norm.mean.device)
        return self.codec.encode(audio[None])[..., before : before + self.frames]

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


@dataclass
class _Stream:
    """What passes through the model as one signal: low [C, T] at 44,100 Hz, its windows, and what was generated."""

    low: np.ndarray
    starts: list[int]
    length: int
    ratio: int
    gain: float = 1.0
    splice_hz: float = 0.0
    generated: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.generated = np.zeros_like(self.low)

    def cut(self, start: int, stop: int) -> np.ndarray:
        """Return a stretch of low, as if silence followed its end."""
        part = self.low[:, start:stop]
        return np.pad(part, ((0, 0), (0, stop - start - part.shape[-1])))

    def window(self, index: int) -> np.ndarray:
        return self.cut(self.starts[index], self.starts[index] + self.length)

    def add(self, index: int, audio: np.ndarray) -> None:
        """Add a generated window [C, length], faded where it meets its neighbours."""
        start = self.starts[index]
        place = self.generated[:, start : start + self.length]
        place += (audio * self._weight(index))[:, : place.shape[-1]]

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
        sum to 1, not powers: both sides hold the same low band and start from the same noise.
        """
        centre = (self.starts[joint] + self.length + self.starts[joint + 1]) / 2
        length = max(1, self.length // self.ratio // OVERLAP) * self.ratio / 2
        progress = (start + np.arange(self.length) - (centre - length / 2)) / length
        return 0.5 - 0.5 * np.cos(np.pi * progress.clip(0, 1))


@dataclass
class _Recording:
    """A recording on its way through: low [C, T], the streams it was split into and the number of windows to come."""

    low: np.ndarray
    dimensions: int
    streams: list[_Stream]
    missing: int

    def result(self, settings: Settings) -> np.ndarray:
        """Return the joined windows with their low band replaced, in the layout of the input."""
        parts = [_replaced(stream, settings.lfr) for stream in self.streams]
        if len(parts) == 1 and len(parts[0]) > len(self.low):
            parts = [parts[0].mean(0, keepdims=True)]
        audio = np.concatenate(parts)
        return audio[0] if self.dimensions == 1 else audio


class _Window(NamedTuple):
    """One window of a stream: its low audio [C, T], and the seconds that count as done with it."""

    recording: _Recording
    stream: _Stream
    number: int
    low: np.ndarray
    seconds: float
    on_progress: Progress

    @property
    def start(self) -> int:
        return self.stream.starts[self.number]

    @property
    def total_seconds(self) -> float:
        return float(self.stream.low.shape[-1] / SAMPLE_RATE)

    def finish(self, generated: np.ndarray) -> None:
        self.stream.add(self.number, generated)
        self.recording.missing -= 1


def window_starts(total: int, length: int) -> list[int]:
    """Return where windows of ``length`` frames begin: as few as cover ``total`` frames, spread evenly."""
    hop = length - max(1, length // OVERLAP)
    more = max(0, math.ceil((total - length) / hop))
    return [0, *(round(index * (total - length) / more) for index in range(1, more + 1))]


def upsample_files(
    pairs: Sequence[tuple[Path, Path]],
    upsampler: Upsampler,
    settings: Settings,
    on_progress: Progress | None = None,
    on_file: Callable[[Path, float], object] = lambda path, seconds: None,
) -> None:
    """Write the upsampled version of each file (source, target); ``on_file`` hears of each target and its seconds."""
    recordings = ((read_audio(source, None), SAMPLE_RATE) for source, _ in pairs)
    for (_, target), audio in zip(pairs, upsampler.upsample_each(recordings, settings, on_progress), strict=True):
        write_flac(target, audio)
        on_file(target, audio.shape[-1] / SAMPLE_RATE)


def plan_files(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return what is read and where its result goes: a FLAC file, or one per file below a folder, in equal folders.

    Nothing is written. Raises DataError naming every file that cannot be read, and what would overwrite its input.
    """
    if source.is_dir():
        if target.resolve().is_relative_to(source.resolve()):
            raise DataError(f"{target}: lies inside {source}, whose files are read; choose a folder outside it")
        found = sorted(path for path in source.rglob("*") if _is_recording(path.relative_to(source)) and path.is_file())
        if not found:
            raise DataError(f"{source}: holds no recordings ({', '.join(SUFFIXES)})")
        pairs = [(path, (target / path.relative_to(source)).with_suffix(".flac")) for path in found]
    else:
        if target.suffix and target.suffix != ".flac" and not target.is_dir():
            raise DataError(f"{target}: results are written as FLAC; name it {target.with_suffix('.flac').name}")
        is_file = target.suffix == ".flac" and not target.is_dir()
        pairs = [(source, target if is_file else target / f"{source.stem}.flac")]
    problems = [f"{path}: {problem}" for path, _ in pairs if (problem := problem_of(path))]
    problems += _clashes(pairs)
    if problems:
        raise DataError("\n".join(problems))
    return pairs


def seconds_of(paths: Iterable[Path]) -> float:
    """Return the length of readable recordings together, by their headers."""
    return float(sum(soundfile.info(path).duration for path in paths))


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


def _is_recording(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


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


def _read_facts(trial: Path) -> Facts:
    path = trial / FACTS
    if not path.is_file():
        raise DataError(
            f"{path}: missing; the training command of this trial given again writes it, a finished training is kept"
        )
    return parse(Facts, read_json(path), str(path))


def _checked(audio: Any, rate: int) -> np.ndarray:
    """Return audio as float32 [C, T]. Raises DataError when it is not what the model takes."""
    samples = np.atleast_2d(np.asarray(audio, dtype=np.float32))
    if samples.ndim != 2 or not 1 <= len(samples) <= 2 or samples.shape[-1] == 0:
        raise DataError(f"audio of shape {np.shape(audio)}; expected [samples], or [channels, samples], mono or stereo")
    if not np.isfinite(samples).all():
        raise DataError("the audio holds NaN or infinite samples")
    if rate != int(rate) or rate <= 0:
        raise DataError(f"a sample rate of {rate} Hz; expected a whole number above 0")
    return samples


def _replaced(stream: _Stream, kind: Kind) -> np.ndarray:
    """Return what was generated, its low band taken from low, block by block: equal to replacing it in the whole."""
    if kind == "off":
        return stream.generated
    cutoff = torch.tensor([stream.splice_hz])
    total = stream.low.shape[-1]
    blocks = []
    for start in range(0, total, LFR_BLOCK):
        before = min(start, N_FFT)  # a multiple of the hop, so that the analysis windows stand where they would
        around = slice(start - before, start + LFR_BLOCK + N_FFT)
        generated, low = (torch.from_numpy(part[None, :, around]) for part in (stream.generated, stream.low))
        stop = min(LFR_BLOCK, total - start)
        blocks.append(replace_low_band(generated, low, cutoff, kind)[0, :, before : before + stop].numpy())
    return np.concatenate(blocks, axis=-1)


@lru_cache(maxsize=64)
def _noise_block(channels: int, seed: int, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of("upsample", seed, number))
    return torch.randn(channels, NOISE_FRAMES, generator=generator)
