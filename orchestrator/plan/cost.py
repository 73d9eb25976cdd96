"""What trainings will cost: seconds, GPU-hours, bytes and money. Loads neither torch nor ray.

A training is so many steps, validations and checkpoints; how long each takes on a machine is its ``Speed``. That is
measured there (``orchestrator.run.calibrate``) or, where it was not, assumed from operations. Trainings of the sweep
that have ended correct it for those like them.
"""

import heapq
import platform
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from orchestrator.plan.capacity import Resources, here, of_all_workers, this_machine
from orchestrator.plan.ledger import Ledger
from orchestrator.plan.plan import Plan, Trial
from orchestrator.sweep_folder.json_files import Predicted, Prediction, blocks, read_prediction
from sagasr.config.parsing import parse
from sagasr.config.settings import T5, Config, downsampling_ratio
from sagasr.config.stages import sampling_of
from sagasr.config.strict import Strict
from sagasr.constants import CHECKPOINTS_KEPT, LISTENING_CLIPS
from sagasr.io.files import read_json, write_json
from sagasr.io.fingerprint import fingerprint, short
from sagasr.io.machine import cpus_here
from sagasr.model.counts import Counts
from sagasr.model.guidance import guidance_branches
from sagasr.training.trial_log import read_status

# what is assumed where nothing was measured: peak operations per second, and the share of them that is reached
GPU_PEAK = {"bf16-mixed": 989e12, "32-true": 67e12}  # of an H100
CPU_PEAK = 100e9
SHARE = 0.3
SCORE_SECONDS = 0.01  # all metrics of one clip
START_SECONDS = 5.0
ENCODE_SECONDS = 0.2  # of one recording
DISK_BYTES = 500e6  # written per second, of checkpoints

LOSS_PASSES = 5  # of the network over each clip, for the validation loss
STATES_SAVED = 4  # weights, average and two moments, of the five that training holds

Basis = Literal["assumed", "measured", "ended"]
BASES: tuple[Basis, ...] = ("assumed", "measured", "ended")  # from weak to strong


class Speed(Strict):
    """Seconds that the parts of one kind of training take on one machine, with as many beside it as will run there."""

    step: float = Field(gt=0, description="one training step")
    forward: float = Field(gt=0, description="the network over one clip: per sampling step and guidance branch")
    score: float = Field(ge=0, description="one clip of one variant besides: decoded and judged")
    once: float = Field(ge=0, description="per training: reference answers, last scores and audio")
    save: float = Field(ge=0, description="one checkpoint")
    start: float = Field(ge=0, description="from launch to training, in a process that has trained before")
    encode: float = Field(ge=0, description="one recording")


class Speeds(Strict):
    """All of speeds.json: what was measured, by kind of training and machine."""

    kinds: dict[str, Speed] = Field(default_factory=dict)


class Cost(NamedTuple):
    """Of one training, or of several one after another. ``basis``: on what the weakest part of it rests."""

    seconds: float
    gpu_hours: float
    disk_bytes: int = 0
    start: float = 0.0  # seconds before it trains
    encode: float = 0.0  # seconds for each recording, once per sweep
    basis: Basis = "assumed"


def costs_of(plan: Plan, counts: Mapping[str, Counts], ledger: Ledger) -> dict[str, Cost]:
    """Return the cost of each trial by its id: as measured on this machine, where that was done, or assumed."""
    known = read_speeds(plan).kinds
    kinds: dict[str, tuple[str, Speed, Cost]] = {}  # of each cell, whose seeds cost the same
    for trial in plan.trials:
        cell = trial.replicates[0].cell
        if cell not in kinds:
            kind = kind_of(trial)
            speed = known.get(kind) or assumed(trial, counts[cell])
            seconds, gpus = seconds_of(trial, speed), trial.resources.workers * trial.resources.gpus_per_worker
            basis: Basis = "measured" if kind in known else "assumed"
            disk = disk_bytes(trial, counts[cell])
            kinds[cell] = kind, speed, Cost(seconds, seconds * gpus / 3_600, disk, speed.start, speed.encode, basis)
    ratios = _ratios(plan, ledger, kinds)
    costs = {}
    for trial in plan.trials:
        kind, speed, cost = kinds[trial.replicates[0].cell]
        seconds, disk = cost.seconds, cost.disk_bytes
        if trial.id in ledger.trained and not ledger.finished(trial):  # the model is sampled untrained, then trained
            seconds, disk = 2 * trial.config.validation.clips * _per_clip(trial, speed), 0
        seconds *= ratios.get(kind, 1.0)
        costs[trial.id] = cost._replace(
            seconds=seconds,
            gpu_hours=cost.gpu_hours * seconds / cost.seconds,
            disk_bytes=disk,
            basis="ended" if kind in ratios else cost.basis,
        )
    return costs


