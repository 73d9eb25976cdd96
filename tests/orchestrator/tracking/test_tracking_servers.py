"""Tracking over HTTP to a real MLflow server on PostgreSQL, through a proxy that fails in every way it can."""

import contextlib
import random
import shutil

import pytest

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan, write_plan
from orchestrator.tracking import client as mlflow_client
from orchestrator.tracking import tracker as tracking
from orchestrator.tracking.points import curves
from orchestrator.tracking.tracker import Tracker
from sagasr.training.trial_log import History, read_status
from tests.orchestrator.journals import curve, journal, runs_of
from tests.orchestrator.tracking.servers import POSTGRES, Proxy, mlflow_server, postgres
from tests.processes import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(not POSTGRES.is_dir(), reason=f"PostgreSQL 15 is not installed ({POSTGRES})"),
]

CANARY = "canary-5f1c-password"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with postgres(tmp_path_factory.mktemp("postgres") / "cluster", CANARY) as uri:
        yield uri


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server"), database) as uri:
        yield uri


@pytest.fixture
def proxy(server, monkeypatch):
    """The server behind a proxy; the tracker's patience is that of a test."""
    monkeypatch.setattr(tracking, "EVERY_S", 0.05)
    monkeypatch.setattr(tracking, "BACKOFF_S", (0.01, 0.02, 0.05))
    monkeypatch.setattr(mlflow_client, "TIMEOUT_S", 5)
    made = Proxy(server)
    yield made
    made.close()


@pytest.fixture
def make_sweep(make_grid, tmp_path):
    """A plan with a name of its own, as all sweeps share the server."""

    def make(uri, name, **changes):
        changes = {"seeds": [0], "name": name, "tracking": {"uri": uri}} | changes
        made = make_plan(read_space(make_grid(**changes), storage=str(tmp_path / "sweeps")))
        write_plan(made)
        return made

    return make


def assert_all_is_there_once(plan, uri):
    """What the server has of every replicate is what its journal says: each point, once, and nothing else."""
    client, runs, parents = runs_of(plan, uri)
    assert len(parents) == 1
    assert set(runs) == {row.id for row in plan.replicates}
    points = 0
    for trial in plan.trials:
        folder = plan.paths.trial(trial.id)
        status, records = read_status(folder), list(History(folder))
        for row in trial.replicates:
            expected: dict[str, list] = {}
            for name, value, _, step in curves(records, row.variant, status):
                expected.setdefault(name, []).append((step, pytest.approx(value)))
            assert set(runs[row.id].data.metrics) == set(expected)
            for name, values in expected.items():
                assert sorted(curve(client, runs[row.id], name))[0][0] >= 0
                assert [point[:2] for point in sorted(curve(client, runs[row.id], name))] == values, name
                points += len(values)
            assert runs[row.id].data.params.items() >= {**row.levels, "seed": str(row.seed)}.items()
            assert runs[row.id].info.status == "FINISHED"
    return points


def follow(plan):
    """Make one tracker after another, as the same command given again does, until nothing is left to send."""
    for _ in range(50):
        tracker = Tracker(plan)
        tracker.start()
        left = tracker.close(timeout_s=60)
        if not left.replicates and not left.reason:
            return
    pytest.fail(f"never ended: {left}")


def test_a_server_with_postgresql_has_all_of_a_sweep(make_sweep, proxy, server):
    plan = make_sweep(proxy.uri, "calm")
    for trial in plan.trials:
        journal(plan, trial, 8, "done")
    follow(plan)
    assert assert_all_is_there_once(plan, server) > 50


def test_the_database_itself_can_be_the_server(make_sweep, database, server):
    """Its password is in no file of the sweep, and artifacts lie in the storage, not wherever the command was given."""
    plan = make_sweep(database, "direct")
    for trial in plan.trials:
        journal(plan, trial, 4, "done")
    follow(plan)
    assert_all_is_there_once(plan, server)
    _, runs, parents = runs_of(plan, server)
    everything = [*runs.values(), *parents]
    assert all(run.info.artifact_uri.startswith((plan.folder.parent / "mlartifacts").as_uri()) for run in everything)
    files = [path for path in plan.folder.parent.rglob("*") if path.is_file()]
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in "".join(str(run.to_dictionary()) for run in everything)


