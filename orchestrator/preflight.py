"""Try every cell before anything starts: one training step on the meta device, and what the cell will cost.

torch is imported here alone, when a function is called.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan import Plan, Trial
from orchestrator.redact import redact
from orchestrator.space import Cell
from orchestrator.storage import check_folder
from sagasr.config import Config, Evaluation, downsampling_ratio, sampling_of
from sagasr.errors import ConfigError, SagasrError, nearest

# peak operations per second and the share of them that is assumed; the plan says so beside the estimate
GPU_PEAK = {"bf16-mixed": 989e12, "32-true": 67e12}
GPU_NAME = "an H100-class GPU"
CPU_PEAK = 100e9
SHARE = 0.3
DISK_MARGIN = 100_000_000  # bytes for journals, tables and the listening set
TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks")
START_SECONDS = 12.0  # of one trial: processes, imports, store


@dataclass(frozen=True)
class Shapes:
    """Of one training step on the whole batch: latents [B, D, N], cross-attention tokens [B, L, C]."""

    latents: tuple[int, int, int]
    tokens: tuple[int, int, int]
    parameters: int
    state_bytes: int  # weights, gradients, AdamW moments, EMA
    activation_bytes: int  # of the whole batch, in float32

    def memory_bytes(self, workers: int) -> int:
        """Return the most that one of ``workers`` processes holds."""
        return self.state_bytes + self.activation_bytes // workers


@dataclass(frozen=True)
class Cost:
    seconds: float
    gpu_hours: float


def preflight(cells: Iterable[Cell], source: str) -> dict[str, Shapes]:
    """Return the shapes of each cell by its name. Raises ConfigError naming every cell whose step cannot run."""
    from sagasr.model import missing_weights

    cells = list(cells)
    words = {config: _vocabulary(config) for config in {(cell.config.data, _text(cell.config)) for cell in cells}}
    tried: dict[Config, Shapes | str] = {}
    found: dict[str, Shapes] = {}
    faults: dict[str, list[str]] = {}
    for cell in cells:
        relevant = _relevant(cell.config)
        if relevant not in tried:
            absent = missing_weights(cell.config)
            count = words[cell.config.data, _text(cell.config)]
            tried[relevant] = "\n".join(absent) if absent else _measure(relevant, count)
        result = tried[relevant]
        if isinstance(result, Shapes):
            found[cell.name] = result
        else:
            faults.setdefault(result, []).append(cell.name)
    if faults:
        lines: list[str] = []
        for fault, names in faults.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            lines.extend(f"{source}: cell '{names[0]}'{more}: {line}" for line in fault.splitlines())
        raise ConfigError("\n".join(lines))
    return found


def ready(plan: Plan, trials: Sequence[Trial], shapes: Mapping[str, Shapes], *, local: bool) -> None:
    """Raise ConfigError for what would end the trials soon after they began: storage, tracking, disk, this machine."""
    check_storage_folder(plan.folder)
    check_tracking(plan.tracking_uri, plan.folder.parent)
    check_disk(plan.folder, trials, shapes)
    if local:
        check_machine(trials, shapes)


def check_storage_folder(folder: Path) -> None:
    """Raise ConfigError when a sweep's folder cannot be made or written, or others could write into it."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise ConfigError(f"storage: {existing} is a file, not a folder; choose another --storage")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"storage: {existing} may not be written by this user; choose another --storage")
    check_folder(folder)


def check_tracking(uri: str, storage: Path) -> None:
    """Raise ConfigError for a tracking URI that no server or database can be behind. Nothing is connected to."""
    scheme, colon, rest = uri.partition("://")
    kind = scheme.split("+")[0]
    if not colon or kind not in TRACKING_SCHEMES:
        hint = nearest(kind, TRACKING_SCHEMES) if colon else ""
        raise ConfigError(
            f"tracking.uri {redact(uri)}: not a tracking server{hint}; give http://HOST:5000, sqlite:///FILE or postgresql://…"
        )
    if kind == "sqlite" and (name := rest.removeprefix("/")):
        file = Path(name)
        if not file.parent.is_dir() and file.parent.absolute() != storage.absolute():
            raise ConfigError(f"tracking.uri {uri}: there is no folder {file.parent}; make it, or name another file")
        if file.is_dir() or (file.is_file() and file.stat().st_size and file.read_bytes()[:15] != b"SQLite format 3"):
            raise ConfigError(f"tracking.uri {uri}: {file} is there and no sqlite database; name another file")


def check_machine(trials: Iterable[Trial], shapes: Mapping[str, Shapes]) -> None:
    """Raise ConfigError for a trial that needs GPUs or memory that this machine does not have at all."""
    import torch

    gpus, memory = torch.cuda.device_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for trial in trials:
        runtime, shape = trial.resources, shapes[trial.replicates[0].cell]
        wanted = runtime.workers * runtime.gpus_per_worker
        if wanted > gpus:
            raise ConfigError(
                f"resources: size {trial.size} needs {wanted:g} GPU, this machine has {gpus}; lower gpus_per_worker in "
                "the grid's resources, or join a cluster with --address"
            )
        needed = runtime.workers * shape.state_bytes
        if not wanted and needed > memory:
            raise ConfigError(
                f"cell '{trial.replicates[0].cell}' needs {needed / 1e9:.3g} GB for weights, moments and average, this "
                f"machine has {memory / 1e9:.3g} GB; choose a smaller size, or join a cluster with --address"
            )


