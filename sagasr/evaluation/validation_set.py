"""What is scored: frozen clips with frozen noise, the same in every cell, seed and step; and what an answer scores."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sagasr.audio.spectrum import HOP, cutoff_bin
from sagasr.config import settings
from sagasr.config.settings import Config
from sagasr.constants import N_FFT, SAMPLE_RATE
from sagasr.data.store import Store
from sagasr.io.fingerprint import seed_of
from sagasr.metrics.distance import ALL, Distance, Distances, build_embedder
from sagasr.metrics.score import Reference, Scores, score_many
from sagasr.plugins.parts import load


class Prediction(NamedTuple):
    """A model's answer under one setting: audio [n, C, T], scores per clip, distances over all and per domain."""

    audio: Tensor
    scores: list[Scores]
    distances: list[Distance]

    @property
    def lsd(self) -> float:
        """The mean that a training is judged by: NaN if one clip has none, for then its audio is not finite."""
        values = [row["lsd"] for row in self.scores]
        return sum(math.nan if value is None else value for value in values) / len(values)

    def means(self) -> dict[str, float]:
        """Return what the curves show: each metric's mean over the clips that have it, and the distances over all."""
        overall = [distance for distance in self.distances if distance.domain == ALL]
        return means(self.scores) | {row.metric: row.value for row in overall if row.value is not None}


@dataclass(frozen=True)
class Validation:
    """What is scored: n frozen clips. Audio [n, C, T] is at its own level. Latents [n, D, N] are not yet normalised and
    at the level at which the model works, so that decoded audio is divided by ``gain``.
    """

    ids: list[str]
    names: list[str]
    domains: list[str]
    text: list[str]
    high: Tensor
    low: Tensor
    high_latents: Tensor
    low_latents: Tensor
    noise: Tensor
    gain: Tensor
    cutoff_hz: Tensor
    rolloff_low_hz: Tensor
    rolloff_high_hz: Tensor
    rolloff_estimated_hz: Tensor
    seconds: Tensor
    noise_level: Tensor  # [F] factors that give white noise of RMS 1 the mean log spectrum of the training highs
    distance: settings.Distance
    own: tuple[Any, ...] = ()  # metrics of the user's own

    @classmethod
    def of(cls, store: Store, config: Config) -> "Validation":
        """Return the clips of a store. Noise depends on a clip's content alone: equal in every cell, seed and step."""
        clips, source = store.clips, config.conditions.text.source
        gain = torch.tensor([clip.gain for clip in clips])
        weight = store.latent_gain(gain)[:, None, None]
        high, low = (torch.stack(part).float() * weight for part in zip(*((c.high, c.low) for c in clips), strict=True))
        return cls(
            ids=[clip.id for clip in clips],
            names=[clip.name for clip in clips],
            domains=[clip.domain for clip in clips],
            text=[clip.text(source) for clip in clips],
            high=torch.stack([clip.high_audio for clip in clips]),
            low=torch.stack([clip.low_audio for clip in clips]),
            high_latents=high,
            low_latents=low,
            noise=torch.stack([_noise(high.shape[1:], "validation noise", clip.id) for clip in clips]),
            gain=gain,
            cutoff_hz=torch.tensor([clip.cutoff_hz for clip in clips]),
            rolloff_low_hz=torch.tensor([clip.rolloff_low_hz for clip in clips]),
            rolloff_high_hz=torch.tensor([clip.rolloff_high_hz for clip in clips]),
            rolloff_estimated_hz=torch.tensor([clip.rolloff_estimated_hz for clip in clips]),
            seconds=torch.tensor([[clip.start / SAMPLE_RATE, clip.total_samples / SAMPLE_RATE] for clip in clips]),
            noise_level=_noise_level(store.meta["high_spectrum"]["log10_power"]),
            distance=config.validation.distance,
            own=tuple(load("metric", part) for part in config.validation.metrics),
        )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def references(self) -> list[Reference]:
        """The high clips, ready to be scored against."""
        places = zip(self.high, self.cutoff_hz.tolist(), self.rolloff_low_hz.tolist(), strict=True)
        return [Reference(high, cutoff_hz, splice_hz) for high, cutoff_hz, splice_hz in places]

    def judge(self, audio: Tensor) -> Prediction:
        """Return audio [n, C, T] with all that can be said about it as an answer to the clips."""
        return Prediction(audio, self.score(audio), self.distances(audio))

    def score(self, audio: Tensor) -> list[Scores]:
        """Return the metrics of estimates [n, C, T], clip by clip."""
        rows = score_many(self.references, audio)
        for metric in self.own:
            for row, high, estimate, cutoff_hz in zip(rows, self.high, audio, self.cutoff_hz.tolist(), strict=True):
                value = metric.score(high, estimate, cutoff_hz) if bool(estimate.isfinite().all()) else None
                row[metric.name] = float(value) if value is not None and math.isfinite(value) else None
        return rows

    def remarks(self, audio: Tensor) -> list[str]:
        """Return what is odd about each estimate [n, C, T] or its high clip; mostly nothing."""
        return [reference.remark(estimate) for reference, estimate in zip(self.references, audio, strict=True)]

    def distances(self, audio: Tensor) -> list[Distance]:
        """Return the distribution distance of estimates [n, C, T], over all and per domain; nothing if it is off."""
        return self._distances.of(audio) if self._distances else []

    @cached_property
    def _distances(self) -> Distances | None:
        embedder = build_embedder(self.distance)
        return Distances(self.high, self.domains, embedder) if embedder else None

    def shaped_noise(self) -> Tensor:
        """Return the trivial answer [n, C, T]: low plus seeded noise with the mean high band of the training set."""
        return torch.stack([low + self._high_band(index) for index, low in enumerate(self.low)])

    def _high_band(self, index: int) -> Tensor:
        length = self.low.shape[-1]
        noise = _noise(self.low.shape[1:], "shaped noise", self.ids[index])
        window = torch.hann_window(N_FFT)
        spectrum = torch.stft(noise, N_FFT, HOP, window=window, return_complex=True)
        level = self.noise_level / self.gain[index]
        level[: cutoff_bin(float(self.cutoff_hz[index]))] = 0
        return torch.istft(spectrum * level[:, None], N_FFT, HOP, window=window, length=length)


