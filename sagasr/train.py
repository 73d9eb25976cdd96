"""One training from configuration to scores, resumable at every checkpoint; the same alone and inside a trial.

Knows nothing of Ray or MLflow: what those need comes in through a ``Harness``, what they want to know lies in the
folder (config.yaml, status.json, history.jsonl, checkpoints/, scores/, audio/).
"""

import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import Strategy

from sagasr import checkpoint
from sagasr.codec import Codec, build_codec
from sagasr.config import Config, Evaluation, Runtime
from sagasr.data.draws import Draws, Validation
from sagasr.data.store import Store
from sagasr.evaluate import Prediction, evaluate, means, validation_loss
from sagasr.files import dump_yaml, write_text
from sagasr.journal import History, State, Status, read_status, write_status
from sagasr.model import build_model
from sagasr.module import SagaModule
from sagasr.scores import ScoreFile, write_references
from sagasr.upsample import write_facts

LOG_EVERY = 10  # steps between two records of the training loss
HEARTBEAT_S = 1.0

Variants = Mapping[str, Evaluation]


class FailureRule(NamedTuple):
    """Ends a training that diverges; looks at that training alone. A loss that is not finite always ends it."""

    margin: float = 0.5  # val LSD above that of the unprocessed input by so much …
    checks: int = 3  # … at so many validations in a row …
    grace: float = 0.3  # … after this share of the steps


RULE = FailureRule()


@dataclass(frozen=True)
class Harness:
    """What surrounds a training. ``report`` hears, on rank 0, the metrics of each validation; False asks to stop."""

    strategy: str | Strategy = "auto"
    environment: ClusterEnvironment | None = None
    accelerator: str = "auto"
    devices: int | str = 1
    report: Callable[[Mapping[str, float]], bool | None] = lambda metrics: None
    rule: FailureRule = RULE
    attempt: int = 1


class TrainResult(NamedTuple):
    """How a training ended: done, stopped (asked to) or failed, with the reason and the step reached."""

    state: State
    reason: str
    step: int


class Diverged(Exception):
    """The failure rule ended the training. An outcome, not a bug."""


class Stopped(Exception):
    """The harness asked for an early end. An outcome, not a bug."""


def train(
    config: Config,
    out: Path,
    store: Path,
    variants: Variants | None = None,
    runtime: Runtime | None = None,
    harness: Harness | None = None,
) -> TrainResult:
    """Train, validate and score every variant in the folder ``out``, from the newest checkpoint there if there is one.

    A finished training is only scored for the variants that lack scores. Raises SagasrError for unusable input.
    """
    variants = variants or {"default": config.evaluation}
    runtime, harness = runtime or Runtime(), harness or Harness()
    _quieten()
    torch.set_num_threads(max(1, int(runtime.cpus_per_worker)))  # sums depend on how many threads share them
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", dump_yaml(config.model_dump(mode="json")))

    encoded = Store.open(store)
    write_facts(out, encoded, config)
    clips = Validation.of(encoded, config)
    module = _initial(config, encoded)
    codec = build_codec(config.codec, config.audio.channels)
    watch = _Watch(config, out, variants, runtime, harness, clips, codec)
    newest = checkpoint.newest(out / "checkpoints")
    watch.history.resume(checkpoint.step_of(newest) if newest else -1)

    trainer = pl.Trainer(
        max_steps=config.training.steps,
        max_epochs=1,
        precision=config.training.precision,
        gradient_clip_val=config.training.clip_norm or None,
        strategy=harness.strategy,
        accelerator=harness.accelerator,
        devices=harness.devices,
        plugins=[plugin for plugin in (checkpoint.SafeCheckpointIO(), harness.environment) if plugin is not None],
        callbacks=[watch],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
    )
    try:
        trainer.fit(module, DrawnData(config, encoded), ckpt_path=newest)
        watch.finish(trainer, module, encoded)
    except Diverged as outcome:
        return watch.end("failed", str(outcome))
    except Stopped as outcome:
        return watch.end("stopped", str(outcome))
    return watch.end("done", "")


