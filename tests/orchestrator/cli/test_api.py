"""A sweep in Python: what the command does, by its parts, and the notebook that shows it."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator import Sweep
from orchestrator.api import Answer
from orchestrator.report.analyse import analyse
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.io import lease
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import read_json, read_yaml, write_json
from tests.orchestrator.run.test_own_parts import study
from tests.orchestrator.sweep_folders import noisy_grid, write_sweep

NOTEBOOK = Path(__file__).with_name("notebook.py")
SHOW = """
import ast, sys
known = {}
for cell in open(sys.argv[1]).read().split("# %%")[1:]:
    body = ast.parse("#" + cell).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), known)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), known)
        shown = value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)
        assert shown is not None
sweep, outcome, answer = known["sweep"], known["outcome"], known["answer"]
assert not outcome.failed and not outcome.interrupted, outcome
assert len(sweep.replicates) == 8 and sweep.replicates["loudness"].notna().all()
assert {"lsd", "loudness"} <= set(answer.effects["metric"])
assert set(sweep.plan().cells["state"]) == {"done"}
assert "data:image/png" in answer._repr_html_()
trained = sweep.replicates["wall_seconds"].sum()
assert not sweep.run(quiet=True).failed
assert sweep.replicates["wall_seconds"].sum() == trained
"""


def test_a_grid_is_a_file_or_its_keys_and_keywords_replace_them(make_grid, monkeypatch):
    grid = make_grid()
    monkeypatch.chdir(grid.parent)
    from_file = Sweep("grid.yaml", seeds=(0,))
    from_keys = Sweep(read_yaml(grid), seeds=[0])
    from_words = Sweep(**(read_yaml(grid) | {"seeds": [0]}))
    assert (
        from_file.plan().tree["plan_hash"] == from_keys.plan().tree["plan_hash"] == from_words.plan().tree["plan_hash"]
    )
    assert list(from_file.plan().cells["seed"].unique()) == [0]


def test_a_plan_shows_itself_and_writes_nothing(make_grid, monkeypatch):
    grid = make_grid()
    monkeypatch.chdir(grid.parent)
    before = sorted(grid.parent.rglob("*"))
    planned = Sweep("grid.yaml", only="text=caption").plan()
    assert set(planned.cells["state"]) == {"missing"}
    assert "Does it work?" in planned._repr_html_()
    assert sorted(grid.parent.rglob("*")) == before


def test_what_is_wrong_is_one_error_and_what_is_not_there_is_named(make_grid, monkeypatch):
    monkeypatch.chdir(make_grid().parent)
    with pytest.raises(ConfigError, match="did you mean 'design'"):
        Sweep("grid.yaml", desing="full")
    with pytest.raises(DataError, match="run the sweep first"):
        _ = Sweep("grid.yaml").replicates


def test_results_are_data_frames_and_a_figure(make_grid, monkeypatch, tmp_path):
    grid = make_grid(storage=str(tmp_path / "sweeps"))
    monkeypatch.chdir(grid.parent)
    sweep = Sweep("grid.yaml")
    sweep.folder.mkdir(parents=True)
    factors = {"text": ["off", "caption"], "lfr": ["off", "hard"]}
    write_sweep(sweep.folder, noisy_grid(factors, 4, {"text": -0.3}), factors, eval_stage=["lfr"], delta=0.05)
    answer = sweep.analyse()
    assert answer.page.exists()
    row = sweep.effects[(sweep.effects["family"] == "primary") & (sweep.effects["factor"] == "text")].iloc[0]
    assert row["verdict"] == "improves"
    labels = [text.get_text() for text in answer.forest().axes[0].get_yticklabels()]
    assert "text: off → caption" in labels
    assert "data:image/png" in answer._repr_html_()
    assert isinstance(sweep.replicates, pd.DataFrame)


def test_a_sweep_that_is_refused_leaves_the_estimate_of_the_one_that_runs(make_grid, tmp_path):
    made = Sweep(make_grid(), storage=tmp_path / "sweeps")
    of_the_other = {"trials": {}, "price_per_gpu_hour": 7.0}
    write_json(made.folder / "estimate.json", of_the_other)
    with lease.held(SweepPaths(made.folder).lease), pytest.raises(DataError, match="in use by another process"):
        made.run(quiet=True)
    assert read_json(made.folder / "estimate.json") == of_the_other


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, orchestrator; print([m for m in ('torch', 'ray', 'mlflow', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(2_400)
def test_the_notebook_runs_from_its_first_cell_to_its_last(make_grid):
    folder = study(make_grid).parent
    command = [sys.executable, "-c", SHOW, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stderr
    assert (folder / "forest.png").exists()


def test_sequences_and_numbers_of_any_kind_are_those_of_a_file(make_grid, monkeypatch):
    grid = make_grid()
    monkeypatch.chdir(grid.parent)
    steps = {"training.steps": np.int64(5)}
    assert Sweep("grid.yaml", seeds=range(2)).space.grid.seeds == (0, 1)
    assert Sweep("grid.yaml", seeds=np.arange(2), settings=steps).space.grid.seeds == (0, 1)
    assert Sweep(read_yaml(grid) | {"seeds": range(2)}).space.grid.seeds == (0, 1)
    with pytest.raises(ConfigError, match=r"^settings: expected dotted paths with values, .* \(found 3\)$"):
        Sweep("grid.yaml", settings=3)


def test_a_plan_and_an_answer_are_short_where_they_are_printed(make_grid, tmp_path, monkeypatch):
    grid = make_grid()
    monkeypatch.chdir(grid.parent)
    assert repr(Sweep("grid.yaml").plan()) == "<Planned trial-run: 4 cells, 4 trainings>"
    folder = write_sweep(
        tmp_path / "case", noisy_grid({"text": ["off", "caption"]}, 2, {}), {"text": ["off", "caption"]}
    )
    assert (
        repr(Answer(analyse(folder), folder / "index.html")) == f"<Answer case: 1 contrasts, {folder / 'index.html'}>"
    )