def check_disk(folder: Path, trials: Iterable[Trial], shapes: Mapping[str, Shapes]) -> None:
    """Raise ConfigError when the trials' checkpoints do not fit on the disk of ``folder``; recordings come on top."""
    needed = DISK_MARGIN + sum(checkpoint_bytes(shapes[trial.replicates[0].cell]) for trial in trials)
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ConfigError(
            f"{folder}: {free / 1e9:.2g} GB free, about {needed / 1e9:.2g} GB needed for checkpoints; "
            "free some or choose another --storage"
        )


def checkpoint_bytes(shapes: Shapes) -> int:
    """Return what a trial keeps: two checkpoints of weights, average and two moments, and a third in the making."""
    return 3 * shapes.state_bytes * 4 // 5


def cost(trial: Trial, shapes: Shapes) -> Cost:
    """Return a rough estimate of a trial: multiplications by parameters, tokens and steps over an assumed speed."""
    from sagasr.model import guidance_branches

    config, workers = trial.config, trial.resources.workers
    training = 3 * config.training.batch_size * config.training.steps * _pass(config, shapes, config.audio.segment)
    validations = -(-config.training.steps // config.validation.every)
    once = config.validation.clips * _pass(config, shapes, config.validation.segment)
    scoring = sum(
        evaluation.sampler.steps * len(guidance_branches(config.conditions, evaluation.sampler.guidance))
        for evaluation in _samplings(variant.evaluation for variant in trial.variants)
    )
    gpus = trial.resources.gpus_per_worker
    speed = GPU_PEAK[config.training.precision] * gpus if gpus else CPU_PEAK * trial.resources.cpus_per_worker
    seconds = START_SECONDS + (training / workers + validations * scoring * once) / (SHARE * speed)
    return Cost(seconds, seconds * workers * gpus / 3_600)


def _samplings(evaluations: Iterable[Evaluation]) -> set[Evaluation]:
    """Return the evaluations that need their own sampling; replacing low frequencies afterwards needs none."""
    return {sampling_of(evaluation) for evaluation in evaluations}


def _pass(config: Config, shapes: Shapes, segment: int) -> float:
    """Return the operations of one forward pass over one example: two per weight and token, and attention."""
    tokens = segment // downsampling_ratio(config.codec) + 1
    return float(2 * shapes.parameters * tokens + 4 * tokens**2 * config.model.embed_dim * config.model.depth)


def _text(config: Config) -> tuple[str, str]:
    return config.conditions.text.source, config.conditions.text.encoder.kind


def _vocabulary(key: tuple[Any, tuple[str, str]]) -> int:
    """Return how many words the training captions have, for the encoder that learns them."""
    from sagasr.data.manifest import rows_of
    from sagasr.words import vocabulary_of

    data, (source, kind) = key
    if source == "off" or kind != "words":
        return 0
    return len(vocabulary_of(row.text(source) for row in rows_of(data, "train")))  # type: ignore[arg-type]


def _relevant(config: Config) -> Config:
    """Return the configuration with what cannot change a shape at its default: alike cells are tried once."""
    plain = Config(data=config.data, codec=config.codec)
    conditions = config.conditions
    text, low = type(conditions.text)(), plain.conditions.low
    text = text.model_copy(update={"source": conditions.text.source, "encoder": conditions.text.encoder})
    return plain.model_copy(
        update={
            "audio": config.audio,
            "model": config.model,
            "conditions": conditions.model_copy(update={"text": text, "low": low}),
            "training": plain.training.model_copy(update={"batch_size": config.training.batch_size}),
        }
    )


def _measure(config: Config, words: int) -> Shapes | str:
    """Return the shapes of one training step, or why it fails."""
    from sagasr.model import shapes

    try:
        found = shapes(config, words)
    except SagasrError as error:
        return str(error)
    except (RuntimeError, ValueError, AssertionError) as error:
        return f"a training step fails on the meta device: {(str(error) or repr(error)).splitlines()[0]}"
    return Shapes(
        latents=found["latents"],
        tokens=found["cross_attention"],
        parameters=found["parameters"],
        state_bytes=found["training_bytes"],
        activation_bytes=found["activation_bytes"],
    )


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum."""
    costs = list(costs)
    return Cost(sum(cost.seconds for cost in costs), sum(cost.gpu_hours for cost in costs))


def costs_of(trials: Iterable[Trial], shapes: Mapping[str, Shapes]) -> dict[str, Cost]:
    """Return the cost of each trial by its id."""
    return {trial.id: cost(trial, shapes[trial.replicates[0].cell]) for trial in trials}
