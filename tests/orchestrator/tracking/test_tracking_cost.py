"""What tracking costs a training, and what of a sweep's secrets and hostile names reaches its files and its server."""

import csv
import os
import re
import socket
import threading
import time
from pathlib import Path

import grimp
import numpy as np
import pytest
import soundfile

from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import record, scan
from orchestrator.plan.plan import make_plan, write_plan
from orchestrator.report.analyse import analyse
from orchestrator.report.page import write_page
from orchestrator.run.results import collect
from orchestrator.run.retries import one_line
from orchestrator.run.worker import encode
from orchestrator.tracking import client as mlflow_client
from orchestrator.tracking.client import connect
from orchestrator.tracking.runs import environment_tags
from orchestrator.tracking.tracker import Tracker
from sagasr.io.files import dump_yaml
from sagasr.training import train as training
from sagasr.training.trial_log import History
from tests.orchestrator.journals import journal, runs_of
from tests.small import BASE, GRID

pytestmark = pytest.mark.slow

CANARY = "canary-9d2e-secret"
ENVIRONMENT = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "HF_TOKEN",
    "RAY_AUTH_TOKEN",
    "WANDB_API_KEY",
    "DATABASE_URL",
)
HOSTILE = (
    "<script>alert(1)<_script>",
    "a'b\"c`$(touch x);&|",
    "\u202egnp.cesrever\u2066",
    "🎵 café ﷽",
    "=HYPERLINK(1)",
)


def write_study(folder: Path, steps: int, **changes: object) -> Path:
    """Write recordings with hostile names and captions, and a grid on them; return the grid's path."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["path", "split", "domain", "caption"])
        for number, name in enumerate(HOSTILE):
            soundfile.write(os.fspath(folder / f"{name}.flac"), 0.1 * rng.standard_normal(16_384), 44_100)
            caption = f"{name} <img src=x onerror=alert(1)> " + "noise " * (700 if number == 0 else 1)
            rows.writerow([f"{name}.flac", "val" if number % 2 else "train", f"<b>{name[:9]}", caption])
    config = BASE | {
        "training": {"steps": steps, "batch_size": 2},
        "validation": {"every": steps, "clips": 2, "segment": 8192},
    }
    (folder / "base.yaml").write_text(dump_yaml(config))
    grid = GRID | {"factors": {"text": ["off", "caption"]}, "seeds": [0], "early_stopping": {"policy": "none"}}
    (folder / "grid.yaml").write_text(dump_yaml(grid | changes))
    return folder / "grid.yaml"


def train_all(plan) -> None:  # type: ignore[no-untyped-def]
    for trial in plan.trials:
        record(plan.paths, trial)
        store = Path(encode(trial.config.model_dump_json(), str(plan.folder.parent / "encoded")))
        variants = {variant.id: variant.evaluation for variant in trial.variants}
        training.train(trial.config, plan.paths.trial(trial.id), store, variants)


def test_the_training_side_knows_no_tracking_server() -> None:
    """What runs beside a model imports no client of a server, at no time: only the sweep's own process does."""
    graph = grimp.build_graph("orchestrator", "sagasr", include_external_packages=True)
    for module in ("orchestrator.run.worker", "sagasr.training.train"):
        for server in ("mlflow", "orchestrator.tracking"):
            assert graph.find_shortest_chain(importer=module, imported=server, as_packages=server != "mlflow") is None
    assert graph.find_shortest_chain(importer="orchestrator.run.sweep", imported="mlflow")  # the graph would tell


def test_a_server_that_hangs_takes_nothing_from_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training's thread opens no connection and writes few records; the tracker knocks, and waits in between."""
    opened, here = [], threading.current_thread()
    connect("sqlite:///:memory:")  # imports MLflow, once
    plain = socket.socket.connect

    def connecting(self: socket.socket, address: object) -> None:
        opened.append(threading.current_thread())
        plain(self, address)  # type: ignore[arg-type]

    steps = 200
    with socket.socket() as hanging:  # accepts, and never answers
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(64)
        grid = write_study(tmp_path / "study", steps, factors={"lfr": ["off"]})
        uri = f"http://someone:{CANARY}@127.0.0.1:{hanging.getsockname()[1]}"
        plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps"), settings={"tracking.uri": uri}))
        write_plan(plan)
        monkeypatch.setattr(socket.socket, "connect", connecting)
        monkeypatch.setattr(mlflow_client, "TIMEOUT_S", 1)
        tracker = Tracker(plan)
        tracker.start()
        began = time.perf_counter()
        train_all(plan)
        left = tracker.close(timeout_s=10)
        lasted = time.perf_counter() - began
    assert left.replicates == 1
    assert left.reason
    assert CANARY not in left.reason
    assert 1 <= len(opened) <= 4 + 2 * lasted  # a knock and a request, and a second until the next
    assert here not in opened
    assert len(list(History(plan.paths.trial(plan.trials[0].id)))) <= steps / 10 + 5


def test_no_secret_and_no_hostile_name_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep is trained, tracked, tabled and reported; then every byte that it left anywhere is searched."""
    caplog.set_level("DEBUG", "orchestrator")
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, f"postgresql://u:{CANARY}@h/d" if name == "DATABASE_URL" else CANARY)
    question = f"Is http://someone:{CANARY}@host/?api_key={CANARY}&x=1 safe? <script>alert(2)</script>"
    grid = write_study(tmp_path / "study", 4, question=question, tracking={"uri": f"http://me:{CANARY}@127.0.0.1:9"})
    plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps")))
    write_plan(plan)
    train_all(plan)
    bad = plan.trials[0]
    error = RuntimeError(f"no answer of https://me:{CANARY}@hub/model?token={CANARY}\x00\udcff <script>")
    journal(plan, bad, 4, "failed", reason=one_line(error))
    dead = Tracker(plan, tags=environment_tags())
    dead.start()
    assert CANARY not in dead.close(timeout_s=30).reason
    there = {"tracking.uri": f"sqlite:///{tmp_path}/tracked/mlflow.db"}
    tracked = make_plan(read_space(grid, storage=str(tmp_path / "sweeps"), settings=there))
    alive = Tracker(tracked, tags=environment_tags())
    alive.start()
    assert alive.close(timeout_s=60).replicates == 0
    collect(plan, scan(plan), alive.run_ids)
    answer = analyse(plan.folder)
    page = write_page(answer, plan.folder)

    searched = [path for folder in ("sweeps", "tracked") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert {path.suffix for path in searched} >= {".db", ".json", ".yaml", ".parquet", ".html", ".flac", ".jsonl"}
    assert [path for path in searched if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in "".join(capfd.readouterr()) + caplog.text
    for path in searched:
        assert re.fullmatch(r"[\w./-]+", str(path.relative_to(tmp_path))), path
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    _, runs, _ = runs_of(tracked)
    assert {run.info.status for run in runs.values()} == {"FINISHED", "FAILED"}
    failed = next(run for run in runs.values() if run.info.status == "FAILED")
    assert failed.data.tags["sagasr.reason"].startswith("RuntimeError: no answer of https://***@hub/model?token=***")
    assert connect(tracked.tracking_uri).get_experiment_by_name(plan.name) is not None
