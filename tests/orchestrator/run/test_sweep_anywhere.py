"""One sweep wherever it runs: with its storage in a bucket, or on several machines, its tables are the same."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.plan.ledger import record, scan
from orchestrator.plan.plan import Plan
from orchestrator.run.results import collect
from orchestrator.storage.remote import open_storage
from sagasr.io.files import dump_yaml, read_yaml
from sagasr.training.trial_log import History, read_status
from tests.orchestrator.run.chaos import plan_of, tables
from tests.orchestrator.run.lab import Lab, cluster_file, launcher
from tests.orchestrator.run.lab import missing as lab_lacks
from tests.orchestrator.run.test_sweep import write_grid
from tests.orchestrator.storage.s3_server import BUCKET, serving
from tests.processes import LIMIT_S, SLOWLY, SWEEP, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(2_400)]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("anywhere"))


@pytest.fixture(scope="module")
def calm(grid: Path) -> dict[str, list[dict]]:
    """The tables of the same trainings, one after the other in this process: no Ray, no storage but a folder."""
    from sagasr.data.encode import encode_store
    from sagasr.training.train import train

    plan = plan_of(grid, str(grid.parent / "calm"))
    for trial in plan.trials:
        record(plan.paths, trial)
        store = encode_store(trial.config, plan.folder.parent / "encoded")
        variants = {variant.id: variant.evaluation for variant in trial.variants}
        train(trial.config, plan.paths.trial(trial.id), store, variants, trial.resources)
    collect(plan, scan(plan))
    return tables(plan)


def test_a_bucket_alone_is_enough_to_go_on_from(grid, calm, tmp_path, monkeypatch):
    pytest.importorskip("moto.server")
    with serving() as environment:
        for name, value in {**environment, "SAGASR_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        open_storage.cache_clear()
        storage = f"s3://{BUCKET}/lab"
        plan = plan_of(grid, storage)
        first, second = (f"trials/{trial.id}" for trial in plan.trials)
        bucket = open_storage(plan.storage.uri)
        command = [*SWEEP, str(grid), "--storage", storage, "--max-concurrent", "1"]

        out = tmp_path / "out.txt"
        with out.open("w") as stream:
            victim = subprocess.Popen(command, env=os.environ | SLOWLY, stdout=stream, stderr=subprocess.STDOUT)
        try:
            # The status comes last: before it is there, nobody knows that an attempt was made.
            status = f"{second}/status.json"
            wait_for(lambda: newest_checkpoint(bucket, second) and status in bucket.list(), "a status", victim, out)
            worker = read_json_of(bucket, f"{second}/.worker.json")["pid"]
        finally:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        wait_for(lambda: not Path(f"/proc/{worker}").exists(), "the end of the worker")
        killed_at = time.time()
        shutil.rmtree(tmp_path / "cache")  # the machine is lost with all that was on it
        finished = bucket.read(f"{first}/status.json")
        kept = newest_checkpoint(bucket, second)

        again = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "not in MLflow" not in again.stdout  # also the model of a trial that the machine before had trained
        assert bucket.read(f"{first}/status.json") == finished
        resumed = plan.folder / second
        assert read_status(resumed).attempt == 2
        before = [entry["step"] for entry in History(resumed) if entry["time"] < killed_at]
        after = [entry["step"] for entry in History(resumed) if entry["time"] > killed_at]
        assert max(before) <= kept < min(after)
        assert tables(plan) == calm
        there = bucket.list()
        assert {"plan.json", "results/replicates.parquet", "report/index.html"} <= there.keys()
        assert len([name for name in there if name.startswith(f"audio/{plan.replicates[0].id}/")]) == 2
        assert not [name for name in there if name.startswith(".claims")]

        shutil.rmtree(tmp_path / "cache")
        third = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        assert third.returncode == 0, third.stdout + third.stderr
        assert {name: found for name, found in bucket.list().items() if name.startswith("trials/")} == {
            name: found for name, found in there.items() if name.startswith("trials/")
        }
        assert tables(plan) == calm


def read_json_of(bucket, name: str) -> dict:
    return json.loads(bucket.read(name))


def newest_checkpoint(bucket, trial: str) -> int:
    """Return the step of the last checkpoint that reached the bucket whole, 0 before the first."""
    whole = [name.split("/") for name in bucket.list() if name.startswith(f"{trial}/checkpoints/")]
    steps = [int(parts[3].removeprefix("step-")) for parts in whole if parts[-1] == "manifest.json"]
    return max(steps, default=0)


# ---------------------------------------------------------------------------------------------------- several machines

ROOT = Path(__file__).parents[3]
TOKEN = "import sys; from orchestrator.cluster import admits; sys.exit(admits(sys.argv[1], ''))"


def hosts_of(plan: Plan, trial: str) -> list[str]:
    """Return the machines on which a trial was trained, in turn."""
    log = plan.paths.trial(trial) / "log.txt"
    return re.findall(r"^--- .* process \d+ on (\S+) ", log.read_text() if log.exists() else "", re.M)


def saved(plan: Plan, trial: str) -> bool:
    return any(plan.paths.trial(trial).glob("checkpoints/step-*/manifest.json"))


def at_home_anywhere(grid: Path, file: Path) -> Path:
    """Write a grid to a file that means the same in any folder."""
    tree = read_yaml(grid)
    data = {key: str(grid.parent / name) for key, name in tree["data"].items()}
    file.write_text(dump_yaml(tree | {"base": str(grid.parent / tree["base"]), "data": data}))
    return file


@pytest.mark.skipif(bool(lab_lacks()), reason=lab_lacks())
def test_machines_of_a_lab_share_a_sweep_and_one_may_fail(grid, calm, tmp_path):
    """From a laptop without a token: `ray up`, on the head `sagasr-sweep grid.yaml`, and down again."""
    plan = plan_of(grid, str(tmp_path / "shared"))
    with Lab(tmp_path / "lab") as lab:
        desk, head = lab.add("desk", "10.7.0.1"), lab.add("head", "10.7.0.10")
        workers = [lab.add("one", "10.7.0.11"), lab.add("two", "10.7.0.12")]
        own = at_home_anywhere(grid, tmp_path / "own.yaml")
        file = cluster_file(lab, head, workers, own, tmp_path / "shared")
        ray = str(Path(sys.executable).parent / "ray")

        up = launcher(desk, ray, "up", str(file), "--yes", "--no-config-cache")
        done = subprocess.run(up, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not (desk.home / ".ray" / "auth_token").exists()
        token = (head.home / ".ray" / "auth_token").read_text()
        assert len(token) == 64
        assert token not in done.stdout + done.stderr

        out = tmp_path / "out.txt"
        with out.open("w") as stream:
            on_head = launcher(desk, ray, "exec", str(file), "sagasr-sweep grid.yaml")
            sweep = subprocess.Popen(on_head, stdout=stream, stderr=subprocess.STDOUT)
        try:
            # Whoever has no token is turned away, and the dashboard listens on the head alone.
            assert desk.run(sys.executable, "-c", TOKEN, f"{head.address}:6379", cwd=ROOT).returncode == 0
            assert desk.run("bash", "-c", f": < /dev/tcp/{head.address}/22").returncode == 0
            assert desk.run("bash", "-c", f": < /dev/tcp/{head.address}/8265").returncode != 0
            names = [trial.id for trial in plan.trials]
            wait_for(lambda: all(saved(plan, name) for name in names), "checkpoints", sweep, out)
            victim = next(name for name in names if hosts_of(plan, name) == ["two"])
            assert {host for name in names for host in hosts_of(plan, name)} == {"one", "two"}
            workers[1].cut_the_power()
            assert sweep.wait(LIMIT_S) == 0, out.read_text()
        finally:
            sweep.kill()
        assert "Ray cluster: auto (RAY_ADDRESS)" in out.read_text()
        assert f"storage: {tmp_path / 'shared'} (SAGASR_STORAGE)" in "".join(out.read_text().splitlines())
        assert hosts_of(plan, victim) == ["two", "one"]
        assert read_status(plan.paths.trial(victim)).attempt == 2
        assert tables(plan) == calm
        for host in (head, *workers):
            files = [host.home / ".ray" / "auth_token", host.home / ".ray"]
            assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o700]
        leaks = subprocess.run(["grep", "-rl", token, str(tmp_path / "shared")], capture_output=True, text=True)
        assert leaks.stdout == ""

        down = launcher(desk, sys.executable, "-m", "orchestrator.cluster", "down", str(file), "--yes")
        done = subprocess.run(down, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stdout + done.stderr
        for host in (head, workers[0]):
            wait_for(lambda host=host: host.run("pgrep", "-x", "raylet|gcs_server").returncode == 1, "the end of Ray")
