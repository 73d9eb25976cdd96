"""Trial folders become tables: one row per replicate, nothing missing turned into a number."""

import pyarrow.parquet as pq
import pytest

from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import record, scan
from orchestrator.plan.plan import make_plan
from orchestrator.run.results import collect
from orchestrator.sweep_folder.columns import VOLATILE
from sagasr.io.errors import StorageError
from sagasr.io.files import write_whole
from sagasr.training.trial_log import Device, History, Status, write_status
from tests.sagasr.io.test_files import only_half_is_copied, without_links


@pytest.fixture
def plan(make_grid, tmp_path):
    return make_plan(read_space(make_grid(seeds=[0]), storage=str(tmp_path / "sweeps")))


def finish(plan, trial, state="done", scored=True, **status):
    folder = plan.paths.trial(trial.id)
    record(plan.paths, trial)
    history = History(folder)
    history.append(2, {"train/loss": 0.5})
    for number, variant in enumerate(trial.variants):
        history.append(4, {"val/lsd": 1.0 + number}, variant=variant.id)
        if scored:
            write_scores(plan.paths.of(trial.id).scores(variant.id), "model", number)
            write_scores(plan.paths.of(trial.id).scores(f"references-{variant.id}"), "low", 5)
            audio = plan.paths.of(trial.id).audio(variant.id) / "a.flac"
            audio.parent.mkdir(parents=True)
            audio.write_bytes(b"prediction %d" % number)
    for kind in ("high", "low") if scored else ():
        path = plan.paths.of(trial.id).audio(kind) / "a.flac"
        path.parent.mkdir(parents=True)
        path.write_bytes(kind.encode())
    write_status(folder, Status(state=state, **({"step": 4, "steps": 4, "updated": 5.0} | status)))


def write_scores(path, subject, level):
    """Two clips; the second has no SI-SDR."""
    import pyarrow as pa

    rows = [
        {"clip": "a", "domain": "speech", "subject": subject, "lsd": 1.0 + level, "si_sdr": 10.0},
        {"clip": "b", "domain": "music", "subject": subject, "lsd": 2.0 + level, "si_sdr": None},
    ]
    write_whole(path, lambda temporary: pq.write_table(pa.Table.from_pylist(rows), temporary))


def table(plan, name):
    return pq.read_table(plan.paths.table(name)).to_pylist()


def test_each_planned_replicate_is_one_row_with_its_factors_and_the_means_over_its_clips(plan):
    first, second = plan.trials
    finish(plan, first, wall_seconds=3.0, devices=[Device(name="NVIDIA L4"), Device(name="NVIDIA H200", attempt=2)])
    collect(plan, scan(plan), {first.replicates[0].id: "run-1"})
    rows = {row["replicate"]: row for row in table(plan, "replicates")}
    assert list(rows) == [row.id for row in plan.replicates]
    for number, replicate in enumerate(first.replicates):
        row = rows[replicate.id]
        assert row["status"] == "done"
        assert {name: row[name] for name in replicate.levels} == dict(replicate.levels)
        assert row["lsd"] == pytest.approx(1.5 + number)
        assert row["si_sdr"] == 10.0  # of the clip where it is defined
        assert row["seam"] is None
        assert row["wall_seconds"] == 3.0
        assert row["device"] == "NVIDIA L4 + NVIDIA H200"
        assert (row["steps"], row["stopped_at_step"]) == (4, None)
    assert rows[first.replicates[0].id]["mlflow_run_id"] == "run-1"
    for replicate in second.replicates:
        assert rows[replicate.id]["status"] == "missing"
        assert rows[replicate.id]["lsd"] is None


def test_a_failed_and_an_early_stopped_training_say_why_and_have_no_scores(plan):
    first, second = plan.trials
    finish(plan, first, "failed", scored=False, reason="training loss is nan at step 2", step=2)
    finish(plan, second, "stopped", scored=False, reason="asha: behind the others at step 2", step=2)
    collect(plan, scan(plan))
    for row in table(plan, "replicates"):
        failed = row["trial"] == first.id
        assert row["status"] == ("failed" if failed else "stopped")
        assert row["reason"].endswith("at step 2")
        assert row["stopped_at_step"] == (None if failed else 2)
        assert row["lsd"] is None


def test_clips_curves_and_references_belong_to_their_replicates(plan):
    first = plan.trials[0]
    finish(plan, first)
    collect(plan, scan(plan))
    assert [(row["replicate"], row["clip"]) for row in table(plan, "clips")] == [
        (replicate.id, clip) for replicate in first.replicates for clip in ("a", "b")
    ]
    for number, replicate in enumerate(first.replicates):
        curves = {(r["metric"], r["step"]): r["value"] for r in table(plan, "curves") if r["replicate"] == replicate.id}
        assert curves == {("train/loss", 2): 0.5, ("val/lsd", 4): 1.0 + number}
    assert {row["subject"] for row in table(plan, "references")} == {"low"}


def test_the_listening_set_is_gathered_by_replicate(plan):
    first = plan.trials[0]
    finish(plan, first)
    collect(plan, scan(plan))
    collect(plan, scan(plan))  # again, over what is there
    for number, replicate in enumerate(first.replicates):
        assert (plan.paths.audio / replicate.id / "a.flac").read_bytes() == b"prediction %d" % number
    assert (plan.paths.audio / "high" / "a.flac").read_bytes() == b"high"
    assert (plan.paths.audio / "low" / "a.flac").read_bytes() == b"low"


def test_tables_of_equal_trainings_are_equal_but_for_times_and_run_ids(plan):
    first = plan.trials[0]
    finish(plan, first, wall_seconds=1.0, started=1.0)
    collect(plan, scan(plan), {first.replicates[0].id: "one"})
    before = pq.read_table(plan.paths.table("replicates"))
    status = Status(state="done", step=4, steps=4, started=9.0, updated=99.0, wall_seconds=8.0, attempt=3)
    write_status(plan.paths.trial(first.id), status)
    collect(plan, scan(plan), {first.replicates[0].id: "two"})
    after = pq.read_table(plan.paths.table("replicates"))
    assert before != after
    assert before.drop_columns(list(VOLATILE)) == after.drop_columns(list(VOLATILE))


def test_a_factor_called_steps_keeps_its_column(make_grid, tmp_path):
    steps = {"baseline": "4", "levels": {"4": {}, "2": {"evaluation.sampler.steps": 3}}}
    plan = make_plan(read_space(make_grid(factors={"steps": steps}, seeds=[0]), storage=str(tmp_path / "sweeps")))
    finish(plan, plan.trials[0])
    collect(plan, scan(plan))
    assert [row["steps"] for row in table(plan, "replicates")] == ["4", "2"]
    assert [row["training_steps"] for row in table(plan, "replicates")] == [4, 4]


def test_audio_of_which_half_was_copied_is_not_taken_for_whole(plan, monkeypatch):
    trial = plan.trials[0]
    finish(plan, trial)
    without_links(monkeypatch)
    with monkeypatch.context() as full:
        only_half_is_copied(full)
        with pytest.raises((OSError, StorageError)):
            collect(plan, scan(plan))
    assert not list(plan.paths.audio.rglob("a.flac"))
    collect(plan, scan(plan))
    row = trial.replicates[0]
    assert (plan.paths.audio / row.id / "a.flac").read_bytes().startswith(b"prediction")
