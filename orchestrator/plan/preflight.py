"""Look at every cell before anything starts: what a training step of it holds, and whether it can be taken at all.

torch is imported here alone, when a function is called, and only where a model is built.
"""

import heapq
import os
import shutil
import sys
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from orchestrator.formats import gigabytes
from orchestrator.grid.space import Cell
from orchestrator.plan.capacity import Gpu, here, most_at_once, smallest, this_machine, why_none
from orchestrator.plan.cost import checkpoint_bytes, disk_bytes
from orchestrator.plan.gpu_memory import check_memory
from orchestrator.plan.plan import Options, Plan, Trial
from orchestrator.storage.folder import check_folder
from orchestrator.sweep_folder.redact import redact
from sagasr.config.settings import Config, Words
from sagasr.config.stages import trained_parts
from sagasr.config.strict import Strict
from sagasr.data.splits import rows_of
from sagasr.io.errors import ConfigError, SagasrError, first_line, nearest
from sagasr.io.machine import memory_here
from sagasr.model.counts import Counts, count, counts_of, speaks_for_itself
from sagasr.model.words import vocabulary_of
from sagasr.plugins.parts import identity

Section = TypeVar("Section", bound=Strict)

DISK_MARGIN = 100_000_000  # bytes for journals, tables and the listening set
TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
DRIVERS = {"12": 525, "13": 580}  # the oldest of NVIDIA's drivers that serves a major version of CUDA


def preflight(cells: Iterable[Cell], source: str, *, build: Container[str] | None = None) -> dict[str, Counts]:
    """Return the counts of each cell by its name. Raises ConfigError naming every cell whose step cannot run.

    Each model, or that of the cells named in ``build``, is built and takes one training step on the meta device. The
    others are counted, but for those that files of weights decide, and those with parts of a user's own to be tried.
    """
    vocabulary_size = cache(lambda data, source: len(vocabulary_of(row.text(source) for row in rows_of(data, "train"))))
    tried: dict[Config, Counts | str] = {}
    counts: dict[str, Counts] = {}
    faults: dict[str, list[str]] = {}
    decisive = [(cell, _relevant(cell.config)) for cell in cells]
    wanted = {relevant for cell, relevant in decisive if build is None or cell.name in build}
    for cell, relevant in decisive:
        text = cell.config.conditions.text
        if relevant not in tried:
            learned = text.source != "off" and isinstance(text.encoder, Words)
            words = vocabulary_size(cell.config.data, text.source) if learned else 0
            built = relevant in wanted or not speaks_for_itself(relevant) or _tries_parts(relevant)
            tried[relevant] = (_measure if built else count)(relevant, words)
        result = tried[relevant]
        if isinstance(result, Counts):
            counts[cell.name] = result
        else:
            faults.setdefault(result, []).append(cell.name)
    lines = [
        f"{source}: cell '{names[0]}'{more}: {line}"
        for fault, names in faults.items()
        for more in [f" and {len(names) - 1} more" if len(names) > 1 else ""]
        for line in fault.splitlines()
    ]
    if lines:
        raise ConfigError("\n".join(lines))
    return counts


def ready(
    plan: Plan, trials: Sequence[Trial], shapes: Mapping[str, Counts], options: Options, held: Sequence[Trial] = ()
) -> None:
    """Raise ConfigError for what would end the trials soon after they began: storage, tracking, disk, this machine.

    The machine must serve those ``held`` for what the others say, too. How many run at once on a cluster is not known
    before it is joined: one does.
    """
    local = options.address is None
    check_folder(plan.folder)
    check_tracking(plan.tracking_uri, plan.folder.parent, plan.tracking_named or "tracking.uri")
    if local and (trials or held):
        check_machine(plan, [*trials, *held], shapes)
    if not plan.storage.uri:  # by URI, the folder here holds no checkpoints
        at_once = most_at_once((trial.resources for trial in trials), this_machine()) if local else 1
        check_disk(plan.folder, trials, shapes, options.max_concurrent or at_once)


def check_tracking(uri: str, storage: Path, named: str = "tracking.uri") -> None:
    """Raise ConfigError for a tracking URI that no server or database can be behind. Nothing is connected to."""
    scheme, colon, rest = uri.partition("://")
    kind, at = scheme.split("+")[0], f"{named} {redact(uri)}"
    if uri.startswith(("file:", "/", "./", "../", "~")) or uri == "mlruns":
        raise ConfigError(f"{at}: a folder, to which MLflow writes no more; give sqlite:///FOLDER/mlflow.db")
    if uri != "databricks" and (not colon or kind not in TRACKING_SCHEMES):
        hint = nearest(kind, TRACKING_SCHEMES) if colon else ""
        raise ConfigError(f"{at}: not a tracking server{hint}; give http://HOST:5000, sqlite:///FILE or postgresql://…")
    if kind in ("http", "https") and not _has_host(uri):
        raise ConfigError(f"{at}: no address of a server; give {kind}://HOST:5000")
    if kind == "sqlite":
        name = rest.removeprefix("/").partition("?")[0]
        file = Path(unquote(name))
        if name in ("", ":memory:"):
            raise ConfigError(f"{at}: a database that is kept in no file; give sqlite:///FILE")
        if not file.parent.is_dir() and file.parent.absolute() != storage.absolute():
            raise ConfigError(f"{at}: there is no folder {file.parent}; make it, or name another file")
        if file.is_dir() or (file.is_file() and not _is_database(file)):
            raise ConfigError(f"{at}: {file} is there and no sqlite database; name another file")
        if not all(os.access(path, os.W_OK) for path in (file, file.parent) if path.exists()):
            raise ConfigError(f"{at}: {file} may not be written by this user; name another file")


