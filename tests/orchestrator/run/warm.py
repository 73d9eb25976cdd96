"""Trains the trials of a toy sweep in one worker process, or each in a process of its own, and prints what is left.

``python -m tests.orchestrator.run.warm FOLDER`` writes ``FOLDER/warm`` and ``FOLDER/cold`` and prints, as JSON, what a
process holds after each of its trainings.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import record
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.run.watchdog import catch_terminate, end_with_parent
from orchestrator.run.worker import Task, encode, train_in_thread
from tests.orchestrator.run import chaos

ROUNDS = 3  # of the same two trainings in one process


def tasks_of(plan: Plan, storage: Path) -> Iterator[Task]:
    """Yield what a driver would give to its worker, for each trial."""
    launch = storage / "launch"
    launch.parent.mkdir(parents=True, exist_ok=True)
    launch.write_text("one")
    for trial in plan.trials:
        record(plan.paths, trial)
        yield Task(
            trial=trial.id, folder=str(plan.paths.trial(trial.id)), scratch="", sweep=str(launch), launch="one",
            store=encode(trial.config.model_dump_json(), str(storage / "encoded")), config=trial.config,
            variants={variant.id: variant.evaluation for variant in trial.variants}, runtime=trial.resources,
        )  # fmt: skip


def train(task: Task) -> None:
    """Train in this process, as a lane does."""
    problem = train_in_thread({"task": task.model_dump_json(), "attempt": 1, "micro_batches": 1})
    assert problem is None, problem


def held() -> dict[str, Any]:
    """Return what a process holds that a training could leave behind."""
    import torch

    from sagasr.training.module import SagaModule

    time.sleep(1.5)  # a guard that is closed looks up once more
    gc.collect()
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "signals": {str(number): str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)},
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "files": open_files(),
        "streams": [sys.stdout.fileno(), sys.stderr.fileno()],
        "filters": len(warnings.filters),
        "modules": sum(isinstance(thing, SagaModule) for thing in gc.get_objects()),
        "torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled()],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def open_files() -> list[str]:
    """Return where the descriptors of this process lead, but for the one that lists them."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return sorted(one for one in found if not one.endswith("/fd"))


def resident() -> int:
    """Return the bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    folder = Path(sys.argv[1])
    grid = chaos.write_grid(folder / "study")

    def plan_of(name: str) -> Plan:
        return make_plan(read_space(grid, storage=str(folder / name)))

    chaos.import_all()
    for task in tasks_of(plan_of("cold"), folder / "cold"):
        assert chaos.forked(lambda task=task: train(task))[0] == 0  # type: ignore[misc]
    catch_terminate()
    end_with_parent()
    found, memory = [], []
    for number in range(ROUNDS):
        for task in tasks_of(plan_of(f"warm-{number}"), folder / f"warm-{number}"):
            train(task)
            found.append(held())
            memory.append(resident())
    sys.stdout.write(json.dumps({"held": found, "memory": memory}))


if __name__ == "__main__":
    main()
