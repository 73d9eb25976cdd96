"""A sweep through real Ray and real MLflow, by its command: run, read back, killed and run again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.plan.plan import Plan
from orchestrator.tracking.client import connect
from sagasr.io.files import read_json
from sagasr.training.trial_log import History, read_status
from tests import small
from tests.orchestrator.run.chaos import plan_of, tables
from tests.orchestrator.run.lab import missing as lab_lacks
from tests.processes import SLOWLY, SWEEP, free_port, ray_head, wait_for, write_token

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(2_400)]

STEPS, EVERY = 80, 20


def write_grid(folder: Path, **keys: object) -> Path:
    settings = {"training.steps": STEPS, "training.learning_rate": 1e-3, "validation.every": EVERY}
    kept = {"default": {"checkpoint_every": 10}}
    fixed = {"name": "two-trials", "seeds": [0], "early_stopping": {"policy": "none"}, "resources": kept}
    return small.write_grid(folder, settings, val="cd", **(fixed | keys))


def run(
    grid: Path, storage: Path, *arguments: str, by: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess:
    command = [*by, *SWEEP, str(grid), "--storage", str(storage), *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=1_800)


def runs_of(plan: Plan) -> tuple:
    """Return the client, the parent run and the replicates' runs as MLflow has them."""
    client = connect(plan.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name(plan.name).experiment_id])
    (parent,) = [run for run in runs if "sagasr.replicate" not in run.data.tags]
    replicates = [run for run in runs if run is not parent]
    assert len({run.data.tags["sagasr.replicate"] for run in replicates}) == len(replicates)
    return client, parent, {run.data.tags["sagasr.replicate"]: run for run in replicates}


def steps_of(client, run, name: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, name)]


def check_tracking(plan: Plan) -> None:
    client, parent, runs = runs_of(plan)
    assert set(runs) == {row.id for row in plan.replicates}
    assert parent.info.status == "FINISHED"
    scores = {row["replicate"]: row for row in pq.read_table(plan.paths.table("replicates")).to_pylist()}
    for row in plan.replicates:
        found = runs[row.id]
        assert found.info.status == "FINISHED"
        assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert found.data.params.items() >= {**row.levels, "seed": str(row.seed)}.items()
        assert steps_of(client, found, "train/loss") == list(range(10, STEPS + 1, 10))
        assert steps_of(client, found, "val/lsd") == list(range(0, STEPS + 1, EVERY))
        assert found.data.metrics["lsd"] == pytest.approx(scores[row.id]["lsd"])
        assert scores[row.id]["mlflow_run_id"] == found.info.run_id


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A sweep of two trainings with two variants each, undisturbed."""
    folder = tmp_path_factory.mktemp("calm")
    grid = write_grid(folder)
    uv = shutil.which("uv")  # started as the README says, where uv is there
    by = (uv, "run", "--no-sync", "--project", str(Path(__file__).parents[3])) if uv else ()
    done = run(grid, folder / "sweeps", by=by)
    assert done.returncode == 0, done.stdout + done.stderr
    return grid, plan_of(grid, folder / "sweeps"), done


def test_workers_run_in_the_environment_of_the_sweep_also_under_uv(calm):
    _, plan, _ = calm
    for trial in plan.trials:
        assert sys.executable in (plan.paths.trial(trial.id) / "log.txt").read_text().splitlines()[0]


def test_a_sweep_leaves_its_tables_its_audio_and_one_run_per_replicate(calm):
    _, plan, done = calm
    assert len(plan.trials) == 2
    assert len(plan.replicates) == 4
    check_tracking(plan)
    found = tables(plan)
    assert {row["status"] for row in found["replicates"]} == {"done"}
    assert all(row["lsd"] > 0 for row in found["replicates"])
    assert len(found["clips"]) == 4 * 2
    assert {row["subject"] for row in found["references"]} == {"low", "shaped_noise", "untrained"}
    for row in plan.replicates:
        assert {path.stem for path in (plan.paths.audio / row.id).iterdir()} == {
            path.stem for path in (plan.paths.audio / "high").iterdir()
        }
    assert "Traceback" not in done.stdout + done.stderr
    assert not (plan.folder / ".ray").exists()


def test_the_same_command_again_does_nothing(calm):
    grid, plan, _ = calm
    before = {path: path.stat().st_mtime for path in plan.paths.trials.rglob("*") if path.is_file()}
    again = run(grid, plan.folder.parent)
    assert again.returncode == 0, again.stdout + again.stderr
    assert before == {path: path.stat().st_mtime for path in plan.paths.trials.rglob("*") if path.is_file()}
    check_tracking(plan)


DOWN = """
import sys
import ray
from orchestrator.cli.sweep import sweep

