"""What a person sees while a sweep runs: live in a terminal, plain lines elsewhere. Reads the trials' status.json."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.formats import clock_duration, number
from orchestrator.plan.plan import Plan, Trial
from orchestrator.sweep_folder.stopping import may_stop
from sagasr.io.errors import SagasrError
from sagasr.io.states import State
from sagasr.training.trial_log import Status, read_status

WIDTH = 80
SHOWN = 12  # trials listed at once
REFRESH_S = 1.0
LINE_EVERY_S = 30.0  # between two plain lines when nothing ended
SHOWN_STATES = (State.WAITING, State.RUNNING, State.DONE, State.STOPPED, State.FAILED)
PACED = 0.25  # of a training, before a pace is read from it


class View:
    """The state of a sweep, drawn. ``started`` counts only what this run does."""

    def __init__(self, plan: Plan, trials: Sequence[Trial]) -> None:
        self.plan, self.trials = plan, tuple(trials)
        self.started = time.monotonic()
        self.phase = "starting"
        self._may_stop = may_stop(plan.tree["early_stopping"], len(plan.seeds), whole=not plan.is_narrowed)
        self._before = self.statuses()
        self._paced_from: tuple[float, float] | None = None  # time and trainings done when the first one was running
        self._ended: set[str] = set()

    def statuses(self) -> dict[str, Status | None]:
        """Return each trial's status; what is left of an earlier attempt counts as waiting, with its steps."""
        found: dict[str, Status | None] = {}
        for trial in self.trials:
            try:
                found[trial.id] = read_status(self.plan.paths.trial(trial.id))
            except SagasrError:
                found[trial.id] = None
        return found

    def states(self, statuses: Mapping[str, Status | None]) -> dict[str, State]:
        """Return waiting, running or how each ended, as far as this run knows: a status of before counts as none."""
        return {
            name: State.WAITING if status is None or status == self._before[name] else status.state
            for name, status in statuses.items()
        }

    def seconds_left(self, statuses: Mapping[str, Status | None]) -> float | None:
        """Return the time left at the pace since the first training ran, or None before there is a pace."""
        states = self.states(statuses)
        done = sum(
            1.0 if states[name] in (State.FAILED, State.STOPPED) else _share(status)
            for name, status in statuses.items()
        )
        now = time.monotonic()
        if self._paced_from is None:
            if State.RUNNING in states.values():
                self._paced_from = now, done
            return None
        since, before = self._paced_from
        return (now - since) * (len(states) - done) / (done - before) if done - before >= PACED else None

    def headline(self, statuses: Mapping[str, Status | None]) -> str:
        """Return one line: how many trials stand where, and the time left."""
        count = Counter(self.states(statuses).values())
        parts = [f"{count[name]} {name}" for name in SHOWN_STATES if count[name]]
        left = self.seconds_left(statuses)
        parts.append(
            f"about {clock_duration(left)} left"
            if left is not None and count[State.RUNNING]
            else self.phase
            if not count[State.RUNNING]
            else ""
        )
        return f"{self.plan.name}  {clock_duration(time.monotonic() - self.started)}  " + ", ".join(
            part for part in parts if part
        )

    def lines(self) -> Iterator[str]:
        """Yield a plain line for each trial that ended since the last call."""
        statuses = self.statuses()
        states = self.states(statuses)
        for trial in self.trials:
            status = statuses[trial.id]
            if status and trial.id not in self._ended and states[trial.id] not in (State.WAITING, State.RUNNING):
                self._ended.add(trial.id)
                score = f"  val LSD {status.val_lsd:.3f}" if status.val_lsd is not None else ""
                reason = f"  {status.reason}" if status.reason else ""
                where = f"{status.state} at step {status.step}/{status.steps}"
                yield f"{trial.id}  {name_of(trial)}  {where}{score}{reason}"

    def __rich__(self) -> RenderableType:
        statuses = self.statuses()
        table = Table(box=None, pad_edge=False, width=WIDTH)
        table.add_column("trial", no_wrap=True, overflow="ellipsis", ratio=1)
        for title in ("step", "loss", "val LSD"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        order, states = {State.RUNNING: 0, State.FAILED: 1, State.WAITING: 3}, self.states(statuses)
        ranked = sorted(self.trials, key=lambda trial: order.get(states[trial.id], 2))
        for trial in ranked[:SHOWN]:
            status = statuses[trial.id]
            state = states[trial.id]
            table.add_row(
                escape(name_of(trial)),
                f"{status.step}/{status.steps}" if status else "",
                number(status.loss if status else None, ".3f", missing=""),
                number(status.val_lsd if status else None, ".3f", missing=""),
                Text(state, style=state.colour),
            )
        rest = len(self.trials) - SHOWN
        more = [Text(f"… and {rest} more", style="dim")] if rest > 0 else []
        head = Text(self.headline(statuses), style="bold", no_wrap=True, overflow="ellipsis")
        return Group(head, *(Text(line, style="dim") for line in self._may_stop), table, *more)


@contextmanager
def watching(view: View, console: Console) -> Iterator[View]:
    """Show the view while the block runs: redrawn in a terminal, a line per ended trial elsewhere."""
    if console.is_terminal and not console.quiet:
        with Live(view, console=console, refresh_per_second=1 / REFRESH_S, transient=True):
            yield view
        for line in view.lines():
            console.print(escape(line), soft_wrap=True)
        return
    over = threading.Event()
    thread = threading.Thread(target=_print_lines, args=(view, console, over), daemon=True)
    thread.start()
    try:
        yield view
    finally:
        over.set()
        thread.join(5)


def _print_lines(view: View, console: Console, over: threading.Event) -> None:
    last = 0.0
    while True:
        last_round = over.wait(REFRESH_S)
        for line in view.lines():
            console.print(escape(line), soft_wrap=True)
        if time.monotonic() - last > LINE_EVERY_S and not last_round:
            last = time.monotonic()
            console.print(escape(view.headline(view.statuses())), soft_wrap=True)
        if last_round:
            return


def name_of(trial: Trial) -> str:
    """Return what tells a trial from the others of its sweep."""
    return " ".join([*(f"{factor}={level}" for factor, level in trial.levels.items()), f"seed={trial.seed}"])


def _share(status: Status | None) -> float:
    return min(1.0, status.step / status.steps) if status and status.steps else 0.0
