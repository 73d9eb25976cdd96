"""Runs what a plan still lacks: Ray Tune trials, whose drivers start the workers that train.

Ray schedules, starts and stops processes; it remembers nothing for us. Which trials are missing is read from their
folders, each training resumes by itself from its own checkpoints, and what Ray writes is deleted at the end.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from orchestrator.plan.capacity import Resources, in_cluster_file, labelled, most_at_once, of_all_workers, smallest
from orchestrator.plan.cost import Cost, write_estimate
from orchestrator.plan.gpu_memory import check_memory
from orchestrator.plan.ledger import Ledger, lost, one_writer, record, scan
from orchestrator.plan.plan import Options, Plan, Trial, write_plan
from orchestrator.run.encoding import encode_all
from orchestrator.run.launch import Launch
from orchestrator.run.nodes import check_storage
from orchestrator.run.progress import View, watching
from orchestrator.run.ray_session import connected
from orchestrator.run.schedule import Schedule, bring_up_to_date
from orchestrator.run.trial_ends import TrialEnds
from orchestrator.run.tune import run_trials
from orchestrator.sweep_folder.redact import redact
from orchestrator.tracking.runs import environment_tags
from orchestrator.tracking.tracker import Tracker, Undelivered
from sagasr.io.errors import ConfigError, SagasrError, first_line
from sagasr.io.machine import cpus_here
from sagasr.io.signals import interrupting
from sagasr.io.states import State
from sagasr.model.counts import Counts

LOST = "its processes were lost"
DRIVERS = 32  # trials at once on a cluster: with its lane a driver takes three quarters of a gigabyte of the head
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
    with one_writer(plan.paths), plan.storage.held(lost):
        write_plan(plan)
        write_estimate(plan, costs)
        waiting = scan(plan).ahead(plan.selected, held=not plan.is_narrowed)
        tracker = Tracker(plan, tracked(plan), environment_tags())
        tracker.start()
        interrupted = True
        try:
            interrupted = bool(waiting) and _run_waiting(plan, waiting, options, shapes, console)
        finally:
            undelivered = tracker.close(not interrupted, CLOSE_S) if interrupted else tracker.close(complete=True)
            ledger = bring_up_to_date(plan, tracker.run_ids)
    outcome = Outcome(_failed(plan, ledger, interrupted), interrupted, undelivered)
    _tell(plan, outcome, console)
    return outcome


def tracked(plan: Plan) -> list[Trial]:
    """Return the plan's trials with the replicates that are asked for now, or were scored before."""
    asked = {row.id for trial in plan.selected for row in trial.replicates}
    trials = (
        trial.keeping(lambda row: row.id in asked or plan.paths.of(row.trial).scores(row.variant).exists())
        for trial in plan.trials
    )
    return list(filter(None, trials))


def _run_waiting(
    plan: Plan, waiting: Sequence[Trial], options: Options, shapes: Mapping[str, Counts], console: Console
) -> bool:
    """Run the trials; return whether a signal ended the run early."""
    launch, ends, view = Launch(plan), TrialEnds(plan.storage), View(plan, waiting)
    launched: list[Trial] = []

    def say(line: str) -> None:
        _print(console, line)

    try:
        with (
            watching(view, console),
            _finished_or_raise(plan, waiting, say),
            _ray(plan, waiting, options, shapes, say) as concurrent,
            interrupting(),
        ):  # after Ray, which sets its own
            try:
                if not plan.storage.uri:
                    check_storage(launch.file, launch.token)
                _train(plan, waiting, concurrent, launch, ends, view, launched)
            except KeyboardInterrupt:  # handled here, and not outside, as its traceback holds all that Tune holds
                view.phase = "saving"
                console.print("interrupted: running trainings save what they have; once more ends at once")
                launch.halt()
                ends.wait_for_halt(launched, HALT_S)
                raise
    except KeyboardInterrupt:
        ends.settle(launched, State.INTERRUPTED, "interrupted; the same command goes on")
        return True
    else:
        ends.settle(launched, State.FAILED, LOST)
        return False
    finally:
        launch.remove_scratch()


