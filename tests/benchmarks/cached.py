"""A step on cached latents against the same step that encodes: the autoencoder at its published size."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sagasr.audio.degrade import degrade, draw_degradation
from sagasr.audio.files import read_audio
from sagasr.codec.codec import Codec, build_codec
from sagasr.config.settings import Config
from sagasr.constants import NYQUIST
from sagasr.data.splits import rows_of
from sagasr.model.ema import Ema
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import SagaModel, build_model
from sagasr.training.module import SagaModule
from tests.benchmarks import data
from tests.benchmarks.measure import Row, in_turn
from tests.benchmarks.step import awake

CHANNELS = 128  # of the published autoencoder


def against_online(quick: bool, batch: int, size: str = "small") -> Row:
    """One optimiser step; quality: equal loss of latents encoded just now and of stored ones, in half precision."""
    batch = min(batch, 4) if quick else batch
    subject = Subject(data.config("small" if quick else size, channels=8 if quick else CHANNELS), batch)
    encoded = subject.encoded()
    high, low = (latents.half() for latents in encoded)
    with torch.no_grad():
        losses = [float(subject.loss(*encoded)), float(subject.loss(high.float(), low.float()))]
    ours, theirs = in_turn(
        lambda: subject.step(high.float(), low.float()),
        lambda: subject.step(*subject.encoded()),
        10 if torch.cuda.is_available() else 1,
    )
    apart = abs(losses[0] - losses[1]) / losses[0]
    return Row(ours, theirs, "step", f"loss {losses[0]:.4f}, {apart:.0e} apart", apart < 1e-3)


class Given(NamedTuple):
    """What a batch has beside its latents."""

    noise: Tensor
    t: Tensor
    inputs: ConditionInputs


class Subject:
    """A model in training and a batch of recordings."""

    def __init__(self, config: Config, batch: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: SagaModel = awake(build_model(config)).to(self.device)
        self.codec: Codec = build_codec(config.codec, config.audio.channels).to(self.device)
        self.config, self.ema = config, Ema(self.model)
        self.optimizer = SagaModule(config, self.model).configure_optimizers()["optimizer"]
        rows = rows_of(config.data, "train")
        folder = Path(config.data.train).parent
        self.highs = [read_audio(folder / rows[row % len(rows)].path, 1) for row in range(batch)]
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(batch, self.codec.latent_channels, 32, generator=generator)
        text = self.model.prepare(["a dog barks and rain falls on a tin roof"] * batch)
        inputs = ConditionInputs(text, torch.full((batch, 2), 9_000.0), torch.zeros(batch, 2))
        self.given = Given(noise.to(self.device), torch.rand(batch, generator=generator).to(self.device),
                           ConditionInputs(*(part.to(self.device) for part in inputs)))  # fmt: skip

    def encoded(self) -> tuple[Tensor, Tensor]:
        """Return the latents of the recordings and of low versions made of them."""
        lows = [degrade(high, draw_degradation(self.config.degradation, NYQUIST, row))
                for row, high in enumerate(self.highs)]  # fmt: skip
        high, low = (torch.from_numpy(np.stack(audio)).to(self.device) for audio in (self.highs, lows))
        return self.codec.encode(high), self.codec.encode(low)

    def loss(self, high: Tensor, low: Tensor) -> Tensor:
        """Return the training loss of latents."""
        enabled = self.config.training.precision == "bf16-mixed"
        with torch.autocast(self.device, torch.bfloat16, enabled=enabled):
            return self.model.loss(high, low, *self.given)

    def step(self, high: Tensor, low: Tensor) -> None:
        """Take one step."""
        self.loss(high, low).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()
