"""What a training step sees, from seeds alone.

The batch of a step is a function of the store, the seed and the step: cells of one seed learn from the same recordings,
crops, degradations, noise and times (paired), resuming is exact, and rank r of w takes rows r::w of the same batch.
Settings that say how a draw is used (time sampler, dropout shares, text source) never change it.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sagasr.codec.latents import LatentNorm
from sagasr.config.settings import Config
from sagasr.constants import SAMPLE_RATE
from sagasr.data.measures import STEP
from sagasr.data.store import Store
from sagasr.data.texts import recall_texts
from sagasr.io.fingerprint import seed_of
from sagasr.model.flow import time_of
from sagasr.model.inputs import ConditionInputs, seeded
from sagasr.model.text import build_text_encoder


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
        self.store, self.config, self.start, self.rank, self.world = store, config, start, rank, world
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
        places = (divmod(step * size + row, len(train)) for row in rows)
        picked = [int(_order(config.seed, epoch, len(train))[place]) for epoch, place in places]
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


def _normalised(latents: Tensor, weight: Tensor, norm: LatentNorm) -> Tensor:
    """Return ``norm.apply(weight * latents)``, computed in place: these are the largest arrays of a step."""
    return latents.mul_(weight / norm.std[:, None]).sub_((norm.mean / norm.std)[:, None])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, recordings: int) -> np.ndarray:
    """Return the order of all recordings in an epoch, each of which is shuffled anew."""
    return np.random.default_rng(seed_of(seed, "order", epoch)).permutation(recordings)
