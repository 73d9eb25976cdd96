"""A SAGA-SR that starts from Stable Audio Open: its transformer, widened, and its embeddings of seconds.

The published transformer takes 64 noisy latents. Ours takes 64 low ones beside them: the 1x1 convolution in front and
the input projection are widened with zeros, so that before the first step the low latents change nothing and the
output is that of the published model. The same holds for the global vector: roll-off stands before the seconds that
the checkpoint knows, and its columns begin at zero. Without seconds, roll-off takes their place in the projection,
which has that very shape. What only we have (roll-off and word embeddings, a prepended token) is new: drawn from the
seed, and counted apart from what is missing.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sagasr.config.settings import GET_STABLE_AUDIO, Config, StableAudio, latent_channels
from sagasr.io.errors import DataError
from sagasr.model.conditions import Conditioner, build_transformer, transformer_arguments
from sagasr.published.hugging_face import problem_of
from sagasr.published.stable_audio import published_transformer
from sagasr.published.weights import (
    LEAST_MATCH,
    Corner,
    Fit,
    Weights,
    announce,
    check_fit,
    copy_weights,
    fit,
    open_weights,
    shapes_of,
    share,
)

if TYPE_CHECKING:
    from sagasr.model.saga import SagaModel

REMEDY = f"{GET_STABLE_AUDIO} and name its model.safetensors in model.checkpoint"
# What a published configuration may spell out, and where ours may differ: in its conditions and in what it learns.
DEFAULTS = {"patch_size": 1, "timestep_cond_type": "global", "project_global_cond": True}
OUR_OWN = {"global_cond_dim", "input_concat_dim", "prepend_cond_dim", "diffusion_objective", "transformer_type"}
GLOBAL, PREPEND = "to_global_embed.", "to_prepend_embed."
Shapes = dict[str, torch.Size]


def load_pretrained(model: "SagaModel", config: Config) -> list[Fit]:
    """Copy a configuration's checkpoint into a model and return how its parts fit. Raises DataError if they do not."""
    if config.model.init == "scratch":
        return []
    weights, parts = _fits(config, shapes_of(model.transformer), shapes_of(model.conditioner))
    for module, fitted in zip((model.transformer, model.conditioner), parts, strict=False):
        copy_weights(module, fitted, weights)
    loaded = {name for part in parts[1:] for name in part.sources}
    new = sum(name not in loaded for name, _ in model.conditioner.named_parameters())
    announce(weights.path, f"conditions: {new} weights are new, drawn from the seed")
    return parts


def missing_weights(config: Config) -> str | None:
    """Return one line saying why the checkpoint cannot be used and how to get it; only its names and sizes are read."""
    if config.model.init == "scratch":
        return None
    return problem_of(lambda: _fits(config, *_our_shapes(_plain(config))))


def _fits(config: Config, transformer: Shapes, conditioner: Shapes) -> tuple[Weights, list[Fit]]:
    """Return the checkpoint, and how it fits. Raises DataError unless it does, and its transformer is used whole."""
    weights = open_weights(Path(config.model.checkpoint or ""), REMEDY)
    _check_published(config, weights.path)
    new = [key for key in transformer if key.startswith(PREPEND)]
    parts = [fit("transformer", transformer, weights, _corners(config), new=new)]
    check_fit(parts[0], weights, REMEDY)
    _check_used(parts[0], weights)
    if config.conditions.seconds == "on":
        names = _names_of_seconds(conditioner)
        parts.append(fit("conditions", {key: conditioner[key] for key in names}, weights, names=names))
        check_fit(parts[1], weights, REMEDY)
    return weights, parts


def _check_used(fitted: Fit, weights: Weights) -> None:
    leftover = [name.removeprefix(fitted.prefix) for name in fitted.unexpected]
    leftover = [name for name in leftover if not name.startswith(GLOBAL)]
    unused = sum(weights.shapes[fitted.prefix + name].numel() for name in leftover)
    if unused > (1 - LEAST_MATCH) * fitted.offered:
        raise DataError(
            f"{weights.path}: only {share(fitted.offered - unused, fitted.offered)} of its {fitted.part} would be used "
            f"(first left over: {leftover[0]}); set model to the checkpoint's size (Stable Audio Open: 'full'); "
            f"{REMEDY}"
        )


def _check_published(config: Config, checkpoint: Path) -> None:
    """Raise DataError where the published configuration, if one is there, says what shapes do not: heads, norms."""
    ours = DEFAULTS | transformer_arguments(config, latent_channels(config.codec, config.audio.channels))
    named = [Path(config.codec.config)] if isinstance(config.codec, StableAudio) else []
    for path in (checkpoint.with_name("model_config.json"), *named):
        for key, theirs in published_transformer(path).items():
            if key not in OUR_OWN and ours.get(key) != theirs:
                raise DataError(
                    f"{checkpoint}: its transformer has {key} {theirs!r} ({path.name}), the configured one "
                    f"{ours.get(key, 'no such thing')!r}; set model to the checkpoint's (Stable Audio Open: size full);"
                    f" {REMEDY}"
                )


def _corners(config: Config) -> dict[str, Corner]:
    """Return where the published weights stand in our wider ones: noisy latents come first, seconds last."""
    noisy = slice(0, latent_channels(config.codec, config.audio.channels))
    seconds = slice(2 * config.model.cond_dim, None)
    return {
        "preprocess_conv.weight": (noisy, noisy),
        "transformer.project_in.weight": (slice(None), noisy),
        "to_global_embed.0.weight": (slice(None), seconds),
    }


def _names_of_seconds(conditioner: Shapes) -> dict[str, str]:
    """Return our keys of the embeddings of seconds by what Stable Audio calls them."""
    theirs = {"frequencies": "0.weights", "project.weight": "1.weight", "project.bias": "1.bias"}
    return {
        f"{number}.{ours}": f"{number}.embedder.embedding.{name}"
        for number in ("seconds_start", "seconds_total")
        for ours, name in theirs.items()
        if f"{number}.{ours}" in conditioner
    }


def _plain(config: Config) -> Config:
    """Return the configuration without what the checkpoint's fit does not depend on: alike ones are looked at once."""
    text = config.conditions.text.model_copy(update={"source": "off"})
    conditions = config.conditions.model_copy(update={"text": text})
    plain = Config(data=config.data, codec=config.codec, audio=config.audio)
    return plain.model_copy(update={"model": config.model, "conditions": conditions})


@cache
def _our_shapes(config: Config) -> tuple[Shapes, Shapes]:
    with torch.device("meta"):
        transformer = build_transformer(config, latent_channels(config.codec, config.audio.channels))
        return shapes_of(transformer), shapes_of(Conditioner(config))
