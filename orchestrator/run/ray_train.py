"""A training of several workers: one run of Ray Train, and what went wrong in it. No torch."""

import contextlib
import math
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.run.retries import Kind, Problem, lost, problem_of
from orchestrator.run.watchdog import catch_terminate
from orchestrator.run.worker import Parameters, Task, train_one_of_several
from orchestrator.sweep_folder.paths import SweptTrial
from sagasr.io.errors import SagasrError
from sagasr.io.files import read_json

PEERS_WAIT_S = 1_800  # at least, until workers that wait for another give up
CAUSES: tuple[Kind, ...] = ("memory", "gpu", "storage", "input", "bug")  # of several workers' problems, the one told


def train_by_several(task: Task, parameters: Parameters) -> Problem | None:
    """Train by a run of Ray Train with several workers; return what went wrong."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback
    from ray.train.v2.api.exceptions import TrainingFailedError

    class Notice(WorkerGroupCallback):  # type: ignore[misc]
        """Every worker takes SIGTERM as a notice, which only its main thread can decide, before it trains."""

        def after_worker_group_start(self, worker_group: Any) -> None:
            worker_group.execute(catch_terminate)

    class Trainer(TorchTrainer):  # type: ignore[misc]
        """Without the helper that frees what a lost run held: it asks a dashboard, maybe that of another cluster."""

        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback)]

    folder = Path(task.folder)
    settings = settings_of_several(task)
    settings["run_config"].callbacks = [Notice()]
    trainer = Trainer(train_one_of_several, train_loop_config=parameters, **settings)
    try:
        trainer.fit()
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
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
        "torch_config": TorchConfig(timeout_s=math.ceil(max(PEERS_WAIT_S, 2 * runtime.hang_seconds))),
    }


def problem_of_several(error: Any, folder: Path) -> Problem:
    """Tell what went wrong from what followed from it: once one process is gone, the others lose their connection."""
    from ray.train.v2._internal.exceptions import RayTrainError, UserExceptionWithTraceback

    found = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    failures = [one._base_exc if isinstance(one, UserExceptionWithTraceback) else one for one in found]
    raised = [problem_of(one) for one in failures if not isinstance(one, (RayError, RayTrainError))]
    gone = [one for one in failures if isinstance(one, (RayError, RayTrainError))]
    causes = [one for kind in CAUSES for one in raised if one.kind == kind]
    if causes:
        return causes[0]
    return lost(getattr(gone[0], "health_check_failure", gone[0]), folder) if gone else raised[0]


def free_resources(folder: Path) -> None:
    """Give back what several workers of a trial held, if their driver was ended before it could."""
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with contextlib.suppress(SagasrError, KeyError, TypeError, ValueError):
        group = read_json(SweptTrial(folder).worker)["placement_group"]
        if group:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
