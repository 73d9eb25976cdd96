"""Audio to latents and back, of stable-audio-tools: its weight-free transforms and the Stable Audio autoencoder.

A module of its own because it decides what encoded stores hold, which ``sagasr.published.stable_audio`` does not. The
PQMF calls functions that SciPy has removed, which is repaired here.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sagasr.config.settings import GET_STABLE_AUDIO, Patched, Pqmf, Wavelet
from sagasr.io.errors import DataError
from sagasr.io.files import read_text
from sagasr.published.stable_audio import load_stock, without_output
from sagasr.published.weights import Fit, Weights, check_fit, copy_weights, fit, open_weights, shapes_of

STABLE_AUDIO_REMEDY = (
    f"{GET_STABLE_AUDIO} and name its model.safetensors and model_config.json in codec.checkpoint and codec.config"
)


def build_transform(codec: Wavelet | Pqmf | Patched, channels: int) -> nn.Module:
    """Return a weight-free transform: ``encode`` [B, C, T] -> [B, D, N], and ``decode``; T a multiple of the ratio."""
    stock: Any = load_stock("stable_audio_tools.models.pretransforms")
    if isinstance(codec, Wavelet):
        transform = stock.WaveletPretransform(channels, codec.levels, codec.wavelet)
    elif isinstance(codec, Patched):
        transform = stock.PatchedPretransform(channels, codec.patch)
    else:
        _load_pqmf()
        transform = stock.PQMFPretransform(attenuation=codec.attenuation, num_bands=codec.bands, channels=channels)
    return transform  # type: ignore[no-any-return]


def build_autoencoder(checkpoint: Path, config: Path) -> Any:
    """Return the Stable Audio autoencoder of a published configuration with its weights. Raises DataError."""
    autoencoder, fitted, weights = _fitted(checkpoint, config)
    copy_weights(autoencoder, fitted, weights)
    return autoencoder


def check_autoencoder(checkpoint: Path, config: Path) -> None:
    """Raise what ``build_autoencoder`` would raise; only the names and sizes of the weights are read."""
    with torch.device("meta"):
        _fitted(checkpoint, config)


def _fitted(checkpoint: Path, config: Path) -> tuple[nn.Module, Fit, Weights]:
    autoencoder = empty_autoencoder(config)
    weights = open_weights(checkpoint, STABLE_AUDIO_REMEDY)
    fitted = fit("autoencoder", shapes_of(autoencoder), weights)
    check_fit(fitted, weights, STABLE_AUDIO_REMEDY)
    return autoencoder, fitted, weights


def empty_autoencoder(config: Path) -> nn.Module:
    """Return the autoencoder that a published model_config.json describes, with random weights."""
    try:
        tree = json.loads(read_text(config))
    except OSError as error:
        raise DataError(f"{config}: codec.config cannot be read; {STABLE_AUDIO_REMEDY}") from error
    except ValueError as error:
        raise DataError(f"{config}: codec.config is not JSON ({error}); {STABLE_AUDIO_REMEDY}") from error
    model = _within(tree, "model")
    if "pretransform" in model:  # a whole diffusion model: its autoencoder is nested
        model = _within(model, "pretransform", "config")
    if _within(model, "bottleneck").get("type") != "vae" or not {"encoder", "decoder"} <= model.keys():
        raise DataError(f"{config}: describes no autoencoder with a vae bottleneck; {STABLE_AUDIO_REMEDY}")
    try:
        module = load_stock("stable_audio_tools.models.autoencoders")
        with without_output():
            described = {"sample_rate": tree.get("sample_rate"), "model": model}
            return module.create_autoencoder_from_config(described)  # type: ignore[no-any-return]
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{config}: its autoencoder cannot be built ({error}); {STABLE_AUDIO_REMEDY}") from error


def _within(tree: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping under ``keys``, empty where there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


@cache
def _load_pqmf() -> None:
    """Import the PQMF and give it a prototype filter design that today's SciPy knows; the same filters come out."""
    import scipy.signal

    if lacks := not hasattr(scipy.signal, "kaiser"):  # imported by name there, never called
        scipy.signal.kaiser = scipy.signal.windows.kaiser  # type: ignore[attr-defined]
    try:
        module = load_stock("stable_audio_tools.models.pqmf")
    finally:
        if lacks:
            del scipy.signal.kaiser  # type: ignore[attr-defined]
    module.design_kaiser_lowpass = _kaiser_low_pass  # type: ignore[attr-defined]


def _kaiser_low_pass(cutoff: Any, attenuation: float, taps: int | None = None) -> Any:
    """Return an odd Kaiser-windowed low-pass; ``cutoff`` in radians per sample, a number or an array of one."""
    import numpy as np
    from scipy.signal import firwin, kaiserord

    edge = np.asarray(cutoff).item() / np.pi
    length, beta = kaiserord(attenuation, edge)
    return firwin(taps or length | 1, edge, window=("kaiser", beta), scale=False)