def _ratios(plan: Plan, ledger: Ledger, kinds: Mapping[str, tuple[str, Speed, Cost]]) -> dict[str, float]:
    """Return, by kind, how many times as long as predicted the trainings of this sweep took that have ended."""
    took: dict[str, float] = defaultdict(float)
    predicted: dict[str, float] = defaultdict(float)
    for trial in plan.trials:
        status = read_status(plan.paths.trial(trial.id)) if trial.id in ledger.trained else None
        if status is not None and status.wall_seconds > 0:
            kind, _, cost = kinds[trial.replicates[0].cell]
            took[kind] += status.wall_seconds
            predicted[kind] += cost.seconds
    return {kind: took[kind] / predicted[kind] for kind in took}


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum: one after another."""
    costs = list(costs)
    return Cost(
        sum(cost.seconds for cost in costs),
        sum(cost.gpu_hours for cost in costs),
        sum(cost.disk_bytes for cost in costs),
        basis=min((cost.basis for cost in costs), key=BASES.index, default="ended"),
    )


def write_estimate(plan: Plan, costs: Mapping[str, Cost]) -> None:
    """Write what the plan's trials are predicted to take, for the report; of those that have begun that stands."""
    before = read_prediction(plan.folder).trials
    begun = {trial.id for trial in plan.trials if plan.paths.of(trial.id).status.exists()}
    new = {
        trial: Predicted(seconds=cost.seconds, gpu_hours=cost.gpu_hours, disk_bytes=cost.disk_bytes)
        for trial, cost in sorted(costs.items())
        if not (trial in begun and trial in before)
    }
    price = plan.space.grid.budget.price_per_gpu_hour if plan.space.grid.budget else None
    prediction = Prediction(trials=before | new, price_per_gpu_hour=price)
    write_json(plan.paths.estimate, prediction.model_dump(mode="json"))


def seconds_of(trial: Trial, speed: Speed) -> float:
    """Return how long a trial's training takes, validations and checkpoints included, once it runs."""
    config, runtime = trial.config, trial.resources
    steps, every, save_every = config.training.steps, config.validation.every, runtime.checkpoint_every
    per_clip = LOSS_PASSES * speed.forward + _per_clip(trial, speed)
    validated = (1 + ceil(steps / every)) * config.validation.clips
    return steps * speed.step + validated * per_clip + ceil(steps / save_every) * speed.save + speed.once


def _per_clip(trial: Trial, speed: Speed) -> float:
    """Return the seconds in which one clip is sampled and scored for every variant of a trial."""
    passes = sum(
        sampling.sampler.steps * len(guidance_branches(trial.config.conditions, sampling.sampler.guidance))
        for sampling in {sampling_of(variant.evaluation) for variant in trial.variants}
    )  # replacing low frequencies afterwards needs no sampling of its own
    return passes * speed.forward + len(trial.variants) * speed.score


def assumed(trial: Trial, counts: Counts) -> Speed:
    """Return the speed assumed where none was measured: operations of weights, tokens and attention, over a peak."""
    config, runtime = trial.config, trial.resources
    gpus = runtime.gpus_per_worker
    rate = SHARE * (GPU_PEAK[config.training.precision] * gpus if gpus else CPU_PEAK * runtime.cpus_per_worker)
    return Speed(
        step=3 * config.training.batch_size * _pass(config, counts, config.audio.segment) / runtime.workers / rate,
        forward=_pass(config, counts, config.validation.segment) / rate,
        score=SCORE_SECONDS,
        once=SCORE_SECONDS * config.validation.clips * 2,
        save=counts.state_bytes / DISK_BYTES,
        start=START_SECONDS,
        encode=ENCODE_SECONDS,
    )