def _initial(config: Config, store: Store) -> SagaModule:
    """Return the untrained module: a function of configuration, seed and store."""
    norm, words = store.norm.seen_as(config.model.latents), store.vocabulary(config.conditions.text.source)
    return SagaModule(config, build_model(config, norm, words))


class DrawnData(pl.LightningDataModule):
    """Batches drawn from the store; which ones depends on the seed and the step alone."""

    def __init__(self, config: Config, store: Store) -> None:
        super().__init__()
        self.config = config
        self.store = store

    def train_dataloader(self) -> Draws:
        trainer = self.trainer
        assert trainer is not None
        # Read when iteration starts, after a checkpoint was restored: the draws go on where they stood.
        return Draws(self.store, self.config, lambda: trainer.global_step, trainer.global_rank, trainer.world_size)


class _Watch(pl.Callback):
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
        self.history = History(out)
        self.checkpoints = out / "checkpoints"
        self.low_lsd = means(clips.score(clips.low))["lsd"]
        self.losses: list[float] = []
        self.bad_checks = 0
        self.predictions: dict[str, Prediction] = {}
        self.predicted_at = -1
        before = read_status(out)
        self.started = time.monotonic()
        self.status = Status(
            state="running",
            step=0,
            steps=config.training.steps,
            attempt=harness.attempt,
            started=before.started if before else time.time(),
            wall_seconds=before.wall_seconds if before else 0.0,
            gpu_seconds=before.gpu_seconds if before else 0.0,
        )
        self._base = self.status
        self._beaten = -math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.beat(trainer.global_step, force=True)
        if trainer.global_step == 0:
            self.validate(trainer, pl_module)
            write_references(self.out, self.clips, self.predictions)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, training = trainer.global_step, self.config.training
        self.losses.append(float(outputs["loss"]))
        if not math.isfinite(self.losses[-1]):
            raise Diverged(f"training loss is {self.losses[-1]} at step {step}")
        if step % LOG_EVERY == 0 or step == training.steps:
            loss = sum(self.losses) / len(self.losses)
            self.losses.clear()
            self.status = self.status.model_copy(update={"loss": loss})
            if trainer.is_global_zero:
                rate = trainer.optimizers[0].param_groups[0]["lr"]
                self.history.append(step, {"train/loss": loss, "train/learning_rate": rate})
        self.beat(step)
        if step % self.config.validation.every == 0 or step == training.steps:
            self.validate(trainer, pl_module)
        if step % self.runtime.checkpoint_every == 0 or step == training.steps:
            self.save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "bad_checks": self.bad_checks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses, self.bad_checks = list(state_dict["losses"]), state_dict["bad_checks"]

    def validate(self, trainer: pl.Trainer, module: Any) -> None:
        """Score all variants, record them, apply the failure rule and ask the harness whether to go on."""
        step, go_on = trainer.global_step, True
        if trainer.is_global_zero:
            module.eval()
            with module.ema.swap():
                loss = validation_loss(module.model, self.clips)
            self.predictions = evaluate(
                module.model, module.ema, self.codec, self.clips, self.variants, lambda: self.beat(step)
            )
            self.predicted_at = step
            module.train()
            self.history.append(step, {"val/loss": loss})
            scores = {name: means(prediction.scores) for name, prediction in self.predictions.items()}
            for name, found in scores.items():
                self.history.append(step, {f"val/{metric}": value for metric, value in found.items()}, variant=name)
            watched = scores[next(iter(self.variants))]
            lsd = watched.get("lsd", math.nan)
            self.status = self.status.model_copy(update={"val_lsd": lsd if math.isfinite(lsd) else None})
            self.beat(step, force=True)
            self._judge(step, lsd)
            metrics = {"step": step, "val/loss": loss} | {f"val/{metric}": value for metric, value in watched.items()}
            go_on = self.harness.report(metrics) is not False
        if not trainer.strategy.reduce_boolean_decision(go_on, all=True):
            raise Stopped(f"stopped early at step {step}")

    def _judge(self, step: int, lsd: float) -> None:
        rule, total = self.harness.rule, self.config.training.steps
        if step == 0:
            return
        if not math.isfinite(lsd):
            raise Diverged(f"val LSD is not finite at step {step}")
        bad = step >= rule.grace * total and lsd > self.low_lsd + rule.margin
        self.bad_checks = self.bad_checks + 1 if bad else 0
        if self.bad_checks >= rule.checks:
            raise Diverged(
                f"val LSD {lsd:.3f} at step {step} is more than {rule.margin:g} above that of the unprocessed input "
                f"({self.low_lsd:.3f}) for {rule.checks} validations"
            )

    def save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(checkpoint.folder_of(self.checkpoints, trainer.global_step))
        if trainer.is_global_zero:
            checkpoint.prune(self.checkpoints)

    def finish(self, trainer: pl.Trainer, module: SagaModule, store: Store) -> None:
        """Write final scores and audio of every variant that lacks them; validate anew only what is missing."""
        if not trainer.is_global_zero:
            return
        missing = {name: variant for name, variant in self.variants.items() if not ScoreFile(self.out, name).exists()}
        absent = {name: variant for name, variant in missing.items() if name not in self.predictions}
        if self.predicted_at != self.config.training.steps:
            absent, self.predictions = missing, {}
        if absent:
            self._load_newest(module)
            self.predictions |= self._score_late(module, _initial(self.config, store), absent)
        for name in missing:
            ScoreFile(self.out, name).write(self.clips, self.predictions[name])

    def _load_newest(self, module: SagaModule) -> None:
        """A finished training is not fitted again, so Lightning restored nothing."""
        newest = checkpoint.newest(self.checkpoints)
        assert newest is not None
        assert checkpoint.step_of(newest) == self.config.training.steps
        state = checkpoint.load(newest)
        module.load_state_dict(state["state_dict"])
        module.on_load_checkpoint(state)

    def _score_late(self, module: SagaModule, fresh: SagaModule, absent: Variants) -> dict[str, Prediction]:
        """Score variants that were added after the training, trained and untrained."""
        step = self.config.training.steps
        module.eval()
        found = evaluate(module.model, module.ema, self.codec, self.clips, absent, lambda: self.beat(step))
        for name, prediction in found.items():
            scores = {f"val/{metric}": value for metric, value in means(prediction.scores).items()}
            self.history.append(step, scores, variant=name)
        fresh.eval()
        untrained = evaluate(fresh.model, fresh.ema, self.codec, self.clips, absent, lambda: self.beat(step))
        write_references(self.out, self.clips, untrained)
        return found

    def beat(self, step: int, force: bool = False) -> None:
        """Refresh status.json, at most once a second: the trial's heartbeat."""
        now = time.monotonic()
        if self._is_rank_zero() and (force or now - self._beaten >= HEARTBEAT_S):
            self._beaten = now
            self._write("running", "", step)

    def end(self, state: State, reason: str) -> TrainResult:
        """Record how the training ended."""
        if self._is_rank_zero():
            self._write(state, reason, self.status.step)
        return TrainResult(state, reason, self.status.step)

    def _write(self, state: State, reason: str, step: int) -> None:
        spent = time.monotonic() - self.started
        gpus = self.runtime.workers * self.runtime.gpus_per_worker
        self.status = self.status.model_copy(
            update={
                "state": state,
                "reason": reason,
                "step": step,
                "updated": time.time(),
                "wall_seconds": self._base.wall_seconds + spent,
                "gpu_seconds": self._base.gpu_seconds + spent * gpus,
            }
        )
        write_status(self.out, self.status)

    @staticmethod
    def _is_rank_zero() -> bool:
        return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _quieten() -> None:
    """Lightning's greetings and advice are not addressed to our users; its warnings about our own choices neither."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