@contextlib.contextmanager
def _finished_or_raise(plan: Plan, waiting: Sequence[Trial], say: Callable[[str], object]) -> Iterator[None]:
    """Take a failure of the block as no more than a line where every trial has its result: how Ray goes down is Ray's.

    Its processes may be gone before it is asked to end them.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SagasrError) or scan(plan).ahead(waiting, held=False):
            raise
        say(f"every trial has its result; then Ray ended with {type(error).__name__}: {first_line(error)}")


def _train(
    plan: Plan,
    waiting: Sequence[Trial],
    concurrent: int,
    launch: Launch,
    ends: TrialEnds,
    view: View,
    launched: list[Trial],
) -> None:
    """Encode the recordings, then run what the schedule hands out; adds to ``launched`` what has begun."""
    whole = {trial.id: trial for trial in plan.trials}

    def begin(trial: Trial) -> None:
        launched.append(trial)
        record(plan.paths, whole[trial.id])
        plan.storage.send(plan.paths.of(trial.id).record)

    def unneeded(trial: Trial) -> None:
        ends.release(trial.id, "no longer needed, as the looks have decided,", launch.token)

    view.phase = "encoding recordings"
    stores, broken = encode_all(plan, waiting)
    for trial in waiting:
        if trial.id in broken:
            begin(trial)
            ends.end(trial.id, State.FAILED, broken[trial.id])
    view.phase = "starting trials"
    ready = [trial for trial in waiting if trial.id in stores]
    tasks = {trial.id: launch.task(trial, stores[trial.id]).model_dump_json() for trial in ready}
    if ready:
        schedule = Schedule(plan, ready, lambda trials: ends.settle(trials, State.FAILED, LOST))
        run_trials(plan, ready, schedule, tasks, concurrent, launch.scratch, ends, begin, unneeded)


@contextlib.contextmanager
def _ray(
    plan: Plan,
    trials: Sequence[Trial],
    options: Options,
    shapes: Mapping[str, Counts],
    say: Callable[[str], object],
) -> Iterator[int]:
    """Join or start Ray for the block; yields how many trials run at once."""
    cpus = max(cpus_here(), *(math.ceil(of_all_workers(trial.resources).cpus) for trial in trials))
    with connected(options.address, cpus, say=say):
        import ray

        from orchestrator.run.lanes import start_exchange

        exchange = start_exchange()  # kept by this process for as long as Ray is  # noqa: F841
        available = ray.cluster_resources()
        if options.address:
            check_memory(plan, trials, shapes, smallest(labelled(available) or in_cluster_file()))
            yield options.max_concurrent or DRIVERS
        else:
            room = Resources(available.get("CPU", 0), available.get("GPU", 0))
            _check_room(trials, room)
            yield options.max_concurrent or most_at_once((trial.resources for trial in trials), room)


def _check_room(trials: Sequence[Trial], room: Resources) -> None:
    """Raise ConfigError for a trial that can never run on this machine."""
    for trial in trials:
        wanted = of_all_workers(trial.resources)
        for name, amount, has in (("CPU", wanted.cpus, room.cpus), ("GPU", wanted.gpus, room.gpus)):
            if amount > has:
                raise ConfigError(
                    f"resources: size {trial.size} needs {amount:g} {name}, this machine has {has:g}; "
                    "lower it in the grid's resources, or join a cluster with --address"
                )


def _failed(plan: Plan, ledger: Ledger, interrupted: bool) -> dict[str, str]:
    """Return why trials have no result, by id; after an interruption, only those that failed before it."""
    entries = [(trial.id, ledger.entries[row.id]) for trial in plan.selected for row in trial.replicates]
    return {
        trial: entry.reason
        for trial, entry in entries
        if not entry.state.settled and (entry.state is State.FAILED or not interrupted)
    }


def _tell(plan: Plan, outcome: Outcome, console: Console) -> None:
    for trial, reason in outcome.failed.items():
        log = plan.paths.of(trial).log()
        _print(console, f"failed: {trial}: {reason}" + (f" (see {log})" if log.exists() else ""))
    undelivered = outcome.undelivered
    if undelivered.replicates:
        _print(
            console,
            f"tracking: {undelivered.replicates} replicates are not (fully) in {redact(plan.tracking_uri)}"
            f"{': ' + undelivered.reason if undelivered.reason else ''}; the same command sends what is missing",
        )
    if outcome.interrupted:
        console.print("interrupted; the same command goes on where this one stopped")


def _print(console: Console, line: str) -> None:
    console.print(escape(line), soft_wrap=True)
