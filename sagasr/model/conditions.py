"""The transformer, and what it is told besides the low latents: text, roll-off and seconds; how each is left out.

Roll-off enters twice (SAGA-SR section 3.2): as one token each for low and high in the cross-attention, and through a
global vector beside the time (or, with the time, through a prepended token). Conditions and routes that are switched
off keep their slots, filled with zeros, so that the transformer has the same parameters in every cell. The nulls are
the released code's: low latents of -5 (or 0), a cross-attention tensor of zeros, roll-off tokens included. Under null
text roll-off thus remains through the global vector; on the route ``cross`` alone it goes with the text.

Conditions of a user's own are one more token each. They go with the text, too, and where there is none, the tensor is
dropped and guided for their sake.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sagasr.audio.spectrum import BIN_HZ, NUM_BINS
from sagasr.codec.codec import Codec, build_codec
from sagasr.config.settings import Config
from sagasr.constants import NYQUIST
from sagasr.model.counts import FREQUENCIES
from sagasr.model.inputs import ConditionInputs, seeded
from sagasr.model.text import build_text_encoder
from sagasr.plugins.parts import load
from sagasr.published.stable_audio import diffusion_transformer

LONGEST_SECONDS = 512.0  # the range of Stable Audio's seconds_start and seconds_total


class Conditioning(NamedTuple):
    """What the transformer takes: cross-attention [B, L + 2 (+ own), cond_dim], global [B, G], prepended [B, 1, E].

    The embedding of the time is still to be added to the global vector and to the prepended token. ``empty``: how many
    more tokens of zeros the cross-attention has, those beyond the longest text of the batch.
    """

    cross: Tensor
    global_: Tensor | None
    prepend: Tensor | None
    empty: int = 0


class NumberEmbedding(nn.Module):
    """A number in [0, 1] as x, sines and cosines of 128 learned frequencies, projected (as Stable Audio does)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(FREQUENCIES))
        self.project = nn.Linear(2 * FREQUENCIES + 1, width)

    def forward(self, number: Tensor) -> Tensor:
        """Return embeddings [B, width] of numbers [B]."""
        number = number.clamp(0, 1)[:, None]
        angle = 2 * math.pi * number * self.frequencies
        return self.project(torch.cat([number, angle.sin(), angle.cos()], dim=1))  # type: ignore[no-any-return]


