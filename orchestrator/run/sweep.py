"""Runs what a plan still lacks: Ray Tune trials, whose drivers start the workers that train.

Ray schedules, starts and stops processes; it remembers nothing for us. Which trials are missing is read from their
folders, each training resumes by itself from its own checkpoints, and what Ray writes is deleted at the end.
"""

import contextlib
import json
import math
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from orchestrator.plan.cost import Cost, write_estimate
from orchestrator.plan.gpu_memory import check_memory
from orchestrator.plan.gpus import in_cluster_file, labelled, smallest
from orchestrator.plan.ledger import lost, one_writer, record, scan
from orchestrator.plan.plan import Options, Plan, Trial, write_plan
from orchestrator.plan.promotion import first_stage, promoted
from orchestrator.run.progress import View, watching
from orchestrator.run.ray_session import connected
from orchestrator.run.results import collect
from orchestrator.run.retries import one_line
from orchestrator.run.same_code import code_here
from orchestrator.run.watchdog import ask_to_halt
from orchestrator.run.worker import DRIVER, METRIC, TIME, Task, encode
from orchestrator.storage.remote import check_folder
from orchestrator.storage.sync import fetch_trials, send, stores_of, sweeping
from orchestrator.sweep_folder.looks_file import Account, blocks
from orchestrator.sweep_folder.redact import redact
from orchestrator.sweep_folder.trial_marks import mark_stopped, stopped
from orchestrator.tracking.runs import environment_tags
from orchestrator.tracking.tracker import Tracker, Undelivered
from sagasr.io.errors import ConfigError, SagasrError
from sagasr.io.files import write_text
from sagasr.io.fingerprint import fingerprint, seed_of
from sagasr.io.lease import wait_free
from sagasr.io.machine import cpus_here
from sagasr.io.signals import interrupting
from sagasr.io.states import State
from sagasr.model.counts import Counts
from sagasr.training.trial_log import Status, read_status, write_status

TRIAL_RETRIES = 3  # new starts of a trial whose driver was lost
LOST = "its processes were lost"
LOCAL_DRIVERS = 256  # more than a machine has trials at once: there the workers are what is scarce
NODES_S = 5.0  # between two looks at whether a node is left
SETTLE_S = 20.0  # how long a stopped training may take to let go of its folder
HALT_S = 18.0  # how long trainings may take to save when the sweep is interrupted, of the 30 s it may take in all
CLOSE_S = 5.0  # how long the tracking server is waited for then


class Outcome(NamedTuple):
    """How a sweep ended. ``failed``: reason by trial id; ``undelivered``: what the tracking server still lacks."""

    failed: Mapping[str, str]
    interrupted: bool
    undelivered: Undelivered


def run(plan: Plan, options: Options, costs: Mapping[str, Cost], shapes: Mapping[str, Counts]) -> Outcome:
    """Run the selected trials that are not finished, and bring results tables and tracking up to date.

    ``costs``: what they will take, by trial; kept for comparison. ``shapes``: what they hold, by cell. Raises
    SagasrError when nothing could be started.
    """
    console = Console(quiet=options.quiet, highlight=False, emoji=False)
    check_folder(plan.folder)
    with one_writer(plan.paths), sweeping(plan.uri, plan.folder, lost):
        write_plan(plan)
        write_estimate(plan, costs)
        ledger = scan(plan)
        held = [] if narrowed(plan) else [trial.id for trial in plan.selected if ledger.held(trial)]
        waiting = [trial for trial in plan.selected if not ledger.finished(trial) or trial.id in held]
        tracker = Tracker(plan, tracked(plan), environment_tags())
        tracker.start()
        interrupted = True
        try:
            interrupted = bool(waiting) and _run_waiting(plan, waiting, options, shapes, console)
        finally:
            undelivered = tracker.close(not interrupted, CLOSE_S) if interrupted else tracker.close(complete=True)
            look(plan)
            collect(plan, tracker.run_ids)
        entries = scan(plan).entries
    failed = {
        trial.id: entries[row.id].reason
        for trial in plan.selected
        for row in trial.replicates
        if not entries[row.id].state.settled and not (interrupted and entries[row.id].state is not State.FAILED)
    }
    _tell(plan, failed, interrupted, undelivered, console)
    return Outcome(failed, interrupted, undelivered)


def tracked(plan: Plan) -> list[Trial]:
    """Return the plan's trials with the replicates that are asked for now, or were scored before."""
    asked = {row.id for trial in plan.selected for row in trial.replicates}
    kept = []
    for trial in plan.trials:
        rows = tuple(
            row for row in trial.replicates if row.id in asked or plan.paths.of(trial.id).scores(row.variant).exists()
        )
        if rows:
            kept.append(trial.model_copy(update={"replicates": rows}))
    return kept


