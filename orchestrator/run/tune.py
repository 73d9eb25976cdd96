"""One batch of trials as an experiment of Ray Tune. Tune starts and stops drivers; what it writes is never read."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import Plan, Trial
from orchestrator.run.trial_ends import TrialEnds
from orchestrator.run.worker import METRIC, TIME
from sagasr.io.errors import SagasrError
from sagasr.io.states import State

TRIAL_RETRIES = 3  # new starts of a trial whose driver was lost
NODES_S = 5.0  # between two looks at whether a node is left


def run_batch(
    plan: Plan, batch: Sequence[Trial], tasks: Mapping[str, str], concurrent: int | None, scratch: Path, ends: TrialEnds
) -> None:
    """Run trials, at most ``concurrent`` at once. A trial that cannot run does not end the others.

    ``tasks``: what each trial's driver is told, by id.
    """
    from ray import tune

    from orchestrator.run.driver import Driver

    tuner = tune.Tuner(
        Driver,
        param_space={"task": tune.grid_search([tasks[trial.id] for trial in batch])},
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            scheduler=_scheduler(plan, batch),
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{batch[0].id}",
            storage_path=str(scratch),
            callbacks=[_watch(ends)],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    for trial, result in zip(batch, tuner.fit(), strict=True):
        if result.error is not None:
            ends.end(trial.id, State.FAILED, f"its driver was lost: {str(result.error).strip().splitlines()[-1]}")


def _scheduler(plan: Plan, batch: Sequence[Trial]) -> Any:
    """Return ASHA on the validation curve, or None to run every trial to its end."""
    rule = plan.space.grid.early_stopping
    if rule.policy != "asha":
        return None
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(
        time_attr=TIME,
        grace_period=max(1, rule.grace * min(trial.config.validation.every for trial in batch)),
        max_t=max(trial.config.training.steps for trial in batch) + 1,  # one that reaches it is killed, unscored
        reduction_factor=rule.reduction,
        stop_last_trials=False,
    )


def _watch(ends: TrialEnds) -> Any:
    """Return a Tune callback that notes which trials the scheduler stopped, and sees that there still is a node."""
    import ray
    from ray.tune import Callback

    from orchestrator.run.lanes import free_lane

    class Watch(Callback):  # type: ignore[misc]
        looked = time.monotonic()

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            name, last = _name(trial), trial.last_result or {}
            if not last.get("ended"):
                ends.stop(name, int(last.get(TIME, 0)))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            free_lane(_name(trial))

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() - self.looked > NODES_S:
                self.looked = time.monotonic()
                if not any(node["Alive"] for node in ray.nodes()):  # Tune would wait for one for ever
                    raise SagasrError("Ray's processes on this machine were lost; the same command goes on")
            ends.end_stopped()

    return Watch()


def _name(trial: Any) -> str:
    return str(json.loads(trial.config["task"])["trial"])
