"""What a user gets wrong ends with one clear line per fault, exit code 2, and nothing written."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.sweep import sweep
from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan
from sagasr.io.files import MAX_YAML_BYTES, parse_yaml
from tests.processes import forked_command

MEMORY = 6 << 30  # of which one that reads without an end takes all


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return forked_command(lambda: sweep(arguments), folder, MEMORY)


def refused(folder: Path, *arguments: str) -> str:
    """Run the command in ``folder`` and return its single complaint, after checking that it left nothing behind."""
    before = sorted(folder.rglob("*"))
    done = run(folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before
    assert done.stdout == ""
    return done.stderr.strip()


GRID = """\
name: study
base: base.yaml
data: {train: manifest.csv, val: manifest.csv}
factors:
  text: [off, caption]
"""
TRAPS = {
    "not a grid": ("just words\n", "grid.yaml: expected 'key: value' lines at the top level, found a single value"),
    "empty": ("", "grid.yaml: expected 'key: value' lines at the top level, found nothing"),
    "duplicate keys": (GRID + "name: other\n", 'line 6: duplicate key "name"'),
    "duplicate factors": (GRID + "  text: [off]\n", 'duplicate key "text"'),
    "tabs": (GRID + "\tlfr: [off, hard]\n", "line 6: not valid YAML"),
    "unsafe tag": (GRID + "question: !!python/object/apply:os.system ['touch hacked']\n", "not valid YAML"),
    "alias bomb": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        "too deeply nested or too large",
    ),
    "deep nest": ("name: " + "[" * 2_000 + "]" * 2_000 + "\n", "not valid YAML"),
    "huge": ("# " + "x" * MAX_YAML_BYTES + "\n", "larger than"),
    "unclosed": (GRID + "seeds: [0, 1\n", "not valid YAML"),
    "a key that is no word": (GRID + "null: 1\n", "unknown key"),
    "a number as a key": (GRID + "7: 1\n", "unknown key"),
    "not a number": (GRID + "early_stopping: {delta: .nan}\n", "grid.yaml"),
    "number as a word": (GRID + 'early_stopping: {delta: "1e-4"}\n', "early_stopping.delta"),
    "unknown key": (GRID + "desing: full\n", "unknown key 'desing'; did you mean 'design'?"),
    "unknown level": (GRID.replace("caption", "captoin"), "unknown level 'captoin'; did you mean 'caption'?"),
    "unknown factor": (GRID.replace("text", "txt"), "factors.txt: not a standard factor; did you mean 'text'?"),
    "empty factor": (GRID.replace("[off, caption]", "[]"), "factors.text is empty"),
    "wrong type": (GRID + "seeds: 3\n", "seeds: "),
    "missing base": (GRID.replace("base.yaml", "nowhere/base.yaml"), "nowhere/base.yaml: no such file"),
    "missing manifest": (GRID.replace("manifest.csv", "absent.csv"), "absent.csv: no such file"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_faulty_grid_is_refused_in_one_line(make_grid, trap):
    content, expected = TRAPS[trap]
    grid = make_grid()
    grid.write_text(content)
    lines = refused(grid.parent, "grid.yaml", "--plan").splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
    assert "grid.yaml" in lines[0] or trap.startswith("missing")


ENDLESS = "a device or pipe, which may have no end; name a file"


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("grid.yaml", os.mkfifo, ENDLESS),
        ("base.yaml", os.mkfifo, ENDLESS),
        ("base.yaml", lambda path: path.symlink_to("/dev/zero"), ENDLESS),
        ("manifest.csv", os.mkfifo, "; name a manifest, or a folder of recordings"),
    ],
)
def test_what_has_no_end_is_not_read(make_grid, name, make, told):
    path = make_grid().parent / name
    path.unlink()
    make(path)
    lines = refused(path.parent, "grid.yaml", "--plan").splitlines()
    assert len(lines) == 1
    assert f"{name}: " in lines[0]
    assert told in lines[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/dev/zero"], ENDLESS),
        (["absent.yaml"], "absent.yaml: no such file"),
        (["demmo"], "did you mean 'demo'?"),
        (["."], ".: a folder; name the file"),
        (["grid.yaml", "--set", "training.step=3"], "unknown key 'training.step'; did you mean 'steps'?"),
        (["grid.yaml", "--set", "training.steps"], "--set training.steps: expected KEY=VALUE"),
        (
            ["grid.yaml", "--set", "training.steps=many"],
            "training.steps: input should be a valid integer (found 'many')",
        ),
        (["grid.yaml", "--set", "training.steps=[1"], "--set training.steps: line 1: not valid YAML"),
        (["grid.yaml", "--only", "text=captoin"], "did you mean 'caption'?"),
        (["grid.yaml", "--only", "caption"], "expected 'FACTOR=LEVEL'"),
        (["grid.yaml", "--seeds", "0,0"], "names a seed twice"),
        (["grid.yaml", "--storage", "attic://bucket/path"], "s3://bucket/prefix"),
    ],
)
def test_a_faulty_option_is_refused_in_one_line(make_grid, arguments, expected):
    lines = refused(make_grid().parent, *arguments).splitlines()
    assert len(lines) == 1
    assert expected in lines[0]


@pytest.mark.parametrize("arguments", [["grid.yaml", "--sedes", "1"], ["grid.yaml", "--seeds", "a"], []])
def test_a_faulty_command_line_is_one_line_that_says_where_to_look(make_grid, arguments):
    assert "; see sagasr-sweep --help" in refused(make_grid().parent, *arguments)


def test_all_broken_recordings_are_named_at_once(make_grid):
    grid = make_grid()
    (grid.parent / "a.flac").unlink()
    (grid.parent / "b.flac").write_bytes(b"")
    (grid.parent / "c.flac").write_bytes(b"RIFF not audio")
    lines = refused(grid.parent, "grid.yaml").splitlines()
    assert [Path(line.split(":")[0]).name for line in lines] == ["a.flac", "b.flac", "c.flac"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_too_small_for_the_checkpoints_is_refused_before_anything_starts(make_grid, tmp_path):
    disk = tmp_path / "small-disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        complaint = refused_by_disk(make_grid(), disk)
        assert "GB free, about" in complaint
        assert "choose another --storage" in complaint
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def refused_by_disk(grid: Path, disk: Path) -> str:
    done = run(grid.parent, grid.name, "--storage", str(disk))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_an_unreadable_grid_is_refused(make_grid):
    grid = make_grid()
    grid.write_bytes(b"\xff\xfe\x00name")
    assert "cannot be read as text" in refused(grid.parent, "grid.yaml", "--plan")


def test_off_and_small_numbers_mean_what_they_look_like(make_grid):
    """YAML 1.1 would read ``off`` as false and ``1e-1`` as a word."""
    grid = make_grid()
    grid.write_text(GRID.replace("caption]", "caption]\n  latent_dropout: [off, 1e-1]"))
    rate = parse_yaml("1e-4", "--set")
    plan = make_plan(read_space(grid, settings={"training.learning_rate": rate}))
    assert plan.tree["factors"]["latent_dropout"]["levels"] == ["off", "0.1"]
    assert {trial.config.training.learning_rate for trial in plan.trials} == {1e-4}


def test_planning_writes_nothing_and_shows_fewer_trainings_than_cells(make_grid, monkeypatch, capsys):
    grid = make_grid()
    before = sorted(grid.parent.rglob("*"))
    monkeypatch.chdir(grid.parent)
    assert sweep(["grid.yaml", "--plan", "--seeds", "0"]) == 0
    shown = capsys.readouterr().out
    assert sorted(grid.parent.rglob("*")) == before
    assert "4 cells" in shown
    assert "2 trainings" in shown
    assert "2x64x128" in shown
    assert max(map(len, shown.replace(str(grid.parent), "").splitlines())) <= 80
    assert sweep(["grid.yaml", "--json", "--seeds", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["expected_replicates"] == 4


def test_heads_that_do_not_divide_are_refused_with_the_cell_and_both_numbers(make_grid):
    heads = {"baseline": "2", "levels": {"2": {}, "3": {"model.num_heads": 3}}}
    lines = refused(make_grid(factors={"heads": heads}).parent, "grid.yaml", "--plan").splitlines()
    assert len(lines) == 1
    assert "cell 'heads=3'" in lines[0]
    assert "num_heads 3 does not divide embed_dim 64" in lines[0]


def test_more_gpu_hours_than_the_budget_are_refused_unless_agreed(make_grid, monkeypatch, capsys):
    grid = make_grid(budget={"max_gpu_hours": 1e-6}, resources={"default": {"gpus_per_worker": 1}})
    before = sorted(grid.parent.rglob("*"))
    monkeypatch.chdir(grid.parent)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert sweep(["grid.yaml", "--quiet", "--address", "127.0.0.1:1"]) == 2  # refused before any cluster is joined
    assert "budget.max_gpu_hours" in capsys.readouterr().err
    assert sorted(grid.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "example"), [("sweep", "sagasr-sweep demo.yaml"), ("report", "sagasr-report sweeps/demo")]
)
def test_help_loads_nothing_heavy_and_shows_an_example(command: str, example: str):
    program = f"from orchestrator.cli.{command} import {command}; {command}(['--help'])"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert example in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert f"orchestrator.cli.{command}" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "pandas", "numpy", "pydantic"}