def shutdown(end=ray.shutdown):
    end()
    raise RuntimeError("core worker has already been shutdown")

ray.shutdown = shutdown
sys.exit(sweep())
"""


def test_how_ray_goes_down_changes_nothing_about_what_is_finished(tmp_path):
    grid = write_grid(tmp_path, factors={"text": ["off"], "lfr": ["off", "hard"]})
    words = [str(grid), "--storage", str(tmp_path / "sweeps")]
    done = subprocess.run([sys.executable, "-c", DOWN, *words], capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every trial has its result; then Ray ended with RuntimeError: core worker has already" in done.stdout
    plan = plan_of(grid, tmp_path / "sweeps")
    assert {row["status"] for row in tables(plan)["replicates"]} == {"done"}
    assert plan.paths.report.exists()


BLIND = """
mount -t tmpfs none "$1"
shift
exec "$@"
"""


@pytest.mark.skipif(bool(lab_lacks()), reason=lab_lacks())
def test_a_node_that_does_not_see_the_folder_of_the_sweep_is_named_before_anything_trains(tmp_path, monkeypatch):
    """Two nodes, of which the second has a disk of its own where the first has the folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_token()
    grid, storage = write_grid(tmp_path), tmp_path / "sweeps"
    storage.mkdir()
    with ray_head() as address:
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={address}"]
        blind = ["unshare", "--mount", "bash", "-c", BLIND, "blind", str(storage), *start, "--num-cpus=1"]
        with subprocess.Popen(
            blind, env=os.environ | {"RAY_AUTH_MODE": "token"}, stdout=subprocess.PIPE, text=True
        ) as node:
            assert any("--block" in line for line in node.stdout or ())
            done = run(grid, storage, "--address", address)
            node.terminate()
    assert done.returncode == 2, done.stdout + done.stderr
    plan = plan_of(grid, storage)
    assert f"does not see the sweep's folder {plan.folder}; keep it in a folder that every node shares" in done.stderr
    assert not list(plan.paths.trials.glob("*/status.json"))


LOADED = """
import sys
from orchestrator.cli.sweep import sweep
code = sweep()
print("loaded:", *sorted({"ray", "torch"} & sys.modules.keys()))
sys.exit(code)
"""


