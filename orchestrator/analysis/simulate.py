"""Is the analysis as sure as it says? `python -m orchestrator.analysis.simulate --replicates 1000` reruns the proof.

The decisions and the estimator that sweeps use meet generated experiments; every rate must land in its band, and the
shortcuts must fail, or this would prove nothing.
"""

import argparse
import sys
from collections.abc import Sequence

from orchestrator.analysis.simulate_clips import clip_checks
from orchestrator.analysis.simulate_stopping import SCENARIOS, checks, run


def main(argv: Sequence[str] | None = None) -> int:
    """Print every rate beside its band; return 1 when one is outside."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.analysis.simulate", description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=[*SCENARIOS, "clips"], help="scenarios to run (default: all)")
    arguments = parser.parse_args(argv)
    names = [name for name in SCENARIOS if not arguments.only or name in arguments.only]
    found = list(checks({name: run(name, arguments.replicates, arguments.seed) for name in names}))
    if not arguments.only or "clips" in arguments.only:
        found += list(clip_checks(arguments.replicates, arguments.seed))
    for one in found:
        band = f"{one.low:g} to {one.high:g}"
        sys.stdout.write(f"{'ok ' if one.passed else 'OUT'}  {one.what:<62} {one.measured:9.2f}   [{band}]\n")
    outside = sum(not one.passed for one in found)
    sys.stdout.write(f"{len(found) - outside} of {len(found)} in their bands\n")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
