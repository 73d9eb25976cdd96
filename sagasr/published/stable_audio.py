"""The one door to stable-audio-tools, and its transformer. Checked against version 0.0.19.

Nothing else imports that library, so what it needs repaired is repaired here: it prints on import, wants k-diffusion
for samplers that we do not use, and casts attention to float16 where flash-attn happens to be installed (results would
depend on the machine). Only its filter bank is repaired in ``sagasr.codec.stable_audio_codecs``, whose code is part of
the identity of encoded stores.
"""

import contextlib
import copy
import importlib
import io
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagasr.io.files import read_text
from sagasr.torch_internals import compile_or_run_eagerly


def diffusion_transformer(**arguments: Any) -> nn.Module:
    """Return the DiffusionTransformer with its stock initialisation, drawn from torch's global generator."""
    transformer = load_stock("stable_audio_tools.models.dit").DiffusionTransformer(**arguments)
    for layer in transformer.transformer.layers:
        layer.cross_attn.apply_attn = partial(_attend, layer.cross_attn.apply_attn)
    transformer.timestep_features = _TimeFeatures(transformer.timestep_features.weight)
    return transformer  # type: ignore[no-any-return]


class _TimeFeatures(nn.Module):
    """The library's Fourier features [B, E] of times [B, 1], without matrix products, which bfloat16 and TF32 round."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * t * self.weight.T
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def compact(context: Tensor, empty: int) -> tuple[Tensor, Tensor | None]:
    """Return a context and a bias of its scores, ``cross_attention_score_mod``, that stand for more empty tokens.

    Empty tokens are zeros and unmasked, so each takes the weight exp(0) of a score. One to whose score log(n) is added
    takes that of n of them: the attention is that of ``context`` [B, L, D] followed by n zeros, and costs L + 1.
    """
    if not empty:
        return context, None
    zeros = context.new_zeros(context.shape[1], dtype=torch.float32)
    bias = F.pad(zeros, (0, 1), value=math.log(empty))  # assigning the number would wait for a copy to the GPU
    return F.pad(context, (0, 0, 0, 1)), bias


def _attend(stock: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """The library's attention [B, H, N, D]; a score modification, which it would compile, is a bias here."""
    bias = options.pop("flex_attention_score_mod", None)
    if bias is None:
        return stock(q, k, v, **options)
    groups = q.shape[1] // k.shape[1]
    with torch.autocast(q.device.type, enabled=False):  # log(n) would not survive bfloat16
        keys, values = (part.float().repeat_interleave(groups, dim=1) for part in (k, v))
        attended = F.scaled_dot_product_attention(
            q.float(), keys, values, attn_mask=bias.expand(q.shape[0], 1, q.shape[2], -1)
        )
    return attended.to(q.dtype)


def compile_layers(transformer: Any, backend: str = "inductor") -> None:
    """Compile each layer in place, which keeps the weights' names; alike as they are, they share what is compiled.

    What cannot be compiled runs as it is. Samplings do: they see every shape but a few times.
    """
    for layer in transformer.transformer.layers:
        compile_or_run_eagerly(layer, backend)


@contextlib.contextmanager
def settled_context(transformer: Any, context: Tensor) -> Iterator[None]:
    """Inside, a transformer attends to ``context`` [B, L, D] whatever it is given, as at every step of a sampling.

    Keys and values are projected once. Rows of zeros are left out: without biases they add exactly nothing.
    """
    layers = transformer.transformer.layers
    attentions = [layer.cross_attn for layer in layers]
    rows = context.ne(0).flatten(1).any(dim=1).nonzero()[:, 0]
    tokens = transformer.to_cond_embed(context[rows])
    try:
        for layer, attention in zip(layers, attentions, strict=True):
            layer.cross_attn = _Settled(attention, rows, tokens)
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for layer, attention in zip(layers, attentions, strict=True):
            layer.cross_attn = attention


class _Settled(nn.Module):
    """Cross-attention whose keys and values are kept, for the rows that have any."""

    def __init__(self, attention: Any, rows: Tensor, tokens: Tensor) -> None:
        super().__init__()
        self.attention = copy.copy(attention)  # shares the weights, not the table of its parts
        self.attention._modules = {**attention._modules, "to_kv": _Kept(attention.to_kv(tokens))}
        self.rows, self.tokens = rows, tokens

    def forward(self, x: Tensor, context: Any = None, **kwargs: Any) -> Tensor:
        added = torch.zeros_like(x)
        if len(self.rows):
            added[self.rows] = self.attention(x[self.rows], context=self.tokens, **kwargs)
        return added


class _Kept(nn.Module):
    """What a layer once gave."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, given: Tensor) -> Tensor:
        return self.output


def published_transformer(config: Path) -> dict[str, Any]:
    """Return the transformer's arguments in a model_config.json; none where it is absent or of an autoencoder alone."""
    try:
        arguments = json.loads(read_text(config))["model"]["diffusion"]["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return arguments if isinstance(arguments, dict) else {}


@cache
def load_stock(name: str) -> ModuleType:
    """Return a module of stable-audio-tools by its full name."""
    with without_output(), _stand_ins():
        return importlib.import_module(name)


@contextlib.contextmanager
def without_output() -> Iterator[None]:
    """Inside, warnings and what is printed are lost."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Hide flash-attn and, where it is not installed, stand in for k-diffusion while stable-audio-tools is imported."""
    stand_ins: dict[str, ModuleType | None] = {"flash_attn": None}
    if "k_diffusion" not in sys.modules and find_spec("k_diffusion") is None:
        stand_ins["k_diffusion"] = ModuleType("k_diffusion")
    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)