@pytest.mark.parametrize("mode", ["refuse", "cut", "429", "500", "hang"])
def test_a_server_down_at_the_start_or_dying_later_loses_nothing(make_sweep, proxy, server, monkeypatch, mode):
    """Down, up for two records, down again until the sweep has ended, and back an hour later."""
    monkeypatch.setattr(mlflow_client, "TIMEOUT_S", 1)
    plan = make_sweep(proxy.uri, f"down-{mode}")
    first, *others = plan.trials
    proxy.set(mode)
    journal(plan, first, 2, checkpoint=2)
    tracker = Tracker(plan)
    tracker.start()
    wait_for(lambda: tracker.problem, "a problem")
    assert tracker.undelivered().replicates > 0
    proxy.set("ok")
    wait_for(lambda: tracker.undelivered().replicates == 0, "the delivery")
    proxy.set(mode)
    journal(plan, first, 8, "done", checkpoint=8)
    for trial in others:
        journal(plan, trial, 8, "done")
    left = tracker.close(timeout_s=5)
    assert left.replicates == len(plan.replicates)
    assert left.reason
    proxy.set("ok")
    follow(plan)
    assert_all_is_there_once(plan, server)


def test_a_slow_server_is_served_to_the_end(make_sweep, proxy, server):
    """Every answer takes half a second; nobody waits for it but the thread that sends."""
    plan = make_sweep(proxy.uri, "slow", factors={"text": ["off"]})
    proxy.delay_s = 0.5
    proxy.set("slow")
    tracker = Tracker(plan)
    tracker.start()
    for trial in plan.trials:
        journal(plan, trial, 8, "done")
    assert tracker.undelivered().replicates > 0  # the journals are complete, and the server does not know it yet
    assert tracker.close(timeout_s=90).replicates == 0
    assert_all_is_there_once(plan, server)


def test_chaos_on_the_way_to_the_server_leaves_every_point_once(make_sweep, proxy, server, monkeypatch):
    """Four requests in ten fail, trackers and trainings are killed, checkpoints broken, offsets lost, runs deleted."""
    monkeypatch.setattr(mlflow_client, "TIMEOUT_S", 1)
    monkeypatch.setattr(tracking, "BATCH", 7)  # several requests for each curve
    draw = random.Random(0)
    plan = make_sweep(proxy.uri, "chaos", seeds=[0, 1])
    steps, deleted = dict.fromkeys([trial.id for trial in plan.trials], 0), 0
    tracker = Tracker(plan)
    for turn in range(60):
        proxy.set("refuse", "cut", "429", "500", chance=0.4)
        trial = draw.choice(plan.trials)
        done = steps[trial.id]
        if done and done < 24 and draw.random() < 0.4:  # killed: what lies behind the checkpoint is trained again
            if draw.random() < 0.5:  # and the newest checkpoint is broken: steps that were sent are, too
                shutil.rmtree(plan.paths.trial(trial.id) / "checkpoints" / f"step-{done:08d}", ignore_errors=True)
                steps[trial.id] = done = done - 2
            History(plan.paths.trial(trial.id)).resume(done)
        if done < 24:
            steps[trial.id] = done + draw.choice([2, 4])
            journal(plan, trial, steps[trial.id] + 1, checkpoint=steps[trial.id])
        event = draw.random()
        if event < 0.2:
            tracker = Tracker(plan)
        if event < 0.1:
            (plan.folder / ".tracking.json").unlink(missing_ok=True)
        if turn in (20, 40):
            proxy.set("ok")
            client, runs, _ = runs_of(plan, server)
            client.delete_run(draw.choice(sorted(runs.values(), key=lambda run: run.info.run_id)).info.run_id)
            deleted += 1
            proxy.set("refuse", "cut", "429", "500", chance=0.4)
        with contextlib.suppress(Exception):  # as the thread of a tracker does
            tracker.sync()
    for trial in plan.trials:
        History(plan.paths.trial(trial.id)).resume(steps[trial.id])
        journal(plan, trial, 30, "done", checkpoint=30)
    proxy.set("ok")
    follow(plan)
    points = assert_all_is_there_once(plan, server)
    failed = sum(mode != "ok" for mode, *_ in proxy.heard)
    assert failed > 50
    assert points > 400
    client, runs, _ = runs_of(plan, server)
    assert sum("sagasr.replaces" in run.data.tags for run in runs.values()) <= deleted + 5


