# ruff: noqa: T201
"""First light: all that has to run once on a GPU before anything else does, in eight minutes, by one command.

    uv run python -m tests.first_light [--out DIR]

Parts, the most important first: versions and flags, the tests in tests/gpu, a training of tiny and of small, the GPU
rows of the benchmarks. Each is a process of its own under a time limit of its own: what hangs costs one part. Without a
GPU the same tests, those of the fake GPU and two trainings of two steps run on the CPU. Needs neither Ray nor MLflow;
tests/gpu/README.md says how to bring packages to a machine without a network.

DIR gets first-light.json, first-light.md (the table) and a log per part. The exit code is 1 if a part failed or could
not run for a missing package; what the eight minutes do not hold is skipped and named.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.first_light.parts import parts_on_cpu, parts_on_gpu, versions
from tests.first_light.running import Outcome, Part, carry_out

ROOT = Path(__file__).parents[2]
TOTAL_S = 480.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts, print the table and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.first_light", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "sweeps" / "first-light", help="folder of the results")
    parser.add_argument(
        "--seconds",
        type=float,
        default=TOTAL_S,
        help=f"time for all parts ({TOTAL_S:g}); each part's limit grows with it",
    )
    options = parser.parse_args(argv)
    out, until = options.out.resolve(), time.monotonic() + options.seconds
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sagasr-first-light-") as scratch:
        outcomes = carry_out(scaled([versions()], options.seconds), out, until)
        facts = outcomes[0].facts or {}
        if not facts.get("gpu"):
            print(
                f"No GPU here ({facts.get('why', outcomes[0].told)}): what can run without runs on the CPU.", flush=True
            )
        parts = parts_on_gpu if facts.get("gpu") else parts_on_cpu
        outcomes += carry_out(scaled(parts(out, Path(scratch)), options.seconds), out, until)
    heading = "" if facts.get("gpu") else "No GPU: nothing below ran on one.\n\n"
    tree = {"gpu": facts.get("gpu"), "date": time.strftime("%Y-%m-%d"), "parts": [it._asdict() for it in outcomes]}
    write(out / "first-light.json", json.dumps(tree, indent=1) + "\n")
    write(out / "first-light.md", heading + table(outcomes))
    print(f"\n{heading}{table(outcomes)}\nEverything is in {out}")
    failed = [it.name for it in outcomes if it.state in ("failed", "missing")]
    if failed:
        print(f"Failed: {', '.join(failed)}")
    return int(bool(failed))


def scaled(parts: Sequence[Part], seconds: float) -> list[Part]:
    """Return parts with the limits that they have when all together may take so many seconds: for slow machines."""
    return [part._replace(limit=part.limit * seconds / TOTAL_S) for part in parts]


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the parts as a table in Markdown."""
    rows = [f"| {it.name} | {it.state} | {it.seconds:.0f} s | {it.told.replace('|', '/')} |" for it in outcomes]
    return "\n".join(["| part | | took | |", "|---|---|---|---|", *rows]) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all; by itself, as the product's packages may be missing."""
    path.with_suffix(".part").write_text(text, encoding="utf-8")
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    sys.exit(main())
