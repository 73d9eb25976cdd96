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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sagasr.audio.low_band import Kind
from sagasr.audio.spectrum import rolloff_hz
from sagasr.audio.stream import Buffer, Source, Spectrum, array_source, centred, resampled
from sagasr.codec.codec import Codec, build_codec
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import Config, OwnCodec, Sampler
from sagasr.constants import NYQUIST, SAMPLE_RATE
from sagasr.data.encoded_record import gain_at
from sagasr.data.measures import STEP, estimate_rolloff, rms_of, rolloff_features
from sagasr.io.errors import ConfigError, DataError, did_you_mean, first_line
from sagasr.io.files import read_yaml
from sagasr.io.fingerprint import seed_of
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import SagaModel, build_model
from sagasr.model.text import WordEncoder
from sagasr.model.words import words_of
from sagasr.plugins.parts import identity
from sagasr.training import checkpoint
from sagasr.training.facts import Facts, read_facts
from sagasr.upsample.windows import CONTEXT, Progress, Recording, Stream, Window, shortest_overlap, window_starts

LEVEL_RANGE = 100.0  # windows more than 40 dB below the loudest do not count towards the level of a recording
BATCH_SAMPLES = 2**18  # per batch of windows, so that memory does not depend on the length of a window
NOISE_FRAMES = 256  # of one draw of noise


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
        cls, path: Path | str, weights: Literal["ema", "raw"] = "ema", device: str = "auto", parts: Sequence[str] = ()
    ) -> "Upsampler":
        """Return the model of a trial folder (its newest checkpoint that verifies) or of one of its checkpoints.

        ``device`` auto is a GPU where there is one. ``parts``: the classes of the user's own, FILE.py:CLASS, that it
        was trained with. Raises SagasrError naming the file that is missing or broken.
        """
        trial, folder = _locate(Path(path))
        config = parse(Config, read_yaml(trial / "config.yaml"), str(trial / "config.yaml"))
        facts = read_facts(trial)
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
                f"{folder}: not a checkpoint of the model in {trial / 'config.yaml'} ({first_line(error)})"
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
        recordings = list(recordings)
        results = self.upsample_blocks((array_source(*recording) for recording in recordings), settings, on_progress)
        for (given, _), result in zip(recordings, results, strict=True):
            audio = np.concatenate(list(result.blocks), axis=1)
            yield audio[0] if np.ndim(given) == 1 else audio

    def upsample_blocks(
        self, sources: Iterable[Source], settings: Settings | None = None, on_progress: Progress | None = None
    ) -> Iterator[Upsampled]:
        """Yield for each recording its result, whose blocks [C, n] are used up before the next one is asked for."""
        done = self._finished(sources, settings or Settings(), on_progress or (lambda seconds: None))
        for recording, pairs in groupby(done, key=itemgetter(0)):
            yield Upsampled(tuple(recording.cutoffs_hz), map(itemgetter(1), pairs))

    def _finished(
        self, sources: Iterable[Source], settings: Settings, on_progress: Progress
    ) -> Iterator[tuple[Recording, np.ndarray]]:
        """Yield finished blocks in order; a batch holds windows that are ready, then first ones, of all recordings."""
        sampler, text = self._sampler(settings), self._prepared(settings.text)
        recordings: deque[Recording] = deque()
        ready: deque[Window] = deque()

        def first_windows() -> Iterator[Window | None]:
            """Yield every other window, None for one of silence, which is done; those between become ready in time."""
            for source in sources:
                recordings.append(recording := self._recording(source, settings, on_progress, ready))
                for index in range(0, len(recording.starts), 2):
                    for stream in recording.streams:
                        window = Window(recording, stream, index)
                        yield None if recording.passed_silent(window) else window

        firsts, more = first_windows(), True
        at_once = max(1, BATCH_SAMPLES // (self.frames * self.codec.ratio))
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

    def _recording(self, source: Source, settings: Settings, on_progress: Progress, ready: deque[Window]) -> Recording:
        """Return a recording with its windows laid out and its levels measured, for which it is read twice."""
        source, offset = centred(source)  # the model would take an offset for something loud
        ratio, channels = self.codec.ratio, self.codec.channels
        # As crops in training: some codecs' latents are those of a shifted recording at even shifts only.
        units = -(-source.length // STEP), self.frames * ratio // STEP
        starts = [STEP * start for start in window_starts(*units)]
        parts = [(channel,) for channel in range(source.channels)] if channels == 1 else [(0, source.channels - 1)]
        streams = [Stream(part, starts, self.frames * ratio, ratio) for part in parts]
        cutoffs = self._measure(source, streams)
        if settings.cutoff_hz is not None:
            cutoffs = [settings.cutoff_hz] * source.channels
        return Recording(source, offset, cutoffs, streams, on_progress, ready)

    def _measure(self, source: Source, streams: Sequence[Stream]) -> list[float]:
        """Set the gain of each stream from its windows' levels, and return where the band of each channel ends."""
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
    def _generate(self, batch: Sequence[Window], settings: Settings, sampler: Sampler, text: Tensor) -> None:
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
        known, share = (torch.stack(part).to(device) for part in zip(*map(self._settled, batch), strict=True))

        def on_step() -> None:
            for window in batch:
                window.recording.on_progress(window.recording.share / sampler.steps)

        settled = (known, share) if share.any() else None
        latents = self.model.sample(self.model.norm.apply(low), inputs, noise.to(device), sampler, on_step, settled)
        audio = self.codec.decode(self.model.norm.invert(latents), self.frames * self.codec.ratio)
        for window, *made in zip(batch, (audio / gain).cpu().numpy(), latents.cpu(), strict=True):
            window.recording.finish(window, *made)

    def _latents(self, window: Window) -> Tensor:
        """Return the latents [1, D, N] of a window at the level of the model, encoded within its surroundings."""
        ratio = self.codec.ratio
        before = min(CONTEXT, window.start // ratio)
        around = window.recording.low_of(window, before * ratio, CONTEXT * ratio)
        audio = torch.from_numpy(around * np.float32(window.stream.gain)).to(self.model.norm.mean.device)
        return self.codec.encode(audio[None])[..., before : before + self.frames]

    def _settled(self, window: Window) -> tuple[Tensor, Tensor]:
        """Return what the neighbours of a window made of it, [D, N], and 1 in the frames that they settle, [1, N].

        Those are the frames from their side to just behind the cross-fade: both versions agree wherever they are mixed
        and around it, which the codec hears as well. A soft end was tried: it raises the level there by 0.7 dB.
        """
        known, share = torch.zeros(self.codec.latent_channels, self.frames), torch.zeros(1, self.frames)
        behind = 3 * shortest_overlap(window.recording.length) // (8 * self.codec.ratio)
        for index in (window.number - 1, window.number + 1):
            if (latents := window.stream.latents.get(index)) is None:
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
        rolloff = rolloff_hz(low)
        if settings.rolloff_target == "estimated":
            return rolloff, estimate_rolloff(self.facts.rolloff_regression, rolloff_features(low), rolloff)
        return rolloff, settings.rolloff_target * NYQUIST


def _locate(path: Path) -> tuple[Path, Path]:
    """Return the trial folder and the checkpoint that ``path`` means."""
    if (path / checkpoint.MANIFEST).is_file() or path.name.startswith("step-"):
        if not path.is_dir():
            raise DataError(f"{path}: no such checkpoint")
        trial = path.resolve().parent.parent
        if not (trial / "config.yaml").is_file():
            raise DataError(f"{path}: lies in no trial folder; config.yaml is missing in {trial}")
        return trial, path
    if not (path / "config.yaml").is_file():
        raise DataError(f"{path}: not a trial folder; it holds no config.yaml (what sagasr-train --out names does)")
    newest = checkpoint.newest(path / "checkpoints")
    if newest is None:
        raise DataError(f"{path}: no checkpoint yet; its training has not come so far")
    return path, newest


def _with_parts(config: Config, facts: Facts, given: Sequence[str]) -> Config:
    """Return the configuration with own parts as ``given``: a trial folder may be anybody's and runs nothing itself."""
    files, used = {Path(part).name: part for part in given}, set[str]()

    def own(family: str, part: str) -> str:
        if ":" not in part:
            return part
        name = Path(part).name
        if name not in files:
            raise DataError(
                f"{family} {name}: it would be run, so name it: {shlex.join(['--part', name])} with the folder in "
                f"which it lies; or install it as an entry point of the group sagasr.{family}s"
            )
        used.add(name)
        if facts.parts.get(f"{family} {name}", here := identity(family, files[name])) != here:
            raise DataError(f"{files[name]}: changed since the model was trained; give the {family} of that time")
        return files[name]

    changes: dict[str, Any] = {"evaluation.sampler.solver": own("sampler", config.evaluation.sampler.solver)}
    if isinstance(config.codec, OwnCodec):
        changes["codec.part"] = own("codec", config.codec.part)
    changes["conditions.own"] = [own("conditioner", part) for part in config.conditions.own]
    if unused := [part for name, part in files.items() if name not in used]:
        named = ", ".join(sorted(used)) or "none"
        raise ConfigError(
            f"--part {unused[0]}: to upsample, the model needs no such part (only: {named}); leave it out"
        )
    return parse(Config, patch(config.model_dump(mode="json"), changes), "--part")


@lru_cache(maxsize=64)
def _noise_block(channels: int, seed: int, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of("upsample", seed, number))
    return torch.randn(channels, NOISE_FRAMES, generator=generator)
