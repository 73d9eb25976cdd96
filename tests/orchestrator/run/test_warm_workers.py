"""A process that trains one trial after the other: each training is what it would be alone, and leaves nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import scan
from orchestrator.plan.plan import make_plan
from orchestrator.run.results import collect
from tests.orchestrator.run import chaos
from tests.orchestrator.run.warm import ROUNDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("warm")
    command = [sys.executable, "-m", "tests.orchestrator.run.warm", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=1_800)
    assert done.returncode == 0, done.stderr[-3_000:]
    return folder, json.loads(done.stdout)


def test_cold_warm_and_much_used_processes_give_the_same_bits(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = trained
    grid = folder / "study" / "grid.yaml"
    states = []
    for name in ("cold", *(f"warm-{number}" for number in range(ROUNDS))):
        plan = make_plan(read_space(grid, storage=str(folder / name)))
        collect(plan, scan(plan))
        states.append(chaos.state_of(grid, folder / name, tracked=False))
    assert any("model" in name or "safetensors" in name for name in states[0])
    assert states == [states[0]] * len(states)


def test_a_training_leaves_nothing_behind_in_its_process(trained: tuple[Path, dict[str, Any]]) -> None:
    _, found = trained
    first, *others = found["held"]
    assert first["threads"] == ["MainThread", "parent"]
    assert first["modules"] == 0
    assert others == [first] * len(others)
    memory = found["memory"]
    assert memory[-1] - memory[1] < 30e6  # of some 600 MB; one training more needs no more


def test_what_is_printed_goes_to_the_log_of_the_trial_that_runs(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = trained
    logs = [path.read_text() for path in sorted(folder.glob("warm-*/chaos/trials/*/log.txt"))]
    assert len(logs) == 2 * ROUNDS
    assert [log.count("--- ") for log in logs] == [1] * len(logs)
    assert len({log.split(" process ")[1].split()[0] for log in logs}) == 1  # they ran in one process
