"""A sweep as an experiment of Ray Tune: factors and seeds are its search space. What Tune writes is never read."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import Plan, Trial
from orchestrator.run.schedule import Schedule
from orchestrator.run.trial_ends import TrialEnds
from orchestrator.run.worker import METRIC, TIME
from sagasr.io.errors import SagasrError
from sagasr.io.states import State

TRIAL_RETRIES = 3  # new starts of a trial whose driver was lost
NODES_S = 5.0  # between two looks at whether a node is left


def run_trials(
    plan: Plan,
    trials: Sequence[Trial],
    schedule: Schedule,
    tasks: Mapping[str, str],
    concurrent: int,
    scratch: Path,
    ends: TrialEnds,
    begin: Callable[[Trial], object],
    unneeded: Callable[[Trial], object],
) -> None:
    """Run the trials that a schedule hands out, at most ``concurrent`` at once. One that cannot run ends no other.

    ``tasks``: what each trial's driver is told, by id. ``begin`` is called before a trial starts, ``unneeded`` when a
    look has made one that runs unnecessary.
    """
    from ray import tune

    from orchestrator.run.driver import Driver

    by_point = {point_key(point_of(trial)): trial for trial in trials}
    told = {key: tasks[trial.id] for key, trial in by_point.items()}
    names = {key: trial.id for key, trial in by_point.items()}
    tuner = tune.Tuner(
        tune.with_parameters(Driver, tasks=told),
        param_space=search_space(plan),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            search_alg=_search(schedule, begin, unneeded),
            num_samples=len(trials),
            scheduler=_scheduler(plan, trials),
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: names[point_key(trial.config)],
            trial_dirname_creator=lambda trial: names[point_key(trial.config)],
        ),
        run_config=tune.RunConfig(
            name=f"tune-{plan.name}",
            storage_path=str(scratch),
            callbacks=[_watch(ends, names)],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    for result in tuner.fit():
        if result.error is not None and result.config:
            reason = str(result.error).strip().splitlines()[-1]
            ends.end(names[point_key(result.config)], State.FAILED, f"its driver was lost: {reason}")


def search_space(plan: Plan) -> dict[str, Any]:
    """Return the factors that change a training, with their levels, and the seeds, as a grid of Tune's."""
    from ray import tune

    factors = {name: factor for name, factor in plan.space.factors.items() if factor.stage == "train"}
    space = {name: tune.grid_search(list(factor.levels)) for name, factor in factors.items()}
    return {**space, "seed": tune.grid_search(list(plan.seeds))}


def point_of(trial: Trial) -> dict[str, Any]:
    """Return the point of the search space that a trial is: its configuration, as Tune shows it."""
    return {**trial.levels, "seed": trial.seed}


def point_key(point: Mapping[str, Any]) -> str:
    """Return a point as one text."""
    return json.dumps(point, sort_keys=True)


def _search(schedule: Schedule, begin: Callable[[Trial], object], unneeded: Callable[[Trial], object]) -> Any:
    """Return the search algorithm of Tune's that asks the schedule: its grid cannot say what is missing, or decided."""
    from ray.tune.search import Searcher

    class Search(Searcher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(metric=METRIC, mode="min")
            self._trials: dict[str, str] = {}

        def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
            return True  # the space that Tune shows is the one that the schedule knows

        def suggest(self, trial_id: str) -> Any:
            trial = schedule.take()
            if trial is None:
                return Searcher.FINISHED if schedule.over else None
            begin(trial)
            self._trials[trial_id] = trial.id
            return point_of(trial)

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            for trial in schedule.end(self._trials.pop(trial_id)):
                unneeded(trial)

        def save(self, checkpoint_path: str) -> None:
            """Keep nothing: what is missing is read from the trial folders."""

        def restore(self, checkpoint_path: str) -> None:
            """Restore nothing."""

    return Search()


def _scheduler(plan: Plan, trials: Sequence[Trial]) -> Any:
    """Return ASHA on the validation curve, or None to run every trial to its end."""
    rule = plan.space.grid.early_stopping
    if rule.policy != "asha":
        return None
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(
        time_attr=TIME,
        grace_period=max(1, rule.grace * min(trial.config.validation.every for trial in trials)),
        max_t=max(trial.config.training.steps for trial in trials) + 1,  # one that reaches it is killed, unscored
        reduction_factor=rule.reduction,
        stop_last_trials=False,
    )


def _watch(ends: TrialEnds, names: Mapping[str, str]) -> Any:
    """Return a Tune callback that notes which trials the scheduler stopped, and sees that there still is a node."""
    import ray
    from ray.tune import Callback

    from orchestrator.run.lanes import free_lane

    class Watch(Callback):  # type: ignore[misc]
        looked = time.monotonic()

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            last = trial.last_result or {}
            if not last.get("ended"):
                ends.stop(names[point_key(trial.config)], int(last.get(TIME, 0)))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            free_lane(names[point_key(trial.config)])

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() - self.looked > NODES_S:
                self.looked = time.monotonic()
                if not any(node["Alive"] for node in ray.nodes()):  # Tune would wait for one for ever
                    raise SagasrError("Ray's processes on this machine were lost; the same command goes on")
            ends.end_stopped()

    return Watch()
