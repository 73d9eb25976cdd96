"""MLflow follows the trial folders: read back through its own client, on a real sqlite file."""

import os
import shutil
import threading
from collections import OrderedDict
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan, write_plan
from orchestrator.tracking.client import check_server, connect
from orchestrator.tracking.points import Offsets
from orchestrator.tracking.tracker import Tracker
from sagasr.io.errors import ConfigError
from sagasr.training.trial_log import Device, History
from tests.orchestrator.journals import curve, journal, runs_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """An MLflow sqlite file, made once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def plan(make_grid, tmp_path, empty_database):
    (tmp_path / "sweeps").mkdir()
    shutil.copy(empty_database, tmp_path / "sweeps" / "mlflow.db")
    made = make_plan(read_space(make_grid(seeds=[0]), storage=str(tmp_path / "sweeps")))
    write_plan(made)
    return made


def test_every_replicate_has_one_run_with_its_factors_its_scores_and_the_training_it_shares(plan):
    for trial in plan.trials:
        journal(plan, trial, 8, "done")
    Tracker(plan).sync()
    client, runs, parents = runs_of(plan)
    assert len(parents) == 1
    assert set(runs) == {row.id for row in plan.replicates}
    for trial in plan.trials:
        for number, row in enumerate(trial.replicates):
            run = runs[row.id]
            assert run.data.params.items() >= {**row.levels, "seed": "0"}.items()
            assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
            assert run.info.status == "FINISHED"
            assert [step for step, *_ in curve(client, run, "train/loss")] == list(range(1, 9))
            expected = [(step, 3 - step / 10 + number) for step in (2, 4, 6, 8)]
            assert [(step, pytest.approx(value)) for step, value, _ in curve(client, run, "val/lsd")] == expected
            assert run.data.metrics["lsd"] == pytest.approx(2.2 + number)
            names = [file.path for file in client.list_artifacts(run.info.run_id)]
            assert "config.json" in names


@pytest.mark.parametrize("place", ["moved", "100% sure?"])
def test_a_moved_storage_keeps_its_files_where_it_now_lies(plan, make_grid, tmp_path, monkeypatch, place):
    journal(plan, plan.trials[0], 8, "done")
    Tracker(plan).sync()
    there = tmp_path / place
    (tmp_path / "sweeps").rename(there)
    known = "mlflow.tracking._tracking_service.utils._artifact_repos_cache"  # of this process; the next has its own
    monkeypatch.setattr(known, OrderedDict())
    moved = make_plan(read_space(make_grid(seeds=[0]), storage=str(there)))
    journal(moved, moved.trials[1], 8, "done")
    Tracker(moved).sync()
    assert not (tmp_path / "sweeps").exists()
    client, runs, _ = runs_of(moved)
    assert set(runs) == {row.id for trial in moved.trials[:2] for row in trial.replicates}
    for run in runs.values():
        assert "config.json" in [file.path for file in client.list_artifacts(run.info.run_id)]


@pytest.mark.parametrize("forgotten", [False, True], ids=["offsets kept", "offsets lost"])
def test_sending_twice_adds_nothing(plan, forgotten):
    trial = plan.trials[0]
    journal(plan, trial, 8, "done")
    Tracker(plan).sync()
    client, before, _ = runs_of(plan)
    if forgotten:
        (plan.folder / ".tracking.json").unlink()
    Tracker(plan).sync()
    _, after, parents = runs_of(plan)
    assert len(parents) == 1
    assert set(before) == set(after)
    for name in ("train/loss", "val/lsd", "lsd"):
        for row in trial.replicates:
            points = curve(client, after[row.id], name)
            assert len(points) == len(set(points)) == {"train/loss": 8, "val/lsd": 4, "lsd": 1}[name]


def test_steps_behind_the_last_checkpoint_are_sent_only_once_they_are_final(plan):
    trial = plan.trials[0]
    folder = plan.paths.trial(trial.id)
    journal(plan, trial, 6, checkpoint=4)
    tracker = Tracker(plan)
    tracker.sync()
    client, runs, _ = runs_of(plan)
    run = runs[trial.replicates[0].id]
    assert [step for step, *_ in curve(client, run, "train/loss")] == [1, 2, 3, 4]
    assert run.info.status == "RUNNING"

    History(folder).resume(4)  # killed: steps 5 and 6 are trained again
    journal(plan, trial, 8, "done", checkpoint=8)
    tracker.sync()
    assert [step for step, *_ in curve(client, run, "train/loss")] == list(range(1, 9))
    assert [step for step, *_ in curve(client, run, "val/lsd")] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("state", "expected"), [("failed", "FAILED"), ("stopped", "KILLED"), ("interrupted", "KILLED")]
)
def test_a_run_says_how_its_training_ended(plan, state, expected):
    trial = plan.trials[0]
    journal(plan, trial, 4, state, reason="training loss is nan at step 4", checkpoint=4)
    tracker = Tracker(plan)
    tracker.sync()
    _, runs, _ = runs_of(plan)
    assert {run.info.status for run in runs.values()} == {expected}
    if state == "interrupted":
        journal(plan, trial, 8, "done")
        tracker.sync()
        _, runs, _ = runs_of(plan)
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
    else:
        assert {run.data.tags["sagasr.reason"] for run in runs.values()} == {"training loss is nan at step 4"}


def test_a_run_says_what_each_attempt_computed_on(plan):
    devices = [Device(name="NVIDIA L4", driver="580.65"), Device(name="NVIDIA H200", attempt=2, compiled=True)]
    journal(plan, plan.trials[0], 8, "done", devices=devices)
    Tracker(plan).sync()
    _, runs, _ = runs_of(plan)
    told = "attempt 1: NVIDIA L4, driver 580.65; attempt 2: NVIDIA H200, compiled"
    assert {run.data.tags["sagasr.device"] for run in runs.values()} == {told}


def test_a_dead_server_delays_nothing_and_what_it_missed_is_sent_later(plan):
    trial = plan.trials[0]
    journal(plan, trial, 8, "done")
    dead = Tracker(replace(plan, tracking_uri="http://127.0.0.1:9"))
    dead.start()
    left = dead.close(timeout_s=30)
    assert left.replicates == len(trial.replicates)
    assert left.reason

    alive = Tracker(plan)
    alive.start()
    assert alive.close(timeout_s=60).replicates == 0
    client, runs, _ = runs_of(plan)
    assert all(len(curve(client, run, "train/loss")) == 8 for run in runs.values())


class Other(BaseHTTPRequestHandler):
    """A server that is not MLflow, or does not know who asks."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"<html>\nwelcome</html>")

    do_POST = do_GET


