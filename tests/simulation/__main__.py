"""Is the analysis as sure as it says? `python -m tests.simulation --replicates 1000` reruns the proof.

The decisions and the estimator that sweeps use meet generated experiments; every rate must land in its band, and the
shortcuts must fail, or this would prove nothing.
"""

import argparse
import sys
from collections.abc import Sequence

from tests.simulation.clips import clip_checks
from tests.simulation.stopping import SCENARIOS, checks, run


def main(argv: Sequence[str] | None = None) -> int:
    """Print every rate beside its band; return 1 when one is outside."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=[*SCENARIOS, "clips"], help="scenarios to run (default: all)")
    arguments = parser.parse_args(argv)
    names = [name for name in SCENARIOS if not arguments.only or name in arguments.only]
    measured = list(checks({name: run(name, arguments.replicates, arguments.seed) for name in names}))
    if not arguments.only or "clips" in arguments.only:
        measured += list(clip_checks(arguments.replicates, arguments.seed))
    for check in measured:
        band = f"{check.low:g} to {check.high:g}"
        sys.stdout.write(f"{'ok ' if check.passed else 'OUT'}  {check.rate:<62} {check.measured:9.2f}   [{band}]\n")
    outside = sum(not check.passed for check in measured)
    sys.stdout.write(f"{len(measured) - outside} of {len(measured)} in their bands\n")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
