"""Sweeps that are killed on purpose, many times a minute: one process imports all once and forks a child per attempt.

A child does what a sweep does, in one process and without Ray: lease, ledger, training, scores, tracking, tables. A
seeded schedule of ``sagasr.io.failpoints`` kills it at a point; the next child goes on with what lies on the disk.
``main`` prints what was found as JSON, so that the test and the benchmark read the same numbers.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests import small

STEPS, EVERY, SAVED = 6, 3, 2
SETTINGS = {
    "training.steps": STEPS,
    "training.learning_rate": 1e-3,
    "validation.every": EVERY,
    "validation.clips": 1,
    "evaluation.sampler.steps": 1,
}


def write_grid(folder: Path, settings: Mapping[str, Any] = SETTINGS, **keys: Any) -> Path:
    """Write a grid of two trainings with two variants each; return its path."""
    kept = {"default": {"checkpoint_every": SAVED}}
    fixed = {"name": "chaos", "seeds": [0], "early_stopping": {"policy": "none"}, "resources": kept}
    return small.write_grid(folder, settings, **(fixed | keys))


def plan_of(grid: Path, storage: Path | str) -> Any:
    """Return the plan of a grid whose storage is a folder or a bucket."""
    from orchestrator.grid.read import read_space
    from orchestrator.plan.plan import make_plan

    return make_plan(read_space(grid, storage=str(storage)))


def tables(plan: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a sweep's tables, without what differs from one run to the next."""
    import pyarrow.parquet as pq

    from orchestrator.sweep_folder.columns import VOLATILE

    found = {}
    for name in ("replicates", "clips", "curves", "references"):
        table = pq.read_table(plan.paths.table(name))
        found[name] = table.drop_columns([column for column in VOLATILE if column in table.column_names]).to_pylist()
    return found


def sweep(grid: Path, storage: Path, tracked: bool = True) -> None:
    """Run what the sweep still lacks, one trial after the other, in this process."""
    from orchestrator.plan.ledger import one_writer, record, scan
    from orchestrator.plan.plan import write_plan
    from orchestrator.run.results import collect
    from orchestrator.run.watchdog import only_writer
    from orchestrator.run.worker import encode
    from orchestrator.tracking.tracker import Tracker
    from sagasr.training.harness import Harness
    from sagasr.training.train import train
    from sagasr.training.trial_log import read_status

    plan = plan_of(grid, storage)
    with one_writer(plan.paths):
        write_plan(plan)
        ledger = scan(plan)
        tracker = Tracker(plan) if tracked else None
        for trial in plan.trials:
            if not ledger.finished(trial):
                record(plan.paths, trial)
                folder = plan.paths.trial(trial.id)
                store = Path(encode(trial.config.model_dump_json(), str(storage / "encoded")))
                before = read_status(folder)
                with only_writer(folder, 5.0) as lease:
                    harness = Harness(attempt=before.attempt + 1 if before else 1, fence=lease.check)
                    variants = {variant.id: variant.evaluation for variant in trial.variants}
                    train(trial.config, folder, store, variants, trial.resources, harness)
            if tracker:
                tracker.sync()
        collect(plan, scan(plan), tracker.run_ids if tracker else {})


def state_of(grid: Path, storage: Path, tracked: bool = True) -> dict[str, Any]:
    """Return all that must not depend on what was survived, by name; hashes of what is large."""
    from orchestrator.sweep_folder.paths import SweptTrial
    from sagasr.training.trial_log import History, read_status

    plan = plan_of(grid, storage)
    found: dict[str, Any] = {}
    for number, trial in enumerate(plan.trials):
        folder = plan.paths.trial(trial.id)
        last = folder / "checkpoints" / f"step-{trial.config.training.steps:08d}"
        # weights, averaged weights, moments and every counter of the training
        found |= {f"{number} {path.name}": _sha256(path) for path in sorted(last.iterdir())}
        found[f"{number} history"] = [{k: v for k, v in one.items() if k != "time"} for one in History(folder)]
        status = read_status(folder)
        found[f"{number} status"] = [status.state, status.step] if status else None
        # A claim outlives its holder, until the next one takes it over; a finished training has no next one.
        claims = {SweptTrial(folder).worker.name, SweptTrial(folder).lease.name}
        litter = [path.name for path in folder.rglob(".*") if path.name not in claims]
        found[f"{number} litter"] = litter
    found |= tables(plan)
    if tracked:
        found["mlflow"] = _runs(plan)
    return found


def _runs(plan: Any) -> dict[str, Any]:
    """Return, by replicate, the metric points in MLflow; a second run of one or a point twice shows as a difference."""
    from orchestrator.tracking.client import connect

    client = connect(plan.tracking_uri)
    experiment = client.get_experiment_by_name(plan.name).experiment_id
    runs = [run for run in client.search_runs([experiment]) if "sagasr.replicate" in run.data.tags]
    found: dict[str, Any] = {"runs": sorted(run.data.tags["sagasr.replicate"] for run in runs)}
    for run in runs:
        for name in run.data.metrics:
            if not name.endswith("seconds") and not name.startswith("system/"):  # what a clock or the machine says
                points = client.get_metric_history(run.info.run_id, name)
                found[f"{run.data.tags['sagasr.replicate']} {name}"] = sorted((one.step, one.value) for one in points)
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -------------------------------------------------------------------------------------------------------------- forking