class Stranger(Other):
    status = 401


@pytest.mark.parametrize(
    ("answers", "told"),
    [(Other, "start MLflow there, or name another"), (Stranger, "set MLFLOW_TRACKING_USERNAME and")],
)
def test_a_server_that_cannot_be_used_is_refused_before_the_first_training(make_grid, tmp_path, answers, told):
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever).start()
        uri = f"http://me:canary@127.0.0.1:{server.server_port}"
        grid = make_grid(tracking={"uri": uri})
        with pytest.raises(ConfigError, match=told) as refused:
            check_server(make_plan(read_space(grid, storage=str(tmp_path / "sweeps"))))
        server.shutdown()
    assert str(refused.value).startswith(f"tracking.uri http://***@127.0.0.1:{server.server_port}: cannot be used (")
    assert "\n" not in str(refused.value)


def test_a_server_that_has_runs_of_the_sweep_may_be_away(make_grid, tmp_path):
    uri = "http://127.0.0.1:9"
    plan = make_plan(read_space(make_grid(tracking={"uri": uri}), storage=str(tmp_path / "sweeps")))
    with pytest.raises(ConfigError, match="no server answers"):
        check_server(plan)
    known = Offsets(plan.paths, uri)
    known.set(plan.replicates[0].id, {"run": "x", "state": "running"})
    known.save()
    assert check_server(plan).startswith("tracking: http://127.0.0.1:9 is away (no server answers at 127.0.0.1:9")


def test_a_database_that_is_named_is_used_once_and_one_that_is_not_there_is_made_later(
    make_grid, tmp_path, empty_database
):
    for name in ("here.db", "later.db"):
        uri = f"sqlite:///{tmp_path / name}"
        plan = make_plan(read_space(make_grid(tracking={"uri": uri}), storage=str(tmp_path / "sweeps")))
        if name == "here.db":
            shutil.copy(empty_database, tmp_path / name)
        assert check_server(plan) == ""
    assert connect(f"sqlite:///{tmp_path}/here.db").get_experiment_by_name(plan.name)
    assert not (tmp_path / "later.db").exists()


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "lab")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(Exception, match="not in a valid JSON format"):
            connect(f"http://127.0.0.1:{server.server_port}").search_experiments()
        server.shutdown()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "lab,127.0.0.1,localhost,::1"


def test_no_password_of_a_tracking_uri_reaches_the_sweep_folder(plan):
    journal(plan, plan.trials[0], 8, "done")
    tracker = Tracker(replace(plan, tracking_uri="postgresql+psycopg2://user:canary@host/db"))
    tracker._offsets.set(plan.replicates[0].id, {"run": "x", "state": "running"})
    tracker._offsets.save()
    assert "canary" not in (plan.folder / ".tracking.json").read_text()
