"""A training step on the meta device: its shapes, parameters and bytes, with nothing allocated."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sagasr.config.settings import Config, downsampling_ratio, latent_channels
from sagasr.model.counts import FLOAT, STATES, in_halves
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import build_model
from sagasr.model.text import T5Encoder
from sagasr.torch_internals import fused_attention, map_tensors, storage_id

# What autocast casts to on a GPU, of the functions of a training step that decide how much it keeps.
AUTOCAST: Mapping[Any, torch.dtype] = {
    F.linear: torch.bfloat16,
    F.conv1d: torch.bfloat16,
    F.scaled_dot_product_attention: torch.bfloat16,
    F.layer_norm: torch.float32,
    F.mse_loss: torch.float32,
}


def shapes(config: Config, words: int = 100) -> dict[str, Any]:
    """Run a training step on the meta device and return its shapes, parameter counts and bytes.

    Allocates nothing. Layers are alike, so the step runs with one and with two of them, and the rest is counted on.
    ``words`` stands for the vocabulary, which only the data know. Raises what the step raises.
    """
    models = (config.model.model_copy(update={"depth": depth}) for depth in (1, 2))
    single, double = (_meta_step(config.model_copy(update={"model": model}), words) for model in models)
    more = config.model.depth - 1
    counts = {key: size + more * (double[key] - size) for key, size in single.items() if isinstance(size, int)}
    size = FLOAT * counts["parameters"]
    return single | counts | {"weight_bytes": size, "training_bytes": STATES * size}


def _meta_step(config: Config, words: int) -> dict[str, Any]:
    batch, frames = config.training.batch_size, config.audio.segment // downsampling_ratio(config.codec)
    channels = latent_channels(config.codec, config.audio.channels)
    saved: dict[int, int] = {}
    with torch.device("meta"):
        model = build_model(config, vocabulary=tuple(map(str, range(words))))
        weights = {storage_id(weight) for weight in model.parameters()}
        latents = torch.empty(batch, channels, frames)
        encoder = model.conditioner.text
        text = torch.empty(batch, encoder.max_tokens, dtype=torch.int64)
        if isinstance(encoder, T5Encoder):
            text = torch.empty(batch, encoder.max_tokens, encoder.width)
        inputs = ConditionInputs(text, torch.empty(batch, 2), torch.empty(batch, 2))
        mask = torch.empty(batch, dtype=torch.bool)

        as_on_gpu = _AsOnGpu(in_halves(config))

        def keep(tensor: Tensor) -> Tensor:
            if storage_id(tensor) not in weights:
                saved[storage_id(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept), as_on_gpu:
            loss = model.loss(latents, latents, latents, torch.empty(batch), inputs, mask, mask)
        loss.backward()
        for copy in as_on_gpu.copies.values():
            saved.pop(storage_id(copy), None)
        conditioning = model.condition(latents, inputs)
    return {
        "latents": (batch, channels, frames),
        "transformer_input": (batch, 2 * channels, frames),
        "cross_attention": tuple(conditioning.cross.shape),
        "global": None if conditioning.global_ is None else tuple(conditioning.global_.shape),
        "prepend": None if conditioning.prepend is None else tuple(conditioning.prepend.shape),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "transformer_parameters": sum(weight.numel() for weight in model.transformer.parameters()),
        "activation_bytes": sum(saved.values()),
    }


class _AsOnGpu(TorchFunctionMode):
    """Inside, the meta device has the fused attention of CPUs and GPUs and, ``halved``, autocast to bfloat16."""

    def __init__(self, halved: bool) -> None:
        super().__init__()
        self.halved = halved
        self.copies: dict[int, Tensor] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = args, kwargs or {}
        if self.halved and (dtype := AUTOCAST.get(function)):
            given = map_tensors(lambda tensor: self._cast(tensor, dtype), given)
        if function is F.scaled_dot_product_attention:
            return fused_attention(*given[0], **given[1])
        return function(*given[0], **given[1])

    def _cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a tensor in ``dtype``; a weight is cast once."""
        if not isinstance(tensor, nn.Parameter) or tensor.dtype == dtype:
            return tensor.to(dtype)
        return self.copies.setdefault(id(tensor), tensor.to(dtype))
