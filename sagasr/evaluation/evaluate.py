"""Scores of a model on the validation clips, for every evaluation setting asked for.

A score is a function of the weights alone: clips, degradation and starting noise are frozen. Settings that differ only
in low-frequency replacement share one sampling.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from sagasr.audio.low_band import replace_low_band
from sagasr.codec.codec import Codec
from sagasr.codec.precision import fast
from sagasr.config.settings import Evaluation
from sagasr.config.stages import sampling_of
from sagasr.constants import NYQUIST
from sagasr.evaluation.memory import BATCH, AtOnce
from sagasr.evaluation.prediction import Prediction
from sagasr.evaluation.validation_set import Validation
from sagasr.model.ema import Ema
from sagasr.model.flow import interpolate, velocity
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import SagaModel
from sagasr.model.sharding import gathered

CPU_FRAMES = 640  # latent frames sampled at once on a CPU, or the guidance branches outgrow its cache
LOSS_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the validation loss, as in stable-audio-tools


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
    for members in _samplings(variants).values():
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
    """Return how many clips are sampled at once at most."""
    return BATCH if device.type != "cpu" else max(1, min(BATCH, CPU_FRAMES // clips.noise.shape[-1]))


def _inputs(model: SagaModel, clips: Validation, part: slice, target_hz: Tensor) -> ConditionInputs:
    """Return the conditions of some of the clips that are asked for ``target_hz`` [n], on the model's device."""
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
    """Return the mean velocity error over the clips at five fixed times, from their frozen noise, nothing dropped.

    Computed as a sampling is: see ``SagaModel.sample``. Raises ValidationMemoryError.
    """
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

    total = 0.0
    with fast, torch.compiler.set_stance("force_eager"):  # other precision would compile all layers anew
        for part in (at_once or AtOnce()).parts(len(clips), _most(clips, device), errors):
            for error in part:
                total += error
    return total / len(clips.names)


def _samplings(variants: Mapping[str, Evaluation]) -> dict[str, list[str]]:
    """Return the variants' names grouped by what they share: everything but low-frequency replacement."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, evaluation in variants.items():
        groups[sampling_of(evaluation).model_dump_json()].append(name)
    return groups
