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

import torch
from torch import nn

from sagasr.config.settings import GET_STABLE_AUDIO, Config, StableAudio, latent_channels
from sagasr.io.errors import DataError
from sagasr.model.conditions import Conditioner
from sagasr.model.transformer import build_transformer, transformer_arguments
from sagasr.published.stable_audio import published_transformer
from sagasr.published.weights import (
    LEAST_MATCH,
    Corner,
    Fit,
    Weights,
    announce,
    copy_weights,
    fit,
    open_weights,
    problem_of,
    shapes_of,
    share,
)

REMEDY = f"{GET_STABLE_AUDIO} and name its model.safetensors in model.checkpoint"
SECONDS = ("seconds_start", "seconds_total")
# What a published configuration may spell out, and where ours may differ: in its conditions and in what it learns.
DEFAULTS = {"patch_size": 1, "timestep_cond_type": "global", "project_global_cond": True}
OUR_OWN = {"global_cond_dim", "input_concat_dim", "prepend_cond_dim", "diffusion_objective", "transformer_type"}
GLOBAL, PREPEND = "to_global_embed.", "to_prepend_embed."


def load_pretrained(model: nn.Module, config: Config) -> list[Fit]:
    """Copy the checkpoint of a configuration into a ``SagaModel``, and return how its parts fit; nothing for scratch.

    Raises DataError, one line naming the file, unless 99 % of the parameters match in both directions.
    """
    if config.model.init == "scratch":
        return []
    weights = open_weights(_path(config), REMEDY)
    _check_published(config)
    parts = _parts(config, weights, shapes_of(model.transformer), shapes_of(model.conditioner))  # type: ignore[arg-type]
    for module, fitted in zip((model.transformer, model.conditioner), parts, strict=False):
        _refuse(config, fitted, weights)
        copy_weights(module, fitted, weights)  # type: ignore[arg-type]
    new = [name for name, _ in model.conditioner.named_parameters()]  # type: ignore[union-attr]
    new = [name for name in new if not any(name in part.sources for part in parts[1:])]
    announce(weights.path, f"conditions: {len(new)} weights are new, drawn from the seed")
    return parts


def missing_weights(config: Config) -> str | None:
    """Return one line saying why the checkpoint cannot be used and how to get it; only its names and sizes are read."""
    if config.model.init == "scratch":
        return None
    try:
        weights, (transformer, conditioner) = open_weights(_path(config), REMEDY), _our_shapes(_plain(config))
        _check_published(config)
        for fitted in _parts(config, weights, transformer, conditioner):
            _refuse(config, fitted, weights)
    except DataError as error:
        return str(error)
    return None


def _path(config: Config) -> Path:
    assert config.model.checkpoint is not None  # the configuration has checked it
    return Path(config.model.checkpoint)


def _parts(
    config: Config, weights: Weights, transformer: dict[str, torch.Size], conditioner: dict[str, torch.Size]
) -> list[Fit]:
    parts = [
        fit(
            "transformer",
            transformer,
            weights,
            corners=_corners(config),
            new=[key for key in transformer if key.startswith(PREPEND)],
        )
    ]
    if config.conditions.seconds == "on":
        names = _names_of_seconds(conditioner)
        wanted = {key: shape for key, shape in conditioner.items() if key in names}
        parts.append(fit("conditions", wanted, weights, names=names))
    return parts


def _refuse(config: Config, fitted: Fit, weights: Weights) -> None:
    """Raise DataError unless the part fits, and, for the transformer, is used whole."""
    if problem := problem_of(fitted, weights, REMEDY):
        raise DataError(problem)
    if fitted.part != "transformer":
        return
    leftover = [name.removeprefix(fitted.prefix) for name in fitted.unexpected]
    leftover = [name for name in leftover if not name.startswith(GLOBAL)]
    unused = sum(weights.shapes[fitted.prefix + name].numel() for name in leftover)
    if unused > (1 - LEAST_MATCH) * fitted.offered:
        raise DataError(
            f"{weights.path}: only {share(fitted.offered - unused, fitted.offered)} of its {fitted.part} would be used "
            f"(first left over: {leftover[0]}); set model to the checkpoint's size (Stable Audio Open: 'full'); "
            f"{REMEDY}"
        )


def _check_published(config: Config) -> None:
    """Raise DataError when the configuration published with the checkpoint says what shapes do not: heads, norms.

    It is read where it lies beside the checkpoint, or is the codec's; without one only shapes are compared.
    """
    ours = DEFAULTS | transformer_arguments(config, latent_channels(config.codec, config.audio.channels))
    beside = _path(config).with_name("model_config.json")
    named = [Path(config.codec.config)] if isinstance(config.codec, StableAudio) else []
    for path in (beside, *named):
        theirs = published_transformer(path)
        differing = [key for key, value in theirs.items() if key not in OUR_OWN and ours.get(key) != value]
        if differing:
            key = differing[0]
            raise DataError(
                f"{_path(config)}: its transformer has {key} {theirs[key]!r} ({path.name}), the configured one "
                f"{ours.get(key, 'no such thing')!r}; set model to the checkpoint's (Stable Audio Open: size full); "
                f"{REMEDY}"
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


def _names_of_seconds(conditioner: dict[str, torch.Size]) -> dict[str, str]:
    """Return our keys of the embeddings of seconds by what Stable Audio calls them."""
    theirs = {"frequencies": "0.weights", "project.weight": "1.weight", "project.bias": "1.bias"}
    return {
        f"{number}.{ours}": f"{number}.embedder.embedding.{name}"
        for number in SECONDS
        for ours, name in theirs.items()
        if f"{number}.{ours}" in conditioner
    }


def _plain(config: Config) -> Config:
    """Return the configuration without what the checkpoint's fit does not depend on: alike ones are looked at once."""
    text = config.conditions.text.model_copy(update={"source": "off"})
    conditions = config.conditions.model_copy(update={"text": text})
    return Config(data=config.data, codec=config.codec, audio=config.audio).model_copy(
        update={"model": config.model, "conditions": conditions}
    )


@cache
def _our_shapes(config: Config) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
    """Return the shapes of our transformer and conditions; nothing is allocated."""
    with torch.device("meta"):
        transformer = build_transformer(config, latent_channels(config.codec, config.audio.channels))
        return shapes_of(transformer), shapes_of(Conditioner(config))