def schedule(plan: Plan, waiting: Sequence[Trial]) -> Iterator[list[Trial]]:
    """Yield the trials in batches; one batch ends before the next begins, so that a look at the results fits between.

    By ``blocks``: the first two seeds, then seed by seed, until a look decides. With cells left out by ``--only`` no
    block can be complete, so no look is taken. A search by ``asha`` judges a trial by those before it, so the order is
    drawn, from a seed that the plan decides. What ``promote`` lets wait comes last, if it is to run.
    """
    yield from _batches(plan, first_stage(plan, waiting))
    if plan.space.promote and not narrowed(plan):
        look(plan)
        collect(plan)
        batch = promoted(plan, waiting)
        if batch:
            yield batch


def narrowed(plan: Plan) -> bool:
    """Return whether ``--only`` left some replicates of the plan out."""
    return sum(len(trial.replicates) for trial in plan.selected) < len(plan.replicates)


def _batches(plan: Plan, waiting: Sequence[Trial]) -> Iterator[list[Trial]]:
    trials, policy = list(waiting), plan.space.grid.early_stopping.policy
    if policy == "asha":
        random.Random(seed_of("order", plan.hash)).shuffle(trials)
    if policy != "blocks" or narrowed(plan):
        if trials:
            yield trials
        return
    count = 0
    for block in blocks(plan.seeds):
        count += len(block)
        batch = [trial for trial in trials if trial.seed in block]
        account = look(plan) if batch else None
        if account and account.stop and count > account.seen:
            return
        if batch:
            yield batch


def look(plan: Plan) -> Account | None:
    """Take the looks that are due by ``blocks``, on results collected now, and return what they say so far."""
    if plan.space.grid.early_stopping.policy != "blocks":
        return None
    from orchestrator.analysis.interim import take_looks

    collect(plan)
    return take_looks(plan.folder)


# ------------------------------------------------------------------------------------------------------------- the run


def _run_waiting(
    plan: Plan, waiting: Sequence[Trial], options: Options, shapes: Mapping[str, Counts], console: Console
) -> bool:
    """Run the trials; return whether a signal ended the run early."""
    launch = secrets.token_hex(8)
    token, scratch = plan.paths.launch.resolve(), plan.paths.ray.resolve()
    shutil.rmtree(scratch, ignore_errors=True)
    write_text(token, launch)  # from here on, what is left of an earlier run ends itself
    send(plan.uri, plan.folder, token.name)
    whole = {trial.id: trial for trial in plan.trials}
    launched: list[Trial] = []
    view = View(plan, waiting)
    early: dict[str, int] = {}
    try:
        with (
            watching(view, console),
            _ray(plan, waiting, options, shapes, lambda line: _print(console, line)) as concurrent,
            interrupting(),
        ):  # after Ray, which sets its own
            try:
                view.phase = "encoding recordings"
                stores, broken = _encode(plan, waiting)
                for name, reason in broken.items():
                    _record(plan, whole[name])
                    _end(plan, name, State.FAILED, reason)
                view.phase = "starting trials"
                for batch in schedule(plan, [trial for trial in waiting if trial.id in stores]):
                    launched += batch
                    tasks = {trial.id: _task(plan, trial, stores[trial.id], launch, scratch) for trial in batch}
                    for trial in batch:
                        _record(plan, whole[trial.id])
                    _fit(plan, batch, tasks, concurrent, scratch, early)
                    # A look counts how each trial of a block ended.
                    if plan.space.grid.early_stopping.policy == "blocks":
                        _settle(plan, batch, early, State.FAILED, LOST)
            except KeyboardInterrupt:  # held here, it keeps alive all that Tune holds
                view.phase = "saving"
                console.print("interrupted: running trainings save what they have; once more ends at once")
                ask_to_halt(token, launch)
                send(plan.uri, plan.folder, token.name)
                _wait_for_halt(plan, launched, HALT_S)
                raise
    except KeyboardInterrupt:
        _settle(plan, launched, early, State.INTERRUPTED, "interrupted; the same command goes on")
        return True
    else:
        _settle(plan, launched, early, State.FAILED, LOST)
        return False
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _record(plan: Plan, trial: Trial) -> None:
    record(plan.paths, trial)
    _send(plan, plan.paths.of(trial.id).record)


def _send(plan: Plan, path: Path) -> None:
    send(plan.uri, plan.folder, str(path.relative_to(plan.folder)))


