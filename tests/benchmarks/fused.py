"""Small cells of one architecture as one batched model (torch.func), against the same cells in turn.

A trial of the idea, not part of the product. Weights are stacked along a first axis and the step is vectorised over
it; AdamW works element by element, so stacked weights learn as separate ones do. What is tested as quality is what a
product would need: the gradients of separate trainings, and a cell whose input is NaN leaving the others untouched.
Weights after some steps would tell less: AdamW turns a gradient that is only rounding into a whole step.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from sagasr.data.batches import Batch, Draws
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import SagaModel, build_model
from tests.benchmarks import data
from tests.benchmarks.measure import Row, in_turn
from tests.benchmarks.step import awake

CELLS, STEPS = 8, 3
CLOSE = 1e-3  # of a gradient's norm: rounding, on a GPU in TF32; what is wrong is far more
ADAM: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 1e-3}


def against_in_turn(quick: bool, size: str = "tiny") -> Row:
    """Steps of all cells; quality: equal gradients, and a NaN that stays in its cell."""
    settings = data.config(size, **{"training.batch_size": 2 if quick else 8, "model.preconditioning": "off"})
    store = data.store(settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draws = Draws(store, settings)
    words = store.vocabulary(settings.conditions.text.source)
    models = [
        awake(build_model(settings.model_copy(update={"seed": seed}), draws.norm, words)).to(device)
        for seed in range(2 if quick else CELLS)
    ]
    batches = [draws.at(step) for step in range(len(models))]
    separate, fused = Separate(copy.deepcopy(models), batches, device), Fused(models, batches, device)
    apart = max(map(distance, fused.gradients(), separate.gradients()))
    ours, theirs = in_turn(fused.step, separate.step, 1 if quick else STEPS)
    fused.batch[0][0].fill_(torch.nan)  # the high latents of the first cell
    fused.step()
    alone = all(bool(weight[1:].isfinite().all()) for weight in fused.weights.values())
    hit = any(not bool(weight[0].isfinite().all()) for weight in fused.weights.values())
    quality = f"gradients {apart:.0e} apart, a NaN stays in its cell: {alone and hit}"
    return Row(ours, theirs, f"step of {len(models)} cells", quality, apart < CLOSE and alone and hit)


class Separate:
    """The cells in turn."""

    def __init__(self, models: list[SagaModel], batches: list[Batch], device: str) -> None:
        self.models = models
        self.batches = [tensors_of(batch, device) for batch in batches]
        self.optimizers = [torch.optim.AdamW(model.parameters(), fused=True, **ADAM) for model in models]

    def gradients(self) -> list[dict[str, Tensor]]:
        """Return each cell's gradient."""
        for model, batch in zip(self.models, self.batches, strict=True):
            model.zero_grad()
            loss_of(model, {}, *batch).backward()
        return [{name: it.grad for name, it in model.named_parameters() if it.grad is not None}
                for model in self.models]  # fmt: skip

    def step(self) -> None:
        for model, batch, optimizer in zip(self.models, self.batches, self.optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(model, {}, *batch).backward()
            optimizer.step()


class Fused:
    """The cells as one: every weight [cells, ...]."""

    def __init__(self, models: list[SagaModel], batches: list[Batch], device: str) -> None:
        self.model = copy.deepcopy(models[0]).to("meta")  # only its code is used
        self.weights, self.buffers = stack_module_state(models)  # type: ignore[arg-type]
        self.batch = [torch.stack(parts) for parts in zip(*(tensors_of(it, device) for it in batches), strict=True)]
        self.optimizer = torch.optim.AdamW(self.weights.values(), fused=True, **ADAM)
        cell = grad_and_value(lambda weights, buffers, *batch: loss_of(self.model, {**weights, **buffers}, *batch))
        self.gradient = vmap(cell, randomness="error")

    def gradients(self) -> list[dict[str, Tensor]]:
        """Return each cell's gradient."""
        with torch.no_grad():
            found, _ = self.gradient(self.weights, self.buffers, *self.batch)
        return [{name: of_all[cell] for name, of_all in found.items()} for cell in range(len(self.batch[0]))]

    def step(self) -> None:
        with torch.no_grad():
            gradients, _ = self.gradient(self.weights, self.buffers, *self.batch)
        for name, weight in self.weights.items():
            weight.grad = gradients[name]
        self.optimizer.step()


def distance(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Return how far two gradients are apart, as a share of the second one's norm."""
    apart = sum(float((mine[name] - theirs[name]).square().sum()) for name in theirs)
    return math.sqrt(apart / sum(float(it.square().sum()) for it in theirs.values()))


def tensors_of(batch: Batch, device: str) -> tuple[Tensor, ...]:
    """Return a batch as tensors: latents, noise, times and conditions; nothing is dropped."""
    return tuple(part.to(device) for part in (*batch[:4], *batch.inputs))


def loss_of(model: SagaModel, weights: dict[str, Tensor], *batch: Tensor) -> Tensor:
    """Return the loss under weights given by name, or under the model's own."""
    given = (*batch[:4], ConditionInputs(*batch[4:]))
    found: Tensor = functional_call(model, weights, given) if weights else model.loss(*given)
    return found
