"""One optimiser step: batch, gradient, optimiser, averaged weights, and the trainer around them."""

import itertools
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from sagasr.config.settings import Config
from sagasr.data.batches import Batch, Draws
from sagasr.io.signals import Halt
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import SagaModel, build_model
from sagasr.training.harness import Harness
from sagasr.training.module import parts_of
from sagasr.training.train import train
from tests.benchmarks import data, stock
from tests.benchmarks.measure import Row, Stamps, product_rate


def against_stock(quick: bool, batch: int, size: str = "small") -> Row:
    """Our ``train`` against the library's wrapper in its trainer; quality: equal loss of equal weights on a clip."""
    settings = data.config(
        "tiny" if quick else size,
        **{
            "training.batch_size": min(batch, 8) if quick else batch,
            "validation.clips": 1,
            "evaluation.sampler.steps": 1,
        },
        **{"model.preconditioning": "off", "training.steps": 1_000, "validation.every": 1_000},
    )
    steps = 40 if torch.cuda.is_available() else 4 if quick else 6
    store = data.store(settings)
    draws = Draws(store, settings)
    model = awake(build_model(settings, draws.norm, store.vocabulary(settings.conditions.text.source)))
    batches = [draws.at(step) for step in range(steps)]
    diffusion = stock.build(settings, model)
    given = [stock.batch_of(drawn, model) for drawn in batches]
    with torch.no_grad():
        clip = parts_of(batches[0], len(batches[0].high))[0]  # a whole batch takes a CPU minutes at size full
        losses = (float(model.loss(*clip[:5])), stock.loss(diffusion, clip, stock.batch_of(clip, model)))
    theirs = stock.step_seconds(settings, diffusion, given)  # first: `train` changes how its process keeps memory
    ours = step_seconds(settings, steps)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    difference = abs(losses[0] - losses[1]) / losses[0]
    floor = step_flop(model, batches[0]) / product_rate(device)
    return Row(ours, theirs, "step", f"loss {losses[0]:.4f}, {difference:.0e} apart", difference < 1e-5, floor)


def step_seconds(settings: Config, steps: int) -> list[float]:
    """Train by ``train`` and return the seconds from each step's end to the next's; the first step does not count."""
    stamps, asked = Stamps(steps), itertools.count()

    def halt() -> Halt | None:
        if next(asked):  # the first time is within the validation before the first step
            stamps.take()
        return Halt("enough", until=time.monotonic()) if stamps.taken >= steps else None

    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as out:
        train(settings, Path(out), data.store_path(settings), harness=Harness(halt=halt, accelerator=accelerator))
    return stamps.seconds()


def step_flop(model: SagaModel, batch: Batch) -> int:
    """Return the floating-point operations of one forward and backward pass, counted; moves the model to meta."""
    inputs = ConditionInputs(*(part.to("meta") for part in batch.inputs))
    high, low, noise, t = (part.to("meta") for part in batch[:4])
    with FlopCounterMode(display=False) as counter:
        model.to("meta").loss(high, low, noise, t, inputs).backward()
    return counter.get_total_flops()


def awake(model: SagaModel) -> SagaModel:
    """Return a model whose weights that begin at zero are random: otherwise its output would hardly be compared."""
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02, generator=generator)
    return model
