"""One sweep wherever it runs: with its storage in a bucket, or on several machines, its tables are the same."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.execute import collect, record
from orchestrator.plan import Plan, make_plan
from orchestrator.results import VOLATILE
from orchestrator.space import read_space
from orchestrator.storage import open_storage
from sagasr.journal import History, read_status
from tests.orchestrator.s3_server import BUCKET, serving
from tests.orchestrator.test_sweep import write_grid

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

SWEEP = [sys.executable, "-c", "import sys; from orchestrator.commands import sweep; sys.exit(sweep())"]


def plan_of(grid: Path, storage: str) -> Plan:
    return make_plan(read_space(grid, storage=storage))


def tables(plan: Plan) -> dict[str, list[dict]]:
    found = {}
    for name in ("replicates", "clips", "curves", "references"):
        table = pq.read_table(plan.paths.table(name))
        found[name] = table.drop_columns([column for column in VOLATILE if column in table.column_names]).to_pylist()
    return found


def wait_for(condition: Callable[[], object], timeout_s: float, process: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert process is None or process.poll() is None, f"the sweep ended by itself with {process.returncode}"
        assert time.monotonic() < end, "the sweep took too long"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("anywhere"))


@pytest.fixture(scope="module")
def calm(grid: Path) -> dict[str, list[dict]]:
    """The tables of the same trainings, one after the other in this process: no Ray, no storage but a folder."""
    from sagasr.data.encode import encode_store
    from sagasr.train import train

    plan = plan_of(grid, str(grid.parent / "calm"))
    for trial in plan.trials:
        record(plan.paths, trial)
        store = encode_store(trial.config, plan.folder.parent / "encoded")
        variants = {variant.id: variant.evaluation for variant in trial.variants}
        train(trial.config, plan.paths.trial(trial.id), store, variants, trial.resources)
    collect(plan)
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
        bucket = open_storage(plan.uri)
        command = [*SWEEP, str(grid), "--storage", storage, "--max-concurrent", "1"]

        victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: f"{second}/checkpoints" in "".join(bucket.list()), 300, victim)
            worker = read_json_of(bucket, f"{second}/.worker.json")["pid"]
        finally:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        killed_at = time.time()
        wait_for(lambda: not Path(f"/proc/{worker}").exists(), 60)
        shutil.rmtree(tmp_path / "cache")  # the machine is lost with all that was on it
        finished = bucket.read(f"{first}/status.json")
        kept = newest_checkpoint(bucket, second)

        again = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert again.returncode == 0, again.stdout + again.stderr
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
        third = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert third.returncode == 0, third.stdout + third.stderr
        assert {name: found for name, found in bucket.list().items() if name.startswith("trials/")} == {
            name: found for name, found in there.items() if name.startswith("trials/")
        }
        assert tables(plan) == calm


def read_json_of(bucket, name: str) -> dict:
    import json

    return json.loads(bucket.read(name))


def newest_checkpoint(bucket, trial: str) -> int:
    """Return the step of the last checkpoint that reached the bucket whole."""
    whole = [name.split("/") for name in bucket.list() if name.startswith(f"{trial}/checkpoints/")]
    return max(int(parts[3].removeprefix("step-")) for parts in whole if parts[-1] == "manifest.json")