def _has_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number
        return False


def _is_database(file: Path) -> bool:
    with file.open("rb") as handle:
        return handle.read(15) in (b"", b"SQLite format 3")


def check_machine(plan: Plan, trials: Sequence[Trial], shapes: Mapping[str, Counts]) -> None:
    """Raise ConfigError for trials that need GPUs or memory that this machine does not have, or cannot use."""
    on_gpus = [trial for trial in trials if trial.resources.gpus_per_worker]
    if on_gpus:
        gpus = here() or _seen_by_torch()
        for trial in on_gpus:
            wanted = trial.resources.workers * trial.resources.gpus_per_worker
            if wanted > len(gpus):
                has, ending = len(gpus) or f"none ({why_none()})", "s" if wanted > 1 else ""
                raise ConfigError(
                    f"resources: size {trial.size} needs {wanted:g} GPU{ending}, this machine has {has}; "
                    "lower workers or gpus_per_worker in the grid's resources, or join a cluster with --address"
                )
        check_memory(plan, on_gpus, shapes, smallest(gpus))
        _check_driver(gpus[0])
    memory = memory_here()
    for trial in (trial for trial in trials if not trial.resources.gpus_per_worker):
        cell = trial.replicates[0].cell
        needed = (1 if trial.resources.sharded else trial.resources.workers) * shapes[cell].state_bytes
        if needed > memory:
            raise ConfigError(
                f"cell '{cell}' needs {gigabytes(needed)} for weights, moments and average, this machine has "
                f"{gigabytes(memory)}; choose a smaller size, or join a cluster with --address"
            )


def _check_driver(gpu: Gpu) -> None:
    import torch

    if _cuda():
        return
    cuda, driver = torch.version.cuda, gpu.driver.partition(".")[0]
    least = DRIVERS.get((cuda or "").partition(".")[0], 0)
    if cuda is None:
        reason = f"this PyTorch ({torch.__version__}) is built without CUDA; install one that is built with it"
    elif driver.isdecimal() and int(driver) < least:
        reason = f"driver {gpu.driver} is too old for PyTorch, which is built for CUDA {cuda}; "
        reason += f"install driver {least} or newer"
    else:
        reason = (
            f"PyTorch (CUDA {cuda}) cannot use this GPU with driver {gpu.driver}; see what it says to "
            "python -c 'import torch; torch.cuda.init()'"
        )
    raise ConfigError(f"{gpu.name}: {reason}")


def _seen_by_torch() -> tuple[Gpu, ...]:
    """Return the GPUs that torch sees where no nvidia-smi is, as in slim containers."""
    import torch

    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count() if _cuda() else 0))
    return tuple(Gpu(gpu.name, gpu.total_memory) for gpu in gpus)


def _cuda() -> bool:
    """Return whether torch can use a GPU; why it cannot, it would write on the terminal."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def check_disk(folder: Path, trials: Iterable[Trial], shapes: Mapping[str, Counts], running: int) -> None:
    """Raise ConfigError when what trials leave does not fit on the disk of ``folder``; recordings come on top.

    Each of those that run has one checkpoint more in the making, the largest of them at worst.
    """
    sizes = [(trial, shapes[trial.replicates[0].cell]) for trial in trials]
    largest = heapq.nlargest(running, (checkpoint_bytes(counts) for _, counts in sizes))
    needed = DISK_MARGIN + sum(disk_bytes(trial, counts) for trial, counts in sizes) + sum(largest)
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ConfigError(
            f"{folder}: {free / 1e9:.2g} GB free, about {needed / 1e9:.2g} GB needed for checkpoints; "
            "free some or choose another --storage"
        )


def _tries_parts(config: Config) -> bool:
    """Return whether parts of a user's own may break their contracts on a GPU: without torch none makes a tensor."""
    solver = config.evaluation.sampler.solver
    own = [*trained_parts(config), *([] if solver == "euler" else [("sampler", solver)])]
    for family, part in own:
        identity(family, part)  # imports it
    return bool(own) and "torch" in sys.modules


def _relevant(config: Config) -> Config:
    """Return the configuration with what cannot change a shape at its default: alike cells are tried once."""
    plain, text = Config(data=config.data, codec=config.codec), _only(config.conditions.text, "source", "encoder")
    sampler = _only(config.evaluation.sampler, "solver")
    return plain.model_copy(
        update={
            "audio": config.audio,
            "model": config.model,
            "conditions": config.conditions.model_copy(update={"text": text, "low": plain.conditions.low}),
            "evaluation": plain.evaluation.model_copy(update={"sampler": sampler}),
            "training": _only(config.training, "batch_size", "precision"),
            "validation": _only(config.validation, "distance", "metrics"),
        }
    )


def _only(section: Section, *keys: str) -> Section:
    """Return a section with all but these keys at their defaults."""
    return type(section)().model_copy(update={key: getattr(section, key) for key in keys})


def _measure(config: Config, words: int) -> Counts | str:
    """Return the counts of one training step on the meta device, or why it cannot be taken."""
    from sagasr.model.meta_step import shapes
    from sagasr.training.preflight import missing_weights

    try:
        if absent := missing_weights(config):
            return "\n".join(absent)
        step = shapes(config, words)
    except SagasrError as error:
        return str(error)
    except (RuntimeError, ValueError, AssertionError) as error:
        return f"a training step fails on the meta device: {first_line(error)}"
    names = ("latents", "cross_attention", "parameters", "activation_bytes")
    return counts_of(config, *(step[name] for name in names))
