"""What the GPU tests train: the shipped configurations on a few shipped recordings, and one with pretrained parts."""

import os
from pathlib import Path
from typing import Any

import torch

from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config
from sagasr.data.batches import Batch, Draws
from sagasr.io.files import read_yaml
from sagasr.model.saga import build_model
from sagasr.training.harness import Harness, TrainResult
from sagasr.training.module import SagaModule
from sagasr.training.train import train
from sagasr.training.trial_log import History
from tests.benchmarks import data
from tests.benchmarks.step import awake

NAMES = ("tiny", "small", "stable-audio")  # the last: small with T5 and the autoencoder of Stable Audio
THREADS = (os.cpu_count() or 1) if torch.cuda.is_available() else 1  # what a GPU gives is compared at its true shapes
QUICK = {"training.batch_size": 2, "validation.clips": 2, "evaluation.sampler.steps": 2}
NARROW: dict[str, dict[str, Any]] = {  # on a CPU; the GPU gets the true shapes
    "tiny": {},
    "small": {
        "model": {"embed_dim": 128, "depth": 2, "num_heads": 2, "cond_dim": 128},
        "audio.segment": 16_384,
        "validation.segment": 16_384,
    },
    "stable-audio": {"model.depth": 2},
}


def config_of(name: str, device: str, **changes: Any) -> Config:
    """Return a configuration; its ``training`` is the shipped one but for ``changes`` and a small batch."""
    changes = {**QUICK, **(NARROW[name] if device == "cpu" else {}), **changes}
    if name == "stable-audio":
        return data.config("small", (3, 3), **changes)
    shared = {"data": {split: str(data.manifest(3, 3)) for split in ("train", "val")}}
    tree = read_yaml(data.ROOT / "search_spaces" / f"{name}.yaml")
    return parse(Config, patch({**shared, **tree}, changes), name)


def trained(config: Config, device: str, out: Path, **harness: Any) -> TrainResult:
    """Train in the folder ``out`` on the device, with a checkpoint every second step."""
    accelerator = "gpu" if device == "cuda" else "cpu"
    runtime = Runtime(checkpoint_every=2, cpus_per_worker=THREADS)
    return train(config, out, data.store_path(config), None, runtime, Harness(accelerator=accelerator, **harness))


def curve(out: Path, name: str) -> dict[int, float]:
    """Return what a training recorded under a name, by step."""
    return {record["step"]: record["metrics"][name] for record in History(out) if name in record["metrics"]}


def module_of(config: Config, device: str) -> SagaModule:
    """Return the module in training; no weight of it is zero."""
    store = data.store(config)
    norm, words = store.norm.seen_as(config.model.latents), store.vocabulary(config.conditions.text.source)
    return SagaModule(config, awake(build_model(config, norm, words))).to(device)


def batch_of(config: Config, device: str, step: int = 0) -> Batch:
    """Return the batch of a step on the device."""
    batch = Draws(data.store(config), config).at(step)
    inputs = type(batch.inputs)(*(part.to(device) for part in batch.inputs))
    return Batch(*(part.to(device) if isinstance(part, torch.Tensor) else inputs for part in batch))


def losses_of(module: SagaModule, steps: int) -> list[float]:
    """Return the loss of each of so many steps, taken as the configuration says, without a trainer."""
    config, device = module.config, module.device.type
    optimizer = module.configure_optimizers()["optimizer"]
    found = []
    for step in range(steps):
        batch = batch_of(config, device, step)
        with torch.autocast(device, torch.bfloat16, enabled=config.training.precision == "bf16-mixed"):
            loss = module.training_step(batch, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.training.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found
