# ruff: noqa: T201
"""The same small grid on a cluster of one node, and on one of two: how much sooner it is done.

    python -m tests.benchmarks.nodes [--trainings 8] [--steps 600]

Every node has one CPU, and the head, which holds the sweep and the trials' drivers, has none for trainings; all of them
are processes of this machine, so the ratio can only come near 2 where it has two cores with nothing else to do. Printed
are the seconds of the whole command, those from the first step of a training to the end of the last one, and the ratios
of both. The results tables of the two sweeps have to be equal.
"""

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.sweep_folder.columns import VOLATILE
from sagasr.io.files import dump_yaml, read_yaml
from sagasr.training.trial_log import History, read_status
from tests.orchestrator.run import chaos
from tests.processes import SWEEP

STORE_BYTES = 150_000_000
# A busy machine may need more than the 30 s that a node gives its own processes to come up.
NODE = {"object_store_memory": STORE_BYTES, "env_vars": {"RAY_agent_register_timeout_ms": "300000"}}


class Made(NamedTuple):
    """A sweep that has ended: seconds of the command, of its start, and from the first step to the last end."""

    command: float
    start: float
    trainings: float
    at_once: int
    tables: dict[str, Any]


def study(folder: Path, trainings: int, steps: int) -> Path:
    """Write a grid of so many trainings, two levels of a factor by seeds, that all take as long."""
    rate = {"baseline": "high", "levels": {"high": {}, "low": {"training.learning_rate": 1e-4}}}
    grid = chaos.write_grid(folder, factors={"rate": rate}, seeds=list(range(trainings // 2)), resources={})
    base = read_yaml(folder / "base.yaml")
    base["training"]["steps"] = base["validation"]["every"] = steps
    (folder / "base.yaml").write_text(dump_yaml(base))
    return grid


@contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """Start a head without CPUs and so many nodes with one each, for the block; yields the address."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False},
    )
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, **NODE)
        made.wait_for_nodes(timeout=300)
        yield made.address
    finally:
        made.shutdown()


def sweep(grid: Path, storage: Path, nodes: int) -> Made:
    """Run the grid on a cluster of so many nodes."""
    with cluster(nodes) as address:
        words = [str(grid), "--storage", str(storage), "--address", address, "--max-concurrent", str(nodes), "--quiet"]
        began, clock = time.time(), time.monotonic()
        done = subprocess.run([*SWEEP, *words], capture_output=True, text=True)
        seconds = time.monotonic() - clock
        assert done.returncode == 0, done.stdout + done.stderr
    plan = make_plan(read_space(grid, storage=str(storage)))
    spans = [span(plan, trial.id) for trial in plan.trials]
    first = min(start for start, _ in spans)
    at_once = max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)
    return Made(seconds, first - began, max(end for _, end in spans) - first, at_once, tables(plan))


def span(plan: Plan, trial: str) -> tuple[float, float]:
    """Return when a training reached its first record, and when it ended."""
    folder = plan.paths.trial(trial)
    status = read_status(folder)
    assert status is not None
    return min(record["time"] for record in History(folder)), status.updated


def tables(plan: Plan) -> dict[str, Any]:
    found = {}
    for name in ("replicates", "clips", "curves"):
        table = pq.read_table(plan.paths.table(name))
        found[name] = table.drop_columns([column for column in VOLATILE if column in table.column_names]).to_pylist()
    return found


def main() -> int:
    """Print a line per cluster and the ratios; the exit code is 1 where the tables differ."""
    parser = argparse.ArgumentParser(description="two nodes against one")
    parser.add_argument("--trainings", type=int, default=8)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    here = f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"
    print(f"{options.trainings} trainings of {options.steps} steps; {here}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        grid = study(Path(folder) / "study", options.trainings, options.steps)
        made = []
        for nodes in (1, 2):
            one = sweep(grid, Path(folder) / f"nodes-{nodes}", nodes)
            made.append(one)
            print(
                f"{nodes} x 1 CPU: {one.command:.1f} s, of which {one.start:.1f} s until the first step, "
                f"{one.trainings:.1f} s from there to the end of the last training; at once: {one.at_once}",
                flush=True,
            )
    alone, both = made
    same = alone.tables == both.tables
    print(
        f"one node / two nodes: {alone.command / both.command:.2f}, without start and report "
        f"{alone.trainings / both.trainings:.2f}; tables {'equal' if same else 'DIFFER'}"
    )
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
