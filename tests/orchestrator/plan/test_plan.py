"""Cells and seeds fold into trials; identity follows what can change a number and nothing else."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from orchestrator.grid.factors import parse_only
from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import scan
from orchestrator.plan.plan import make_plan, write_plan
from orchestrator.plan.show import show_summary
from orchestrator.sweep_folder.plan_file import PlanRead
from sagasr.config.parsing import parse
from sagasr.config.settings import Config
from sagasr.data import splits
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import dump_yaml, read_json, read_yaml


def plan_of(path, only=(), **options):
    space = read_space(path, **options)
    return make_plan(space, parse_only(only, space.factors))


def ids(plan):
    return {(row.cell, row.seed): row.id for row in plan.replicates}


def test_cells_that_differ_in_the_eval_stage_share_a_training(make_grid):
    plan = plan_of(make_grid())
    assert len(plan.cells) == 4
    assert len(plan.replicates) == 8
    assert len(plan.trials) == 4
    for trial in plan.trials:
        assert [variant.evaluation.lfr for variant in trial.variants] == ["off", "hard"]
        assert trial.config.evaluation == trial.variants[0].evaluation
        assert {row.trial for row in trial.replicates} == {trial.id}
        assert set(trial.levels) == {"text"}
    assert [trial.seed for trial in plan.trials] == [0, 0, 1, 1]
    assert {trial.config.seed for trial in plan.trials} == {0, 1}


def test_a_trial_travels_as_json(make_grid):
    from orchestrator.plan.plan import Trial

    trial = plan_of(make_grid(), seeds=[0]).trials[0]
    assert parse(Trial, json.loads(trial.model_dump_json()), "trial") == trial


def test_comments_order_names_of_files_and_resources_change_no_identity(make_grid, tmp_path):
    grid = make_grid()
    before = ids(plan_of(grid))
    text = grid.read_text()
    (grid.parent / "moved.csv").write_text((grid.parent / "manifest.csv").read_text())
    grid.write_text(
        "# a comment\n"
        + text.replace("manifest.csv", "moved.csv")
        + "resources: {default: {workers: 2}}\nstorage: elsewhere\n"
    )
    assert ids(plan_of(grid)) == before


def test_what_changes_a_result_changes_the_identity_of_what_it_touches(make_grid):
    grid = make_grid()
    before = ids(plan_of(grid))
    longer = ids(plan_of(grid, settings={"training.steps": 5}))
    assert not set(before.values()) & set(longer.values())
    sampled = plan_of(grid, settings={"evaluation.sampler.steps": 3})
    assert not set(before.values()) & set(ids(sampled).values())
    assert [trial.id for trial in sampled.trials] == [trial.id for trial in plan_of(grid).trials]


def test_adding_a_level_or_a_seed_keeps_what_was(make_grid):
    before = ids(plan_of(make_grid()))
    after = ids(
        plan_of(make_grid(factors={"text": ["off", "caption"], "lfr": ["off", "hard", "crossfade"]}, seeds=[0, 1, 2]))
    )
    assert before.items() <= after.items()
    assert len(after) == 18


def test_changed_recordings_are_another_training(make_grid):
    grid = make_grid()
    before = plan_of(grid)
    (grid.parent / "a.flac").write_bytes((grid.parent / "b.flac").read_bytes())
    assert not {trial.id for trial in before.trials} & {trial.id for trial in plan_of(grid).trials}


def test_cells_that_would_be_the_same_are_refused_by_name(make_grid):
    grid = make_grid(
        factors={
            "corpus": {"baseline": "a", "levels": {"a": {}, "b": {"data": {"train": "copy.csv", "val": "copy.csv"}}}}
        }
    )
    (grid.parent / "copy.csv").write_text((grid.parent / "manifest.csv").read_text())
    with pytest.raises(ConfigError, match="cells 'corpus=a' and 'corpus=b' are the same"):
        plan_of(grid)


def test_only_selects_cells_and_leaves_the_plan_whole(make_grid):
    plan = plan_of(make_grid(), ["text=caption,lfr=hard"])
    assert len(plan.replicates) == 8
    assert [[row.cell for row in trial.replicates] for trial in plan.selected] == [["text=caption lfr=hard"]] * 2
    assert [[variant.evaluation.lfr for variant in trial.variants] for trial in plan.selected] == [["hard"]] * 2
    assert plan.hash == plan_of(make_grid()).hash


def test_plan_json_holds_what_the_report_reads(make_grid):
    ladder = [{"step": "0"}, {"step": "1", "text": "caption"}]
    plan = plan_of(make_grid(ladder=ladder, early_stopping={"policy": "none", "delta": 0.1}))
    tree = json.loads(json.dumps(plan.tree))
    assert tree["name"] == "trial-run"
    assert tree["metric"] == {"name": "lsd", "better": "lower", "delta": 0.1}
    assert tree["factors"]["lfr"] == {"baseline": "off", "levels": ["off", "hard"], "stage": "eval"}
    assert tree["ladder"][1] == {"step": "1", "levels": {"text": "caption", "lfr": "off"}, "versus": "0"}
    assert tree["seeds"] == [0, 1]
    assert tree["expected_replicates"] == 8
    rows = [row for cell in tree["cells"] for row in cell["replicates"]]
    assert len({row["replicate"] for row in rows}) == 8
    assert {row["trial"] for row in rows} == {trial["trial"] for trial in tree["trials"]}
    assert len(tree["plan_hash"]) == 64


def test_aliases_of_a_fraction_stand_in_the_plan(make_grid):
    factors = {"text": ["off", "caption"], "rolloff": ["off", "on"], "lfr": ["off", "hard"]}
    tree = plan_of(make_grid(factors=factors, design="fractional", resolution=3)).tree
    assert tree["design"]["generators"] == {"lfr": ["text", "rolloff"]}
    assert tree["confounded_with"]["text"] == ["rolloff:lfr"]


def test_resources_follow_the_size(make_grid):
    factors = {"size": ["tiny", "small"]}
    plan = plan_of(make_grid(factors=factors, resources={"small": {"workers": 2}, "default": {"checkpoint_every": 7}}))
    assert {trial.size: trial.resources.workers for trial in plan.trials} == {"tiny": 1, "small": 2}
    assert {trial.size: trial.resources.checkpoint_every for trial in plan.trials} == {"tiny": 7, "small": 500}


def test_the_written_grid_makes_the_same_plan_again(make_grid, tmp_path):
    plan = plan_of(make_grid(storage=str(tmp_path / "sweeps")), settings={"training.steps": 6})
    write_plan(plan)
    again = plan_of(plan.paths.grid)
    assert again.hash == plan.hash == read_json(plan.paths.plan)["plan_hash"]
    assert again.folder == plan.folder
    assert parse(Config, read_yaml(plan.paths.base), "base").training.steps == 6


def test_every_broken_recording_and_manifest_is_named_at_once(make_grid):
    grid = make_grid(data={"train": "manifest.csv", "val": "absent.csv"})
    (grid.parent / "a.flac").unlink()
    (grid.parent / "b.flac").write_bytes(b"not audio")
    with pytest.raises(DataError) as error:
        plan_of(grid)
    text = str(error.value)
    assert len(text.splitlines()) == 3
    assert all(name in text for name in ("a.flac", "b.flac", "absent.csv"))


def test_a_text_source_that_no_recording_has_is_refused(make_grid):
    with pytest.raises(DataError, match="no train recording has a transcript"):
        plan_of(make_grid(factors={"text": ["off", "transcript"]}))


def test_frozen_weights_count_by_content_not_by_path(make_grid, tmp_path):
    codec = {"kind": "stable-audio", "checkpoint": "weights.safetensors", "config": "codec.json"}
    grid = make_grid()
    grid.with_name("base.yaml").write_text(dump_yaml(read_yaml(grid.with_name("base.yaml")) | {"codec": codec}))
    for name in ("weights.safetensors", "codec.json"):
        (grid.parent / name).write_bytes(b"first")
    before = ids(plan_of(grid))
    (grid.parent / "weights.safetensors").rename(grid.parent / "renamed.safetensors")
    renamed = {"codec.checkpoint": str(grid.parent / "renamed.safetensors")}
    assert ids(plan_of(grid, settings=renamed)) == before
    (grid.parent / "other.safetensors").write_bytes(b"second")
    other = {"codec.checkpoint": str(grid.parent / "other.safetensors")}
    assert not set(ids(plan_of(grid, settings=other)).values()) & set(before.values())
    with pytest.raises(DataError, match=r"weights.safetensors: no such file"):
        plan_of(grid)


def test_planning_loads_neither_torch_nor_ray(make_grid):
    code = (
        "import sys; from pathlib import Path; from orchestrator.grid import read;"
        "from orchestrator.plan import ledger, plan;"
        "p = plan.make_plan(read.read_space(Path(sys.argv[1]))); p.hash; ledger.scan(p);"
        "bad = {'torch', 'ray', 'mlflow', 'lightning'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, str(make_grid())], check=True)


@pytest.mark.parametrize("in_grid", [True, False])
def test_the_tracking_server_is_named_by_the_grid_or_by_mlflows_variable(make_grid, tmp_path, monkeypatch, in_grid):
    def named() -> tuple[str, str]:
        changes = {"tracking": {"uri": "http://grid:5000"}} if in_grid else {}
        plan = make_plan(read_space(make_grid(**changes), storage=str(tmp_path / "sweeps")))
        console = Console(file=io.StringIO(), width=200)
        show_summary(plan, scan(plan), console)
        told = [line for line in console.file.getvalue().splitlines() if line.startswith("tracking: ")]
        return plan.tracking_uri, "".join(told)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    in_a_file = f"sqlite:///{tmp_path / 'sweeps' / 'mlflow.db'}"
    of_grid = "http://grid:5000", "tracking: http://grid:5000 (tracking.uri)"
    assert named() == (of_grid if in_grid else (in_a_file, ""))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@lab:5000")
    of_lab = "http://me:canary@lab:5000", "tracking: http://***@lab:5000 (MLFLOW_TRACKING_URI)"
    assert named() == (of_grid if in_grid else of_lab)


@pytest.mark.parametrize(("last", "share"), [("鸟儿", 0.0), ("猫在", 0.5), ("狗在叫", None)])
def test_a_plan_says_when_few_words_of_the_scored_captions_are_known(make_grid, last, share):
    grid = make_grid()
    captions = grid.parent / "manifest.csv"
    captions.write_text(f"path,split,caption\na.flac,train,一只狗\nb.flac,train,在叫\nc.flac,val,{last}\n")
    plan = plan_of(grid, seeds=[0])
    told = read_console(plan)
    known = share is not None and share < 0.5
    assert plan.tree.get("known_words") == ({"caption": share} if known else None)
    assert ("a model knows only 0%" in told) == known


def read_console(plan):
    console = Console(record=True, width=200)
    show_summary(plan, scan(plan), console)
    return console.export_text()


def test_quarantine_asks_each_recording_once_and_says_what_it_left_out(make_grid, monkeypatch):
    grid = make_grid()
    with (grid.parent / "manifest.csv").open("a") as table:
        table.write("gone.flac,train,noise,a noise\n")
    asked = []
    look = splits.problem_of

    def counted(path, whole=True):
        if not whole:
            asked.append(path)
        return look(path, whole)

    monkeypatch.setattr(splits, "problem_of", counted)
    plan = plan_of(grid, settings={"data.policy": "quarantine"})
    assert len(asked) == len(set(asked)) > 1
    assert "1 recordings that are named are not there" in plan.listings[0].told


def test_plan_json_has_the_form_that_its_model_names(make_grid):
    tree = plan_of(make_grid()).tree
    read = PlanRead.model_validate(tree)
    assert not read.model_extra
    assert read.model_dump(mode="json", exclude_unset=True) == tree