def test_a_deleted_run_is_made_anew_once_and_names_the_one_before(make_sweep, proxy, server):
    plan = make_sweep(proxy.uri, "deleted")
    trial = plan.trials[0]
    for each in plan.trials:
        journal(plan, each, 4, "done" if each is not trial else "running", checkpoint=4)
    tracker = Tracker(plan)
    tracker.sync()
    client, before, _ = runs_of(plan, server)
    row = trial.replicates[0]
    client.delete_run(before[row.id].info.run_id)  # under the eyes of a tracker that is connected
    journal(plan, trial, 8, "done", checkpoint=8)
    tracker.start()
    assert tracker.close(timeout_s=60).replicates == 0
    follow(plan)
    assert_all_is_there_once(plan, server)
    _, after, _ = runs_of(plan, server)
    assert after[row.id].data.tags["sagasr.replaces"] == before[row.id].info.run_id
    assert after[row.id].info.run_id != before[row.id].info.run_id
    assert sum("sagasr.replaces" in run.data.tags for run in after.values()) == 1


def test_a_server_that_was_restored_from_a_backup_gets_what_it_lost(make_sweep, proxy, server, database):
    import psycopg2

    plan = make_sweep(proxy.uri, "backup")
    for trial in plan.trials:
        journal(plan, trial, 8, "done")
    follow(plan)
    points = assert_all_is_there_once(plan, server)
    _, runs, _ = runs_of(plan, server)
    lost = runs[plan.replicates[0].id].info.run_id
    with psycopg2.connect(database.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metrics WHERE run_uuid = %s AND step > 3", (lost,))
        cursor.execute("DELETE FROM latest_metrics WHERE run_uuid = %s AND key = 'lsd'", (lost,))
        cursor.execute("DELETE FROM metrics WHERE run_uuid = %s AND key = 'lsd'", (lost,))
    follow(plan)
    assert assert_all_is_there_once(plan, server) == points


def test_of_two_runs_of_one_replicate_the_one_that_was_written_to_stays(make_sweep, proxy, server):
    """A server may make a run after its client has given up and asked again."""
    plan = make_sweep(proxy.uri, "twins")
    trial, row = plan.trials[0], plan.trials[0].replicates[0]
    journal(plan, trial, 4, checkpoint=4)
    Tracker(plan).sync()
    client, runs, parents = runs_of(plan, server)
    experiment = parents[0].info.experiment_id
    for tags in ({"sagasr.kind": "replicate", "sagasr.replicate": row.id}, {"sagasr.kind": "sweep"}):
        client.create_run(experiment, start_time=0, tags=tags)  # late, and by its time the older one
    for each in plan.trials:
        journal(plan, each, 8, "done")
    follow(plan)
    assert_all_is_there_once(plan, server)
    _, after, _ = runs_of(plan, server)
    assert after[row.id].info.run_id == runs[row.id].info.run_id


def test_a_replicate_that_the_server_refuses_holds_up_no_other(make_sweep, proxy, server, monkeypatch):
    plan = make_sweep(proxy.uri, "refused")
    for trial in plan.trials:
        journal(plan, trial, 4, "done")
    bad = plan.replicates[0]
    follow(plan)
    client, runs, _ = runs_of(plan, server)
    client.delete_run(runs[bad.id].info.run_id)
    other = client.create_run(
        runs[bad.id].info.experiment_id, tags={"sagasr.kind": "replicate", "sagasr.replicate": bad.id}
    )
    client.log_param(other.info.run_id, "seed", "another")  # params never change, so ours is refused
    for trial in plan.trials:
        journal(plan, trial, 8, "done")
    tracker = Tracker(plan)
    tracker.start()
    left = tracker.close(timeout_s=60)
    assert left.replicates == 1
    assert "seed" in left.reason
    _, runs, _ = runs_of(plan, server)
    for row in plan.replicates:
        if row.id != bad.id:
            assert max(step for step, *_ in curve(client, runs[row.id], "train/loss")) == 8
