"""What a change of the grid, of recordings, of clips or of libraries means for what is there: told field by field."""

import json

import numpy as np
import pytest
import soundfile

from orchestrator.cli.sweep import sweep
from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import Entry, record, refused, scan
from orchestrator.plan.plan import Plan, make_plan, write_plan
from orchestrator.plan.show import explain
from orchestrator.sweep_folder.trial_marks import mark_stopped
from sagasr.io.errors import ConfigError
from sagasr.io.files import read_json, write_json
from sagasr.training.trial_log import Status, write_status


def plan_of(grid, tmp_path, **options) -> Plan:
    return make_plan(read_space(grid, storage=str(tmp_path / "sweeps"), **options))


def finish(plan, trials=None, state="done", **status):
    write_plan(plan)
    for trial in plan.trials if trials is None else trials:
        record(plan.paths, trial)
        write_status(plan.paths.trial(trial.id), Status(state=state, **status))
        for variant in trial.variants if state == "done" else ():
            path = plan.paths.of(trial.id).scores(variant.id)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"scores")


def words(plan, asked):
    return [line.partition(")  ")[2] for line in explain(plan, scan(plan), asked)]


def test_each_word_is_told_of_a_cell_with_its_reason(make_grid, tmp_path):
    grid = make_grid()
    plan = plan_of(grid, tmp_path)
    assert words(plan, "text=off lfr=hard") == ["new", "new"]
    done, failed, half, _ = plan.trials
    finish(plan, [done])
    finish(plan, [failed], "failed", reason="loss is nan at step 3")
    finish(plan, [half], "running", step=2, steps=4)
    assert words(plan, "text=off, lfr=hard, seed=0") == ["done"]
    assert words(plan, "text=caption seed=0") == ["failed: loss is nan at step 3"] * 2
    assert words(plan, half.id[:6]) == ["interrupted: at step 2 of 4"] * 2
    assert words(plan, plan.replicates[0].id) == ["done"]
    longer = plan_of(grid, tmp_path, settings={"training.steps": 9})
    assert words(longer, "text=off lfr=off seed=0") == ["stale: training.steps 4 -> 9"]
    fewer = plan_of(make_grid(factors={"text": ["off"], "lfr": ["off", "hard"]}), tmp_path)
    assert words(fewer, "text=caption seed=0") == ["no longer in the grid: kept"]
    with pytest.raises(ConfigError, match=r"--why text=of: factor 'text' has no level 'of'; did you mean 'off'\?"):
        explain(plan, scan(plan), "text=of")


def test_the_command_says_why_and_starts_nothing(make_grid, tmp_path, capsys):
    grid, storage = make_grid(), str(tmp_path / "sweeps")
    assert sweep([str(grid), "--storage", storage, "--why", "text=off lfr=hard seed=1"]) == 0
    assert capsys.readouterr().out.endswith("new\n")
    assert sweep([str(grid), "--storage", storage, "--why", "nothing"]) == 2
    assert not (tmp_path / "sweeps").exists()


def test_clips_are_scored_again_and_nothing_is_trained(make_grid, tmp_path):
    grid = make_grid()
    before = plan_of(grid, tmp_path)
    finish(before)
    soundfile.write(grid.parent / "d.flac", 0.1 * np.random.default_rng(4).standard_normal(16_384), 44_100)
    manifest = grid.parent / "manifest.csv"
    manifest.write_text(manifest.read_text() + "d.flac,val,noise,another\n")
    after = plan_of(grid, tmp_path)
    assert [trial.id for trial in after.trials] == [trial.id for trial in before.trials]
    assert set(words(after, "seed=0 text=off lfr=off")) == {
        "stale: trained; to be scored again: the validation recordings changed"
    }
    assert refused(after, scan(after)) == {}  # a clip more is no changed recording
    fewer = plan_of(grid, tmp_path, settings={"validation.clips": 1})
    assert "to be scored again: validation.clips 2 -> 1" in words(fewer, "seed=0 text=off lfr=off")[0]
    sampled = plan_of(grid, tmp_path, settings={"evaluation.sampler.steps": 3})
    assert "evaluation.sampler.steps 2 -> 3" in words(sampled, "seed=0 text=off lfr=off")[0]


