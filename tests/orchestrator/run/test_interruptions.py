"""Real sweeps on Ray, disturbed: Ctrl-C once and twice, hangs, exceptions, full disks, a lack of processors."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan
from sagasr.training.trial_log import read_status
from tests.orchestrator.run.chaos_ray import (
    HANG_S,
    committed,
    grid_of,
    lab,
    worker_of,
)
from tests.processes import LIMIT_S, SWEEP, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(2_400)]

PATIENT = [sys.executable, "-c", f"import orchestrator.run.sweep as run; run.HALT_S = 1e6; {SWEEP[2]}"]
Faults = Sequence[Mapping[str, object]]


def run(grid: Path, storage: Path, *arguments: str, faults: Faults = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SAGASR_FAULTS": json.dumps(list(faults))} if faults else None
    command = [*SWEEP, str(grid), "--storage", str(storage), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1_800, env=environment)


def test_ctrl_c_saves_once_and_ends_at_once_the_second_time(tmp_path: Path) -> None:
    never = {"default": {"checkpoint_every": 100_000}}  # what is saved was saved by the interruption
    with lab(tmp_path, served=False, resources=never) as here:
        here.start(PATIENT)
        assert here.process is not None
        wait_for(
            lambda: any(one["state"] == "running" and one["step"] > 20 for one in here.statuses().values()),
            "a trial that trains",
        )
        os.killpg(here.process.pid, signal.SIGINT)  # as a terminal does it: to all processes of the sweep
        assert here.process.wait(LIMIT_S) == 130
        ended = {folder: status for folder, status in here.statuses().items() if status["step"]}
        for folder, status in ended.items():
            assert status["state"] == "interrupted", status
            assert status["reason"] == f"interrupted at step {status['step']}; saved at step {status['step']}"
            assert committed(folder) == status["step"]

        folder = next(iter(ended))
        here.start(PATIENT)

        def runs_again() -> bool:
            status = here.statuses()[folder]
            return bool(status["attempt"] == 2 and status["state"] == "running")

        wait_for(runs_again, "a second attempt")
        assert here.statuses()[folder]["resumed"] == ended[folder]["step"]
        worker = worker_of(folder)
        os.kill(worker, signal.SIGSTOP)  # it would be waited for, for ever
        while here.process.poll() is None:  # two that come at once are one
            here.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        with contextlib.suppress(ProcessLookupError):  # Ray may have ended it with all else
            os.kill(worker, signal.SIGKILL)
        assert here.process.returncode == 130
        assert committed(folder) >= ended[folder]["step"]


def test_hangs_exceptions_lack_of_memory_and_full_disks_are_started_again_within_bounds(tmp_path: Path) -> None:
    """Four trials; whichever comes first to a fault meets it, and none costs another its result."""
    grid = grid_of(tmp_path / "study", factors={"text": ["off"]}, seeds=[0, 1, 2, 3])
    shorter = ("--set", "training.steps=120", "--set", "validation.every=60")
    faults = [
        {"point": "train.step", "visit": 30, "do": "hang", "once": str(tmp_path / "hung")},
        {"point": "train.step", "visit": 50, "do": "memory", "once": str(tmp_path / "memory")},
        {"point": "checkpoint.commit", "visit": 2, "do": "enospc", "once": str(tmp_path / "full")},
        {"point": "train.step", "visit": 110, "do": "raise", "once": str(tmp_path / "raised")},
    ]
    ended = run(grid, tmp_path / "sweeps", *shorter, faults=faults)
    folders = sorted((tmp_path / "sweeps" / "chaos" / "trials").iterdir())
    told = "\n".join((folder / "log.txt").read_text() for folder in folders)
    assert ended.returncode == 0, ended.stdout + ended.stderr + told
    statuses = [status for folder in folders if (status := read_status(folder))]
    assert [status.state for status in statuses] == ["done"] * 4
    assert all((tmp_path / name).exists() for name in ("hung", "memory", "full", "raised"))
    assert f"no sign of life for {HANG_S:g} s" in told
    assert "Thread 0x" in told  # where it hung
    assert "MemoryError" in told
    assert "no space left on the disk" in told
    assert "Injected" in told
    assert 2 in {status.micro_batches for status in statuses}


def test_a_trial_that_always_fails_ends_with_its_reason_and_the_others_are_done(tmp_path: Path) -> None:
    levels = {"baseline": "sane", "levels": {"sane": {}, "absurd": {"training.learning_rate": 1e30}}}
    grid = grid_of(tmp_path / "study", factors={"rate": levels})
    shorter = ("--set", "training.steps=40", "--set", "validation.every=20")
    always = [{"point": "train.score", "visit": 1, "do": "raise"}]
    ended = run(grid, tmp_path / "sweeps", *shorter, faults=always)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    folders = sorted((tmp_path / "sweeps" / "chaos" / "trials").iterdir())
    reasons = sorted(status.reason for folder in folders if (status := read_status(folder)))
    assert reasons[0] == "Injected: injected at train.score"
    assert "not finite" in reasons[1]
    assert "Traceback" not in ended.stdout + ended.stderr


def test_small_and_full_trials_that_compete_for_two_processors_never_wait_for_each_other(tmp_path: Path) -> None:
    """A training of two workers gets both processors at once, or neither."""
    sizes = {"baseline": "one", "levels": {"one": {}, "two": {"model.depth": 2}}}
    resources = {"one": {"workers": 1}, "two": {"workers": 2, "sharded": True}}
    grid = grid_of(tmp_path / "study", factors={"size": sizes}, seeds=[0, 1], resources=resources)
    ended = run(grid, tmp_path / "sweeps", "--set", "training.steps=20", "--set", "validation.every=20")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps")))
    assert sorted(trial.resources.workers for trial in plan.trials) == [1, 1, 2, 2]
