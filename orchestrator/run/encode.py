"""The tasks of ``sagasr.data.encode``, mapped by Ray Data over the workers of this machine or of a cluster."""

import contextlib
import logging
from collections.abc import Iterator, Sequence

import torch

from orchestrator.run.ray_session import connected
from sagasr.data.encode import Runner
from sagasr.data.tasks import Outcome, Task, perform
from sagasr.io.machine import cpus_here


@contextlib.contextmanager
def ray_runner(address: str | None, workers: int | None) -> Iterator[Runner]:
    """Yield what performs tasks. The first task starts Ray, so that a store that is there already costs nothing."""
    concurrency = workers or (None if address else cpus_here())
    with contextlib.ExitStack() as session:
        started = False

        def run(tasks: Sequence[Task]) -> Iterator[Outcome]:
            nonlocal started
            if tasks and not started:
                session.enter_context(connected(address, concurrency or 1, env={"OMP_NUM_THREADS": "1"}))
                _quieten()
                started = True
            if tasks:
                yield from _map(tasks, concurrency)

        yield run


def _map(tasks: Sequence[Task], concurrency: int | None) -> Iterator[Outcome]:
    """Yield the outcomes as they come."""
    import ray

    wants_gpu = tasks[0].step == "encode" and tasks[0].config.codec.kind == "stable-audio"
    gpus = 1.0 if wants_gpu and ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    rows = [{"task": task.model_dump_json()} for task in tasks]
    outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _perform, num_cpus=1, num_gpus=gpus, concurrency=concurrency
    )
    for row in outcomes.iter_rows():
        yield Outcome.model_validate_json(row["outcome"])


def _perform(row: dict[str, str]) -> dict[str, str]:
    """Do one task on a worker of Ray."""
    torch.set_num_threads(1)
    return {"outcome": perform(Task.model_validate_json(row["task"])).model_dump_json()}


def _quieten() -> None:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
