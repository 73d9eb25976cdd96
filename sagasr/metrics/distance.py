"""Distribution distance: how far a set of predictions is from the set of its high clips, whatever clip is whose.

The Fréchet distance (FD) between normal distributions fitted to embeddings of windows of 1 s, every 0.5 s, pooled over
the clips; clips shorter than that are one window each. It sees what a distance per clip cannot: whether predictions
sound like the material, rather than like their average. With n windows it is too large by about trace(covariance) / n
on each side, more with more dimensions: compare only at equal n, as within a sweep, where all score the same clips.
One small class per embedder makes the vectors.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from sagasr.audio.spectrum import BIN_HZ, NUM_BINS, stft_power
from sagasr.config import settings
from sagasr.constants import NYQUIST, SAMPLE_RATE
from sagasr.metrics.score import POWER_FLOOR
from sagasr.plugins.parts import load
from sagasr.published.hugging_face import Published, problem_of, remedy_for

WINDOW = SAMPLE_RATE
HOP = SAMPLE_RATE // 2
ALL = "all"  # no domain has this name
CLIPS = 8  # cut into windows at once, which overlap and so take twice the memory of their clips
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
        from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

        published = _clap(self.model)
        _check_clap(published)
        extractor, network = published.load(ClapFeatureExtractor.from_pretrained, ClapAudioModelWithProjection)
        return extractor, network.to("cuda" if torch.cuda.is_available() else "cpu")


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
    if distance.embedder != "clap":
        return None
    return problem_of(lambda: _check_clap(_clap(distance.model)))


def _clap(model: str) -> Published:
    files = "config.json, preprocessor_config.json, model.safetensors"
    return Published(model, "CLAP", remedy_for(model, "validation.distance.model", files, "laion/clap-htsat-unfused"))


def _check_clap(published: Published) -> None:
    """Raise DataError unless configuration, feature extractor and weights of a CLAP are here; opens no weights."""
    config = published.config()
    if config.model_type not in ("clap", "clap_audio_model"):
        raise published.error(f"a {config.model_type!r} model, not a CLAP")
    for names in (("preprocessor_config.json",), ("model.safetensors", "model.safetensors.index.json")):
        if not published.has_any(*names):
            raise published.error(f"has no {names[0]}")


class Distance(NamedTuple):
    """One distance of a set of predictions: of all clips, or of one domain's. ``value`` None has its ``reason``."""

    domain: str
    metric: str
    value: float | None
    n: int  # windows on each side
    clips: int
    reason: str


@dataclass(frozen=True)
class Normal:
    """A normal distribution: its mean [D], and a root [R, D] whose squared product root.T @ root is the covariance."""

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> "Normal":
        """Return the distribution fitted to embeddings [n, D], n of at least 2."""
        values = embeddings.double()
        mean = values.mean(0)
        centred = (values - mean) / (len(values) - 1) ** 0.5
        # Where there are more windows than dimensions, their triangular factor has the same product and is smaller.
        return cls(mean, torch.linalg.qr(centred, mode="r").R if centred.shape[0] > centred.shape[1] else centred)


def frechet(one: Normal, other: Normal) -> float:
    """Return |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), never negative.

    The trace of that root is the sum of the singular values of root1 @ root2.T. So no matrix root is taken, and
    covariances of fewer windows than dimensions, which have no inverse, are as good as any.
    """
    cross = torch.linalg.svdvals(one.root @ other.root.T).sum()
    spread = one.root.square().sum() + other.root.square().sum() - 2 * cross
    return max(0.0, float((one.mean - other.mean).square().sum() + spread))


def windows(audio: Tensor) -> Tensor:
    """Return windows [n, W, L] of the mono mix of clips [n, C, T]; the last one ends where the clip ends."""
    mono = audio.mean(1)
    length = mono.shape[-1]
    if length <= WINDOW:
        return mono[:, None]
    starts = [*range(0, length - WINDOW, HOP), length - WINDOW]
    return torch.stack([mono[:, start : start + WINDOW] for start in starts], dim=1)


class Distances:
    """High clips [n, C, T] of some domains, from which predictions of them are measured; embedded once."""

    def __init__(self, high: Tensor, domains: Sequence[str], embedder: Embedder) -> None:
        self._embedder, self._high = embedder, _embedded(high, embedder)
        self._clips = {ALL: [*range(len(domains))]}
        for domain in sorted(set(domains)):
            self._clips[domain] = [index for index, other in enumerate(domains) if other == domain]

    def of(self, estimates: Tensor) -> list[Distance]:
        """Return the distance of estimates [n, C, T] over all clips and per domain."""
        embedded = _embedded(estimates, self._embedder)
        return [self._distance(domain, clips, embedded) for domain, clips in self._clips.items()]

    def _distance(self, domain: str, clips: list[int], embedded: Tensor) -> Distance:
        high, estimate = (part[clips].flatten(0, 1) for part in (self._high, embedded))
        bad = sum(not bool(part.isfinite().all()) for part in embedded[clips])
        value, reason = None, ""
        if bad:  # without them, n would be another
            reason = f"{bad} of {len(clips)} clips are not finite"
        elif len(high) < 2:
            reason = "1 window has no covariance"
        else:
            value = frechet(Normal.of(high), Normal.of(estimate))
        return Distance(domain, f"fd_{self._embedder.name}", value, len(high), len(clips), reason)


def _embedded(audio: Tensor, embedder: Embedder) -> Tensor:
    """Return embeddings [n, W, D], NaN for windows that are not finite."""

    def part(clips: Tensor) -> Tensor:
        cut = windows(clips)
        finite = cut.isfinite().all(-1, keepdim=True)
        embedded = embedder.embed(torch.where(finite, cut, 0.0).flatten(0, 1)).unflatten(0, cut.shape[:2])
        return torch.where(finite, embedded, torch.nan)

    return torch.cat([part(clips) for clips in audio.split(CLIPS)])
