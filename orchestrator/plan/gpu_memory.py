"""Whether trainings fit the memory of the GPUs they would run on, and which line of the grid would make them fit."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.formats import count, gigabytes
from orchestrator.plan.capacity import CLUSTER, HERE, Gpu, here, in_cluster_file, smallest
from orchestrator.plan.plan import Plan, Trial
from sagasr.config.runtime import Runtime
from sagasr.io.errors import ConfigError
from sagasr.model.counts import Counts


class Need(NamedTuple):
    """What a size's neediest cell needs of a GPU; ``misfits``: how many cells of the size need more than there is."""

    size: str
    runtime: Runtime
    cell: str
    shape: Counts
    gpu: Gpu
    misfits: int

    @property
    def needed(self) -> str:
        """What one worker holds at most."""
        return gigabytes(self.shape.memory_bytes(self.runtime))

    @property
    def allowed(self) -> str:
        """What one worker may hold."""
        return gigabytes(_allowed(self.gpu, self.runtime))


def planned_gpu(trials: Sequence[Trial], on_cluster: bool = False) -> Gpu | None:
    """Return the GPU that trials must fit: of this machine or, else and on a cluster, of this folder's cluster file."""
    own = () if on_cluster else here()
    return smallest(own or in_cluster_file()) if _on_gpus(trials) else None


def needs(trials: Sequence[Trial], shapes: Mapping[str, Counts], gpu: Gpu) -> list[Need]:
    """Return what each size that trains on GPUs needs of one."""
    sizes: dict[str, dict[str, Runtime]] = {}
    for trial in _on_gpus(trials):
        sizes.setdefault(trial.size, {}).update((row.cell, trial.resources) for row in trial.replicates)
    needed = []
    for size, cells in sizes.items():
        runtime = next(iter(cells.values()))
        cell = max(cells, key=lambda cell: shapes[cell].memory_bytes(runtime))
        misfits = sum(not _fits(shapes[cell], runtime, gpu) for cell in cells)
        needed.append(Need(size, runtime, cell, shapes[cell], gpu, misfits))
    return needed


def check_memory(plan: Plan, trials: Sequence[Trial], shapes: Mapping[str, Counts], gpu: Gpu | None) -> None:
    """Raise ConfigError with a line for each size that does not fit a GPU, naming what of the grid to change."""
    lines = [
        f"{plan.space.source}: resources: {trial.resources.workers} workers of size {trial.size} share a batch of "
        f"{trial.config.training.batch_size}; give at most one worker for each row of training.batch_size"
        for trial in {trial.size: trial for trial in trials}.values()
        if trial.resources.workers > trial.config.training.batch_size
    ]
    for need in needs(trials, shapes, gpu) if gpu else []:
        if need.misfits:
            more = f" and {need.misfits - 1} more" if need.misfits > 1 else ""
            share = need.runtime.gpus_per_worker
            key = f"resources.{need.size if need.size in plan.space.grid.resources else 'default'}"
            lines.append(
                f"{plan.space.source}: cell '{need.cell}'{more}: {need.needed} needed, "
                f"{f'{share:g} of ' if share < 1 else ''}{need.gpu.name} ({need.gpu.where}) has {need.allowed}; "
                f"{', or '.join(remedies(need, key))}"
            )
    if lines:
        raise ConfigError("\n".join(lines))


def remedies(need: Need, key: str) -> list[str]:
    """Return what makes a training fit, each by itself: more of the GPU, more GPUs, a smaller batch."""
    runtime, rows = need.runtime, need.shape.latents[0]
    most = len(here()) if need.gpu.where == HERE else rows
    kinds: tuple[list[dict[str, Any]], ...] = (
        [{"gpus_per_worker": share} for share in (0.25, 0.5, 1.0) if share > runtime.gpus_per_worker],
        [
            {"workers": workers, "sharded": sharded, "gpus_per_worker": 1.0}
            for workers in (2, 4, 8)
            for sharded in sorted({runtime.sharded, True})
            if runtime.workers <= workers <= min(rows, most)
        ],
    )
    fitting = [[way for way in kind if _fits(need.shape, runtime.model_copy(update=way), need.gpu)] for kind in kinds]
    answers = [f"write {_written(ways[0], runtime)} in {key}" for ways in fitting if ways]
    parts = (2**power for power in range(1, rows.bit_length()))
    if fit := next((part for part in parts if _fits(need.shape, runtime, need.gpu, part)), None):
        answers.append(f"lower training.batch_size to {rows // fit} in the base")
    return answers or ["choose a smaller size, shorter clips (audio.segment) or larger GPUs"]


def shown(trials: Sequence[Trial], shapes: Mapping[str, Counts], gpu: Gpu | None) -> list[str]:
    """Return how the trials that train on GPUs compare with one, as the plan says it; nothing where there are none."""
    if gpu is None:
        unknown = f"GPU memory: not compared; no GPU is known here or from a {CLUSTER} here"
        return [unknown] if _on_gpus(trials) else []
    lines = [f"GPU memory: {gpu.name}, {gigabytes(gpu.memory)} ({gpu.where})"]
    for need in needs(trials, shapes, gpu):
        share, workers = need.runtime.gpus_per_worker, need.runtime.workers
        part = f" ({share:g} of it)" if share < 1 else f" on each of {workers}" if workers > 1 else ""
        verdict = "does not fit" if need.misfits else "fits"
        lines.append(f"  size {need.size} needs {need.needed} of {need.allowed}{part}: {verdict}")
        if gpu.where == HERE and workers * share > len(here()):
            lines[-1] += f", but {count(len(here()), 'GPU')} here"
    return lines


def _on_gpus(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.resources.gpus_per_worker]


def _fits(shape: Counts, runtime: Runtime, gpu: Gpu, parts: int = 1) -> bool:
    return shape.memory_bytes(runtime, parts) <= _allowed(gpu, runtime)


def _allowed(gpu: Gpu, runtime: Runtime) -> float:
    return gpu.memory * runtime.gpus_per_worker


def _written(changes: Mapping[str, Any], runtime: Runtime) -> str:
    """Return the changes as a grid writes them; what stays is left out."""
    changed = [(key, value) for key, value in changes.items() if getattr(runtime, key) != value]
    return ", ".join(f"{key}: {'true' if value is True else f'{value:g}'}" for key, value in changed)
