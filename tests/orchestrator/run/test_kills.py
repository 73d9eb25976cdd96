"""Real sweeps on Ray that lose processes of every kind, each once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.run.chaos_ray import SAVED, STRIKES, STRIKES_ON_PAIR

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(2_400)]

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("workers", "kinds"), [(1, set(STRIKES)), (2, set(STRIKES_ON_PAIR))])
def test_every_kind_of_process_is_killed_and_the_outcome_is_that_of_the_calm_sweep(
    tmp_path: Path, workers: int, kinds: set[str]
) -> None:
    """Each once: of trainings by one worker and of one by two, which no worker outlives."""
    command = [sys.executable, "-m", "tests.orchestrator.run.chaos_ray", str(tmp_path / "lab")]
    command += ["--workers", str(workers), "--kills", str(len(kinds))]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=2_200)
    assert ended.returncode == 0, ended.stderr[-3_000:]
    found = json.loads(ended.stdout)
    assert found["faults"] == []
    assert {struck["kind"] for struck in found["strikes"] if struck["survived"]} == kinds
    assert max(struck["lost"] for struck in found["strikes"]) <= SAVED