class OwnTokens(nn.Module):
    """Conditions of a user's own: what each says of the low audio, linearly projected to a token.

    They hear what the codec makes of the low latents, at the level of the model: a function of what the transformer is
    given anyway, so that training, validation and use cannot differ. Only the projections are learned and saved.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # also where a model is built for its shapes alone
            self.parts: list[Any] = [load("conditioner", part) for part in config.conditions.own]
        self.project = nn.ModuleList(nn.Linear(part.size, config.model.cond_dim) for part in self.parts)

    def forward(self, latents: Tensor) -> Tensor:
        """Return tokens [B, n, cond_dim] of low latents [B, D, N] that are not normalised."""
        if latents.is_meta:  # only shapes are asked for
            numbers = [latents.new_zeros(len(latents), part.size) for part in self.parts]
        else:
            numbers = self._numbers(latents)
        return torch.stack([project(values) for project, values in zip(self.project, numbers, strict=True)], dim=1)

    @torch.no_grad()
    def _numbers(self, latents: Tensor) -> list[Tensor]:
        with torch.autocast(latents.device.type, enabled=False):
            codec = self._codec.to(latents.device)
            audio = codec.decode(latents.float(), latents.shape[-1] * codec.ratio)
            for part in self.parts:
                if isinstance(part, nn.Module):  # none of ours, so it did not follow the model
                    part.to(audio.device)
            return [part.describe(audio).to(audio) for part in self.parts]

    @cached_property
    def _codec(self) -> Codec:
        return build_codec(self.config.codec, self.config.audio.channels)


class Conditioner(nn.Module):
    """Learned embeddings of text, roll-off and seconds, routed as the configuration says."""

    def __init__(self, config: Config, vocabulary: Sequence[str] = ()) -> None:
        super().__init__()
        conditions, width, seed = config.conditions, config.model.cond_dim, config.seed
        self.width, self.embed_dim = width, config.model.embed_dim
        self.route, self.scale = conditions.rolloff_route, conditions.rolloff_scale
        with seeded(seed, "text"):
            self.text = build_text_encoder(conditions.text, width, vocabulary)
        with seeded(seed, "rolloff"):
            on = conditions.rolloff == "on"
            self.rolloff_low = NumberEmbedding(width) if on else None
            self.rolloff_high = NumberEmbedding(width) if on else None
            self.rolloff_token = nn.Linear(2 * width, self.embed_dim) if on and self.route == "prepend" else None
        with seeded(seed, "seconds"):
            on = conditions.seconds == "on"
            self.seconds_start = NumberEmbedding(width) if on else None
            self.seconds_total = NumberEmbedding(width) if on else None

    def forward(self, inputs: ConditionInputs) -> Conditioning:
        """Return the conditioning of a batch, nothing dropped."""
        rolloff = self._rolloff(inputs.rolloff_hz)
        absent = torch.zeros_like(rolloff)
        tokens = (absent if self.route == "global" else rolloff).unflatten(1, (2, self.width))
        text = self.text(inputs.text)
        cross = torch.cat([text, tokens], dim=1)
        vectors = [] if self.route == "prepend" else [absent if self.route == "cross" else rolloff]
        if self.seconds_start is not None and self.seconds_total is not None:
            seconds = inputs.seconds / LONGEST_SECONDS
            vectors += [self.seconds_start(seconds[:, 0]), self.seconds_total(seconds[:, 1])]
        global_ = torch.cat(vectors, dim=1) if vectors else None
        return Conditioning(cross, global_, self._prepend(rolloff), self.text.max_tokens - text.shape[1])

    def _rolloff(self, rolloff_hz: Tensor) -> Tensor:
        """Return the embeddings of low and high side by side [B, 2 * cond_dim], zeros where roll-off is off."""
        if self.rolloff_low is None or self.rolloff_high is None:
            return rolloff_hz.new_zeros(len(rolloff_hz), 2 * self.width)
        low, high = rolloff_share(rolloff_hz, self.scale).unbind(dim=1)
        return torch.cat([self.rolloff_low(low), self.rolloff_high(high)], dim=1)

    def _prepend(self, rolloff: Tensor) -> Tensor | None:
        if self.route != "prepend":
            return None
        if self.rolloff_token is None:
            return rolloff.new_zeros(len(rolloff), 1, self.embed_dim)
        return self.rolloff_token(rolloff)[:, None]  # type: ignore[no-any-return]


def rolloff_share(rolloff_hz: Tensor, scale: Literal["nyquist", "released"]) -> Tensor:
    """Return roll-offs, measured as the first bin that reaches 98.5 %, as the numbers in [0, 1] that are embedded.

    ``released``: the index of the last bin that does not reach it, over 1,025 bins, as the authors' code has it.
    """
    if scale == "nyquist":
        return rolloff_hz / NYQUIST
    return (rolloff_hz / BIN_HZ - 1).clamp_min(0) / NUM_BINS


def null_cross(cross: Tensor) -> Tensor:
    """Return the cross-attention tensor that stands for "no text": zeros, roll-off tokens included."""
    return torch.zeros_like(cross)


def null_low(low: Tensor, kind: Literal["zero", "minus5"]) -> Tensor:
    """Return the normalised low latents that stand for "no input"."""
    return torch.full_like(low, -5.0 if kind == "minus5" else 0.0)


def drop(values: Tensor, null: Tensor, dropped: Tensor | None) -> Tensor:
    """Return ``values`` [B, ...] with the rows where ``dropped`` [B] is true taken from ``null``."""
    if dropped is None:
        return values
    return torch.where(dropped.view(-1, *[1] * (values.ndim - 1)), null, values)


def transformer_arguments(config: Config, latent_channels: int) -> dict[str, Any]:
    """Return the arguments of stable-audio-tools' transformer."""
    model, conditions = config.model, config.conditions
    by_global = conditions.rolloff_route != "prepend"
    globals_ = 2 * by_global + 2 * (conditions.seconds == "on")
    return {
        "io_channels": latent_channels,
        "input_concat_dim": latent_channels,
        "embed_dim": model.embed_dim,
        "depth": model.depth,
        "num_heads": model.num_heads,
        "cond_token_dim": model.cond_dim,
        "project_cond_tokens": False,
        "global_cond_dim": globals_ * model.cond_dim,
        "prepend_cond_dim": 0 if by_global else model.embed_dim,
        "global_cond_type": model.time_route,
        "diffusion_objective": "rectified_flow",
    }


def build_transformer(config: Config, latent_channels: int) -> nn.Module:
    """Return the transformer with its stock initialisation, drawn from torch's global generator."""
    return diffusion_transformer(**transformer_arguments(config, latent_channels))
