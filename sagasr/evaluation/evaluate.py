"""Scores of a model on the validation clips, for every evaluation setting asked for, in the memory that a GPU has left.

A score is a function of the weights alone: clips, degradation and starting noise are frozen. Settings that differ only
in low-frequency replacement share one sampling.
"""

import gc
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from sagasr.audio.low_band import replace_low_band
from sagasr.codec.codec import Codec
from sagasr.codec.precision import fast
from sagasr.config.settings import Evaluation
from sagasr.config.stages import sampling_of
from sagasr.constants import NYQUIST
from sagasr.evaluation.validation_set import Prediction, Validation
from sagasr.io.errors import GPU_MEMORY, ValidationMemoryError, first_line
from sagasr.model.ema import Ema
from sagasr.model.flow import interpolate, velocity
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import SagaModel
from sagasr.model.sharding import gathered

T = TypeVar("T")

BATCH = 32  # clips at once where memory allows
CPU_FRAMES = 640  # latent frames sampled at once on a CPU, or the guidance branches outgrow its cache
LOSS_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the validation loss, as in stable-audio-tools
logger = logging.getLogger(__name__)


class AtOnce:
    """How many clips are sampled at once: fewer after each time that they did not fit; ``say`` hears of each change."""

    def __init__(self, say: Callable[[str], object] = logger.warning) -> None:
        self.limit, self.say = BATCH, say

    def parts(self, clips: int, most: int, work: Callable[[slice], T]) -> list[T]:
        """Return what ``work`` makes of the clips in parts; what does not fit is done again, smaller, to one clip."""
        done: list[T] = []
        start = 0
        while start < clips:
            part = slice(start, min(start + min(most, self.limit), clips))
            try:
                done.append(work(part))
                start = part.stop
            except RuntimeError as error:
                self._reduce(part.stop - start, error)
            if start < part.stop:  # only now is all let go that the failure held
                gc.collect()
                torch.cuda.empty_cache()
        return done

    def _reduce(self, clips: int, error: RuntimeError) -> None:
        text = str(error).lower()
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in text for words in GPU_MEMORY):
            raise error
        if clips == 1:
            raise ValidationMemoryError(
                "the validation, not the step, does not fit into the GPU's memory, even one clip at a time "
                f"({first_line(error)}); give the trial a larger share of a GPU (gpus_per_worker) or "
                "shorter clips (validation.segment)"
            ) from error
        self.limit = clips // 2
        self.say(f"{clips} validation clips at once do not fit into the GPU's memory: {self.limit} from now on")


def evaluate(
    model: SagaModel,
    ema: Ema,
    codec: Codec,
    clips: Validation,
    variants: Mapping[str, Evaluation],
    on_step: Callable[[], object] | None = None,
    at_once: AtOnce | None = None,
) -> dict[str, Prediction]:
    """Return a prediction per variant. ``on_step`` is called after each sampling step: the caller can show life.

    GPU memory that was needed is given back: others may share the GPU. Raises ValidationMemoryError.
    """
    at_once = at_once or AtOnce()
    predictions: dict[str, Prediction] = {}
    samplings: dict[str, list[str]] = defaultdict(list)
    for name, evaluation in variants.items():
        samplings[sampling_of(evaluation).model_dump_json()].append(name)
    for members in samplings.values():
        evaluation = variants[members[0]]
        with ema.swap() if evaluation.weights == "ema" else nullcontext(), gathered(model):
            generated = generate(model, codec, clips, evaluation, on_step, at_once)
        for name in members:
            lfr, ratio = variants[name].lfr, variants[name].lfr_ratio
            audio = replace_low_band(generated, clips.low, clips.rolloff_low_hz, lfr, ratio)
            predictions[name] = clips.judge(audio)
    if model.norm.mean.is_cuda:
        torch.cuda.empty_cache()
    return {name: predictions[name] for name in variants}


def generate(
    model: SagaModel,
    codec: Codec,
    clips: Validation,
    evaluation: Evaluation,
    on_step: Callable[[], object] | None = None,
    at_once: AtOnce | None = None,
) -> Tensor:
    """Return high audio [n, C, T] sampled from the clips' frozen noise, before low-frequency replacement."""
    device = model.norm.mean.device

    def answer(part: slice) -> Tensor:
        inputs = _inputs(model, clips, part, target_rolloff_hz(clips, evaluation))
        low, noise = model.norm.apply(clips.low_latents[part].to(device)), clips.noise[part].to(device)
        latents = model.sample(low, inputs, noise, evaluation.sampler, on_step)
        audio = codec.to(device).decode(model.norm.invert(latents), clips.low.shape[-1])
        return (audio / clips.gain[part, None, None].to(device)).cpu()

    return torch.cat((at_once or AtOnce()).parts(len(clips), _most(clips, device), answer))


def _most(clips: Validation, device: torch.device) -> int:
    return BATCH if device.type != "cpu" else max(1, min(BATCH, CPU_FRAMES // clips.noise.shape[-1]))


def _inputs(model: SagaModel, clips: Validation, part: slice, target_hz: Tensor) -> ConditionInputs:
    """Return the conditions of a part of the clips, asked for ``target_hz`` [n] of all, on the model's device."""
    device = model.norm.mean.device
    rolloff = torch.stack([clips.rolloff_low_hz[part], target_hz[part]], dim=1)
    return ConditionInputs(
        model.prepare(clips.text[part]).to(device), rolloff.to(device), clips.seconds[part].to(device)
    )


def target_rolloff_hz(clips: Validation, evaluation: Evaluation) -> Tensor:
    """Return the roll-off [n] in Hz that the model is asked for."""
    match evaluation.rolloff_target:
        case "oracle":
            return clips.rolloff_high_hz
        case "estimated":
            return clips.rolloff_estimated_hz
        case "fixed":
            return torch.full_like(clips.rolloff_high_hz, evaluation.rolloff_fixed * NYQUIST)


@torch.inference_mode()
def validation_loss(model: SagaModel, clips: Validation, at_once: AtOnce | None = None) -> float:
    """Return the mean velocity error over the clips at five fixed times, nothing dropped, as precise as a sampling."""
    device = model.norm.mean.device

    def errors(part: slice) -> list[float]:
        high, low = (model.norm.apply(latents[part].to(device)) for latents in (clips.high_latents, clips.low_latents))
        noise = clips.noise[part].to(device)
        inputs = _inputs(model, clips, part, clips.rolloff_high_hz)
        losses = []
        for moment in LOSS_TIMES:
            t = torch.full((len(high),), moment, device=device)
            predicted = model.velocity(interpolate(high, noise, t), t, low, inputs)
            losses.append(float((predicted - velocity(high, noise)).square().mean()) * len(high) / len(LOSS_TIMES))
        return losses

    with fast, torch.compiler.set_stance("force_eager"):  # other precision would compile all layers anew
        parts = (at_once or AtOnce()).parts(len(clips), _most(clips, device), errors)
    total = 0.0
    for error in chain.from_iterable(parts):  # no sum(): since Python 3.12 that rounds otherwise
        total += error
    return total / len(clips)
