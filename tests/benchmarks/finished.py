# ruff: noqa: T201
"""How long ``sagasr-sweep GRID`` takes where nothing is left to do and the tracking server is down.

    python -m tests.benchmarks.finished [--cells 40] [--seeds 25]

One training is run; its files, with scores of their own, then stand for every other: as many trainings as replicates,
the most that there can be to look at. The tracking server is a port on which nothing listens. The resume decision is
made when the command says what is left to do; what follows brings tables, page and tracking up to date.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import record
from orchestrator.plan.plan import Plan, make_plan
from sagasr.io.files import write_whole
from tests.orchestrator.run import chaos
from tests.processes import free_port

TARGET_S = 5.0  # of the decision, for 1,000 replicates on two idle cores
STEPS, EVERY = 100, 20
DECIDED = "Nothing is left to do."
# The command; it says on its standard error what processor time it had taken when it knew, and what it loaded.
COMMAND = f"""
import sys, time
from rich.console import Console
from orchestrator.cli.sweep import sweep
say = Console.print
def told(console, *words, **options):
    if words == ({DECIDED!r},):
        print("decided", time.process_time(), file=sys.stderr, flush=True)
    say(console, *words, **options)
Console.print = told
code = sweep()
print("loaded", *sorted({{"ray", "torch", "mlflow"}} & sys.modules.keys()), file=sys.stderr)
sys.exit(code)
"""


class Took(NamedTuple):
    """Seconds by the clock, and of processor time, until the decision and to the end; what was loaded."""

    decided: float
    decided_cpu: float
    ended: float
    ended_cpu: float
    loaded: str


def study(folder: Path, cells: int, seeds: int) -> Path:
    """Write a grid of so many cells, a multiple of 4, each with a training of its own."""
    rates = {f"rate{number}": {"training.learning_rate": 1e-3 / (number + 1)} for number in range(cells // 4)}
    levels = {"text": ["off", "caption"], "rolloff": ["off", "on"], "rate": {"baseline": "rate0", "levels": rates}}
    return chaos.write_grid(folder, factors=levels, seeds=list(range(seeds)))


def plan_of(grid: Path, storage: Path) -> Plan:
    settings = {"training.steps": STEPS, "validation.every": EVERY}
    return make_plan(read_space(grid, storage=str(storage), settings=settings))


def finish(plan: Plan) -> None:
    """Train the first trial of a plan, and let its files stand for all others."""
    first, *others = plan.trials
    status, _ = chaos.forked(lambda: train(plan))  # so that this process stays without torch
    assert status == 0
    variant = first.variants[0].id
    scores = pq.read_table(plan.paths.of(first.id).scores(variant))
    place = scores.column_names.index("lsd")
    for number, trial in enumerate(others):
        shutil.copytree(plan.paths.trial(first.id), plan.paths.trial(trial.id), copy_function=os.link)
        own = scores.set_column(place, "lsd", pa.array([1 + (number * 37 % 100) / 1_000] * len(scores)))
        write_whole(plan.paths.of(trial.id).scores(variant), lambda path, own=own: pq.write_table(own, path))
        record(plan.paths, trial)


def train(plan: Plan) -> None:
    from orchestrator.run.worker import encode
    from sagasr.training.train import train

    trial = plan.trials[0]
    record(plan.paths, trial)
    store = Path(encode(trial.config.model_dump_json(), str(plan.folder.parent / "encoded")))
    variants = {variant.id: variant.evaluation for variant in trial.variants}
    train(trial.config, plan.paths.trial(trial.id), store, variants, trial.resources)


def command(grid: Path, storage: Path, *more: str) -> Took:
    """Give the command for a finished grid, with the tracking server down; return what it took."""
    words = [str(grid), "--storage", str(storage), "--tracking-uri", f"http://127.0.0.1:{free_port()}"]
    words += ["--set", f"training.steps={STEPS}", "--set", f"validation.every={EVERY}", *more]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines, decided = [], 0.0
    for line in process.stderr:
        decided = time.monotonic() - began if line.startswith("decided ") else decided
        lines.append(line)
    assert process.wait() == 0, "".join(lines)
    ended, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("decided ", "loaded"))}
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(decided, float(told["decided"][0]), ended, cpu, ", ".join(told["loaded"]) or "none")


def main() -> None:
    """Print a line for the command, and one for ``--plan``."""
    parser = argparse.ArgumentParser(description="how long nothing takes")
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=25)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grid, storage = study(Path(folder) / "study", options.cells, options.seeds), Path(folder) / "sweeps"
        plan = plan_of(grid, storage)
        finish(plan)
        print(f"{len(plan.replicates):,} finished replicates of as many trainings, tracking server down")
        for name, more in (("sagasr-sweep", ()), ("again", ()), ("--plan", ("--plan",))):
            took = command(grid, storage, *more)
            print(
                f"{name}: decided after {took.decided:.1f} s ({took.decided_cpu:.1f} s of processor time; aim for "
                f"1,000: {TARGET_S:g} s), ended after {took.ended:.1f} s ({took.ended_cpu:.1f} s); "
                f"of ray, torch and mlflow loaded: {took.loaded}",
                flush=True,
            )


if __name__ == "__main__":
    main()
