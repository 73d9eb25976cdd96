"""Killed at every point, and at random: nothing is lost, nothing is there twice, every hash is that of the calm run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.chaos import table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]

KILLS = 60
Campaign = Callable[[], dict[str, Any]]


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Campaign]]:
    """Both campaigns, begun at once: each is one process."""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    started = {}
    for name, arguments in (("every_point", ["--every-point"]), ("random", ["--kills", str(KILLS), "--seed", "1"])):
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, str(Path(__file__).with_name("chaos.py")), str(folder), *arguments]
        log = (folder / "log.txt").open("w")
        started[name] = (subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment), folder)

    def result(name: str) -> Campaign:
        def wait() -> dict[str, Any]:
            process, folder = started[name]
            out = process.communicate()[0]
            assert process.returncode == 0, (folder / "log.txt").read_text()[-3_000:]
            return dict(json.loads(out)[name])

        return wait

    yield {name: result(name) for name in started}
    for process, _ in started.values():
        process.kill()
        process.wait()


def test_a_trial_killed_at_every_point_in_turn_ends_as_if_nothing_had_happened(campaigns: dict[str, Campaign]) -> None:
    found = campaigns["every_point"]()
    assert found["faults"] == []
    passed = {"train.step", "train.validate", "train.score", "checkpoint.tensors", "checkpoint.synced"}
    passed |= {"checkpoint.commit", "checkpoint.committed", "checkpoint.prune", "history.append", "history.appended"}
    assert passed | {"file.written", "file.renamed", "lease.acquired"} <= set(found["points"])
    assert found["strikes"] == sum(found["points"].values()) > 80
    assert min(found["points"]["file.written"], found["points"]["file.renamed"]) > 15
    assert found["slowest_resume_s"] < 30


def test_the_table_of_strikes_shows_which_were_not_survived() -> None:
    strike = {"kind": "sweep: SIGKILL", "step": 40, "lost": 3, "seconds": 2.0, "survived": True}
    (row,) = table([strike, strike | {"survived": False}]).splitlines()[2:]
    assert row == "| sweep: SIGKILL | 2 | 1 | 3 | 2.0 |"


def test_sweeps_killed_at_random_lose_and_double_nothing(campaigns: dict[str, Campaign]) -> None:
    found = campaigns["random"]()
    assert found["kills"] >= KILLS
    assert found["faults"] == []  # weights, moments, histories, tables, one MLflow run per replicate, every point once
