# ruff: noqa: T201
"""What a sweep costs beside its trainings: cells that do next to nothing, by three ways in one run.

    python -m tests.benchmarks.overhead [--cells 64] [--repeats 1] [--shell-cells 8]

One training step, one validation clip, one sampling step per cell. Ours is ``sagasr-sweep`` with all that it does: the
ledger, the tables, one MLflow run per cell. The peers do the same calls of ``sagasr.training.train.train`` and no
more: a Ray Tune script with a function trainable, and a shell loop over ``sagasr-train``, which is measured on fewer
cells, as it costs the same for each.
"""

import argparse
import contextlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan
from sagasr.io.files import dump_yaml, read_yaml
from sagasr.training.trial_log import History, read_status
from tests.orchestrator.run import chaos

ROOT = Path(__file__).parents[2]
ACCOUNTS = Path("/sys/fs/cgroup/cpuacct")  # which add up the processor time of a command and all that it starts
NOTHING = {
    "training": {"steps": 1, "batch_size": 1},
    "validation": {"every": 1, "clips": 1, "segment": 8192},
    "evaluation": {"sampler": {"steps": 1}},
}
SWEEP = "import sys; from orchestrator.cli.sweep import sweep; sys.exit(sweep())"
TRAIN = "import sys; from sagasr.cli.train import train; sys.exit(train())"
PEER = """\
import sys
from pathlib import Path
import ray
from ray import tune
from sagasr.cli.train import read
from sagasr.data.encode import encode_store

base, out, cells = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), int(sys.argv[3])
store = encode_store(read(base), out / "encoded")

def trainable(cell):
    from sagasr.training.train import train
    config = read(base, [f"seed={cell['seed']}"])
    result = train(config, out / "trials" / str(cell["seed"]), store)
    tune.report({"step": result.step})

ray.init(address="local", include_dashboard=False, log_to_driver=False)
tuner = tune.Tuner(
    tune.with_resources(trainable, {"cpu": 1}),
    param_space={"seed": tune.grid_search(list(range(cells)))},
    run_config=tune.RunConfig(name="peer", storage_path=str(out / "ray"), verbose=0),
)
assert not tuner.fit().errors
"""


class Cost(NamedTuple):
    """Seconds by the clock, and of processor time of all processes that a command has started."""

    wall: float
    cpu: float


def cost(*words: str) -> Cost:
    """Run Python with these words; return what it took. The processor time is not a number where no cgroup tells it."""
    group = ACCOUNTS / f"sagasr-{os.getpid()}"
    with contextlib.suppress(OSError):
        group.mkdir()
    enter = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs; exec "$@"', str(group)] if group.exists() else []
    began, before = time.monotonic(), _used(group)
    fair = os.environ | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}  # no process of the peer's is an `uv run` either
    done = subprocess.run([*enter, sys.executable, *words], capture_output=True, text=True, cwd=ROOT, env=fair)
    assert done.returncode == 0, done.stdout + done.stderr
    found = Cost(time.monotonic() - began, _used(group) - before)
    with contextlib.suppress(OSError):
        group.rmdir()
    return found


def _used(group: Path) -> float:
    try:
        return int((group / "cpuacct.usage").read_text()) / 1e9
    except OSError:
        return math.nan


def study(folder: Path, cells: int) -> Path:
    """Write a grid of so many cells; return its path."""
    grid = chaos.write_grid(folder, factors={"text": ["off", "caption"]}, seeds=list(range(cells // 2)))
    base = read_yaml(folder / "base.yaml") | NOTHING
    (folder / "base.yaml").write_text(dump_yaml(base))
    (folder / "alone.yaml").write_text(dump_yaml(base | {"data": {"train": "manifest.csv", "val": "manifest.csv"}}))
    return grid


def first_steps(grid: Path, storage: Path) -> tuple[list[float], list[float]]:
    """Return the seconds from launch to first step: of each process's first training, and of its later ones.

    The first is launched when the sweep records it, a later one when the training before it has ended.
    """
    plan = make_plan(read_space(grid, storage=str(storage)))
    by_process: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for trial in plan.trials:
        folder = plan.paths.trial(trial.id)
        process = (folder / "log.txt").read_text().split(" process ")[1].split()[0]
        first = min(one["time"] for one in History(folder) if "train/loss" in one["metrics"])
        status = read_status(folder)
        assert status is not None
        by_process[process].append((first, status.updated, plan.paths.of(trial.id).record.stat().st_mtime))
    cold, warm = [], []
    for spans in by_process.values():
        spans.sort()
        first, _, recorded = spans[0]
        cold.append(first - recorded)
        warm += [first - ended for (_, ended, _), (first, _, _) in itertools.pairwise(spans)]
    return cold, warm


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})" if values else "none"


def told(costs: list[Cost], cells: int) -> str:
    """Return what a cell costs by the clock, and in processor time."""
    cpu = statistics.median(one.cpu / cells for one in costs)
    return f"{spread([one.wall / cells for one in costs])}, {cpu:.2f} s of processor time"


def ratio(ones: list[Cost], others: list[Cost], cells: float = 1.0) -> str:
    """Return by how much the ones cost more than the others, for so many times as many cells."""
    wall, cpu = (
        statistics.median(one[number] for one in ones) / cells / statistics.median(other[number] for other in others)
        for number in (0, 1)
    )
    return f"{wall:.2f} by the clock, {cpu:.2f} in processor time"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--shell-cells", type=int, default=8)
    options = parser.parse_args()
    ours: list[Cost] = []
    peer: list[Cost] = []
    shell: list[Cost] = []
    cold: list[float] = []
    warm: list[float] = []
    for number in range(options.repeats):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            grid = study(folder / "study", options.cells)
            alone, script = folder / "study" / "alone.yaml", folder / "peer.py"
            script.write_text(PEER)
            sides: list[tuple[list[Cost], tuple[object, ...]]] = [
                (ours, ("-c", SWEEP, grid, "--storage", folder / "sweeps", "--quiet")),
                (peer, (script, alone, folder / "tune", options.cells)),
            ]
            for costs, words in sides if number % 2 == 0 else sides[::-1]:
                costs.append(cost(*map(str, words)))
            for cell in range(options.shell_cells):
                shell.append(cost("-c", TRAIN, str(alone), "--out", str(folder / f"shell-{cell}")))
            found = first_steps(grid, folder / "sweeps")
            cold, warm = cold + found[0], warm + found[1]
    print(f"{options.cells} cells of one step, {options.repeats} runs; a cell takes, median (least to most):")
    print(f"  sagasr-sweep       {told(ours, options.cells)}")
    print(f"  plain Tune script  {told(peer, options.cells)}")
    print(f"sagasr-sweep / plain Tune script: {ratio(ours, peer)}")
    if shell:
        print(f"  shell loop         {told(shell, 1)} (of {options.shell_cells} cells)")
        print(f"sagasr-sweep / shell loop: {ratio(ours, shell, options.cells)}")
    print(f"launch to first step, first training of a process: {spread(cold)}")
    print(f"launch to first step, later trainings of a process: {spread(warm)}")


if __name__ == "__main__":
    main()
