"""A training of several workers: one run of Ray Train, and what went wrong in it. No torch."""

import contextlib
import math
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.run.ray_internals import trainer, worker_errors
from orchestrator.run.retries import Kind, Problem, lost, problem_of
from orchestrator.run.watchdog import catch_terminate
from orchestrator.run.worker import Parameters, Task, train_one_of_several
from orchestrator.sweep_folder.trial_marks import placement_group

PEERS_WAIT_S = 1_800  # at least, until workers that wait for another give up
CAUSES: tuple[Kind, ...] = ("memory", "gpu", "storage", "input", "bug")  # the first of these explains the others


def train_by_several(task: Task, parameters: Parameters) -> Problem | None:
    """Train by a run of Ray Train with several workers; return what went wrong."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    folder = Path(task.folder)
    Trainer, on_start = trainer(catch_terminate)  # only a worker's main thread can take SIGTERM as a notice
    settings = settings_of_several(task)
    settings["run_config"].callbacks = [on_start]
    try:
        Trainer(train_one_of_several, train_loop_config=parameters, **settings).fit()
    except TrainingFailedError as error:
        return problem_of_several(error, folder)
    except RayError as error:  # the controller itself was lost, and nobody gave back what its workers held
        free_resources(folder)
        return lost(error, folder)
    return None


def settings_of_several(task: Task) -> dict[str, Any]:
    """Return what Ray Train is told: what each worker needs, how failures are taken, how long workers wait for another.

    While the first validates, the others wait for it in NCCL or gloo: longer than the driver lets the first be silent.
    """
    from ray import train
    from ray.train.torch import TorchConfig

    runtime = task.runtime
    resources = {"CPU": runtime.cpus_per_worker, "GPU": runtime.gpus_per_worker}
    return {
        "scaling_config": train.ScalingConfig(
            num_workers=runtime.workers,
            use_gpu=runtime.gpus_per_worker > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount},
        ),
        "run_config": train.RunConfig(
            name=task.trial,
            storage_path=task.scratch,
            # Whatever ends the workers, ``Retries`` decides: Ray Train would start them again as the same attempt.
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=1, max_preemption_failures=0),
        ),
        "torch_config": TorchConfig(timeout_s=math.ceil(max(PEERS_WAIT_S, 2 * runtime.hang_seconds))),
    }


def problem_of_several(error: Any, folder: Path) -> Problem:
    """Tell what went wrong from what followed from it: once one process is gone, the others lose their connection."""
    raised, losses = worker_errors(error)
    problems = [problem_of(cause) for cause in raised]
    for kind in CAUSES:
        for problem in problems:
            if problem.kind == kind:
                return problem
    return lost(losses[0], folder) if losses else problems[0]


def free_resources(folder: Path) -> None:
    """Give back what several workers of a trial held, if their driver was ended before it could."""
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    group = placement_group(folder)
    with contextlib.suppress(TypeError, ValueError):
        if group:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
