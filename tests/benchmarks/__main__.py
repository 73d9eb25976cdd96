# ruff: noqa: T201
"""Every speed that tests/README.md states, measured against its peer in one run, on the same data.

    OMP_NUM_THREADS=1 uv run python -m tests.benchmarks [NAME ...] [--quick]

Commands of their own are ``tests.benchmarks.planning`` (plans of 1,000 and 10,000 cells), ``finished`` (a sweep that
has nothing left to do), ``overhead`` (sweeps of cells that do nothing), ``nodes`` (two nodes against one),
``makespan`` (blocks without a wait), ``report`` and ``chaos``.

Without names all rows run (about ten minutes of processor time); ``gpu`` names all that want a GPU. Each runs in a
process of its own: what one side does to its process is not carried into the next row. A row whose two sides do not
give the same is void.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch

from tests.benchmarks import data
from tests.benchmarks.measure import Row, spread
from tests.benchmarks.rows import ENTRIES, Entry

COLUMNS = ("row", "ours", "peer", "peer's time / ours", "x floor", "same result")
GPU = "gpu"  # the name of all rows that want one
PACKAGES = ("torch", "lightning", "stable-audio-tools", "ema-pytorch", "librosa", "numpy", "scipy")


def main() -> int:
    """Print the table; the exit code is 1 if a row is void, 2 for a name that no row has."""
    names = [GPU, *(entry.name for entry in ENTRIES)]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="small sizes, for a check that everything runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine() + "; quick: sizes too small for the figures to mean much" * options.quick, end="\n\n", flush=True)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="sagasr-benchmark-") as scratch:
        for entry in chosen(options.names):
            rows.append(run(entry, options.quick, scratch))
            print(line(entry, rows[-1]), flush=True)
    return int(any(row is not None and not row.holds for row in rows))


def chosen(names: list[str]) -> list[Entry]:
    """Return the rows of these names, or all without any."""
    on_gpu = GPU in names
    return [it for it in ENTRIES if not names or it.name in names or (on_gpu and it.needs == "cuda")]


def run(entry: Entry, quick: bool, scratch: str) -> Row | None:
    """Return a row, measured in a new process; None where its device is missing."""
    if entry.needs == "cuda" and not torch.cuda.is_available():
        return None
    # A fork has neither the GPU nor the threads of OpenMP that its parent has used.
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=data.work_in, initargs=(scratch,)
    ) as pool:
        return pool.submit(entry.run, quick).result()


def line(entry: Entry, row: Row | None) -> str:
    """Return a row of the table."""
    title = f"`{entry.name}` {entry.what}"
    if row is None:
        return f"| {title} | not run: no GPU | {entry.peer} | | | |"
    ratios = row.ratios
    ratio = f"**{statistics.median(ratios):.3g}** ({ratios[0]:.3g}-{ratios[-1]:.3g})"
    floor = f"{statistics.median(row.ours) / row.floor:.2f}" if row.floor else ""
    quality = row.quality if row.holds else f"VOID: {row.quality}"
    ours, theirs = (f"{spread(values)} / {row.unit}" for values in (row.ours, row.theirs))
    return f"| {title} | {ours} | {entry.peer}: {theirs} | {ratio} | {floor} | {quality} |"


def machine() -> str:
    """Return on what, and with what, this was measured."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [found for found in info.read_text().splitlines() if found.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"one thread of {model}"
    load = f", load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    return f"{device}{load}; " + ", ".join(f"{name} {version(name)}" for name in PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
