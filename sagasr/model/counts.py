"""What a training step of a configuration holds, counted without building it. Loads without torch.

Widths and layers are those of the transformer of stable-audio-tools and of our conditions; a test compares every count
with that of a real step on the meta device (``sagasr.model.meta_step``), which is also taken before a sweep starts.
"""

from typing import NamedTuple

from sagasr.config.runtime import Runtime
from sagasr.config.settings import Conditions, Config, StableAudio, Words, downsampling_ratio, latent_channels
from sagasr.plugins.parts import load

FLOAT, HALF = 4, 2  # bytes of a number; matrices and convolutions compute in halves under bf16-mixed
STATES = 5  # weights, gradients, two AdamW moments and the average
TIME_FEATURES = 256
FREQUENCIES = 128  # of a number embedding: so many parameters, and 257 weights and a bias per channel
ROLLOFF_TOKENS = 2
# What lies on the GPU besides, in bytes.
CONTEXT = 600_000_000  # CUDA's context, workspaces of cuBLAS and cuDNN, and what fragments leave unused
AUTOENCODER = 630_000_000  # 156 million weights of Stable Audio Open's
DECODING = 1_520_000_000  # by that autoencoder, of as many samples as sagasr.codec takes at once: 2.9 kB each
T5 = 440_000_000  # the encoder of t5-base, 110 million weights; it stays once it met a caption that is not stored


class Counts(NamedTuple):
    """Of one training step on the whole batch: latents [B, D, N], cross-attention tokens [B, L, C], and its memory."""

    latents: tuple[int, int, int]
    tokens: tuple[int, int, int]
    parameters: int
    state_bytes: int  # weights, gradients, AdamW moments, average
    activation_bytes: int  # kept for the backward pass, in the precision of the training
    copy_bytes: int = 0  # of the weights in halves, kept for the backward pass, too
    frozen_bytes: int = 0  # of parts that are not trained
    decoding_bytes: int = 0  # of a validation's audio

    def memory_bytes(self, runtime: Runtime, micro_batches: int = 1) -> int:
        """Return the most that one worker of a training holds, its batch taken in so many parts, on a GPU or without.

        That is at the end of a forward pass, where the gradients of the step before are still there, or in a
        validation, where a worker of shards has all weights.
        """
        share = runtime.workers if runtime.sharded else 1
        gathered = self.state_bytes // STATES if runtime.sharded else 0
        rows = -(-self.latents[0] // runtime.workers)
        part = -(-rows // min(micro_batches, rows))
        step = self.activation_bytes * part // self.latents[0] + self.copy_bytes
        context = CONTEXT if runtime.gpus_per_worker else 0
        return self.state_bytes // share + max(step, gathered + self.decoding_bytes) + self.frozen_bytes + context


def counts_of(
    config: Config, latents: tuple[int, int, int], tokens: tuple[int, int, int], parameters: int, activation_bytes: int
) -> Counts:
    """Return the counts of a configuration whose step has these shapes, parameters and activations."""
    coded = isinstance(config.codec, StableAudio)
    read = config.conditions.text.source != "off" and not isinstance(config.conditions.text.encoder, Words)
    return Counts(
        latents=latents,
        tokens=tokens,
        parameters=parameters,
        state_bytes=STATES * FLOAT * parameters,
        activation_bytes=activation_bytes,
        copy_bytes=HALF * parameters if in_halves(config) else 0,
        frozen_bytes=AUTOENCODER * coded + T5 * read,
        decoding_bytes=DECODING * coded,
    )


def in_halves(config: Config) -> bool:
    """Return whether a training computes in bfloat16 where that is safe."""
    return config.training.precision == "bf16-mixed"


def speaks_for_itself(config: Config) -> bool:
    """Return whether a configuration's model is known without files of weights, and no part of it has to be tried."""
    return not (
        isinstance(config.codec, StableAudio)
        or (config.conditions.text.source != "off" and not isinstance(config.conditions.text.encoder, Words))
        or config.model.init == "pretrained"
        or config.validation.distance.embedder == "clap"
        or config.validation.metrics
    )


def count(config: Config, words: int) -> Counts:
    """Return the counts of a configuration that ``speaks_for_itself``, with ``words`` in its training captions."""
    ratio, width = downsampling_ratio(config.codec), config.model.cond_dim
    rows, frames = config.training.batch_size, config.audio.segment // ratio
    channels = latent_channels(config.codec, config.audio.channels)
    tokens = config.conditions.text.encoder.max_tokens + ROLLOFF_TOKENS + len(config.conditions.own)
    parameters = _transformer(config, channels) + _conditions(config.conditions, width, config.model.embed_dim, words)
    return counts_of(
        config,
        latents=(rows, channels, frames),
        tokens=(rows, tokens, width),
        parameters=parameters,
        activation_bytes=rows * _activation_bytes(config, channels, frames, tokens),
    )


def _transformer(config: Config, channels: int) -> int:
    model, conditions = config.model, config.conditions
    wide, cond = model.embed_dim, model.cond_dim
    modulated = model.time_route == "adaLN"
    layer = 18 * wide**2 + 2 * cond**2 + 12 * wide + 6 * wide * modulated  # 12 wide**2 of it: the gated feed-forward
    numbers = 2 * (conditions.rolloff_route != "prepend") + 2 * (conditions.seconds == "on")
    time = TIME_FEATURES // 2 + (TIME_FEATURES + 1) * wide + (wide + 1) * wide
    ways = (
        3 * channels * wide + (2 * channels) ** 2 + channels**2  # projections in and out, convolutions before and after
        + 2 * cond**2
        + (numbers * cond * wide + wide**2 if numbers else 0)
        + (2 * wide**2 if conditions.rolloff_route == "prepend" else 0)
        + (7 * (wide + 1) * wide if modulated else 0)
    )  # fmt: skip
    return model.depth * layer + time + ways


def _conditions(conditions: Conditions, cond: int, wide: int, words: int) -> int:
    rolloff, number = conditions.rolloff == "on", FREQUENCIES + 2 * (FREQUENCIES + 1) * cond
    return (
        ((words + 1) * cond if conditions.text.source != "off" else 0)
        + 2 * number * (rolloff + (conditions.seconds == "on"))
        + ((2 * cond + 1) * wide if rolloff and conditions.rolloff_route == "prepend" else 0)
        + sum((int(load("conditioner", part).size) + 1) * cond for part in conditions.own)
    )


def _activation_bytes(config: Config, channels: int, frames: int, tokens: int) -> int:
    """Return the bytes that one row of a batch keeps for the backward pass, within a few per cent.

    Per layer and position 31 vectors of the layer's width (35 where the time modulates the layers): inputs of norms and
    projections, queries, keys and values before and after the rotation, and twice 8 of the gated feed-forward. Inputs
    of norms stay floats in any precision, and so do the numbers of norms and attention.
    """
    model, half = config.model, HALF if in_halves(config) else FLOAT
    modulated = model.time_route == "adaLN"
    positions = frames + (not modulated) + (config.conditions.rolloff_route == "prepend")
    vector = 30 * half + 5 * FLOAT if modulated else 28 * half + 3 * FLOAT
    layer = positions * (vector * model.embed_dim + FLOAT * (6 + 2 * model.num_heads))
    contexts = 2 * half * tokens * model.embed_dim
    ends = (5 * half + 2 * FLOAT) * channels * frames + half * (
        positions * model.embed_dim + 4 * tokens * model.cond_dim
    )
    return model.depth * (layer + contexts) + ends
