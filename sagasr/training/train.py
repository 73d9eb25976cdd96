"""One training from configuration to scores, resumable at every checkpoint; the same alone and inside a trial.

Knows nothing of Ray or MLflow: what those need comes in through a ``Harness``, what they want to know lies in the
folder (config.yaml, status.json, history.jsonl, checkpoints/, scores/, audio/).
"""

import ctypes
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import Strategy

from sagasr.codec.codec import Codec, build_codec
from sagasr.config.settings import Config, Evaluation, Runtime
from sagasr.data.batches import Draws, Validation
from sagasr.data.store import Store
from sagasr.data.texts import recall_texts
from sagasr.evaluation.evaluate import Prediction, evaluate, means, validation_loss
from sagasr.evaluation.scores import ScoreFile, write_references
from sagasr.io.failpoints import point
from sagasr.io.files import dump_yaml, remove_litter, write_text
from sagasr.io.signals import Halt
from sagasr.io.states import State
from sagasr.io.trial_folder import TrialFolder
from sagasr.io.trial_log import History, Status, read_status, write_status
from sagasr.model.pretrained import load_pretrained
from sagasr.model.saga import build_model
from sagasr.training import checkpoint
from sagasr.training.devices import device_of, to_be_compiled, with_device
from sagasr.training.memory import AtOnce
from sagasr.training.module import Diverged, SafeCheckpointIO, SagaModule
from sagasr.training.precision import fast
from sagasr.training.sharding import gathered, is_sharded
from sagasr.upsample.upsampler import write_facts

logger = logging.getLogger(__name__)

LOG_EVERY = 10  # steps between two records of the training loss
HEARTBEAT_S = 1.0
SLOW = "bf16-mixed is for GPUs; most CPUs are many times faster with --set training.precision=32-true"
NOT_COMPILED = "its layers could not be compiled, so that it is slower: a C compiler and Python's headers are needed"

Variants = Mapping[str, Evaluation]


class FailureRule(NamedTuple):
    """Ends a training that diverges; looks at that training alone. A loss that is not finite always ends it."""

    margin: float = 0.5  # val LSD above that of the unprocessed input by so much …
    checks: int = 3  # … at so many validations in a row …
    grace: float = 0.3  # … after this share of the steps


RULE = FailureRule()


@dataclass(frozen=True)
class Harness:
    """What surrounds a training. ``report`` hears, on rank 0, the metrics of each validation.

    ``halt`` is asked after each step: a training that is asked to halt saves a checkpoint and ends as interrupted.
    ``fence`` raises when another process has taken the folder over; it is called before whatever counts is written.
    ``pulse`` is called at every sign of life. ``micro_batches``: parts a batch is taken in, to need less memory.
    """

    strategy: str | Strategy = "auto"
    environment: ClusterEnvironment | None = None
    accelerator: str = "auto"
    devices: int | str = 1
    report: Callable[[Mapping[str, float]], object] = lambda metrics: None
    rule: FailureRule = RULE
    attempt: int = 1
    halt: Callable[[], Halt | None] = lambda: None
    fence: Callable[[], object] = lambda: None
    pulse: Callable[[], object] = lambda: None
    micro_batches: int = 1


class TrainResult(NamedTuple):
    """How a training ended: done, failed or interrupted, with the reason and the step reached."""

    state: State
    reason: str
    step: int


class Interrupted(Exception):
    """The harness asked for a halt. The training goes on from here when it is started again."""


