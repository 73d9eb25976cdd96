"""The Lightning module: one training step, the optimiser and the averaged weights. Every formula lives elsewhere."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint as recomputed

from sagasr.config.settings import Config, InverseLR
from sagasr.data.batches import Batch
from sagasr.data.store import Store
from sagasr.data.texts import recall_texts
from sagasr.model.ema import Ema
from sagasr.model.inputs import ConditionInputs
from sagasr.model.pretrained import load_pretrained
from sagasr.model.saga import SagaModel, build_model
from sagasr.model.sharding import divided_like, shard, whole
from sagasr.published.stable_audio import compile_layers
from sagasr.training import checkpoint as checkpoint_folder

COMPILE_FROM = 1_000  # steps; compiling takes as long as some hundred of a small model


class Diverged(Exception):
    """A training cannot go on: its loss or gradient is not finite, or the failure rule ended it. An outcome, no bug."""


class SagaModule(pl.LightningModule):
    """Trains a ``SagaModel`` on drawn batches; keeps raw and averaged weights.

    With ``micro_batches`` > 1 a batch is taken in so many parts, of which one at a time keeps its activations: the same
    batch, the same step and, but for the order of sums, the same gradient, in less memory and about 1.3 times the time.
    """

    def __init__(self, config: Config, model: SagaModel, micro_batches: int = 1) -> None:
        super().__init__()
        self.config, self.model, self.micro_batches = config, model, micro_batches
        self.average_anew()

    def average_anew(self) -> None:
        """Begin the average at the weights as they are now."""
        self.ema = Ema(self.model, self.config.training.ema)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the flow-matching loss of a drawn batch."""
        if self.micro_batches == 1:
            return self._loss(batch)
        rows = batch.high.shape[0]
        losses = [
            recomputed(self._loss, part, use_reentrant=False) * (part.high.shape[0] / rows)
            for part in parts_of(batch, self.micro_batches)
        ]
        return torch.stack(losses).sum()

    def _loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self.model(*batch[:-1])  # without the positions
        return loss

    def on_train_start(self) -> None:
        """On a GPU a long training is compiled: there a small model's step is mostly launches. On a CPU none is."""
        if self.device.type == "cuda" and self.config.training.steps >= COMPILE_FROM:
            compile_layers(self.model.transformer)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip the gradient at ``clip_norm``, if that is set. Raises Diverged where it is not finite.

        Such a gradient never reaches the weights, so that the last checkpoint stays one to go on from. Lightning asks
        for this before every step; its own clipping refuses a fused optimizer in mixed precision.
        """
        weights = [weight for weight in self.model.parameters() if weight.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None]))
        if not norm.isfinite():
            raise Diverged(f"training loss or gradient is not finite at step {self.trainer.global_step + 1}")
        if self.config.training.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(weights, self.config.training.clip_norm, norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and average at once: callbacks that checkpoint after a batch must find both done."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update()

    def configure_optimizers(self) -> Any:
        training = self.config.training
        optimizer = torch.optim.AdamW(
            (weight for weight in self.model.parameters() if weight.requires_grad),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=True,
        )

        def rate(step: int) -> float:
            return rate_at(step, training.schedule) * cooldown_at(step, training.steps, training.cooldown)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ema.load_state_dict(checkpoint["ema"])


class ShardedStrategy(DDPStrategy):
    """``DDPStrategy`` whose workers each keep a share of weights, gradients, moments and average, nobody all (FSDP).

    For models whose states do not fit on one GPU. Batches, losses and, but for the order of sums, gradients are those
    of ``DDPStrategy``. Checkpoints hold whole tensors: a training may go on with another number of workers.
    """

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """A checkpoint's whole tensors are divided as they are taken over, so the division comes first."""
        return True

    def configure_ddp(self) -> None:
        """Divide the weights and their average; called before the optimiser is made."""
        module: Any = self.lightning_module
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        shard(module.model, module.model.transformer.transformer.layers, mesh)
        module.average_anew()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the weights, whole; every worker has to ask."""
        return {name: whole(value) for name, value in super().lightning_module_state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take over whole weights."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: divided_like(own[name], value) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the moments, whole; every worker has to ask."""
        state = super().optimizer_state(optimizer)
        moments = {
            number: {name: whole(value) for name, value in of_one.items()} for number, of_one in state["state"].items()
        }
        return {**state, "state": moments}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over whole moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            moments = {
                number: {name: divided_like(weights[number], value) for name, value in of_one.items()}
                for number, of_one in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})


class SafeCheckpointIO(CheckpointIO):
    """Lets Lightning save and restore its whole state as safetensors and JSON instead of a pickle."""

    def __init__(self, commit: Callable[[], object] = lambda: None) -> None:
        self.commit = commit

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoint_folder.save(checkpoint, Path(path), self.commit)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return checkpoint_folder.load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        shutil.rmtree(path, ignore_errors=True)


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """Return a batch as at most ``count`` batches of its rows, in order, none of them empty."""
    inputs = [ConditionInputs(*part) for part in zip(*(field.chunk(count) for field in batch.inputs), strict=True)]
    fields = [inputs if isinstance(field, ConditionInputs) else field.chunk(count) for field in batch]
    return [Batch(*part) for part in zip(*fields, strict=True)]


def rate_at(step: int, schedule: InverseLR) -> float:
    """Return the InverseLR multiplier of the learning rate at a step (stable-audio-tools; paper section 4.2)."""
    return float((1 + step / schedule.gamma) ** -schedule.power * (1 - schedule.warmup ** (step + 1)))


def cooldown_at(step: int, steps: int, share: float) -> float:
    """Return the factor that falls linearly from 1 to 0 over the last ``share`` of ``steps``; without a share 1."""
    length = share * steps
    return min(1.0, (steps - step) / length) if length else 1.0


def initial_module(config: Config, store: Store, micro_batches: int = 1) -> SagaModule:
    """Return the untrained module: a function of configuration, seed and store."""
    norm, words = store.norm.seen_as(config.model.latents), store.vocabulary(config.conditions.text.source)
    model = build_model(config, norm, words)
    load_pretrained(model, config)
    recall_texts(model.conditioner.text, store, config.conditions.text)
    return SagaModule(config, model, micro_batches)
