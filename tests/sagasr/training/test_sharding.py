"""Trainings of several processes: whole or sharded they give the same, resume on any number, and end together."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import Config
from sagasr.data.encode import encode_store
from sagasr.io.files import dump_yaml, read_json, write_text
from sagasr.io.trial_folder import TrialFolder
from sagasr.training import checkpoint
from sagasr.training.trial_log import History, read_status
from tests.small import BASE, write_recordings

STEPS = 6
TREE = patch(
    BASE,
    {
        "model.depth": 2,
        "training": {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "clip_norm": 0.1},
        "validation.every": 3,
    },
)
WORKER = """
import json, sys
from pathlib import Path
import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from sagasr.config.parsing import parse
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config, Evaluation
from sagasr.io.files import read_yaml
from sagasr.training.module import SagaModule, ShardedStrategy
from sagasr.io.signals import Halt
from sagasr.training.harness import RULE, FailureRule, Harness
from sagasr.training.train import train
torch.distributed.init_process_group("gloo")  # as Ray Train does before it calls a worker
settings, out, store, kind, halt_at, margin = sys.argv[1:]
out, shares, writes = Path(out), [], []
config = parse(Config, read_yaml(Path(settings)), settings)
strategy = {"whole": DDPStrategy, "sharded": ShardedStrategy}[kind]()
environment = TorchElasticEnvironment()
def halt():
    module = strategy.lightning_module
    shares.append(sum(getattr(w, "_local_tensor", w).numel() for w in module.model.parameters()) /
                  sum(w.numel() for w in module.model.parameters()))
    return Halt("asked") if int(halt_at) and (out / f"checkpoints/step-{int(halt_at):08d}").exists() else None
rule = FailureRule(float(margin), checks=1, grace=0) if margin else RULE
harness = Harness(strategy, environment, "cpu", environment.world_size(), rule=rule, halt=halt,
                  fence=lambda: writes.append(1))
variants = {"default": config.evaluation, "raw": config.evaluation.model_copy(update={"weights": "raw"})}
runtime = Runtime(workers=environment.world_size(), checkpoint_every=2)
result = train(config, out, Path(store), variants, runtime, harness)
told = {"state": result.state, "reason": result.reason, "share": max(shares), "writes": len(writes)}
(out / f"worker-{environment.global_rank()}.json").write_text(json.dumps(told))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    manifest = str(write_recordings(folder, val="cd"))
    tree = {**TREE, "data": {"train": manifest, "val": manifest}}
    write_text(folder / "config.yaml", dump_yaml(tree))
    encode_store(parse(Config, tree, "test"), folder / "stores")
    (folder / "worker.py").write_text(WORKER)
    return folder


def trained(
    study: Path, name: str, kind: str, workers: int, halt_at: int = 0, margin: float | str = ""
) -> list[dict[str, Any]]:
    """Train in the folder ``name`` of the study and return what each worker tells; ``margin``: of the failure rule."""
    (store,) = (study / "stores").iterdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    arguments = [study / "worker.py", study / "config.yaml", study / name, store, kind, halt_at, margin]
    done = subprocess.run([*launch, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3_000:]
    return [read_json(study / name / f"worker-{rank}.json") for rank in range(workers)]


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
    first, second = trained(study, "whole", "whole", 2)
    assert first["share"] == second["share"] == 1.0
    assert first["writes"]
    assert not second["writes"]
    first, second = trained(study, "sharded", "sharded", 2)
    assert first["state"] == second["state"] == "done"
    assert 0.5 <= first["share"] < 0.55
    assert_equal_trainings(study / "whole", study / "sharded", exactly=False)
    assert {score.stem for score in (study / "sharded/scores").glob("*.parquet")} >= {"default", "raw"}

    assert trained(study, "resumed", "sharded", 2, halt_at=2)[0]["state"] == "interrupted"
    shutil.copytree(study / "resumed", study / "fewer")
    assert trained(study, "resumed", "sharded", 2)[0]["state"] == "done"
    assert read_status(study / "resumed").resumed >= 2  # type: ignore[union-attr]
    assert_equal_trainings(study / "sharded", study / "resumed", exactly=True)

    assert trained(study, "fewer", "whole", 1)[0]["state"] == "done"  # the same checkpoint on one worker
    assert TrialFolder(study / "fewer").scores("raw").exists()


def test_a_training_that_diverges_ends_all_its_workers_with_the_reason_of_the_first(study: Path) -> None:
    first, second = trained(study, "diverged", "whole", 2, margin=-1_000)
    assert first["state"] == second["state"] == "failed"
    assert "above that of the unprocessed input" in first["reason"]
    status = read_status(study / "diverged")
    assert status is not None
    assert (status.state, status.step, status.reason) == ("failed", 3, first["reason"])