def _wait_for_halt(plan: Plan, trials: Sequence[Trial], wait_s: float) -> None:
    """Wait until the trainings that run have saved and ended; those that have not begun need not be waited for."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        states = {trial.id: status.state for trial in trials if (status := _status(plan, trial.id))}
        if not any(state is State.RUNNING and not _let_go(plan, name, 0) for name, state in states.items()):
            return
        time.sleep(0.2)


def _task(plan: Plan, trial: Trial, store: str, launch: str, scratch: Path) -> str:
    stopping = plan.space.grid.early_stopping
    return Task(
        trial=trial.id,
        uri=plan.uri,
        folder=str(plan.paths.trial(trial.id).resolve()),
        scratch=str(scratch),
        store=store,
        sweep=str(plan.paths.launch.resolve()),
        launch=launch,
        config=trial.config,
        variants={variant.id: variant.evaluation for variant in trial.variants},
        runtime=trial.resources,
        metric=stopping.metric,
        maximise=plan.space.metrics[plan.metric] == "higher",
        grace=stopping.grace,
        margin=stopping.margin,
        patience=stopping.patience,
        code=code_here(),
    ).model_dump_json()


def _encode(plan: Plan, trials: Sequence[Trial]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the encoded store of each trial, each made once, and why it could not be made where it could not."""
    import ray

    root = str((stores_of(plan.uri) if plan.uri else plan.folder.parent / "encoded").resolve())
    kinds = {trial.id: fingerprint(_decides_store(trial)) for trial in trials}
    texts: dict[str, dict[str, None]] = {kind: {} for kind in kinds.values()}
    for trial in trials:
        texts[kinds[trial.id]][trial.config.conditions.text.model_dump_json()] = None
    remote = ray.remote(max_calls=1)(encode)
    pending = {}
    for trial in trials:
        if kinds[trial.id] not in pending:
            gpus = trial.resources.gpus_per_worker
            pending[kinds[trial.id]] = remote.options(num_cpus=1, num_gpus=gpus).remote(
                trial.config.model_dump_json(), root, plan.uri, list(texts[kinds[trial.id]])
            )
    stores: dict[str, str] = {}
    problems: dict[str, str] = {}
    for kind, reference in pending.items():
        try:
            stores[kind] = ray.get(reference)
        except ray.exceptions.RayError as error:
            problems[kind] = _why_not_encoded(error)
    return (
        {trial: stores[kind] for trial, kind in kinds.items() if kind in stores},
        {trial: problems[kind] for trial, kind in kinds.items() if kind in problems},
    )


def _why_not_encoded(error: Any) -> str:
    """Return what ended an encoding: an exception of its own, or the loss of its process or node."""
    from ray.exceptions import RayTaskError

    if not isinstance(error, RayTaskError):
        return f"encoding: its process or node was lost: {one_line(error)}"
    cause = error.cause if isinstance(error.cause, BaseException) else error
    return str(cause) if isinstance(cause, SagasrError) else f"encoding: {type(cause).__name__}: {cause}"


def _decides_store(trial: Trial) -> dict[str, Any]:
    sections = {"data", "audio", "codec", "degradation", "validation"}
    return trial.config.model_dump(mode="json", include=sections)


def _fit(
    plan: Plan,
    batch: Sequence[Trial],
    tasks: Mapping[str, str],
    concurrent: int | None,
    scratch: Path,
    early: dict[str, int],
) -> None:
    """Run one batch as a Tune experiment. A trial that cannot run does not end the others."""
    from ray import tune

    from orchestrator.run.driver import Driver

    if not batch:
        return
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
            callbacks=[_stop_watch(plan, early)],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    results = tuner.fit()
    for trial, result in zip(batch, results, strict=True):
        if result.error is not None:
            _end(plan, trial.id, State.FAILED, f"its driver was lost: {str(result.error).strip().splitlines()[-1]}")


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


