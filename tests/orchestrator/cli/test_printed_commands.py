"""A command that is printed can be pasted as it is, also where a folder's name holds a blank and a quote."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.api import Sweep
from orchestrator.cli.sweep import print_answer
from orchestrator.plan.plan import write_plan

BIN = Path(sys.executable).parent
ODD = "it's a :star: study"


@pytest.fixture
def study(make_grid):
    folder = make_grid().parent
    return folder.rename(folder.parent / ODD)


def pasted(line: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a line in a shell as somebody who pastes it would."""
    return subprocess.run(
        f'PATH="{BIN}:$PATH"; {line}', shell=True, cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("grid", ["grid.yaml", "mine.yaml"])
def test_the_remedy_for_a_grid_that_is_trained_is_a_command(study, grid, tmp_path):
    (study / "mine.yaml").write_text("include: grid.yaml\nname: mine\n")
    for wrong in (
        f"sagasr-train {shlex.quote(f'{study}/{grid}')} --out run",
        f"sagasr-encode {shlex.quote(f'{study}/manifest.csv')} --config {shlex.quote(f'{study}/{grid}')}",
    ):
        told = pasted(wrong, tmp_path)
        assert told.returncode == 2
        command = told.stderr.partition("run it: ")[2].strip()
        done = pasted(f"{command} --plan", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "4 cells" in done.stdout


def test_the_remedy_for_a_configuration_that_is_swept_is_a_command(study, tmp_path):
    told = pasted(f"sagasr-sweep {shlex.quote(f'{study}/base.yaml')}", tmp_path).stderr
    assert shlex.split(told.partition("train it: ")[2]) == ["sagasr-train", f"{study}/base.yaml"]


def test_the_commands_at_the_end_of_a_sweep_name_their_folders_whole(study, monkeypatch, tmp_path):
    sweep = Sweep(study / "grid.yaml", storage=str(study / "sweeps"), seeds=[0])
    plan = sweep.plan().plan
    write_plan(plan)
    (sweep.folder / "results").mkdir()
    rows = [
        {"cell": row.cell, "trial": row.trial, "seed": row.seed, "replicate": row.id, **row.levels}
        | {"status": "done", "lsd": 1.0 + place}
        for place, row in enumerate(plan.replicates)
    ]
    pd.DataFrame(rows).to_parquet(sweep.folder / "results" / "replicates.parquet")
    monkeypatch.setattr(Sweep, "publish", lambda *_: [])
    console = Console(width=80, highlight=False, emoji=False)
    with console.capture() as shown:
        print_answer(sweep, console)
    best, curves = (shlex.split(line) for line in re.findall(r"^(?:best model|curves): (.*)$", shown.get(), re.M))
    assert best == ["sagasr-upsample", "IN", "OUT", "--checkpoint", str(sweep.folder / "trials" / rows[0]["trial"])]
    assert curves == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{study}/sweeps/mlflow.db"]
