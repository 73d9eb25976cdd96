"""stable-audio-tools' own training wrapper, the real class, at our configuration and with our weights.

Three things that it imports and never calls here stand empty: wandb (logging), auraloss and audiotools (losses of
autoencoders). Its averaged weights are the real ema-pytorch. It is given its best case: latents and text features lie
in memory, already batched, where its T5 would run at every step; its learning-rate schedule is left out, since it
passes an argument that torch has removed.
"""

import contextlib
import io
import sys
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagasr.config.settings import Config
from sagasr.constants import NYQUIST
from sagasr.data.batches import Batch
from sagasr.model.conditions import transformer_arguments
from sagasr.model.saga import SagaModel
from sagasr.published.stable_audio import load_stock
from tests.benchmarks.measure import Stamps

NUMBERS = ("rolloff_low", "rolloff_high")


@cache
def library() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Return the library's modules diffusion, conditioners and training.diffusion."""
    models, conditioners = (load_stock(f"stable_audio_tools.models.{name}") for name in ("diffusion", "conditioners"))
    for name in ("wandb", "auraloss", "audiotools"):
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = ModuleType(name)
    return models, conditioners, load_stock("stable_audio_tools.training.diffusion")


class Stored(nn.Module):
    """A conditioner whose outputs lie in the metadata."""

    def forward(self, given: list[Tensor], device: Any) -> list[Tensor]:
        features = torch.stack(given).to(device)
        return [features, torch.ones(features.shape[:2], device=device)]


def build(config: Config, model: SagaModel) -> Any:
    """Return the library's conditioned diffusion model with the weights of ours."""
    models, conditioners, _ = library()
    arguments = transformer_arguments(config, model.norm.mean.shape[0])
    objective = arguments.pop("diffusion_objective")
    transformer = models.DiTWrapper(diffusion_objective=objective, **arguments)
    transformer.model.load_state_dict(model.transformer.state_dict())
    numbers = {}
    for name in NUMBERS:
        theirs, ours = conditioners.NumberConditioner(config.model.cond_dim, 0, 1), getattr(model.conditioner, name)
        weights = (ours.frequencies, ours.project.weight, ours.project.bias)
        for target, source in zip(theirs.parameters(), weights, strict=True):
            target.data.copy_(source.data)
        numbers[name] = theirs
    conditioner = conditioners.MultiConditioner(
        {"prompt": Stored(), "low": nn.Identity(), **numbers}, pre_encoded_keys=["low"]
    )
    return models.ConditionedDiffusionModelWrapper(
        transformer, conditioner, arguments["io_channels"], 44_100, 1, objective,
        cross_attn_cond_ids=["prompt", *NUMBERS], global_cond_ids=[*NUMBERS], input_concat_ids=["low"],
    )  # fmt: skip


@torch.no_grad()
def batch_of(batch: Batch, model: SagaModel) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return one of our batches as the library's loader would give it."""
    encoder, rolloff = model.conditioner.text, batch.inputs.rolloff_hz / NYQUIST
    text = encoder(batch.inputs.text)
    text = F.pad(text, (0, 0, 0, encoder.max_tokens - text.shape[1]))  # as its T5 conditioner does
    padding = torch.ones(batch.high.shape[-1], dtype=torch.bool)
    return batch.high, [
        {"prompt": text[row], "low": batch.low[row], "padding_mask": [padding],
         **{name: float(rolloff[row, place]) for place, name in enumerate(NUMBERS)}}
        for row in range(len(text))
    ]  # fmt: skip


@torch.no_grad()
def loss(diffusion: Any, ours: Batch, theirs: tuple[Tensor, list[dict[str, Any]]]) -> float:
    """Return the library's loss of a batch at our noise and times, nothing dropped."""
    t = ours.t[:, None, None]
    conditioning = diffusion.conditioner(theirs[1], "cpu")
    output = diffusion(ours.high * (1 - t) + ours.noise * t, ours.t, cond=conditioning, cfg_dropout_prob=0.0)
    return float(F.mse_loss(output, ours.noise - ours.high))


def step_seconds(config: Config, diffusion: Any, batches: list[Any]) -> list[float]:
    """Train on the batches, one step each, and return the seconds from each step's end to the next's."""
    training = config.training
    optimizer = {"lr": training.learning_rate, "betas": training.betas, "weight_decay": training.weight_decay}
    wrapper = library()[2].DiffusionCondTrainingWrapper(
        diffusion,
        optimizer_configs={"diffusion": {"optimizer": {"type": "AdamW", "config": optimizer}}},
        pre_encoded=True,
        timestep_sampler=training.time_sampler.replace("-", "_"),
    )
    stamps = Stamps(len(batches))

    class Stamping(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            stamps.take()

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_steps=len(batches), precision=training.precision, callbacks=[Stamping()], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            gradient_clip_val=training.clip_norm or None,
        )  # fmt: skip
        trainer.fit(wrapper, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return stamps.seconds()
