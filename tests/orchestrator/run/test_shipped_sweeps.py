"""Cells of the shipped grids for GPUs, through real sweeps on CPUs; widths, lengths and steps are small."""

import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sagasr
from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan
from sagasr.io.files import dump_yaml, read_yaml
from sagasr.training.trial_log import read_status
from tests.processes import SWEEP
from tests.sagasr.training.trainings import few_recordings

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(2_400)]

SPACES = Path(sagasr.__file__).parents[1] / "search_spaces"
WIDTHS = {"embed_dim": 64, "num_heads": 2, "cond_dim": 64}
SETTINGS = ["audio.segment=8192", "validation.segment=8192", "training.steps=2", "evaluation.sampler.steps=2"]


def on_cpus(name: str, folder: Path) -> Path:
    """Write a shipped grid with small models, and resources of this machine: two workers at most, each on a CPU."""
    tree = read_yaml(SPACES / name)
    manifest = str(few_recordings(folder))
    sizes = tree["factors"]["size"]
    levels = {size: {"model": {**WIDTHS, "depth": depth}} for depth, size in enumerate(sizes, start=1)}
    tree["factors"]["size"] = {"baseline": sizes[0], "levels": levels}
    resources = {
        size: {**wanted, "workers": min(2, wanted["workers"]), "gpus_per_worker": 0, "cpus_per_worker": 1}
        for size, wanted in tree["resources"].items()
    }
    path = folder / name
    path.write_text(dump_yaml({**tree, "data": {"train": manifest, "val": manifest}, "resources": resources}))
    return path


@pytest.mark.parametrize(
    ("name", "cell", "workers"),
    [
        ("grid.yaml", "text=caption,rolloff=on,lfr=crossfade,latent_dropout=0.1,size=small", 1),
        ("ladder.yaml", "text=caption,rolloff=on,latent_dropout=0.1,size=full", 2),
    ],
)
def test_a_cell_of_a_shipped_grid_runs_to_its_results(name: str, cell: str, workers: int, tmp_path: Path) -> None:
    grid = on_cpus(name, tmp_path)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [*SWEEP, str(grid), "--storage", str(tmp_path / "sweeps"), "--only", cell, "--seeds", "0", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps")))
    rows = pq.read_table(plan.paths.table("replicates")).to_pylist()
    (row,) = [row for row in rows if row["status"] == "done"]
    assert row["lsd"] > 0
    (trial,) = plan.paths.trials.iterdir()
    status = read_status(trial)
    assert status is not None
    assert (status.state, status.step, status.attempt) == ("done", 2, 1)
    assert len(list(trial.glob("log*.txt"))) == workers
