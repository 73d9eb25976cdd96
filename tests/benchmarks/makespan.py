# ruff: noqa: T201
"""How long four blocks of unequal trainings take on two places, against a sweep that waits for the end of each block.

    python -m tests.benchmarks.makespan [--sweeps 20]

A simulation: the real schedule hands out the trials of a real plan, and a clock that is only counted says when each
ends. No look decides anything, so that both train the same. Between two blocks the other side waits for the last
training and starts Tune again.
"""

import argparse
import heapq
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import record
from orchestrator.plan.plan import Plan, make_plan, write_plan
from orchestrator.run.schedule import Schedule
from orchestrator.sweep_folder.json_files import blocks
from sagasr.training.trial_log import Status, write_status
from tests.small import write_grid

PLACES = 2
RESTART_S = 30.0  # a new experiment of Tune, measured on two cores
SIZES_S = (60.0, 120.0, 240.0)  # the trainings of a block, before chance
SPREAD = 0.2
TARGET = 0.8

Seconds = Mapping[str, float]  # of each training, by trial


def plan_in(folder: Path) -> Plan:
    """Write a sweep of three cells and five seeds: blocks of two, one, one and one seed."""
    levels = {name: {"training.learning_rate": rate} for name, rate in (("a", 1e-4), ("b", 1e-3), ("c", 1e-2))}
    keys = {
        "factors": {"rate": {"levels": levels, "baseline": "a"}},
        "seeds": list(range(5)),
        "early_stopping": {"delta": 0.05},
    }
    plan = make_plan(read_space(write_grid(folder, {}, **keys), storage=str(folder / "sweeps")))
    write_plan(plan)
    return plan


def drawn(plan: Plan, random_: random.Random) -> Seconds:
    """Return the seconds of each training: by cell, and by chance."""
    sizes = dict(zip("abc", SIZES_S, strict=True))
    return {trial.id: sizes[trial.levels["rate"]] * random_.uniform(1 - SPREAD, 1 + SPREAD) for trial in plan.trials}


def scheduled(plan: Plan, seconds: Seconds) -> float:
    """Return when the last training ends under the schedule."""
    schedule, clock = Schedule(plan, plan.trials), 0.0
    running: list[tuple[float, str]] = []
    while not schedule.over:
        while len(running) < PLACES and (trial := schedule.take()):
            heapq.heappush(running, (clock + seconds[trial.id], trial.id))
        clock, ended = heapq.heappop(running)
        record(plan.paths, next(trial for trial in plan.trials if trial.id == ended))
        write_status(plan.paths.trial(ended), Status(state="failed", step=1, steps=1, updated=1.0, reason="simulated"))
        schedule.end(ended)
    return clock


def one_by_one(plan: Plan, seconds: Seconds) -> float:
    """Return when the last training ends if each block waits for the one before, and starts Tune anew."""
    total = 0.0
    for number, seeds in enumerate(blocks(plan.seeds)):
        total += RESTART_S * bool(number) + packed([seconds[trial.id] for trial in plan.trials if trial.seed in seeds])
    return total


def packed(durations: Sequence[float]) -> float:
    """Return when the last of these trainings ends on the places."""
    places = [0.0] * PLACES
    for duration in durations:
        heapq.heapreplace(places, places[0] + duration)
    return max(places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=20, help="durations are drawn anew for each (default: 20)")
    ratios = []
    for number in range(parser.parse_args().sweeps):
        with tempfile.TemporaryDirectory() as folder:
            plan = plan_in(Path(folder))
            seconds = drawn(plan, random.Random(number))
            ratios.append(scheduled(plan, seconds) / one_by_one(plan, seconds))
    print(f"makespan against a wait after each block: median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}")
    print(f"goal {TARGET}: {'reached' if statistics.median(ratios) <= TARGET else 'missed'}")


if __name__ == "__main__":
    main()
