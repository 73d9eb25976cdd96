"""One training from configuration to scores, resumable at every checkpoint; the same alone and inside a trial.

Knows nothing of Ray or MLflow: what those need comes in through a ``Harness``, what they want to know lies in the
folder (config.yaml, status.json, history.jsonl, checkpoints/, scores/, audio/).
"""

import ctypes
import logging
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch

from sagasr.codec.codec import build_codec
from sagasr.codec.precision import fast
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config
from sagasr.data.batches import Draws
from sagasr.data.store import Store
from sagasr.evaluation.validation_set import Validation
from sagasr.io.failpoints import point
from sagasr.io.files import dump_yaml, remove_litter, write_text
from sagasr.io.states import State
from sagasr.io.trial_folder import TrialFolder
from sagasr.training import checkpoint
from sagasr.training.facts import write_facts
from sagasr.training.harness import Harness, Interrupted, TrainResult, Variants
from sagasr.training.module import Diverged, SafeCheckpointIO, initial_module
from sagasr.training.record import is_rank_zero
from sagasr.training.watch import Watch


def train(
    config: Config,
    out: Path,
    store: Path,
    variants: Variants | None = None,
    runtime: Runtime | None = None,
    harness: Harness | None = None,
) -> TrainResult:
    """Train in ``out`` from its newest checkpoint, and score every variant without scores. Raises SagasrError."""
    variants = variants or {"default": config.evaluation}
    runtime, harness = runtime or Runtime(), harness or Harness()
    _quieten()
    torch.set_num_threads(max(1, int(runtime.cpus_per_worker)))  # sums depend on how many threads share them
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    encoded = Store.open(store)
    if is_rank_zero():
        harness.fence()
        remove_litter(out)
        write_text(TrialFolder(out).config, dump_yaml(config.model_dump(mode="json")))
        write_facts(out, encoded, config)
    clips = Validation.of(encoded, config)
    module = initial_module(config, encoded, harness.micro_batches)
    codec = build_codec(config.codec, config.audio.channels)
    watch = Watch(config, out, variants, runtime, harness, clips, codec)
    newest = checkpoint.newest(watch.checkpoints, watch.record.say)
    reached = checkpoint.step_of(newest) if newest else -1
    watch.record.update(resumed=max(0, reached))
    if is_rank_zero():
        harness.fence()
        checkpoint.discard_after(watch.checkpoints, reached)
        watch.record.history.resume(reached)
    point("train.begin")

    trainer = _trainer(config, harness, watch)
    try:
        with fast:  # in full float32 a step of precision 32-true takes up to six times as long on a GPU
            # The step is read when iteration starts, after a checkpoint was restored: the draws go on where they stood.
            draws = Draws(encoded, config, lambda: trainer.global_step, trainer.global_rank, trainer.world_size)
            trainer.fit(module, draws, ckpt_path=newest)
        watch.finish(trainer, encoded)
    except Diverged as outcome:
        return watch.record.end(State.FAILED, str(outcome))
    except Interrupted as outcome:
        return watch.record.end(State.INTERRUPTED, str(outcome))
    return watch.record.end(State.DONE, "")


def _trainer(config: Config, harness: Harness, watch: Watch) -> pl.Trainer:
    """Return Lightning's trainer with everything off that ``watch`` does."""
    return pl.Trainer(
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


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one: fresh pages from the kernel cost a seventh of a CPU's step."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not everywhere; M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        libc.mallopt(-3, 2**30)
        libc.mallopt(-1, 2**31 - 1)


def _quieten() -> None:
    """Lightning's greetings and advice are not addressed to our users; its warnings about our own choices neither."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