class _Halted(Exception):
    """Leaves a validation, in which the averaged weights stand in the place of the trained ones."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.reason)
        self.halt = halt


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
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    encoded = Store.open(store)
    if _is_rank_zero():
        harness.fence()
        remove_litter(out)
        write_text(TrialFolder(out).config, dump_yaml(config.model_dump(mode="json")))
        write_facts(out, encoded, config)
    clips = Validation.of(encoded, config)
    module = _initial(config, encoded, harness.micro_batches)
    codec = build_codec(config.codec, config.audio.channels)
    watch = _Watch(config, out, variants, runtime, harness, clips, codec)
    newest = checkpoint.newest(watch.checkpoints, watch.say)
    reached = checkpoint.step_of(newest) if newest else -1
    watch.status = watch.status.model_copy(update={"resumed": max(0, reached)})
    if _is_rank_zero():
        harness.fence()
        checkpoint.discard_after(watch.checkpoints, reached)
        watch.history.resume(reached)
    point("train.begin")

    trainer = pl.Trainer(
        max_steps=config.training.steps,
        max_epochs=1,
        precision=config.training.precision,
        strategy=harness.strategy,
        accelerator=harness.accelerator,
        devices=harness.devices,
        plugins=[plugin for plugin in (SafeCheckpointIO(harness.fence), harness.environment) if plugin is not None],
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
        with fast:  # in full float32 a step of precision 32-true takes up to six times as long on a GPU
            trainer.fit(module, DrawnData(config, encoded), ckpt_path=newest)
        watch.finish(trainer, encoded)
    except Diverged as outcome:
        return watch.end(State.FAILED, str(outcome))
    except Interrupted as outcome:
        return watch.end(State.INTERRUPTED, str(outcome))
    return watch.end(State.DONE, "")


def _initial(config: Config, store: Store, micro_batches: int = 1) -> SagaModule:
    """Return the untrained module: a function of configuration, seed and store."""
    norm, words = store.norm.seen_as(config.model.latents), store.vocabulary(config.conditions.text.source)
    model = build_model(config, norm, words)
    load_pretrained(model, config)
    recall_texts(model.conditioner.text, store, config.conditions.text)
    return SagaModule(config, model, micro_batches)


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
        self.checkpoints = TrialFolder(out).checkpoints
        self.low_lsd = means(clips.score(clips.low))["lsd"]
        self.losses: list[float] = []
        self.bad_checks = 0
        self.at_once = AtOnce(self.say)  # clips of a validation
        self.predictions: dict[str, Prediction] = {}
        self.predicted_at = -1
        self.due = False  # a validation of this step was begun and is not recorded
        self.saved_at, self.save_seconds = -1, 0.0
        before = read_status(out)
        self.started = time.monotonic()
        self.status = Status(
            state=State.RUNNING,
            step=0,
            steps=config.training.steps,
            attempt=harness.attempt,
            started=before.started if before else time.time(),
            wall_seconds=before.wall_seconds if before else 0.0,
            gpu_seconds=before.gpu_seconds if before else 0.0,
            micro_batches=harness.micro_batches,
            devices=before.devices if before else [],
            note=before.note if before else "",
        )
        self._base = self.status
        self._beaten, self._step = -math.inf, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note_device(trainer, pl_module)
        if trainer.strategy.root_device.type == "cpu" and self.config.training.precision == "bf16-mixed":
            self.say_once(SLOW)
        self.beat(trainer.global_step, force=True)
        if trainer.global_step == 0:
            self.validate(trainer, pl_module)
            if trainer.is_global_zero:
                self.harness.fence()
                write_references(self.out, self.clips, self.predictions)
        elif self.due:
            self.history.drop(trainer.global_step, "val/")
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
            self.status = self.status.model_copy(update={"loss": loss})
            if trainer.is_global_zero:
                rate = trainer.optimizers[0].param_groups[0]["lr"]
                self.record(step, {"train/loss": loss, "train/learning_rate": rate})
        self.beat(step)
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
        self.beat(trainer.global_step)
        if trainer.world_size == 1 and (halt := self.harness.halt()) is not None:
            raise _Halted(halt)

    def validate(self, trainer: pl.Trainer, module: Any) -> None:
        """Score all variants, record them and apply the failure rule, which ends all workers or none."""
        step, reason = trainer.global_step, None
        self.due = True
        self._note_device(trainer, module)
        if trainer.is_global_zero or is_sharded(module.model):  # shards are gathered by all, who then score alike
            point("train.validate")
            module.eval()
            with module.ema.swap(), gathered(module.model):
                loss = validation_loss(module.model, self.clips, self.at_once)
            try:
                self.predictions = evaluate(
                    module.model,
                    module.ema,
                    self.codec,
                    self.clips,
                    self.variants,
                    lambda: self._during_validation(trainer),
                    self.at_once,
                )
            except _Halted as asked:
                module.train()
                self._interrupt(trainer, asked.halt)
            self.predicted_at = step
            module.train()
        if trainer.is_global_zero:
            self.record(step, {"val/loss": loss})
            scores = {name: prediction.means() for name, prediction in self.predictions.items()}
            for name, found in scores.items():
                self.record(step, {f"val/{metric}": value for metric, value in found.items()}, variant=name)
            watched = scores[next(iter(self.variants))]
            lsd = self.predictions[next(iter(self.variants))].lsd
            self.status = self.status.model_copy(update={"val_lsd": lsd if math.isfinite(lsd) else None})
            self.beat(step, force=True)
            reason = self._judge(step, lsd)
            metrics = {"step": step, "val/loss": loss} | {f"val/{metric}": value for metric, value in watched.items()}
            self.harness.report(metrics)
        self.due = False
        # Only the first worker has judged: if it left alone, the others would wait for it in their next step.
        if trainer.strategy.reduce_boolean_decision(reason is not None, all=False):
            raise Diverged(reason or f"ended with the first worker at step {step}")

    def _note_device(self, trainer: pl.Trainer, module: Any) -> None:
        """Record what this attempt computes on, and once it should have been, whether it was compiled."""
        precision = self.config.training.precision
        device = device_of(trainer.strategy.root_device, module, precision, self.harness.attempt)
        self.status = self.status.model_copy(update={"devices": with_device(self.status.devices, device)})
        if to_be_compiled(module) and not device.compiled:
            self.say_once(NOT_COMPILED)

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
        self.beat(trainer.global_step)

    def finish(self, trainer: pl.Trainer, store: Store) -> None:
        """Write final scores and audio of every variant that lacks them; validate anew only what is missing."""
        if not trainer.is_global_zero:
            return
        missing = {name: variant for name, variant in self.variants.items() if not ScoreFile(self.out, name).exists()}
        absent = {name: variant for name, variant in missing.items() if name not in self.predictions}
        if self.predicted_at != self.config.training.steps:
            absent, self.predictions = missing, {}
        if absent:
            module = _initial(self.config, store).to(trainer.strategy.root_device)
            self.predictions |= self._score_late(module, absent)
        for name in missing:
            self.harness.fence()
            point("train.score")
            ScoreFile(self.out, name).write(self.clips, self.predictions[name])

    def _load_newest(self, module: SagaModule) -> None:
        """Take over the weights at the end of the training."""
        newest = checkpoint.newest(self.checkpoints)
        assert newest is not None
        assert checkpoint.step_of(newest) == self.config.training.steps
        state = checkpoint.load(newest)
        module.load_state_dict(state["state_dict"])
        module.on_load_checkpoint(state)

    def _score_late(self, module: SagaModule, absent: Variants) -> dict[str, Prediction]:
        """Score variants that were added after the training with the untrained ``module``, which is then trained."""
        step = self.config.training.steps

        def on_step() -> None:
            self.beat(step)
            if (halt := self.harness.halt()) is not None:
                raise Interrupted(f"{halt.reason} while scoring")

        module.eval()
        untrained = evaluate(module.model, module.ema, self.codec, self.clips, absent, on_step, self.at_once)
        self._load_newest(module)
        found = evaluate(module.model, module.ema, self.codec, self.clips, absent, on_step, self.at_once)
        recorded = {record.get("variant") for record in self.history if record["step"] == step}
        for name, prediction in found.items():
            if name not in recorded:  # else an attempt that died after this has recorded it
                scores = {f"val/{metric}": value for metric, value in prediction.means().items()}
                self.record(step, scores, variant=name)
        self.harness.fence()
        write_references(self.out, self.clips, untrained)
        return found

    def record(self, step: int, metrics: Mapping[str, float], variant: str | None = None) -> None:
        """Append to the history, unless another process has taken over."""
        self.harness.fence()
        self.history.append(step, metrics, variant)

    def say_once(self, text: str) -> None:
        """Note what one attempt after the other would say."""
        if text not in self.status.note:
            self.say(text)

    def say(self, text: str) -> None:
        """Note what happened on the way, in the log and in the status."""
        logger.warning(text)
        self.status = self.status.model_copy(update={"note": "; ".join(filter(None, (self.status.note, text)))[-500:]})

    def beat(self, step: int, force: bool = False) -> None:
        """Refresh status.json, at most once a second: the trial's heartbeat."""
        self.harness.pulse()
        self._step = step
        now = time.monotonic()
        if _is_rank_zero() and (force or now - self._beaten >= HEARTBEAT_S):
            self._beaten = now
            self._write(State.RUNNING, "", step)

    def end(self, state: State, reason: str) -> TrainResult:
        """Record how the training ended."""
        step = self.status.steps if state is State.DONE else self._step  # one that was only scored took no step
        if _is_rank_zero():
            self._write(state, reason, step)
        return TrainResult(state, reason, step)

    def _write(self, state: State, reason: str, step: int) -> None:
        spent = time.monotonic() - self.started
        gpus = self.runtime.workers * self.runtime.gpus_per_worker
        self.status = self.status.model_copy(
            update={
                "state": state,
                "reason": reason,
                "step": step,
                "updated": time.time(),
                "beat": self.status.beat + 1,
                "wall_seconds": self._base.wall_seconds + spent,
                "gpu_seconds": self._base.gpu_seconds + spent * gpus,
            }
        )
        self.harness.fence()
        write_status(self.out, self.status)


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one: fresh pages from the kernel cost a seventh of a CPU's step."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not everywhere; M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        libc.mallopt(-3, 2**30)
        libc.mallopt(-1, 2**31 - 1)


def _is_rank_zero() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _quieten() -> None:
    """Lightning's greetings and advice are not addressed to our users; its warnings about our own choices neither."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
