"""All processes of a sweep run one code, or it is told which do not."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan
from orchestrator.run.same_code import Code, check_same, code_here, finder
from orchestrator.run.worker import Task, train_trial
from sagasr.io.errors import ConfigError

PACKAGES = [Path(folder) for folder in code_here().folders]


def code_in(folder: Path) -> Code:
    """Return what is found by a process that looks into ``folder`` first and is given the function's lines alone."""
    ask = f"{dedent(inspect.getsource(finder()))}\nimport json; print(json.dumps(find()))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    host, folders, digest = json.loads(done.stdout)
    return Code(host, tuple(folders), digest)


def test_another_checkout_is_found_by_its_content_and_named_with_both_paths(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__", "recordings"))
    other = code_in(tmp_path)
    assert other.folders == tuple(str(tmp_path / package.name) for package in PACKAGES)
    check_same(code_here(), [other])  # where it lies does not matter
    (tmp_path / "orchestrator" / "run" / "same_code.py").unlink()  # an older version may not know how to be compared
    with (tmp_path / "sagasr" / "metrics" / "__init__.py").open("a") as file:
        file.write("lsd = lambda *_: 42.0\n")
    with pytest.raises(ConfigError) as refused:
        check_same(code_here(), [code_here(), code_in(tmp_path)])
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"node {other.host} runs {tmp_path}/sagasr and {tmp_path}/orchestrator (")
    assert f"and the sweep {PACKAGES[0]} and {PACKAGES[1]} (" in line
    assert "install the same version on every node" in line


def test_a_file_of_our_name_and_a_node_without_our_code_are_told_too(tmp_path: Path) -> None:
    (tmp_path / "sagasr.py").touch()
    with pytest.raises(ConfigError, match=f"runs {tmp_path} and "):
        check_same(code_here(), [code_in(tmp_path)])
    with pytest.raises(ConfigError, match="node far has no sagasr, and the sweep "):
        check_same(code_here(), [Code("far", (), "")])


def test_a_worker_whose_code_is_not_the_sweeps_does_not_train(make_grid, tmp_path: Path) -> None:
    """As on a node that joins later, or once somebody has edited the checkout while the sweep runs."""
    trial = make_plan(read_space(make_grid(), storage=str(tmp_path / "sweeps"))).trials[0]
    task = Task(
        trial=trial.id,
        folder=str(tmp_path / "trial"),
        scratch="",
        store="",
        sweep="",
        launch="",
        config=trial.config,
        variants={},
        runtime=trial.resources,
        code=code_here()._replace(digest="0" * 64),
    )
    with pytest.raises(ConfigError, match="the code changed while the sweep ran"):
        train_trial({"task": task.model_dump_json(), "attempt": 1, "micro_batches": 1})
    assert not (tmp_path / "trial").exists()