def test_where_nothing_is_left_nothing_is_started_also_without_the_tracking_server(calm, tmp_path):
    grid, undisturbed, _ = calm
    shutil.copytree(undisturbed.folder.parent, tmp_path / "sweeps")
    plan = plan_of(grid, tmp_path / "sweeps")
    shutil.rmtree(plan.folder / "results")
    before = {path: path.read_bytes() for path in plan.paths.trials.rglob("*") if path.is_file()}
    launch = (plan.folder / ".launch").read_text()
    nobody = f"http://127.0.0.1:{free_port()}"
    words = [str(grid), "--storage", str(tmp_path / "sweeps"), "--tracking-uri", nobody]
    done = subprocess.run([sys.executable, "-c", LOADED, *words], capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is left to do." in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"  # neither Ray nor torch
    assert f"{len(plan.replicates)} replicates are not (fully) in {nobody}: no server answers" in done.stdout
    assert (plan.folder / ".launch").read_text() == launch
    assert before == {path: path.read_bytes() for path in plan.paths.trials.rglob("*") if path.is_file()}
    assert tables(plan) == tables(undisturbed)


def test_a_sweep_killed_in_the_middle_ends_as_if_nothing_had_happened(calm, tmp_path):
    grid, undisturbed, _ = calm
    plan = plan_of(grid, tmp_path)
    first, second = (plan.paths.trial(trial.id) for trial in plan.trials)
    command = [*SWEEP, str(grid), "--storage", str(tmp_path), "--max-concurrent", "1"]
    out = tmp_path / "out.txt"
    with out.open("w") as stream:
        victim = subprocess.Popen(
            command, env=os.environ | SLOWLY, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    wait_for(lambda: list(second.glob("checkpoints/step-*")), "a checkpoint", victim, out)
    orphan = read_json(second / ".worker.json")["pid"]
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    finished = (first / "status.json").read_bytes()
    assert read_status(second).state == "running"
    assert process_of(first) == process_of(second)  # kept warm: what follows is compared with two fresh processes

    again = run(grid, tmp_path, "--max-concurrent", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert not Path(f"/proc/{orphan}").exists()
    assert (first / "status.json").read_bytes() == finished  # what was done is not touched
    assert read_status(second).attempt == 2
    for folder in (first, second):
        records = [(r["step"], r.get("variant"), name) for r in History(folder) for name in r["metrics"]]
        assert len(records) == len(set(records))
    check_tracking(plan)
    assert tables(plan) == tables(undisturbed)


def test_an_encoding_whose_process_is_lost_fails_its_trials_with_a_reason(tmp_path):
    script = (
        "import os, sys; from orchestrator.cli.sweep import sweep; from orchestrator.run import encoding\n"
        "def killed(*task): os.kill(os.getpid(), 9)\n"  # as one that took too much memory is
        "encoding.encode = killed; sys.exit(sweep())"
    )
    grid = write_grid(tmp_path)
    command = [sys.executable, "-c", script, str(grid), "--storage", str(tmp_path / "sweeps")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1_800)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    for row in tables(plan_of(grid, tmp_path / "sweeps"))["replicates"]:
        assert row["status"] == "failed"
        assert row["reason"].startswith("encoding: its process or node was lost")


def test_a_training_that_fails_is_reported_and_the_others_go_on(tmp_path):
    rate = {"baseline": "sane", "levels": {"sane": {}, "absurd": {"training.learning_rate": 1e30}}}
    grid = write_grid(tmp_path, factors={"rate": rate})
    shorter = ("--set", "training.steps=40", "--set", "validation.every=20")
    ended = run(grid, tmp_path / "sweeps", *shorter)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    plan = plan_of(grid, tmp_path / "sweeps")
    rows = {row["rate"]: row for row in tables(plan)["replicates"]}
    assert rows["sane"]["status"] == "done"
    assert rows["absurd"]["status"] == "failed"
    assert "step" in rows["absurd"]["reason"]
    assert rows["absurd"]["reason"] in ended.stdout
    _, _, runs = runs_of(plan)
    assert {run.data.params["rate"]: run.info.status for run in runs.values()} == {
        "sane": "FINISHED",
        "absurd": "FAILED",
    }


def test_a_search_stops_what_is_behind_and_its_process_goes_on_with_the_next(tmp_path):
    rate = {"baseline": "sane", "levels": {"sane": {}, "idle": {"training.learning_rate": 1e-9}}}
    rule = {"policy": "asha", "grace": 1, "reduction": 2}
    grid = write_grid(tmp_path, factors={"rate": rate}, seeds=[0, 1], early_stopping=rule)
    arguments = ("--max-concurrent", "1", "--set", "training.steps=80", "--set", "validation.every=5")
    ended = run(grid, tmp_path / "sweeps", *arguments, **SLOWLY)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    folders = sorted((tmp_path / "sweeps" / "two-trials" / "trials").iterdir())
    statuses = [read_status(folder) for folder in folders]
    assert {status.state for status in statuses} == {"done", "stopped"}
    for status in statuses:
        if status.state == "stopped":
            assert status.step < 80
            assert status.reason.startswith("asha: behind the others at step ")
    assert len({process_of(folder) for folder in folders}) == 1
    again = run(grid, tmp_path / "sweeps", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [read_status(folder) for folder in folders] == statuses  # what was stopped stays so


def process_of(folder: Path) -> str:
    """Return which process a trial was trained in first."""
    return (folder / "log.txt").read_text().split(" process ")[1].split()[0]
