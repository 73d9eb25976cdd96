"""A sweep as an experiment of Ray Tune: factors and seeds are its search space. What Tune writes is never read."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.grid.space import EarlyStopping
from orchestrator.plan.plan import Plan, Trial
from orchestrator.run.schedule import Schedule
from orchestrator.run.trial_ends import TrialEnds
from orchestrator.run.worker import METRIC, TIME, point_key, point_of
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

    by_point = {point_key(point_of(trial.levels, trial.seed)): trial for trial in trials}
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
            scheduler=scheduler(plan, trials),
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: names[point_key(trial.config)],
            trial_dirname_creator=lambda trial: names[point_key(trial.config)],
        ),
        run_config=tune.RunConfig(
            name=f"tune-{plan.name}",
            storage_path=str(scratch),
            callbacks=[watch(ends, names, plan.space.grid.early_stopping)],
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
            return point_of(trial.levels, trial.seed)

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            for trial in schedule.end(self._trials.pop(trial_id)):
                unneeded(trial)

        def save(self, checkpoint_path: str) -> None:
            """Keep nothing: what is missing is read from the trial folders."""

        def restore(self, checkpoint_path: str) -> None:
            """Restore nothing."""

    return Search()


def scheduler(plan: Plan, trials: Sequence[Trial]) -> Any:
    """Return what stops trials on their validation curves, or None to run every trial to its end."""
    rule = plan.space.grid.early_stopping
    if rule.policy == "plateau":
        return _plateau(
            rule, {point_key(point_of(trial.levels, trial.seed)): trial.config.training.steps for trial in trials}
        )
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


def _plateau(rule: EarlyStopping, steps: Mapping[str, int]) -> Any:
    """Return a scheduler that stops a trial at a plateau, if before its last step: a trial that is stopped is unscored.

    Tune's ``TrialPlateauStopper`` asks how far the last values scatter: a trial that gets worse would go on.
    """
    from ray.tune.schedulers import FIFOScheduler

    class Plateau(FIFOScheduler):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._curves: dict[str, dict[int, float]] = {}

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
            step, curve = result[TIME], self._curves.setdefault(trial.trial_id, {})
            curve[step] = result[METRIC]  # again where a driver was lost and its trial starts anew
            seen = [value for at, value in sorted(curve.items()) if 0 < at <= step]
            stop = step < steps[point_key(trial.config)] and is_plateau(seen, rule)
            return str(self.STOP if stop else self.CONTINUE)

    return Plateau()


def is_plateau(losses: Sequence[float], rule: EarlyStopping) -> bool:
    """Return whether the last ``patience`` validations of a trial are better than all before by no more than delta."""
    before, last = losses[: -rule.patience], losses[-rule.patience :]
    return len(losses) > rule.grace and bool(before) and min(last) >= min(before) - (rule.delta or 0.0)


def why_stopped(rule: EarlyStopping, step: int) -> str:
    """Return why a search has stopped a trial."""
    if rule.policy == "plateau":
        gain = f"improved by no more than {rule.delta:g} in {rule.patience} validations"
        return f"plateau: {rule.metric} {gain}, at step {step}"
    return f"asha: behind the others at step {step}"


def watch(ends: TrialEnds, names: Mapping[str, str], rule: EarlyStopping) -> Any:
    """Return a Tune callback that notes what the scheduler stopped, says why a trial ended, and watches the nodes."""
    import ray
    from ray.tune import Callback

    from orchestrator.run.lanes import free_lane

    class Watch(Callback):  # type: ignore[misc]
        looked = time.monotonic()

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            name = names[point_key(trial.config)]
            if result.get("done") and not result.get("ended"):
                ends.stop(name, why_stopped(rule, result[TIME]), result[TIME])
            if result.get("done"):
                result["reason"] = ends.reason(name)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            free_lane(names[point_key(trial.config)])

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() - self.looked > NODES_S:
                self.looked = time.monotonic()
                if not any(node["Alive"] for node in ray.nodes()):  # Tune would wait for one for ever
                    raise SagasrError("Ray's processes on this machine were lost; the same command goes on")
            ends.end_stopped()

    return Watch()