def forked(work: Callable[[], Any], timeout_s: float = 120.0) -> tuple[int, Any]:
    """Run ``work`` in a child; return its wait status and, when it ended well, what it returned (as JSON)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            answer = json.dumps(work()).encode()
            with os.fdopen(writing, "wb") as out:
                out.write(answer)
            code = 0
        except BaseException:  # noqa: BLE001 - the child must never return into the parent's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as handle:
        text = handle.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(text) if text else None


class Toy:
    """A toy sweep, its undisturbed outcome, and what copies start with: the schema of an empty MLflow database."""

    def __init__(self, root: Path, tracked: bool = True, **changes: Any) -> None:
        self.root, self.tracked = root, tracked
        self.grid = write_grid(root / "study", **changes)
        self.template = root / "template"
        self.template.mkdir()
        if tracked:
            self._prepare_database()
        sweep(self.grid, self.fresh("warm"), tracked)  # imports, once, what is imported late
        trace = root / "trace.txt"
        calm = self.fresh("calm")
        began = time.monotonic()
        assert self.attempt(calm, [], trace) == 0, "the calm sweep failed"
        self.seconds = time.monotonic() - began
        self.calm = self.state(calm)
        self.points = trace.read_text().split()

    def _prepare_database(self) -> None:
        def work() -> None:
            from orchestrator.tracking.client import connect

            connect(f"sqlite:///{self.template / 'mlflow.db'}").search_experiments()

        assert forked(work)[0] == 0

    def fresh(self, name: str) -> Path:
        """Return the storage of a sweep that has not begun."""
        shutil.rmtree(self.root / name, ignore_errors=True)
        shutil.copytree(self.template, self.root / name)
        return self.root / name

    def attempt(self, storage: Path, schedule: list[dict[str, Any]], trace: Path | None = None) -> int:
        """Run the sweep in a child under a schedule; return its exit code, negative for the signal that ended it."""
        from sagasr.io import failpoints as faults

        def work() -> None:
            faults.arm(schedule, str(trace) if trace else None)
            sweep(self.grid, storage, self.tracked)

        status, _ = forked(work)
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def state(self, storage: Path) -> dict[str, Any]:
        """Return the outcome of a sweep that has ended."""
        status, found = forked(lambda: state_of(self.grid, storage, self.tracked))
        assert status == 0, "the outcome cannot be read"
        return dict(found)

    def finished(self, storage: Path) -> tuple[list[str], float]:
        """Go on undisturbed to the end; return what differs from the calm sweep, and the seconds it took."""

        def work() -> dict[str, Any]:
            sweep(self.grid, storage, self.tracked)
            return state_of(self.grid, storage, self.tracked)

        began = time.monotonic()
        status, found = forked(work)
        if status != 0:
            return ["it could not go on"], time.monotonic() - began
        differs = sorted(key for key in self.calm.keys() | found.keys() if self.calm.get(key) != found.get(key))
        told = [f"{key}: {found[key]}" if key.endswith("litter") else key for key in differs]
        return told, time.monotonic() - began


def at_every_point(toy: Toy, kind: str = "kill") -> dict[str, Any]:
    """Strike at every point that the calm sweep passes, in turn; go on and compare.

    A file is renamed right after it was written: of the two, every other time the one and every other time the other.
    Signs of life are written by the clock, so a sweep may end a few points before the calm one did: nothing is struck
    beyond its end.
    """
    struck: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    faults: list[str] = []
    slowest = 0.0
    for visit, name in enumerate(toy.points, 1):
        passed[name] += 1
        if name in ("file.written", "file.renamed") and passed[name] % 2 == (name == "file.renamed"):
            continue
        storage = toy.fresh("struck")
        code = toy.attempt(storage, [{"point": "*", "visit": visit, "do": kind}])
        if code == 0:
            assert visit > 0.9 * len(toy.points), f"{kind} at visit {visit} ({name}) did not end the sweep"
            continue
        struck[name] += 1
        differs, seconds = toy.finished(storage)
        if differs:
            faults.append(f"{kind} at {name} (visit {visit}): {differs}")
        slowest = max(slowest, seconds)
    return {"strikes": struck.total(), "points": dict(struck), "faults": faults, "slowest_resume_s": round(slowest, 2)}


def at_random(toy: Toy, kills: int, seed: int) -> dict[str, Any]:
    """Kill sweeps at random points, attempt after attempt, until so many kills have struck; compare each at its end."""
    rng = random.Random(seed)
    struck, sweeps = 0, 0
    faults: list[str] = []
    attempts: list[int] = []
    while struck < kills:
        storage, sweeps, tries = toy.fresh("random"), sweeps + 1, 1
        while tries < 40 and toy.attempt(storage, [{"point": "*", "visit": rng.randint(1, 80), "do": "kill"}]) != 0:
            struck, tries = struck + 1, tries + 1
        attempts.append(tries)
        if differs := toy.finished(storage)[0]:
            faults.append(f"sweep {sweeps} after {tries} attempts: {differs}")
    return {"kills": struck, "sweeps": sweeps, "most_attempts": max(attempts), "faults": faults}


def import_all() -> None:
    """Import what every attempt needs, once; one thread, so that a fork is whole."""
    import lightning.pytorch  # noqa: F401
    import mlflow  # noqa: F401
    import torch

    import orchestrator.run.results  # noqa: F401
    import sagasr.training.train  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every-point", action="store_true")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import_all()
    began = time.monotonic()
    found: dict[str, Any] = {}
    if options.every_point:
        found["every_point"] = at_every_point(
            Toy(options.folder / "one", tracked=False, factors={"lfr": ["off", "hard"]})
        )
    if options.kills:
        found["random"] = at_random(Toy(options.folder / "two"), options.kills, options.seed)
    found["seconds"] = round(time.monotonic() - began, 1)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