def means(scores: Iterable[Scores]) -> dict[str, float]:
    """Return each metric's mean over the clips where it is defined; metrics defined nowhere are left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in scores:
        for name, value in row.items():
            if value is not None:
                values[name].append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def summary(scores: Sequence[Scores], distances: Iterable[Distance] = ()) -> str:
    """Return means and distances on one line; a metric that not every clip has says how many have it."""
    averages = means(scores)
    missing = {name: sum(row[name] is None for row in scores) for name in scores[0]} if scores else {}
    parts = [
        f"{name} {averages[name]:.3f}" + (f" ({len(scores) - absent} of {len(scores)} clips)" if absent else "")
        if name in averages
        else f"{name} – (no clip)"
        for name, absent in missing.items()
    ]
    for distance in distances:
        if distance.domain == ALL:
            value = "–" if distance.value is None else f"{distance.value:.3f}"
            parts.append(f"{distance.metric} {value} ({distance.reason or f'{distance.n} windows'})")
    return "  ".join(parts)


def _noise_level(log10_power: list[float]) -> Tensor:
    """Return the factors [F] that give white noise of RMS 1 a mean log10 power per bin, which LSD compares.

    Its power per bin is exponentially distributed around the window's energy, and the mean logarithm of such a power
    lies Euler's constant below the logarithm of its mean.
    """
    energy = torch.hann_window(N_FFT, dtype=torch.float64).square().sum()
    power: Tensor = torch.tensor(log10_power, dtype=torch.float64).mul(math.log(10)).add(np.euler_gamma).exp()
    return (power / energy).sqrt().float()


def _noise(shape: tuple[int, ...], *seed: object) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(*seed)))
