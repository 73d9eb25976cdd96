# ruff: noqa: T201
"""How much faster two machines are than one: the same sweep on clusters of one and of two nodes with one CPU each.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.nodes [STEPS]

Builds a laboratory of network namespaces (root, sshd and rsync needed), starts each cluster as the README says,
and times the sweep's command from its start to its end. Prints one line per cluster, and the ratio.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.plan import make_plan
from orchestrator.space import read_space
from tests.orchestrator.lab import Lab, cluster_file, launcher, missing
from tests.orchestrator.test_sweep import write_grid

SEEDS = [0, 1, 2, 3]  # of two trainings each


def measure(folder: Path, grid: Path, nodes: int, steps: int) -> float:
    """Return the seconds that the sweep takes on so many nodes."""
    with Lab(folder / f"lab-{nodes}") as lab:
        desk, head = lab.add("desk", "10.7.0.1"), lab.add("head", "10.7.0.10")
        workers = [lab.add(f"node{number}", f"10.7.0.{11 + number}") for number in range(nodes)]
        file = str(cluster_file(lab, head, workers))
        launch = [sys.executable, "-m", "orchestrator.cluster"]
        subprocess.run(
            launcher(desk, *launch, "up", file, "--yes", "--no-config-cache"), check=True, capture_output=True
        )
        while not all(worker.run("pgrep", "-f", "raylet/raylet").returncode == 0 for worker in workers):
            time.sleep(1)
        time.sleep(10)  # started is not yet quiet
        storage = folder / f"on-{nodes}"
        sweep = f"sagasr-sweep {grid} --storage {storage} --address auto --set training.steps={steps}"
        started = time.monotonic()
        subprocess.run(launcher(desk, *launch, "exec", file, sweep), check=True, capture_output=True)
        taken = time.monotonic() - started
        subprocess.run(launcher(desk, *launch, "down", file, "--yes"), check=True, capture_output=True)
    hosts = re.findall(r"process \d+ on (\S+)", "".join(log.read_text() for log in storage.glob("*/trials/*/log.txt")))
    print(f"{nodes} nodes: {taken:.0f} s for {len(hosts)} trainings ({', '.join(sorted(set(hosts)))})", flush=True)
    return taken


def main(steps: int = 3_000) -> None:
    """Measure both clusters."""
    if why := missing():
        sys.exit(f"no laboratory here: {why}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = write_grid(folder, seeds=SEEDS, resources={"default": {"checkpoint_every": 1_000}})
        assert len(make_plan(read_space(grid, storage=str(folder))).trials) == 2 * len(SEEDS)
        one, two = (measure(folder, grid, nodes, steps) for nodes in (1, 2))
        print(f"one node / two nodes: {one / two:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