def _stop_watch(plan: Plan, early: dict[str, int]) -> Any:
    """Return a Tune callback that notes which trials the scheduler ended, which they cannot say themselves.

    It also sees that there still is a node: Tune would wait for one for ever.
    """
    import ray
    from ray.tune import Callback

    from orchestrator.run.ray_train import free_resources

    class StopWatch(Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            name, last = _name(trial), trial.last_result or {}
            free_resources(plan.paths.trial(name))
            if not last.get("ended"):
                step = int(last.get(TIME, 0))
                mark_stopped(plan.paths.trial(name), f"asha: behind the others at step {step}", step)
                _send(plan, plan.paths.of(name).stopped)
                early[name] = step

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            free_resources(plan.paths.trial(_name(trial)))

        looked = time.monotonic()

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() - self.looked > NODES_S:
                self.looked = time.monotonic()
                if not any(node["Alive"] for node in ray.nodes()):
                    raise SagasrError("Ray's processes on this machine were lost; the same command goes on")
            for name in list(early):
                _end_stopped(plan, name, early, wait_s=0)

    return StopWatch()


def _name(trial: Any) -> str:
    return str(json.loads(trial.config["task"])["trial"])


# --------------------------------------------------------------------------------------------------------------- ending


def _settle(plan: Plan, trials: Sequence[Trial], early: dict[str, int], state: State, reason: str) -> None:
    """Give every trial that Ray left without an end the one it had, once its worker is gone."""
    fetch_trials(plan.uri, plan.folder, [trial.id for trial in trials])
    for name in list(early):
        _end_stopped(plan, name, early, wait_s=SETTLE_S)
    for trial in trials:
        status = _status(plan, trial.id)
        if status is not None and status.state in (State.RUNNING, State.WAITING):
            _let_go(plan, trial.id, CLOSE_S if state is State.INTERRUPTED else SETTLE_S)
            _end(plan, trial.id, state, reason)
        elif status is None and state is State.FAILED:
            _end(plan, trial.id, state, reason)


def _end_stopped(plan: Plan, trial: str, early: dict[str, int], wait_s: float) -> None:
    """Record an early stop as soon as the trial's worker, which may live a few steps more, has let go of its folder."""
    if _let_go(plan, trial, wait_s) or wait_s:
        early.pop(trial)
        _end(plan, trial, State.STOPPED, stopped(plan.paths.trial(trial)) or "stopped early")


def _let_go(plan: Plan, trial: str, wait_s: float) -> bool:
    """Return whether no worker holds the trial's folder (any more)."""
    return wait_free(plan.paths.of(trial).lease, wait_s)


def _end(plan: Plan, trial: str, state: State, reason: str) -> None:
    status = _status(plan, trial) or Status(state=State.WAITING)
    if status.state is not State.DONE:
        end = {"state": state, "reason": reason, "updated": time.time()}
        write_status(plan.paths.trial(trial), Status.model_validate(status.model_dump() | end))
        _send(plan, plan.paths.of(trial).status)


def _status(plan: Plan, trial: str) -> Status | None:
    with contextlib.suppress(SagasrError):
        return read_status(plan.paths.trial(trial))
    return None


def _tell(plan: Plan, failed: Mapping[str, str], interrupted: bool, undelivered: Undelivered, console: Console) -> None:
    for trial, reason in failed.items():
        log = plan.paths.of(trial).log()
        _print(console, f"failed: {trial}: {reason}" + (f" (see {log})" if log.exists() else ""))
    if undelivered.replicates:
        _print(
            console,
            f"tracking: {undelivered.replicates} replicates are not (fully) in {redact(plan.tracking_uri)}"
            f"{': ' + undelivered.reason if undelivered.reason else ''}; the same command sends what is missing",
        )
    if interrupted:
        console.print("interrupted; the same command goes on where this one stopped")


def _print(console: Console, line: str) -> None:
    console.print(escape(line), soft_wrap=True)


# -------------------------------------------------------------------------------------------------------------- the Ray


@contextlib.contextmanager
def _ray(
    plan: Plan,
    trials: Sequence[Trial],
    options: Options,
    shapes: Mapping[str, Counts],
    say: Callable[[str], object],
) -> Iterator[int | None]:
    """Join or start Ray for the block; yields how many trials run at once (None: as many as drivers have slots)."""
    cpus = max(cpus_here(), *(math.ceil(_demand(trial)["CPU"]) for trial in trials))
    with connected(options.address, cpus, {DRIVER: LOCAL_DRIVERS}, say=say):
        import ray

        available = ray.cluster_resources()
        if options.address and DRIVER not in available:
            raise ConfigError(
                f"--address {options.address}: the cluster has no resource '{DRIVER}'; start its head with "
                f"--resources='{json.dumps({DRIVER: 64})}'"
            )
        if options.address:
            check_memory(plan, trials, shapes, smallest(labelled(available) or in_cluster_file()))
            yield options.max_concurrent
        else:
            # With runs of Ray Train one more than fit: it starts while the others train, and its workers wait.
            ahead = int(any(trial.resources.workers > 1 for trial in trials))
            yield options.max_concurrent or _fits(trials, available) + ahead


def _demand(trial: Trial) -> dict[str, float]:
    """Return the resources a trial's workers take together."""
    runtime = trial.resources
    return {"CPU": runtime.workers * runtime.cpus_per_worker, "GPU": runtime.workers * runtime.gpus_per_worker}


def _fits(trials: Sequence[Trial], available: Mapping[str, float]) -> int:
    """Return how many of the smallest trials run at once. Raises ConfigError for one that can never run."""
    counts = []
    for trial in trials:
        for name, amount in _demand(trial).items():
            if amount > available.get(name, 0):
                raise ConfigError(
                    f"resources: size {trial.size} needs {amount:g} {name}, this machine has "
                    f"{available.get(name, 0):g}; lower it in the grid's resources, or join a cluster with --address"
                )
        counts.append(min(int(available[name] / amount + 1e-9) for name, amount in _demand(trial).items() if amount))
    return max(1, *counts)
