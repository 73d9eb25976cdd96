"""The Lightning module: one training step, the optimiser and the averaged weights. Every formula lives elsewhere."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from sagasr.config import Config, InverseLR
from sagasr.data.draws import Batch
from sagasr.ema import Ema
from sagasr.model import SagaModel


class SagaModule(pl.LightningModule):
    """Trains a ``SagaModel`` on drawn batches; keeps raw and averaged weights."""

    def __init__(self, config: Config, model: SagaModel) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.ema = Ema(model, config.training.ema)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the flow-matching loss of a drawn batch."""
        loss: Tensor = self.model(
            batch.high, batch.low, batch.noise, batch.t, batch.inputs, batch.drop_low, batch.drop_text
        )
        return loss

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
        schedule = LambdaLR(
            optimizer,
            lambda step: rate_at(step, training.schedule) * cooldown_at(step, training.steps, training.cooldown),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ema.load_state_dict(checkpoint["ema"])


def rate_at(step: int, schedule: InverseLR) -> float:
    """Return the InverseLR multiplier of the learning rate at a step (stable-audio-tools; paper section 4.2)."""
    return float((1 + step / schedule.gamma) ** -schedule.power * (1 - schedule.warmup ** (step + 1)))


def cooldown_at(step: int, steps: int, share: float) -> float:
    """Return the factor that falls linearly from 1 to 0 over the last ``share`` of ``steps``; without a share 1."""
    length = share * steps
    return min(1.0, (steps - step) / length) if length else 1.0
