"""What is looked at before anything starts refuses what cannot run, and nothing that can."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from orchestrator.grid.read import find_grid, read_space
from orchestrator.plan import capacity
from orchestrator.plan.plan import Options, make_plan
from orchestrator.plan.preflight import DISK_MARGIN, check_tracking, preflight, ready
from sagasr.io.errors import ConfigError

Usage = namedtuple("Usage", "free")


@pytest.fixture
def free(monkeypatch):
    """Return what sets the free bytes of every disk."""
    return lambda count: monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(count))


def test_checkpoints_in_a_bucket_need_no_disk_of_the_head(monkeypatch, tmp_path, free):
    monkeypatch.setenv("SAGASR_CACHE", str(tmp_path))
    settings = {"tracking.uri": "http://127.0.0.1:5000"}
    plan = make_plan(read_space(find_grid("grid"), storage="s3://YOUR-BUCKET/sweeps", settings=settings))
    shapes = preflight(plan.cells, "grid", build=())
    free(200e9)
    ready(plan, plan.trials, shapes, Options(address="auto"))


def test_the_disk_must_hold_two_checkpoints_of_each_trial_and_one_more_of_those_that_run(
    make_grid, tmp_path, free, monkeypatch
):
    alike = {"factors": {"lfr": ["off", "hard"]}, "resources": {"default": {"checkpoint_every": 1}}}
    plan = make_plan(read_space(make_grid(seeds=[0, 1, 2], **alike), storage=str(tmp_path / "sweeps")))
    shapes = preflight(plan.cells, "grid", build=())
    one = max(counts.state_bytes for counts in shapes.values()) * 4 // 5  # gradients, a fifth, are not kept
    monkeypatch.setattr(capacity, "cpus_here", lambda: 2)
    free(DISK_MARGIN + one * (2 * len(plan.trials) + 2 + 1))  # and one for the audio
    ready(plan, plan.trials, shapes, Options())
    free(DISK_MARGIN + one * 2 * len(plan.trials))
    for options in (Options(), Options(max_concurrent=1), Options(address="auto")):
        with pytest.raises(ConfigError, match="needed for checkpoints"):
            ready(plan, plan.trials, shapes, options)


def test_of_a_database_only_the_beginning_is_read(tmp_path, monkeypatch):
    database = tmp_path / "mlflow.db"
    database.write_bytes(b"SQLite format 3\0" + bytes(100))
    monkeypatch.setattr(Path, "read_bytes", None)
    check_tracking(f"sqlite:///{database}", tmp_path)
    database.write_bytes(b"no such thing")
    with pytest.raises(ConfigError, match="no sqlite database"):
        check_tracking(f"sqlite:///{database}", tmp_path)
