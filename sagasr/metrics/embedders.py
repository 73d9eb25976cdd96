"""Windows of audio to the vectors that a distribution distance compares. One small class per embedder."""

import shlex
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from sagasr.audio.spectrum import BIN_HZ, NUM_BINS, stft_power
from sagasr.config import settings as settings
from sagasr.config.settings import NYQUIST, SAMPLE_RATE
from sagasr.io.errors import DataError
from sagasr.metrics.spectra import POWER_FLOOR
from sagasr.model.text import quietly
from sagasr.plugins.parts import load

BATCH = 16  # windows embedded at once


class Embedder(ABC):
    """Base of the embedders. ``name`` ends the metric's: fd_<name>."""

    name: str

    @abstractmethod
    def embed(self, windows: Tensor) -> Tensor:
        """Return vectors [n, D] of mono windows [n, T] at 44,100 Hz, on the CPU."""


class Spectral(Embedder):
    """Mean and standard deviation over a window's frames of the log10 power in 32 mel bands up to 22,050 Hz.

    Needs no weights. It knows levels and their movement, not what is heard: an FD of it is comparable with no published
    one. Band powers are clipped at 1e-8, so silence has a vector too.
    """

    name = "spectral"
    bands = 32

    def embed(self, windows: Tensor) -> Tensor:
        """Return vectors [n, 64]: first the means, then the deviations."""
        return torch.cat([self._statistics(part) for part in windows.float().split(BATCH)])

    def _statistics(self, windows: Tensor) -> Tensor:
        level = (stft_power(windows) @ self._filters).clamp_min_(POWER_FLOOR).log10_()
        return torch.cat([level.mean(1), level.std(1, unbiased=False)], dim=1)

    @cached_property
    def _filters(self) -> Tensor:
        """Triangles [F, 32] of height 1, equally wide on the mel scale 2595 log10(1 + f / 700)."""
        edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + NYQUIST / 700), self.bands + 2) / 2595) - 1)
        lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
        frequency = BIN_HZ * np.arange(NUM_BINS)[:, None]
        rising, falling = (frequency - lower) / (centre - lower), (upper - frequency) / (upper - centre)
        return torch.from_numpy(np.minimum(rising, falling).clip(0)).float()


class Clap(Embedder):
    """The audio tower of a CLAP model, projected as for comparison with text, but not normalised.

    ``model`` is a folder, or a name that transformers finds in its cache; safetensors only. Windows are resampled to
    the model's rate and, being shorter than it expects, repeated as its own feature extractor does.
    """

    name = "clap"

    def __init__(self, model: str) -> None:
        self.model = model

    def embed(self, windows: Tensor) -> Tensor:
        """Return vectors [n, D], D the model's projection width. Raises DataError if the model cannot be read."""
        return torch.cat([self._features(part.numpy()) for part in windows.split(BATCH)])

    @torch.inference_mode()
    def _features(self, windows: np.ndarray) -> Tensor:
        extractor, network = self._loaded
        rate = extractor.sampling_rate
        common = np.gcd(rate, SAMPLE_RATE)
        resampled = resample_poly(windows, rate // common, SAMPLE_RATE // common, axis=-1)
        inputs = extractor(list(resampled), sampling_rate=rate, return_tensors="pt")["input_features"]
        # Where no window fills the model's length, the extractor calls a random one longer: that would be no measure.
        longer = torch.zeros(len(windows), 1, dtype=torch.bool)
        embedded: Tensor = network(inputs.to(network.device, network.dtype), is_longer=longer).audio_embeds
        return embedded.cpu().clone()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from safetensors import SafetensorError
        from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

        _check_clap(self.model)
        with quietly():
            try:
                extractor = ClapFeatureExtractor.from_pretrained(self.model, local_files_only=True)
                network, report = ClapAudioModelWithProjection.from_pretrained(
                    self.model, local_files_only=True, use_safetensors=True, dtype=torch.float32,
                    output_loading_info=True,
                )  # fmt: skip
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                first = str(error).splitlines()[0]
                raise DataError(
                    f"{self.model}: the CLAP model cannot be read ({first}); {_remedy(self.model)}"
                ) from error
        if absent := sorted(report["missing_keys"]):  # transformers would leave these at random
            raise DataError(
                f"{self.model}: {len(absent)} weights are missing, the first {absent[0]}; {_remedy(self.model)}"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return extractor, network.requires_grad_(False).eval().to(device)


def build_embedder(distance: settings.Distance) -> Embedder | None:
    """Return the embedder of a configuration, None where it is off. Weights are read when first needed."""
    match distance.embedder:
        case "spectral":
            return Spectral()
        case "clap":
            return Clap(distance.model)
        case "off":
            return None
        case own:
            embedder: Embedder = load("embedder", own)
            return embedder


def missing_weights(distance: settings.Distance) -> str | None:
    """Return one line saying what of the embedder is absent and how to get it; nothing is loaded."""
    if distance.embedder == "clap":
        try:
            _check_clap(distance.model)
        except DataError as error:
            return str(error)
    return None


def _check_clap(model: str) -> None:
    """Raise DataError unless configuration, feature extractor and weights of a CLAP are here; opens no weights."""
    from transformers import AutoConfig

    with quietly():
        try:
            config = AutoConfig.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{model}: no CLAP in this folder or in the Hugging Face cache; {_remedy(model)}"
            ) from error
    if config.model_type not in ("clap", "clap_audio_model"):
        raise DataError(f"{model}: a {config.model_type!r} model, not a CLAP; {_remedy(model)}")
    for names in (("preprocessor_config.json",), ("model.safetensors", "model.safetensors.index.json")):
        if not any(_is_here(model, name) for name in names):
            raise DataError(f"{model}: has no {names[0]}; {_remedy(model)}")


def _is_here(model: str, name: str) -> bool:
    """Return whether a file of a model lies in its folder or in the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model).is_dir():
        return (Path(model) / name).is_file()
    return isinstance(try_to_load_from_cache(model, name), str)


def _remedy(model: str) -> str:
    key, folder = "validation.distance.model", "a folder with config.json, preprocessor_config.json, model.safetensors"
    if Path(model).is_absolute():
        return f"{key} names {folder}, or a published model such as laion/clap-htsat-unfused"
    command = shlex.join(["hf", "download", model])
    return f"download it once where there is a network ({command}), or name {folder} in {key}"
