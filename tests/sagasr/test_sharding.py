"""Trainings of several processes whose states are sharded: what they are without, and resumable on any number."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sagasr import checkpoint
from sagasr.config import Config, parse, patch
from sagasr.data.encode import encode_store
from sagasr.files import dump_yaml, write_text
from sagasr.journal import History, read_status
from sagasr.scores import ScoreFile
from tests.orchestrator.conftest import BASE

STEPS = 6
TREE = patch(
    BASE,
    {
        "model.depth": 2,
        "training": {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-3},
        "validation.every": 3,
    },
)
WORKER = """
import json, sys
from pathlib import Path
import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from sagasr.config import Config, Evaluation, Runtime, parse
from sagasr.files import read_yaml
from sagasr.module import SagaModule, ShardedStrategy
from sagasr.train import Halt, Harness, train
torch.distributed.init_process_group("gloo")  # as Ray Train does before it calls a worker
settings, out, store, kind, halt_at = sys.argv[1:]
out, shares = Path(out), []
config = parse(Config, read_yaml(Path(settings)), settings)
strategy = {"whole": DDPStrategy, "sharded": ShardedStrategy}[kind]()
environment = TorchElasticEnvironment()
def halt():
    module = strategy.lightning_module
    shares.append(sum(getattr(w, "_local_tensor", w).numel() for w in module.model.parameters()) /
                  sum(w.numel() for w in module.model.parameters()))
    return Halt("asked") if int(halt_at) and (out / f"checkpoints/step-{int(halt_at):08d}").exists() else None
harness = Harness(strategy, environment, "cpu", environment.world_size(), halt=halt)
variants = {"default": config.evaluation, "raw": config.evaluation.model_copy(update={"weights": "raw"})}
runtime = Runtime(workers=environment.world_size(), checkpoint_every=2)
result = train(config, out, Path(store), variants, runtime, harness)
if environment.global_rank() == 0:
    print(json.dumps({"state": result.state, "share": max(shares)}))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    for name in "abcd":
        soundfile.write(folder / f"{name}.flac", 0.1 * rng.standard_normal(16_384), 44_100)
    (folder / "m.csv").write_text(
        "path,split,caption\na.flac,train,one\nb.flac,train,two\nc.flac,val,3\nd.flac,val,4\n"
    )
    tree = {**TREE, "data": {"train": str(folder / "m.csv"), "val": str(folder / "m.csv")}}
    write_text(folder / "config.yaml", dump_yaml(tree))
    encode_store(parse(Config, tree, "test"), folder / "stores")
    (folder / "worker.py").write_text(WORKER)
    return folder


def trained(study: Path, name: str, kind: str, workers: int, halt_at: int = 0) -> str:
    """Train in the folder ``name`` of the study and return what the first worker prints."""
    (store,) = (study / "stores").iterdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    arguments = [study / "worker.py", study / "config.yaml", study / name, store, kind, str(halt_at)]
    done = subprocess.run([*launch, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout


def state(out: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of the last checkpoint: weights, average and moments."""
    found: dict[str, torch.Tensor] = {}

    def walk(node: object, name: str) -> None:
        if isinstance(node, torch.Tensor):
            found[name] = node
        elif isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}/{key}")
        elif isinstance(node, (list, tuple)):
            for number, value in enumerate(node):
                walk(value, f"{name}/{number}")

    walk(checkpoint.load(checkpoint.folder_of(out / "checkpoints", STEPS)), "")
    return found


def assert_equal_trainings(one: Path, other: Path, exactly: bool) -> None:
    left, right = state(one), state(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=0, atol=0 if exactly else 2e-5, msg=name)
    records = [[r for r in History(out) if r["step"] in (0, STEPS)] for out in (one, other)]
    for mine, yours in zip(*records, strict=True):
        assert mine.keys() == yours.keys()
        for key in mine.keys() - {"time", "variant", "step"}:
            assert yours[key] == pytest.approx(mine[key], abs=0 if exactly else 1e-3), key


def test_sharded_states_train_what_whole_ones_do_and_resume_exactly_or_on_fewer_workers(study: Path) -> None:
    assert '"share": 1.0' in trained(study, "whole", "whole", 2)
    said = trained(study, "sharded", "sharded", 2)
    assert '"state": "done"' in said
    assert 0.5 <= float(said.split('"share": ')[1].rstrip("}\n")) < 0.55
    assert_equal_trainings(study / "whole", study / "sharded", exactly=False)
    assert {score.stem for score in (study / "sharded/scores").glob("*.parquet")} >= {"default", "raw"}

    assert '"state": "interrupted"' in trained(study, "resumed", "sharded", 2, halt_at=2)
    shutil.copytree(study / "resumed", study / "fewer")
    assert '"state": "done"' in trained(study, "resumed", "sharded", 2)
    assert read_status(study / "resumed").resumed >= 2  # type: ignore[union-attr]
    assert_equal_trainings(study / "sharded", study / "resumed", exactly=True)

    assert '"state": "done"' in trained(study, "fewer", "whole", 1)  # the same checkpoint on one worker
    assert ScoreFile(study / "fewer", "raw").exists()
