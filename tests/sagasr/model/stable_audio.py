"""Stable Audio Open in small: the published configuration with smaller widths, built by stable-audio-tools itself."""

from typing import Any

import torch
from torch import nn

from sagasr.published.stable_audio import load_stock

CONDITION, WIDTH, DEPTH, HEADS = 32, 64, 2, 2
SECONDS = ("seconds_start", "seconds_total")


def autoencoder_tree(channels: int = 8) -> dict[str, Any]:
    """The ``model`` part of the published vae_model_config.json, with 8 instead of 128 channels."""
    shape = {"channels": channels, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8], "use_snake": True}
    return {
        "encoder": {"type": "oobleck", "config": {"in_channels": 2, "latent_dim": 128, **shape}},
        "decoder": {"type": "oobleck", "config": {"out_channels": 2, "latent_dim": 64, "final_tanh": False, **shape}},
        "bottleneck": {"type": "vae"},
        "latent_dim": 64,
        "downsampling_ratio": 2048,
        "io_channels": 2,
    }


def autoencoder_config() -> dict[str, Any]:
    return {"model_type": "autoencoder", "sample_size": 65_536, "sample_rate": 44_100, "model": autoencoder_tree()}


def transformer_config(width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS, cond: int = CONDITION) -> Any:
    """The ``diffusion.config`` of stable-audio-open-1.0 (there 1536, 24, 24 and 768)."""
    return {
        "io_channels": 64,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "cond_token_dim": cond,
        "global_cond_dim": 2 * cond,
        "project_cond_tokens": False,
        "transformer_type": "continuous_transformer",
    }


def whole_config(**transformer: int) -> dict[str, Any]:
    """The layout of stable-audio-open-1.0's model_config.json: the autoencoder is the pretransform.

    The prompt's T5 is left out: it is no part of the published weights either.
    """
    diffusion = transformer_config(**transformer)
    numbers = [{"id": name, "type": "number", "config": {"min_val": 0, "max_val": 512}} for name in SECONDS]
    model = {
        "pretransform": {"type": "autoencoder", "iterate_batch": True, "config": autoencoder_tree()},
        "conditioning": {"configs": numbers, "cond_dim": diffusion["cond_token_dim"]},
        "diffusion": {
            "cross_attention_cond_ids": ["prompt", *SECONDS],
            "global_cond_ids": [*SECONDS],
            "type": "dit",
            "config": diffusion,
        },
        "io_channels": 64,
    }
    return {"model_type": "diffusion_cond", "sample_size": 2_097_152, "sample_rate": 44_100, "model": model}


def build_whole(seed: int = 7, **transformer: int) -> nn.Module:
    """Return the library's own wrapper around transformer, conditioners and autoencoder.

    Its weights are random, also those that begin at zero there and would hide a mistake.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = load_stock("stable_audio_tools.models.diffusion")
        whole: nn.Module = module.create_diffusion_cond_from_config(whole_config(**transformer))
        with torch.no_grad():
            for weight in whole.parameters():
                if not weight.any():
                    weight.normal_(std=0.05)
    return whole.eval()
