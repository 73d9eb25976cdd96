"""One validation: all clips sampled under guidance, decoded and scored, from the same noise on both sides."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sagasr.codec.codec import Codec, build_codec
from sagasr.config.settings import Config
from sagasr.evaluation.evaluate import evaluate, target_rolloff_hz
from sagasr.evaluation.validation_set import Validation
from sagasr.model.ema import Ema
from sagasr.model.flow import schedule
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import SagaModel, build_model
from tests.benchmarks import data
from tests.benchmarks.lsd import librosa_lsd
from tests.benchmarks.measure import Row, in_turn
from tests.benchmarks.step import awake

SEEN_AT_ONCE = 4  # clips, in the public reproduction


def against_passes(quick: bool) -> Row:
    """Our ``evaluate``, with all its metrics, against three passes per step; quality: equal mean LSD."""
    on_gpu = torch.cuda.is_available()
    steps = 100 if on_gpu else 2 if quick else 4
    subject = Subject(
        data.config("tiny" if quick else "small", recordings=(3, 8), **{"evaluation.sampler.steps": steps})
    )
    ours, theirs = in_turn(subject.ours, subject.passes, 1 if quick else 2)
    lsd = (subject.ours(), subject.passes())
    clips = len(subject.clips)
    quality = f"LSD {lsd[0]:.3f}, {abs(lsd[0] - lsd[1]):.0e} apart"
    return Row([it / clips for it in ours], [it / clips for it in theirs], f"clip, {steps} steps", quality,
               abs(lsd[0] - lsd[1]) < 1e-3)  # fmt: skip


class Subject:
    """A model of random weights and the clips it is validated on."""

    def __init__(self, config: Config) -> None:
        store = data.store(config)
        norm, words = store.norm.seen_as(config.model.latents), store.vocabulary(config.conditions.text.source)
        self.config = config
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = awake(build_model(config, norm, words)).to(self.device).eval()
        self.clips = Validation.of(store, config)
        self.codec = build_codec(config.codec, config.audio.channels)

    def ours(self) -> float:
        """Return the mean LSD."""
        variants = {"default": self.config.evaluation}
        return evaluate(self.model, Ema(self.model), self.codec, self.clips, variants)["default"].means()["lsd"]

    def passes(self) -> float:
        """Return the same, as a script does it that follows the formula."""
        return passes(self.model, self.codec, self.clips, self.config, self.device)


@torch.inference_mode()
def passes(model: SagaModel, codec: Codec, clips: Validation, config: Config, device: str) -> float:
    """Return the mean LSD of clips sampled a few at a time, each branch of the guidance in a pass of its own."""
    sampler, target = config.evaluation.sampler, target_rolloff_hz(clips, config.evaluation)
    scores = []
    for start in range(0, len(clips), SEEN_AT_ONCE):
        part = slice(start, start + SEEN_AT_ONCE)
        low, point = model.norm.apply(clips.low_latents[part].to(device)), clips.noise[part].to(device)
        rolloff = torch.stack([clips.rolloff_low_hz[part], target[part]], dim=1)
        inputs = ConditionInputs(
            padded(model, clips.text[part]).to(device), rolloff.to(device), clips.seconds[part].to(device)
        )
        every = torch.ones(len(low), dtype=torch.bool, device=device)
        for now, then in pairwise(schedule(sampler.schedule, sampler.steps).tolist()):
            t = torch.full((len(low),), now, device=device)
            null = model.velocity(point, t, low, inputs, every, every)
            without = model.velocity(point, t, low, inputs, None, every)
            full = model.velocity(point, t, low, inputs)
            guidance = sampler.guidance
            velocity = null + guidance.audio * (without - null) + guidance.text * (full - without)
            point = point + (then - now) * velocity
        audio = codec.to(device).decode(model.norm.invert(point), clips.low.shape[-1])
        audio = (audio / clips.gain[part, None, None].to(device)).cpu()
        for high, estimate in zip(clips.high[part].numpy(), audio.numpy(), strict=True):
            scores.append(librosa_lsd(high[0], estimate[0]))
            si_sdr(high[0], estimate[0])
    return float(np.mean(scores))


def padded(model: SagaModel, captions: list[str]) -> Tensor:
    """Return the text with all its empty tokens, as stable-audio-tools has it."""
    text = model.prepare(captions)
    padding = [0, 0] * (text.ndim - 2) + [0, model.conditioner.text.max_tokens - text.shape[1]]
    return torch.nn.functional.pad(text, padding)


def si_sdr(high: np.ndarray, estimate: np.ndarray) -> float:
    """The other metric that the reproduction takes."""
    high, estimate = high - high.mean(), estimate - estimate.mean()
    target = (high @ estimate) / (high @ high + 1e-8) * high
    return float(10 * np.log10((target @ target) / (np.square(estimate - target).sum() + 1e-8) + 1e-8))
