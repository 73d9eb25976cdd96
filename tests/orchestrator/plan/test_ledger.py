"""What is done is read from the trial folders, and what changed is named."""

import json
import subprocess
import sys
import time

import pytest

from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import Entry, one_writer, record, scan
from orchestrator.plan.plan import make_plan
from sagasr.io.errors import DataError
from sagasr.training.trial_log import Status, write_status


@pytest.fixture
def plan(make_grid, tmp_path):
    return make_plan(read_space(make_grid(), storage=str(tmp_path / "sweeps")))


def finish(plan, trial, state="done", scored=True, **status):
    record(plan.paths, trial)
    write_status(plan.paths.trial(trial.id), Status(state=state, **status))
    for variant in trial.variants if scored else ():
        path = plan.paths.of(trial.id).scores(variant.id)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"scores")


def test_an_empty_folder_misses_everything_and_is_not_made(plan):
    assert {entry.state for entry in scan(plan).entries.values()} == {"missing"}
    assert not plan.folder.exists()


def test_each_state_is_read_with_its_reason(plan):
    done, failed, half, unscored = plan.trials
    finish(plan, done)
    finish(plan, failed, "failed", scored=False, reason="loss is NaN at step 3")
    finish(plan, half, "running", scored=False, step=2, steps=4)
    finish(plan, unscored, scored=False)
    entries = scan(plan).entries
    found = [{entries[row.id] for row in trial.replicates} for trial in plan.trials]
    assert found == [
        {Entry("done")},
        {Entry("failed", "loss is NaN at step 3")},
        {Entry("interrupted", "at step 2 of 4")},
        {Entry("missing", "trained, not yet scored")},
    ]
    assert scan(plan).finished(done)
    assert not scan(plan).finished(unscored)


def test_a_new_variant_of_a_finished_training_is_all_that_is_missing(make_grid, tmp_path):
    storage = str(tmp_path / "sweeps")
    before = make_plan(read_space(make_grid(), storage=storage))
    for trial in before.trials:
        finish(before, trial)
    grid = make_grid(factors={"text": ["off", "caption"], "lfr": ["off", "hard", "crossfade"]})
    after = make_plan(read_space(grid, storage=storage))
    entries = scan(after).entries
    missing = {row.cell for row in after.replicates if entries[row.id].state == "missing"}
    assert missing == {"text=off lfr=crossfade", "text=caption lfr=crossfade"}


def test_stale_replicates_name_the_fields_that_changed(make_grid, tmp_path):
    storage = str(tmp_path / "sweeps")
    grid = make_grid()
    before = make_plan(read_space(grid, storage=storage))
    for trial in before.trials:
        finish(before, trial)
    after = make_plan(read_space(grid, storage=storage, settings={"training.steps": 9}))
    assert set(scan(after).entries.values()) == {Entry("stale", "training.steps 4 -> 9")}
    assert not scan(after).left
    (grid.parent / "a.flac").write_bytes((grid.parent / "b.flac").read_bytes())
    assert set(scan(make_plan(read_space(grid, storage=storage))).entries.values()) == {
        Entry("stale", "the training recordings changed")
    }


def test_what_left_the_grid_is_reported_and_kept(make_grid, tmp_path):
    storage = str(tmp_path / "sweeps")
    before = make_plan(read_space(make_grid(), storage=storage))
    for trial in before.trials:
        finish(before, trial)
    after = make_plan(read_space(make_grid(factors={"text": ["off"], "lfr": ["off", "hard"]}), storage=storage))
    ledger = scan(after)
    assert {entry.state for entry in ledger.entries.values()} == {"done"}
    assert [(left.seed, left.levels) for left in ledger.left] == [(0, {"text": "caption"}), (1, {"text": "caption"})]
    assert len(list(before.paths.trials.iterdir())) == 4


def test_a_broken_status_is_a_failure_of_that_trial_alone(plan):
    for trial in plan.trials:
        finish(plan, trial)
    plan.paths.of(plan.trials[0].id).status.write_text('{"state": "do')
    entries = scan(plan).entries
    states = [{entries[row.id].state for row in trial.replicates} for trial in plan.trials]
    assert states == [{"failed"}, {"done"}, {"done"}, {"done"}]
    assert "status.json" in entries[plan.trials[0].replicates[0].id].reason


def test_a_second_writer_is_refused_with_the_owner_named(plan):
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.plan.ledger import one_writer;"
        "from orchestrator.sweep_folder.paths import SweepPaths\n"
        "with one_writer(SweepPaths(Path(sys.argv[1]))): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(plan.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"process {other.pid}"), one_writer(plan.paths):
            pass
    finally:
        other.kill()
        other.communicate()
    with one_writer(plan.paths):  # a dead owner holds nothing
        assert json.loads(plan.paths.lease.read_text())["started"] <= time.time()
    assert not plan.paths.lease.exists()