def disk_bytes(trial: Trial, counts: Counts) -> int:
    """Return what a trial leaves on the disk: checkpoints, and the listening set as FLAC (about half of 16 bits)."""
    config = trial.config
    clips = min(LISTENING_CLIPS, config.validation.clips) * (len(trial.variants) + 2)
    audio = clips * config.validation.segment * config.audio.channels
    checkpoints = min(CHECKPOINTS_KEPT, ceil(config.training.steps / trial.resources.checkpoint_every))
    return checkpoints * checkpoint_bytes(counts) + audio


def checkpoint_bytes(counts: Counts) -> int:
    """Return the bytes of one checkpoint."""
    return counts.state_bytes * STATES_SAVED // 5


def _pass(config: Config, counts: Counts, segment: int) -> float:
    """Return the operations of one forward pass over one example: two per weight and token, and attention."""
    tokens = segment // downsampling_ratio(config.codec) + 1
    return float(2 * counts.parameters * tokens + 4 * tokens**2 * config.model.embed_dim * config.model.depth)


def elapsed(
    plan: Plan, todo: Sequence[Trial], costs: Mapping[str, Cost], concurrent: int | None = None
) -> float | None:
    """Return how long trials take on this machine, as many at once as it has room for, one batch after the other.

    A sweep that has not begun encodes its recordings first. None for trials that want a GPU where there is none.
    """
    on_gpus = any(trial.resources.gpus_per_worker for trial in todo)
    machine = this_machine()
    if on_gpus and not machine.gpus:
        return None
    batches = [todo]
    if plan.space.grid.early_stopping.policy == "blocks":  # a batch ends before the next begins
        batches = [[trial for trial in todo if trial.seed in block] for block in blocks(plan.seeds)]
    now = 0.0 if plan.paths.trials.exists() else len(plan.recordings) * max(costs[trial.id].encode for trial in todo)
    for batch in batches:
        free, running = machine, list[tuple[float, Resources]]()
        for trial in batch:
            demand = Resources(*map(min, of_all_workers(trial.resources), machine))
            while running and (not free.holds(demand) or len(running) == concurrent):
                now, ended = heapq.heappop(running)
                free = Resources(free.cpus + ended.cpus, free.gpus + ended.gpus)
            free -= demand
            heapq.heappush(running, (now + costs[trial.id].start + costs[trial.id].seconds, demand))
        now = max((end for end, _ in running), default=now)
    return now


def kind_of(trial: Trial) -> str:
    """Return what the speed of a trial depends on: the model's size and data, the batch, and where it runs."""
    config, runtime = trial.config, trial.resources
    decisive: dict[str, Any] = {
        "audio": True,
        "codec": True,
        "model": {"embed_dim", "depth", "num_heads", "cond_dim", "time_route"},
        "conditions": {"text": {"encoder": True}} | ({"own": True} if config.conditions.own else {}),
        "training": {"batch_size", "precision"},
        "validation": {"segment"},
    }
    tree = {
        "config": config.model_dump(mode="json", include=decisive),
        "long texts": config.conditions.text.source != "off" and isinstance(config.conditions.text.encoder, T5),
        "runtime": runtime.model_dump(mode="json", include={"workers", "gpus_per_worker", "cpus_per_worker"}),
        "machine": machine(bool(runtime.gpus_per_worker)),
        "torch": version("torch"),
    }
    return short(fingerprint(tree))


def read_speeds(plan: Plan) -> Speeds:
    """Return what was measured beside the plan's storage. Raises ConfigError for a file that cannot be understood."""
    path = plan.paths.speeds
    return parse(Speeds, read_json(path), str(path)) if path.exists() else Speeds()


def machine(gpu: bool) -> str:
    """Return what a training runs on: the first GPU, or the CPU and how many of it."""
    if gpu:
        return here()[0].name if here() else "no GPU"
    return f"{_cpu()}, {cpus_here()} CPUs"


@cache
def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()
