"""The one door to stable-audio-tools: its transformer, weight-free transforms and Stable Audio autoencoder.

Nothing else imports that library, so what it needs repaired is repaired here: it prints on import, wants k-diffusion
for samplers that we do not use, casts attention to float16 where flash-attn happens to be installed (results would
depend on the machine), and its PQMF calls functions that SciPy has removed. Imports happen inside the functions.
"""

import contextlib
import importlib
import io
import json
import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sagasr.config import Codec, Config, Patched, Pqmf, StableAudio, Wavelet, downsampling_ratio
from sagasr.errors import DataError

logger = logging.getLogger(__name__)

STABLE_AUDIO_LATENTS = 64  # channels of the Stable Audio Open autoencoder
STABLE_AUDIO_REMEDY = (
    "get stabilityai/stable-audio-open-1.0 from Hugging Face (its licence must be accepted there first), put "
    "model.safetensors and model_config.json in one folder and name the two in codec.checkpoint and codec.config"
)
# Where published and trainer-written checkpoints keep the autoencoder.
AUTOENCODER_PREFIXES = (
    "",
    "pretransform.model.",
    "autoencoder.",
    "model.pretransform.model.",
    "diffusion.pretransform.model.",
)
LEAST_MATCH = 0.99


def transformer_arguments(config: Config, latent_channels: int) -> dict[str, Any]:
    """Return the arguments of the diffusion transformer: every width follows from ``model`` and ``conditions``."""
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
    """Return the DiffusionTransformer with its stock initialisation, drawn from torch's global generator."""
    module = _load("stable_audio_tools.models.dit")
    transformer: nn.Module = module.DiffusionTransformer(**transformer_arguments(config, latent_channels))
    return transformer


def build_transform(codec: Wavelet | Pqmf | Patched, channels: int) -> nn.Module:
    """Return a weight-free transform: ``encode`` [B, C, T] -> [B, D, N], and ``decode``; T a multiple of the ratio."""
    module = _load("stable_audio_tools.models.pretransforms")
    transform: nn.Module
    match codec:
        case Wavelet(levels=levels, wavelet=wavelet):
            transform = module.WaveletPretransform(channels, levels, wavelet)
        case Pqmf(bands=bands, attenuation=attenuation):
            _load_pqmf()
            transform = module.PQMFPretransform(attenuation=attenuation, num_bands=bands, channels=channels)
        case Patched(patch=patch):
            transform = module.PatchedPretransform(channels, patch)
    return transform


def latent_channels(codec: Codec, channels: int) -> int:
    """Return how many latents each frame has, without building the codec."""
    return STABLE_AUDIO_LATENTS if isinstance(codec, StableAudio) else channels * downsampling_ratio(codec)


def build_autoencoder(checkpoint: Path, config: Path) -> Any:
    """Return the Stable Audio autoencoder with the weights of ``checkpoint`` (safetensors, or a torch file).

    ``config`` is the JSON published beside it, of the autoencoder alone or of the whole model. Raises DataError with
    one line unless at least 99 % of the weights are found with their shapes.
    """
    autoencoder = _empty_autoencoder(config)
    load_matching(autoencoder, checkpoint, AUTOENCODER_PREFIXES, STABLE_AUDIO_REMEDY)
    return autoencoder


def load_matching(module: nn.Module, checkpoint: Path, prefixes: tuple[str, ...], remedy: str) -> dict[str, int]:
    """Load ``module`` from the keys of ``checkpoint`` under whichever prefix fits best.

    Returns how many keys were matched, missing and unexpected (under that prefix). Raises DataError under 99 %.
    """
    wanted = module.state_dict()
    shapes, read = _open_weights(checkpoint, remedy)
    prefix = max(prefixes, key=lambda p: sum(shapes.get(p + key) == weight.shape for key, weight in wanted.items()))
    matched = [key for key, weight in wanted.items() if shapes.get(prefix + key) == weight.shape]
    missing = [key for key in wanted if key not in set(matched)]
    unexpected = {name for name in shapes if name.startswith(prefix)} - {prefix + key for key in matched}
    line = f"{len(matched)} of {len(wanted)} weights matched, {len(unexpected)} unexpected"
    if len(matched) < LEAST_MATCH * len(wanted):
        raise DataError(f"{checkpoint}: {line} (first without a match: {missing[0]}); {remedy}")
    module.load_state_dict({key: read(prefix + key) for key in matched}, strict=False)
    logger.info("%s: %s", checkpoint, line)
    return {"matched": len(matched), "missing": len(missing), "unexpected": len(unexpected)}


def _empty_autoencoder(config: Path) -> nn.Module:
    """Return the autoencoder that a published model_config.json describes, with random weights."""
    try:
        tree = json.loads(config.read_text(encoding="utf-8"))
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
        module = _load("stable_audio_tools.models.autoencoders")
        with _quietly():
            autoencoder: nn.Module = module.create_autoencoder_from_config(
                {"sample_rate": tree.get("sample_rate"), "model": model}
            )
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{config}: its autoencoder cannot be built ({error}); {STABLE_AUDIO_REMEDY}") from error
    return autoencoder


def _within(tree: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping under ``keys``, empty where there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _open_weights(path: Path, remedy: str) -> tuple[Mapping[str, torch.Size], Callable[[str], Tensor]]:
    """Return the shapes of all tensors in a checkpoint and a function that reads one; the rest stays on disk."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint; {remedy}")
    try:
        if path.suffix == ".safetensors":
            file = safe_open(path, framework="pt", device="cpu")
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}, file.get_tensor  # noqa: SIM118
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found = tree.get("state_dict", tree)
        weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable checkpoint ({first}); {remedy}") from error
    return {name: value.shape for name, value in weights.items()}, weights.__getitem__


@cache
def _load(name: str) -> ModuleType:
    with _quietly(), _stand_ins():
        return importlib.import_module(name)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
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


@cache
def _load_pqmf() -> ModuleType:
    """Import the PQMF and give it a prototype filter design that today's SciPy knows; the same filters come out."""
    import scipy.signal

    if lacks := not hasattr(scipy.signal, "kaiser"):  # imported by name there, never called
        scipy.signal.kaiser = scipy.signal.windows.kaiser  # type: ignore[attr-defined]
    try:
        module = _load("stable_audio_tools.models.pqmf")
    finally:
        if lacks:
            del scipy.signal.kaiser  # type: ignore[attr-defined]
    module.design_kaiser_lowpass = _kaiser_low_pass  # type: ignore[attr-defined]
    return module


def _kaiser_low_pass(cutoff: Any, attenuation: float, taps: int | None = None) -> Any:
    """Return an odd Kaiser-windowed low-pass; ``cutoff`` in radians per sample, a number or an array of one."""
    import numpy as np
    from scipy.signal import firwin, kaiserord

    edge = np.asarray(cutoff).item() / np.pi
    length, beta = kaiserord(attenuation, edge)
    return firwin(taps or length | 1, edge, window=("kaiser", beta), scale=False)
