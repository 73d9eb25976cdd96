"""What a training step sees, and what every validation sees, from seeds alone.

The batch of a step is a function of the store, the seed and the step: cells of one seed learn from the same recordings,
crops, degradations, noise and times (paired), resuming is exact, and rank r of w takes rows r::w of the same batch.
Settings that say how a draw is used (time sampler, dropout shares, text source) never change it. What is scored does
not even depend on the seed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sagasr.audio.spectrum import HOP, N_FFT, cutoff_bin
from sagasr.codec.codec import LatentNorm
from sagasr.config import settings as settings
from sagasr.config.settings import SAMPLE_RATE, Config
from sagasr.data.measures import STEP
from sagasr.data.store import Store
from sagasr.data.texts import recall_texts
from sagasr.io.fingerprint import seed_of
from sagasr.metrics.distance import Distance, Distances
from sagasr.metrics.embedders import build_embedder
from sagasr.metrics.registry import Scores
from sagasr.metrics.score import Reference, score_many
from sagasr.model.conditions import ConditionInputs, seeded
from sagasr.model.flow import time_of
from sagasr.model.text import build_text_encoder
from sagasr.plugins.parts import load


class Batch(NamedTuple):
    """One training step on one rank: normalised latents and noise [B, D, N], conditions, and one value per row [B]."""

    high: Tensor
    low: Tensor
    noise: Tensor
    t: Tensor
    inputs: ConditionInputs
    drop_low: Tensor
    drop_text: Tensor
    recording: Tensor  # positions in store.train


class Draws:
    """One rank's batches from step ``start()`` to the end of training; ``start`` is asked when iteration begins.

    Without a length on purpose: Lightning would take what is left for the whole and end a resumed training early.
    """

    def __init__(
        self, store: Store, config: Config, start: Callable[[], int] = lambda: 0, rank: int = 0, world: int = 1
    ) -> None:
        self.store, self.config, self.start = store, config, start
        self.rank, self.world = rank, world
        self.norm = store.norm.seen_as(config.model.latents)
        text = config.conditions.text
        self.texts = store.train.texts(text.source)
        with seeded("not used"):
            self.encoder = build_text_encoder(text, config.model.cond_dim, store.vocabulary(text.source))
        recall_texts(self.encoder, store, text)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.at, range(self.start(), self.config.training.steps))

    def at(self, step: int) -> Batch:
        """Return this rank's rows of the batch of ``step``."""
        store, config, train = self.store, self.config, self.store.train
        size = config.training.batch_size
        rows = range(self.rank, size, self.world)
        uniform = np.random.default_rng(seed_of(config.seed, "draws", step)).random((size, 5))[self.rank :: self.world]
        picked = [_recording_at(config.seed, step * size + row, len(train)) for row in rows]
        shape = (len(picked), store.latent_channels, store.frames)
        noise = torch.empty(shape)
        gain, rolloff, seconds = torch.empty(shape[0]), torch.empty(shape[0], 2), torch.empty(shape[0], 2)
        frames_per_step = STEP * store.frames // store.segment
        generator = torch.Generator()
        variants, starts = [], []
        for place, (row, index) in enumerate(zip(rows, picked, strict=True)):
            kinds, crops = train.gain[index].shape
            variant, crop = int(uniform[place, 0] * kinds), int(uniform[place, 1] * crops)
            variants.append(variant)
            starts.append(crop * frames_per_step)
            noise[place].normal_(generator=generator.manual_seed(seed_of(config.seed, "noise", step, row)))
            gain[place] = float(train.gain[index][variant, crop])
            rolloff[place, 0] = float(train.rolloff_low_hz[index][variant, crop])
            rolloff[place, 1] = float(train.rolloff_high_hz[index][crop])
            seconds[place, 0], seconds[place, 1] = crop * STEP / SAMPLE_RATE, train.samples[index] / SAMPLE_RATE
        high, low = (torch.from_numpy(part).float() for part in train.crops(picked, variants, starts, store.frames))
        weight = store.latent_gain(gain)[:, None, None]
        text = self.encoder.prepare([self.texts[index] for index in picked])
        return Batch(
            high=_normalised(high, weight, self.norm),
            low=_normalised(low, weight, self.norm),
            noise=noise,
            t=time_of(torch.from_numpy(uniform[:, 2]), config.training.time_sampler).float(),
            inputs=ConditionInputs(text, rolloff, seconds),
            drop_low=torch.from_numpy(uniform[:, 3] < config.conditions.low.dropout),
            drop_text=torch.from_numpy(uniform[:, 4] < config.conditions.text.dropout),
            recording=torch.tensor(picked),
        )


@dataclass(frozen=True)
class Validation:
    """What is scored: n frozen clips. Audio [n, C, T] is at its own level. Latents [n, D, N] are not yet normalised and
    at the level at which the model works, so that decoded audio is divided by ``gain``.
    """

    ids: list[str]
    names: list[str]
    domains: list[str]
    text: list[str]
    vocabulary: tuple[str, ...]
    high: Tensor
    low: Tensor
    high_latents: Tensor
    low_latents: Tensor
    noise: Tensor
    gain: Tensor
    cutoff_hz: Tensor
    splice_hz: Tensor
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
        rolloff_low = torch.tensor([clip.rolloff_low_hz for clip in clips])
        return cls(
            ids=[clip.id for clip in clips],
            names=[clip.name for clip in clips],
            domains=[clip.domain for clip in clips],
            text=[clip.text(source) for clip in clips],
            vocabulary=store.vocabulary(source),
            high=torch.stack([clip.high_audio for clip in clips]),
            low=torch.stack([clip.low_audio for clip in clips]),
            high_latents=high,
            low_latents=low,
            noise=torch.stack([_noise(high.shape[1:], "validation noise", clip.id) for clip in clips]),
            gain=gain,
            cutoff_hz=torch.tensor([clip.cutoff_hz for clip in clips]),
            splice_hz=rolloff_low,
            rolloff_low_hz=rolloff_low,
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
        places = zip(self.high, self.cutoff_hz.tolist(), self.splice_hz.tolist(), strict=True)
        return [Reference(high, cutoff_hz, splice_hz) for high, cutoff_hz, splice_hz in places]

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


def _normalised(latents: Tensor, weight: Tensor, norm: LatentNorm) -> Tensor:
    """Return ``norm.apply(weight * latents)``, computed in place: these are the largest arrays of a step."""
    return latents.mul_(weight / norm.std[:, None]).sub_((norm.mean / norm.std)[:, None])


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


def _recording_at(seed: int, position: int, recordings: int) -> int:
    """Return the recording at a position of the endless order: all of them once per epoch, each epoch shuffled anew."""
    epoch, place = divmod(position, recordings)
    return int(_order(seed, epoch, recordings)[place])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, recordings: int) -> np.ndarray:
    return np.random.default_rng(seed_of(seed, "order", epoch)).permutation(recordings)
