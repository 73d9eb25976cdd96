"""What is done, by looking at the disk: the trial folders are the truth, no snapshot of any scheduler is read.

A replicate is done when its training ended and its variant is scored. A trial folder that no trial of the plan claims
is never deleted: where it held a cell that now resolves otherwise, that cell is stale and the changed fields named.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from orchestrator.analysis.taken import read_looks
from orchestrator.paths import SweepPaths
from orchestrator.plan import Plan, Trial
from orchestrator.promotion import HELD, standing
from sagasr.config import leaves
from sagasr.errors import DataError, SagasrError
from sagasr.files import read_json, write_json
from sagasr.journal import Status, read_status

State = Literal["done", "stopped", "missing", "stale", "failed", "interrupted", "not needed", "held"]
FINISHED = ("done", "stopped")
SETTLED = (*FINISHED, "not needed", HELD)  # nothing remains to be done (held: unless it is promoted)


class Entry(NamedTuple):
    """Where a replicate stands; ``reason`` says why it is not simply done or missing."""

    state: State
    reason: str = ""


class Left(NamedTuple):
    """A trial folder that the grid no longer asks for; kept."""

    trial: str
    seed: int
    levels: Mapping[str, str]


class Ledger(NamedTuple):
    entries: Mapping[str, Entry]  # by replicate id
    left: tuple[Left, ...]

    def finished(self, trial: Trial) -> bool:
        """Return whether nothing of a trial remains to be done."""
        return all(self.entries[row.id].state in SETTLED for row in trial.replicates)

    def held(self, trial: Trial) -> bool:
        """Return whether a trial waits for what the others say (`promote`)."""
        return any(self.entries[row.id].state == HELD for row in trial.replicates)


def scan(plan: Plan) -> Ledger:
    """Return where each replicate of the plan stands, and what else lies in its folder.

    Raises DataError when looks.json is there and cannot be read.
    """
    paths, known = plan.paths, {trial.id for trial in plan.trials}
    others = [record for record in _records(paths) if record["id"] not in known]
    before = {(record["seed"], _key(record["levels"])): record for record in others}
    entries: dict[str, Entry] = {}
    spared, why = _spared(plan)
    waiting = standing(plan)
    replaced: set[str] = set()
    for trial in plan.trials:
        status, reason = _status(paths, trial.id)
        old = before.get((trial.seed, _key(trial.levels))) if status is None and not reason else None
        if old:
            replaced.add(old["id"])
        for row in trial.replicates:
            if reason:
                entries[row.id] = Entry("failed", reason)
            elif old:
                entries[row.id] = Entry("stale", "; ".join(changes(old, trial)))
            else:
                scored = paths.scores(trial.id, row.variant).exists()
                entries[row.id] = _entry(status, scored)
            if trial.seed in spared and entries[row.id].state not in FINISHED:
                entries[row.id] = Entry("not needed", why)
            elif row.id in waiting and entries[row.id].state not in FINISHED:
                state, because = waiting[row.id]
                entries[row.id] = Entry("held" if state == HELD else "not needed", because)
    left = tuple(Left(r["id"], r["seed"], r["levels"]) for r in others if r["id"] not in replaced)
    return Ledger(entries, left)


def record(paths: SweepPaths, trial: Trial) -> None:
    """Write what a trial is into its folder, before it starts."""
    write_json(paths.record(trial.id), trial.model_dump(mode="json"))


def changes(old: Mapping[str, Any], trial: Trial) -> list[str]:
    """Return what makes a recorded trial another one than ``trial``, e.g. ``training.steps 600 -> 800``."""
    then, now = (_relevant(config) for config in (old["config"], trial.model_dump(mode="json")["config"]))
    found = [
        f"{key} {_shown(then.get(key))} -> {_shown(now.get(key))}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
    if old.get("data") != trial.data:
        found.append("the recordings changed")
    if old.get("version") != trial.version:
        found.append(f"result version {old.get('version')} -> {trial.version}")
    return found or ["files of frozen weights changed"]


def _spared(plan: Plan) -> tuple[frozenset[int], str]:
    """Return the seeds that are not needed, because the looks had decided before them, and since when."""
    account = read_looks(plan.folder).of(plan.hash) if plan.space.early_stopping.policy == "blocks" else None
    if account is None or not account.stop:
        return frozenset(), ""
    return frozenset(plan.seeds[account.seen :]), account.words


@contextmanager
def one_writer(paths: SweepPaths) -> Iterator[None]:
    """Hold the sweep folder for this process. Raises DataError naming who else writes there."""
    paths.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise DataError(f"{paths.root}: {_owner(paths)}; wait for it, or choose another --storage") from error
    try:
        write_json(paths.owner, {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()})
        yield
    finally:
        paths.owner.unlink(missing_ok=True)
        lock.release()


def _owner(paths: SweepPaths) -> str:
    try:
        owner = read_json(paths.owner)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["started"]))
        return f"another sweep writes here (host {owner['host']}, process {owner['pid']}, since {since})"
    except (SagasrError, KeyError, TypeError):
        return "another sweep writes here"


def _status(paths: SweepPaths, trial: str) -> tuple[Status | None, str]:
    """Return a trial's status and, where its file is broken, why."""
    try:
        return read_status(paths.trial(trial)), ""
    except SagasrError as error:
        return None, str(error)


def _entry(status: Status | None, scored: bool) -> Entry:
    if status is None or status.state == "waiting":
        return Entry("missing")
    match status.state:
        case "done" | "stopped" if scored:
            return Entry(status.state, status.reason)
        case "stopped":
            return Entry("stopped", status.reason)
        case "done":
            return Entry("missing", "trained, not yet scored")
        case "failed":
            return Entry("failed", status.reason)
        case _:
            return Entry("interrupted", status.reason or f"at step {status.step} of {status.steps}")


def _records(paths: SweepPaths) -> Iterator[dict[str, Any]]:
    """Yield what the trial folders say of themselves; folders that say nothing are skipped."""
    for path in sorted(paths.trials.glob("*/trial.json")):
        try:
            found = read_json(path)
        except SagasrError:
            continue
        if isinstance(found, dict) and {"id", "seed", "levels", "config"} <= found.keys():
            yield found


def _key(levels: Mapping[str, str]) -> str:
    return json.dumps(levels, sort_keys=True)


def _relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in leaves(config).items()
        if not key.startswith(("evaluation.", "data.")) and key != "seed"
    }


def _shown(value: Any) -> str:
    return "(absent)" if value is None else str(value)
