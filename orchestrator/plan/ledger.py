"""What is done, by looking at the disk: the trial folders are the truth, no snapshot of any scheduler is read.

A replicate is done when its training ended and its variant is scored. A trial folder that no trial of the plan claims
is never deleted: where it held a cell that now resolves otherwise, that cell is stale and the changed fields named.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any, NamedTuple

from orchestrator.plan.plan import Plan, Trial
from orchestrator.plan.promotion import standing
from orchestrator.sweep_folder.json_files import read_looks
from orchestrator.sweep_folder.paths import SweepPaths
from orchestrator.sweep_folder.trial_marks import stop_reason
from sagasr.config.parsing import parse
from sagasr.config.patching import differences, leaves
from sagasr.config.settings import Config
from sagasr.io import lease
from sagasr.io.errors import SagasrError
from sagasr.io.files import read_json, remove_litter, write_json
from sagasr.io.fingerprint import RESULT_VERSION
from sagasr.io.states import State
from sagasr.training.trial_log import Status, read_status


class Entry(NamedTuple):
    """Where a replicate stands; ``reason`` says why it is not simply done or missing."""

    state: State
    reason: str = ""


UNSCORED = Entry(State.MISSING, "trained, not yet scored")


class Left(NamedTuple):
    """A trial folder that the grid no longer asks for; kept."""

    trial: str
    seed: int
    levels: Mapping[str, str]


class Ledger(NamedTuple):
    entries: Mapping[str, Entry]  # by replicate id
    left: tuple[Left, ...]
    trained: frozenset[str]  # ids of trials whose training has ended well, scored or not

    def finished(self, trial: Trial) -> bool:
        """Return whether nothing of a trial remains to be done."""
        return all(self.entries[row.id].state.settled for row in trial.replicates)

    def held(self, trial: Trial) -> bool:
        """Return whether a trial waits for what the others say (`promote`)."""
        return any(self.entries[row.id].state is State.HELD for row in trial.replicates)

    def ahead(self, trials: Iterable[Trial], *, held: bool = True) -> list[Trial]:
        """Return the trials of which something remains to be done, and those that are ``held`` back."""
        return [trial for trial in trials if not self.finished(trial) or (held and self.held(trial))]


def scan(plan: Plan) -> Ledger:
    """Return where each replicate of the plan stands, and what else lies in its folder.

    Raises DataError when looks.json is there and cannot be read.
    """
    paths, known = plan.paths, {trial.id for trial in plan.trials}
    records = list(_records(paths))
    others = [record for record in records if record["id"] not in known]
    own = {record["id"]: record for record in records if record["id"] in known}
    before = {(record["seed"], _key(record["levels"])): record for record in others}
    entries: dict[str, Entry] = {}
    waiting = standing(plan)
    replaced: set[str] = set()
    trained: set[str] = set()
    for trial in plan.trials:
        status, reason = _status(paths, trial.id)
        if status and status.state is State.DONE:
            trained.add(trial.id)
        old = before.get((trial.seed, _key(trial.levels))) if status is None and not reason else None
        if old:
            replaced.add(old["id"])
        for row in trial.replicates:
            if reason:
                entries[row.id] = Entry(State.FAILED, reason)
            elif old:
                entries[row.id] = Entry(State.STALE, "; ".join(changes(old, trial)))
            else:
                scored = paths.of(trial.id).scores(row.variant).exists()
                entries[row.id] = _entry(status, scored)
                if entries[row.id] == UNSCORED and (rescored := rescoring(own.get(trial.id), trial, row.variant)):
                    entries[row.id] = Entry(State.STALE, f"trained; to be scored again: {'; '.join(rescored)}")
            if row.id in waiting and not entries[row.id].state.finished:
                entries[row.id] = Entry(*waiting[row.id])
    left = tuple(Left(r["id"], r["seed"], r["levels"]) for r in others if r["id"] not in replaced)
    return with_spared(plan, Ledger(entries, left, frozenset(trained)))


def with_spared(plan: Plan, ledger: Ledger) -> Ledger:
    """Return the ledger with the replicates of seeds that the looks have made unnecessary, as looks.json stands now."""
    account = read_looks(plan.folder).of(plan.hash) if plan.space.grid.early_stopping.policy == "blocks" else None
    if account is None or not account.stop:
        return ledger
    spared = {
        row.id: Entry(State.NOT_NEEDED, account.words)
        for row in plan.replicates
        if row.seed in plan.seeds[account.seen :] and not ledger.entries[row.id].state.finished
    }
    return ledger._replace(entries={**ledger.entries, **spared})


def record(paths: SweepPaths, trial: Trial) -> None:
    """Write what a trial is into its folder, before it starts."""
    write_json(paths.of(trial.id).record, {**trial.model_dump(mode="json"), "versions": versions()})


def versions() -> dict[str, str]:
    """Return the versions of the libraries whose arithmetic a training is made of."""
    return {name: version(name) for name in ("torch", "numpy", "lightning", "stable-audio-tools")}


def refused(plan: Plan, ledger: Ledger) -> dict[str, list[str]]:
    """Return the changes that no resume lets through in silence, by the word of ``--allow`` that does.

    ``data``: a recording changed under its name; ``code``: another version of the results; ``versions``: an interrupted
    training would go on with other libraries. An edited grid is none of them: what it changes is shown as stale.
    """
    changed: dict[str, list[str]] = {}
    paths = plan.paths
    before = read_json(paths.recordings) if paths.recordings.exists() else {}
    recordings = [path for path, digest in plan.recordings.items() if before.get(path, digest) != digest]
    if recordings:
        changed["data"] = [f"{path}: the recording changed since this sweep began" for path in recordings]
    old = {record["id"]: record for record in _records(paths)}
    known = {trial.id for trial in plan.trials}
    others = {int(record.get("version", RESULT_VERSION)) for name, record in old.items() if name not in known}
    others -= {RESULT_VERSION}
    if others and any(entry.state is State.STALE for entry in ledger.entries.values()):
        changed["code"] = [f"results of version {max(others)} are here, this code makes version {RESULT_VERSION}"]
    now = versions()
    for trial in plan.trials:
        then = old.get(trial.id, {}).get("versions", {})
        other = [f"{name} {then[name]} -> {now.get(name)}" for name in then if then[name] != now.get(name)]
        if other and any(ledger.entries[row.id].state is State.INTERRUPTED for row in trial.replicates):
            changed.setdefault("versions", []).append(f"{trial.id} was begun with other libraries: {', '.join(other)}")
    return changed


def rescoring(old: Mapping[str, Any] | None, trial: Trial, variant: str) -> list[str]:
    """Return why a variant of a finished training is not yet scored, although one of its levels was."""
    wanted = next(scored for scored in trial.variants if scored.id == variant)
    for before in (old or {}).get("variants", ()):
        if before["levels"] == wanted.levels and before["id"] != wanted.id:
            then = {"evaluation": before["evaluation"], "validation": (old or {})["config"]["validation"]}
            settings = {"evaluation": wanted.evaluation, "validation": trial.config.validation}
            now = {section: setting.model_dump(mode="json") for section, setting in settings.items()}
            return differences(leaves(then), leaves(now)) or ["the validation recordings changed"]
    return []


def changes(old: Mapping[str, Any], trial: Trial) -> list[str]:
    """Return what makes a recorded trial another one than ``trial``, e.g. ``training.steps 600 -> 800``."""
    then = old["config"]
    with suppress(SagasrError):  # keys that are newer than the record stand at their defaults
        then = parse(Config, then, "recorded").model_dump(mode="json")
    differing = differences(_relevant(then), _relevant(trial.config.model_dump(mode="json")))
    if old.get("data") != trial.data:
        differing.append("the training recordings changed")
    if old.get("version") != trial.version:
        differing.append(f"result version {old.get('version')} -> {trial.version}")
    return differing or ["files of frozen weights changed"]


@contextmanager
def one_writer(paths: SweepPaths) -> Iterator[None]:
    """Hold the sweep folder for this process. Raises DataError naming who else writes there."""
    with lease.held(paths.lease, say=_say, on_lost=lost):
        for folder in (paths.root, paths.results):
            remove_litter(folder, deep=False)
        yield
        # A finished training is not opened again: what its killed attempt left in the making goes here.
        remove_litter(paths.trials)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def lost() -> None:
    """End this process: its silence made another take the sweep over, whose workers have replaced ours."""
    _say("another sweep has taken this one over; this one ends")
    os._exit(1)


def _status(paths: SweepPaths, trial: str) -> tuple[Status | None, str]:
    """Return a trial's status and, where its file is broken, why."""
    try:
        status = read_status(paths.trial(trial))
    except SagasrError as error:
        return None, str(error)
    if status and not status.state.finished and (why := stop_reason(paths.trial(trial))) is not None:
        status = status.model_copy(update={"state": State.STOPPED, "reason": why})  # decided, and then the sweep died
    return status, ""


def _entry(status: Status | None, scored: bool) -> Entry:
    if status is None or status.state is State.WAITING:
        return Entry(State.MISSING)
    if status.state is State.DONE:
        return Entry(State.DONE, status.reason) if scored else UNSCORED
    if status.state.final:
        return Entry(status.state, status.reason)
    return Entry(State.INTERRUPTED, status.reason or f"at step {status.step} of {status.steps}")


def _records(paths: SweepPaths) -> Iterator[dict[str, Any]]:
    """Yield what the trial folders say of themselves; folders that say nothing are skipped."""
    for path in sorted(paths.trials.glob("*/trial.json")):
        with suppress(SagasrError):
            tree = read_json(path)
            if isinstance(tree, dict) and {"id", "seed", "levels", "config"} <= tree.keys():
                yield tree


def _key(levels: Mapping[str, str]) -> str:
    return json.dumps(levels, sort_keys=True)


def _relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in leaves(config).items()
        if not key.startswith(("evaluation.", "data.", "validation.")) or key == "validation.every"
        if key != "seed"
    }
