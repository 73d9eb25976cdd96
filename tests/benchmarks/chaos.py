"""A thousand kills: ``python -m tests.benchmarks.chaos --kills 1000 --ray 40`` prints what was struck and lost.

Most strike by forks, at every point of a trial in turn and then at random; ``--ray`` more strike the processes of real
sweeps, ``--pair`` more those of trainings by two workers. Whatever differs from the undisturbed sweep is listed, and
makes the exit code 1. The table of tests/README.md alone: ``--kills 0 --ray 14 --pair 4``.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.orchestrator.run import chaos, chaos_ray


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--ray", type=int, default=0)
    parser.add_argument("--pair", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chaos.import_all()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        forks = []
        if options.kills:
            one = chaos.Toy(Path(folder) / "one", tracked=False, factors={"lfr": ["off", "hard"]})
            forks.append(("every point in turn", chaos.at_every_point(one)))
            forks.append(
                ("random points", chaos.at_random(chaos.Toy(Path(folder) / "two"), options.kills, options.seed))
            )
        struck = [
            chaos_ray.campaign(Path(folder) / f"ray-{workers}", chaos_ray.drawn(kills, options.seed, workers), workers)
            for workers, kills in ((1, options.ray), (2, options.pair))
        ]
    for name, found in forks:
        faults += found["faults"]
        short = {key: value for key, value in found.items() if key not in ("faults", "points")}
        sys.stdout.write(f"{name}: {json.dumps(short)}\n")
    faults += [fault for found in struck for fault in found["faults"]]
    strikes = [one for found in struck for one in found["strikes"]]
    nothing = "nothing is lost, nothing is there twice, every hash is that of the calm sweep"
    sys.stdout.write(f"{table(strikes)}\n" + ("\n".join(faults) or nothing) + "\n")
    return 1 if faults else 0


def table(strikes: list[dict[str, Any]]) -> str:
    """Return the Markdown table fault, injected, survived, steps lost (max), seconds to recover (max)."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in strikes:
        by_kind[one["kind"]].append(one)
    lines = ["| fault | injected | survived | steps lost (max) | seconds to recover (max) |", "|---|---|---|---|---|"]
    for kind, ones in by_kind.items():
        lost, seconds = max(one["lost"] for one in ones), max(one["seconds"] for one in ones)
        survived = sum(one["survived"] for one in ones)
        lines.append(f"| {kind} | {len(ones)} | {survived} | {lost} | {seconds:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
