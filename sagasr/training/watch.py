"""The callback that validates, checkpoints and judges a training while it runs, and scores it at its end."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl

from sagasr.codec.codec import Codec
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config
from sagasr.data.store import Store
from sagasr.evaluation.evaluate import AtOnce, evaluate, validation_loss
from sagasr.evaluation.score_files import write_references, write_scores
from sagasr.evaluation.validation_set import Prediction, Validation, means
from sagasr.io.failpoints import point
from sagasr.io.signals import Halt
from sagasr.io.trial_folder import TrialFolder
from sagasr.model.sharding import gathered, is_sharded
from sagasr.training import checkpoint
from sagasr.training.harness import Harness, Interrupted, Variants
from sagasr.training.module import Diverged, SagaModule, initial_module
from sagasr.training.record import TrialRecord

LOG_EVERY = 10  # steps between two records of the training loss
SLOW = "bf16-mixed is for GPUs; most CPUs are many times faster with --set training.precision=32-true"


class _Halted(Exception):
    """Leaves a validation, in which the averaged weights stand in the place of the trained ones; holds the ``Halt``."""


class Watch(pl.Callback):
    """Scores, records, checkpoints and judges a training while it runs."""

    def __init__(
        self,
        config: Config,
        out: Path,
        variants: Variants,
        runtime: Runtime,
        harness: Harness,
        clips: Validation,
        codec: Codec,
    ) -> None:
        self.config, self.out, self.variants, self.runtime, self.harness = config, out, variants, runtime, harness
        self.clips, self.codec = clips, codec
        self.record = TrialRecord(config, out, runtime, harness)
        self.checkpoints = TrialFolder(out).checkpoints
        self.low_lsd = means(clips.score(clips.low))["lsd"]
        self.losses: list[float] = []
        self.bad_checks = 0
        self.at_once = AtOnce(self.record.say)  # clips of a validation
        self.predictions: dict[str, Prediction] = {}
        self.predicted_at = -1
        self.due = False  # a validation of this step was begun and is not recorded
        self.saved_at, self.save_seconds = -1, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record.note_device(trainer.strategy.root_device, pl_module)
        if trainer.strategy.root_device.type == "cpu" and self.config.training.precision == "bf16-mixed":
            self.record.say_once(SLOW)
        self.record.beat(trainer.global_step, force=True)
        if trainer.global_step == 0:
            self.validate(trainer, pl_module)
            if trainer.is_global_zero:
                self.harness.fence()
                write_references(self.out, self.clips, self.predictions)
        elif self.due:
            self.record.history.drop(trainer.global_step, "val/")
            self.validate(trainer, pl_module)
            self.save(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, training = trainer.global_step, self.config.training
        point("train.step")
        self.losses.append(float(outputs["loss"]))
        if not math.isfinite(self.losses[-1]):
            raise Diverged(f"training loss is {self.losses[-1]} at step {step}")
        if step % LOG_EVERY == 0 or step == training.steps:
            loss = sum(self.losses) / len(self.losses)
            self.losses.clear()
            self.record.update(loss=loss)
            if trainer.is_global_zero:
                rate = trainer.optimizers[0].param_groups[0]["lr"]
                self.record.append(step, {"train/loss": loss, "train/learning_rate": rate})
        self.record.beat(step)
        if step % self.config.validation.every == 0 or step == training.steps:
            self.validate(trainer, pl_module)
        if step % self.runtime.checkpoint_every == 0 or step == training.steps:
            self.save(trainer)
        self.halt_if_asked(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "bad_checks": self.bad_checks, "due": self.due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses, self.bad_checks = list(state_dict["losses"]), state_dict["bad_checks"]
        self.due = state_dict.get("due", False)

    def halt_if_asked(self, trainer: pl.Trainer) -> None:
        """Save and raise Interrupted when the harness wants the process to end."""
        halt = self.harness.halt()
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(halt is not None, all=False):
            halt = halt or Halt("interrupted with its other workers")
        if halt is not None:
            self._interrupt(trainer, halt)

    def _interrupt(self, trainer: pl.Trainer, halt: Halt) -> NoReturn:
        """Save if that can be done in time and is of use, and raise Interrupted."""
        step = trainer.global_step
        useful = step > 0 and step != self.saved_at and not (self.due and step == self.config.training.steps)
        left = math.inf if halt.until is None else halt.until - time.monotonic()
        if useful and 1.5 * self.save_seconds < left:
            self.save(trainer)
        saved = f"saved at step {self.saved_at}" if self.saved_at >= 0 else "nothing to save yet"
        raise Interrupted(f"{halt.reason} at step {step}; {saved}")

    def _during_validation(self, trainer: pl.Trainer) -> None:
        """Show life between sampling steps; a lone process may also halt here, the validation to be repeated."""
        self.record.beat(trainer.global_step)
        if trainer.world_size == 1 and (halt := self.harness.halt()) is not None:
            raise _Halted(halt)

    def validate(self, trainer: pl.Trainer, module: Any) -> None:
        """Score all variants, record them and apply the failure rule, which ends all workers or none."""
        step, reason = trainer.global_step, None
        self.due = True
        self.record.note_device(trainer.strategy.root_device, module)
        if trainer.is_global_zero or is_sharded(module.model):  # shards are gathered by all, who then score alike
            point("train.validate")
            module.eval()
            with module.ema.swap(), gathered(module.model):
                loss = validation_loss(module.model, self.clips, self.at_once)
            try:
                self.predictions = self._predict(module, self.variants, lambda: self._during_validation(trainer))
            except _Halted as halted:
                module.train()
                self._interrupt(trainer, *halted.args)
            self.predicted_at = step
            module.train()
        if trainer.is_global_zero:
            self.record.append(step, {"val/loss": loss})
            curves = {name: _curves(prediction) for name, prediction in self.predictions.items()}
            for name, averages in curves.items():
                self.record.append(step, averages, variant=name)
            watched = next(iter(self.variants))
            lsd = self.predictions[watched].lsd
            self.record.update(val_lsd=lsd if math.isfinite(lsd) else None)
            self.record.beat(step, force=True)
            reason = self._judge(step, lsd)
            self.harness.report({"step": step, "val/loss": loss} | curves[watched])
        self.due = False
        # Only the first worker has judged: if it left alone, the others would wait for it in their next step.
        if trainer.strategy.reduce_boolean_decision(reason is not None, all=False):
            raise Diverged(reason or f"ended with the first worker at step {step}")

    def _predict(self, module: SagaModule, variants: Variants, on_step: Callable[[], object]) -> dict[str, Prediction]:
        return evaluate(module.model, module.ema, self.codec, self.clips, variants, on_step, self.at_once)

    def _judge(self, step: int, lsd: float) -> str | None:
        """Return why the failure rule ends the training, or None."""
        rule, total = self.harness.rule, self.config.training.steps
        if step == 0:
            return None
        if not math.isfinite(lsd):
            return f"val LSD is not finite at step {step}"
        bad = step >= rule.grace * total and lsd > self.low_lsd + rule.margin
        self.bad_checks = self.bad_checks + 1 if bad else 0
        if self.bad_checks < rule.checks:
            return None
        return (
            f"val LSD {lsd:.3f} at step {step} is more than {rule.margin:g} above that of the unprocessed input "
            f"({self.low_lsd:.3f}) for {rule.checks} validations"
        )

    def save(self, trainer: pl.Trainer) -> None:
        began = time.monotonic()
        trainer.save_checkpoint(checkpoint.folder_of(self.checkpoints, trainer.global_step))
        if trainer.is_global_zero:
            checkpoint.prune(self.checkpoints)
        self.saved_at, self.save_seconds = trainer.global_step, time.monotonic() - began
        self.record.beat(trainer.global_step)

    def finish(self, trainer: pl.Trainer, store: Store) -> None:
        """Write final scores and audio of every variant that lacks them; validate anew only what is missing."""
        if not trainer.is_global_zero:
            return
        scores = TrialFolder(self.out).scores
        missing = {name: variant for name, variant in self.variants.items() if not scores(name).exists()}
        absent = {name: variant for name, variant in missing.items() if name not in self.predictions}
        if self.predicted_at != self.config.training.steps:
            absent, self.predictions = missing, {}
        if absent:
            module = initial_module(self.config, store).to(trainer.strategy.root_device)
            self.predictions |= self._score_late(module, absent)
        for name in missing:
            self.harness.fence()
            point("train.score")
            write_scores(self.out, name, self.clips, self.predictions[name])

    def _score_late(self, module: SagaModule, absent: Variants) -> dict[str, Prediction]:
        """Score variants that were added after the training with the untrained ``module``, which is then trained."""
        step = self.config.training.steps

        def on_step() -> None:
            self.record.beat(step)
            if (halt := self.harness.halt()) is not None:
                raise Interrupted(f"{halt.reason} while scoring")

        module.eval()
        untrained = self._predict(module, absent, on_step)
        newest = checkpoint.newest(self.checkpoints)
        assert newest is not None
        assert checkpoint.step_of(newest) == step
        state = checkpoint.load(newest)
        module.load_state_dict(state["state_dict"])
        module.on_load_checkpoint(state)
        predictions = self._predict(module, absent, on_step)
        recorded = {record.get("variant") for record in self.record.history if record["step"] == step}
        for name, prediction in predictions.items():
            if name not in recorded:  # else an attempt that died after this has recorded it
                self.record.append(step, _curves(prediction), variant=name)
        self.harness.fence()
        write_references(self.out, self.clips, untrained)
        return predictions


def _curves(prediction: Prediction) -> dict[str, float]:
    return {f"val/{metric}": value for metric, value in prediction.means().items()}
