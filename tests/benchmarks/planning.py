# ruff: noqa: T201
"""How long ``sagasr-sweep GRID --plan`` takes for 1,000 and 10,000 cells: the whole command, from its start to its end.

    python -m tests.benchmarks.planning [--cells 1000 10000] [--json]

The grid stands on a shipped base, with nine models and real recordings. Wall seconds hold on an idle machine only;
processor seconds are printed beside them.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from sagasr.io.files import dump_yaml

TARGETS = {1_000: 2.0, 10_000: 20.0}  # seconds
COMMAND = "import sys; from orchestrator.cli.sweep import sweep; sys.exit(sweep())"


class Planned(NamedTuple):
    """What one command took. ``peak``: bytes of memory."""

    cells: int
    wall: float
    processor: float
    peak: int


def write_grid(path: Path, cells: int) -> None:
    """Write a grid of so many cells, a multiple of 200: factors of every stage, nine models."""
    widths = {
        f"{width}x{depth}": {"model": {"embed_dim": width, "depth": depth}} for width in (128, 256) for depth in (1, 2)
    }
    rates = {f"rate{number}": {"training.learning_rate": 1e-3 / (number + 1)} for number in range(cells // 200)}
    grid = {
        "name": "many",
        "base": "tiny.yaml",
        "data": {"train": "shipped", "val": "shipped"},
        "factors": {
            "text": ["off", "caption"],
            "rolloff": ["off", "on"],
            "width": {"baseline": "128x1", "levels": widths | {"64x1": {"model.embed_dim": 64, "model.cond_dim": 64}}},
            "rate": {"baseline": "rate0", "levels": rates},
            "steps": ["4", "8", "16", "32", "64"],
            "lfr": ["off", "hard"],
        },
        "seeds": [0],
        "storage": str(path.parent / "sweeps"),
    }
    path.write_text(dump_yaml(grid))


def plan(cells: int, option: str = "--plan") -> Planned:
    """Return what the command takes for a grid of so many cells."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.yaml"
        write_grid(grid, cells)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        words = [sys.executable, "-c", COMMAND, str(grid), option]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert f"{cells} cells" in done.stdout or option == "--json", done.stdout
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Planned(cells, wall, processor, 1_024 * after.ru_maxrss)


def main() -> None:
    """Print a line per number of cells."""
    parser = argparse.ArgumentParser(description="how long planning takes")
    parser.add_argument("--cells", type=int, nargs="+", default=list(TARGETS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for cells in options.cells:
        took = plan(cells, "--json" if options.json else "--plan")
        target = f" (aim: {TARGETS[cells]:g} s)" if cells in TARGETS else ""
        print(
            f"{took.cells:,} cells: {took.wall:.2f} s wall, {took.processor:.2f} s of processor time{target}, "
            f"{took.peak / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
