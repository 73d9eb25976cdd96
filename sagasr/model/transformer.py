"""The diffusion transformer of a configuration: every width follows from ``model`` and ``conditions``."""

from typing import Any

from torch import nn

from sagasr.config.settings import Config
from sagasr.published.stable_audio import diffusion_transformer


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