def test_what_is_trained_on_does_not_depend_on_the_clips(make_grid, tmp_path):
    grid = make_grid()
    finish(plan_of(grid, tmp_path))
    manifest = grid.parent / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("b.flac,train", "b.flac,val"))
    assert set(words(plan_of(grid, tmp_path), "lfr=off")) == {"stale: the training recordings changed"}


def test_a_recording_changed_under_its_name_stops_the_resume_and_is_named(make_grid, tmp_path, capsys):
    grid, storage = make_grid(), str(tmp_path / "sweeps")
    finish(plan_of(grid, tmp_path))
    (grid.parent / "a.flac").write_bytes((grid.parent / "b.flac").read_bytes())
    plan = plan_of(grid, tmp_path)
    (line,) = refused(plan, scan(plan))["data"]
    assert line == f"{grid.parent / 'a.flac'}: the recording changed since this sweep began"
    assert sweep([str(grid), "--storage", storage]) == 2
    assert capsys.readouterr().err == f"{line}; undo it, or go on with --allow data\n"
    assert sweep([str(grid), "--storage", storage, "--plan"]) == 0
    assert "needs --allow data" in capsys.readouterr().out.replace("\n", " ")


def test_what_was_let_through_is_kept_in_the_plan(make_grid, tmp_path):
    from dataclasses import replace

    plan = plan_of(make_grid(), tmp_path)
    write_plan(replace(plan, allowed=("a.flac: changed",)))
    write_plan(plan)
    assert read_json(plan.paths.plan)["allowed"] == ["a.flac: changed"]
    assert read_json(plan.paths.plan)["plan_hash"] == plan.hash


def test_other_libraries_and_other_code_stop_what_they_would_mix(make_grid, tmp_path):
    plan = plan_of(make_grid(), tmp_path)
    finish(plan, state="running", step=2, steps=4)
    path = plan.paths.of(plan.trials[0].id).record
    write_json(path, read_json(path) | {"versions": {"torch": "1.0"}})
    assert "torch 1.0 -> " in refused(plan, scan(plan))["versions"][0]
    finish(plan)
    write_json(path, read_json(path) | {"versions": {"torch": "1.0"}})
    assert refused(plan, scan(plan)) == {}  # what is finished is finished
    old = plan.paths.trial("0123456789ab") / "trial.json"
    old.parent.mkdir()
    old.write_text(json.dumps(read_json(path) | {"id": "0123456789ab", "version": 0, "levels": {"text": "off"}}))
    plan.paths.trial(plan.trials[0].id).rename(tmp_path / "gone")
    assert refused(plan, scan(plan))["code"][0].startswith("results of version 0 are here")


def test_the_plan_marks_what_is_new_done_stale_and_gone(make_grid, tmp_path, capsys):
    storage = str(tmp_path / "sweeps")
    grid = make_grid()
    plan = plan_of(grid, tmp_path)
    finish(plan, plan.trials[:2])  # seed 0
    assert sweep([str(grid), "--storage", storage, "--plan"]) == 0
    assert "+ 4 new  = 4 done" in capsys.readouterr().out
    levels = {"baseline": "short", "levels": {"short": {}, "long": {"training.steps": 9}}}
    grid = make_grid(factors={"text": ["off"], "lfr": ["off", "hard"], "length": levels})
    assert sweep([str(grid), "--storage", storage, "--plan"]) == 0
    # A factor more keeps what was done at its baseline; the level that left is kept too.
    assert "+ 6 new  = 2 done  - 1 training no longer in the grid" in capsys.readouterr().out
    grid = make_grid()
    assert sweep([str(grid), "--storage", storage, "--plan", "--set", "training.steps=9"]) == 0
    out = capsys.readouterr().out
    assert "+ 4 new  ~ 4 stale" in out
    assert "~ stale (training.steps 4 -> 9)" in out.replace("\n", " ")


def test_a_stop_outlives_the_sweep_that_decided_it(make_grid, tmp_path):
    plan = plan_of(make_grid(), tmp_path)
    finish(plan, plan.trials[:1], "running", step=2, steps=4)
    mark_stopped(plan.paths.trial(plan.trials[0].id), "asha: behind the others at step 2", 2)
    ledger = scan(plan)
    assert ledger.entries[plan.trials[0].replicates[0].id] == Entry("stopped", "asha: behind the others at step 2")
    assert ledger.finished(plan.trials[0])
