"""What MLflow's users look for beside curves: kind, params, recordings, source, load, models, registry, new names."""

import getpass
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan, write_plan
from orchestrator.tracking.client import connect
from orchestrator.tracking.describe import MAX_PARAMS
from orchestrator.tracking.publish import publish
from orchestrator.tracking.runs import environment_tags
from orchestrator.tracking.tracker import Tracker
from sagasr.training.checkpoint import TENSORS
from sagasr.upsample.upsampler import Upsampler
from tests.orchestrator.journals import curve, journal, runs_of
from tests.orchestrator.tracking.test_tracking_cost import train_all

pytestmark = pytest.mark.slow

OWN = {"baseline": "slow", "levels": {"slow": {}, "fast": {"training.learning_rate": 1e-3, "training.clip_norm": 1}}}
EFFECTS = pd.DataFrame({name: [] for name in ("family", "domain", "factor", "level", "estimate", "low", "high")})


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """An MLflow sqlite file, made once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def make(make_grid, tmp_path, empty_database):
    """A plan of a sweep on an empty database, or on the one that is there."""

    def plan_of(**changes):
        if not (tmp_path / "sweeps").exists():
            (tmp_path / "sweeps").mkdir()
            shutil.copy(empty_database, tmp_path / "sweeps" / "mlflow.db")
        made = make_plan(read_space(make_grid(**{"seeds": [0], **changes}), storage=str(tmp_path / "sweeps")))
        write_plan(made)
        return made

    return plan_of


def test_a_run_has_hyperparameters_recordings_source_user_and_folder(make):
    plan = make(factors={"text": ["off", "caption"], "pace": OWN})
    for trial in plan.trials:
        journal(plan, trial, 8, "done")
    Tracker(plan, tags=environment_tags()).sync()
    client, runs, (parent,) = runs_of(plan)
    assert client.get_experiment_by_name(plan.name).tags["mlflow.experimentKind"] == "custom_model_development"
    for trial in plan.trials:
        for row in trial.replicates:
            run = runs[row.id]
            known = run.data.params
            assert len(known) <= MAX_PARAMS
            assert known.items() >= {**row.levels, "seed": "0"}.items()
            assert float(known["training.learning_rate"]) == trial.config.training.learning_rate
            assert float(known["training.clip_norm"]) == (1.0 if row.levels["pace"] == "fast" else 0.0)
            assert run.data.tags["sagasr.folder"] == str(plan.paths.trial(trial.id))
            assert run.data.tags["mlflow.user"] == getpass.getuser()
            assert run.data.tags["mlflow.source.name"] == str(plan.space.source)
            inputs = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
            assert [inputs[context].name for context in ("training", "validation")] == ["manifest.csv"] * 2
            assert inputs["training"].digest == trial.data[:12]
            files = [json.loads(inputs[context].profile) for context in ("training", "validation")]
            assert files == [{"files": 2, "seconds": 0.7}, {"files": 1, "seconds": 0.4}]
    assert parent.data.params.items() >= {"sweep": plan.name, "metric": "lsd", "policy": "blocks", "seeds": "0"}.items()
    assert parent.data.params["factor.pace"] == "slow | fast"


def test_the_load_of_the_machine_is_a_curve_that_is_sent_once(make):
    plan = make()
    trial = plan.trials[0]
    journal(plan, trial, 4, checkpoint=4)
    file = plan.paths.of(trial.id).load
    line = '{"time": 1000000001.0, "metrics": {"cpu_utilization_percentage": 50.0}}\n'
    file.write_text(line + line[:30])
    tracker = Tracker(plan)
    tracker.sync()
    file.write_text(line + line[:30] + line + line)  # an attempt was killed while it wrote
    journal(plan, trial, 8, "done")
    with file.open("a") as handle:
        handle.write(line.replace("00001.0", "99999.0"))  # after the training has ended
    tracker.sync()
    client, runs, _ = runs_of(plan)
    for row in trial.replicates:
        found = curve(client, runs[row.id], "system/cpu_utilization_percentage")
        assert found == [(0, 50.0, 1_000_000_001_000), (2, 50.0, 1_000_000_001_000)]
    assert tracker.undelivered().replicates == 0


def test_a_new_name_of_a_level_reaches_its_runs_and_more_seeds_reach_the_parent(make):
    before = make(factors={"pace": OWN})
    for trial in before.trials:
        journal(before, trial, 8, "done")
    Tracker(before).sync()
    client, old, _ = runs_of(before)
    renamed = {"baseline": "slow", "levels": {"slow": {}, "quick": OWN["levels"]["fast"]}}
    after = make(factors={"pace": renamed}, seeds=[0, 1])
    tracker = Tracker(after)
    tracker.sync()
    tracker.sync()
    _, new, (parent,) = runs_of(after)
    assert set(new) == set(old) == {row.id for row in before.replicates}  # no training is another
    for row in after.replicates[:2]:
        run = new[row.id]
        assert (run.data.params["pace"], run.info.run_name) == (row.levels["pace"], f"{row.cell} seed=0")
        assert (run.data.tags["sagasr.cell"], tracker.run_ids[row.id]) == (row.cell, run.info.run_id)
        assert len(curve(client, run, "train/loss")) == 8
        is_same = row.levels["pace"] == "slow"
        assert (run.info.run_id == old[row.id].info.run_id) == is_same
        assert run.data.tags.get("sagasr.replaces") == (None if is_same else old[row.id].info.run_id)
    assert (parent.data.params["seeds"], parent.data.tags["sagasr.seeds"]) == ("0", "0, 1")


def test_runs_of_an_earlier_version_get_what_they_lack(make):
    plan = make()
    journal(plan, plan.trials[0], 8, "done")
    Tracker(plan).sync()
    client, runs, _ = runs_of(plan)
    text = plan.paths.tracking.read_text()
    about = json.loads(text)["runs"][plan.replicates[0].id]["about"]
    plan.paths.tracking.write_text(text.replace(f'"about": "{about}"', '"params": true'))
    run = runs[plan.replicates[0].id].info.run_id
    client.delete_tag(run, "sagasr.folder")
    client.update_run(run, name="an old name")
    Tracker(plan).sync()
    found = client.get_run(run)
    assert found.info.run_name == f"{plan.replicates[0].cell} seed=0"
    assert found.data.tags["sagasr.folder"] == str(plan.paths.trial(plan.trials[0].id))
    assert len(found.inputs.dataset_inputs) == 2


def test_models_are_sent_once_load_without_the_trial_and_are_registered_once(make, tmp_path):
    plan = make(factors={"weights": ["ema", "raw"]})
    train_all(plan)
    Tracker(plan).sync()
    page = tmp_path / "index.html"
    page.write_text("x")
    ema, raw = plan.replicates
    roles = {"baseline": ema.id, "best": raw.id}
    told = [publish(plan, page, EFFECTS, (), roles, "saga")[-1] for _ in range(2)]
    assert told == ["registered: saga, version 1", "registered already: saga, version 1"]
    client, runs, parents = runs_of(plan)
    models = {
        model.tags["sagasr.replicate"]: model for model in client.search_logged_models([parents[0].info.experiment_id])
    }
    assert {name: model.tags["sagasr.role"] for name, model in models.items()} == {ema.id: "baseline", raw.id: "best"}
    assert [output.model_id for output in runs[raw.id].outputs.model_outputs] == [models[raw.id].model_id]
    trained = plan.paths.trial(plan.trials[0].id)
    for row, kind in ((ema, "ema"), (raw, "raw")):
        there = tmp_path / kind
        shutil.copytree(models[row.id].artifact_location.removeprefix("file://"), there)
        weights, same = Upsampler.load(there).model.state_dict(), Upsampler.load(trained, kind).model.state_dict()
        assert all(torch.equal(weights[name], same[name]) for name in same)
        assert Upsampler.load(there).config.evaluation.weights == kind
        (small,), (whole,) = there.rglob(TENSORS), trained.rglob(TENSORS)
        assert small.stat().st_size < 0.5 * whole.stat().st_size
    (version,) = client.search_model_versions("name = 'saga'")
    assert (version.source, version.run_id) == (models[raw.id].artifact_location, runs[raw.id].info.run_id)

    other = publish(plan, page, EFFECTS, (), {"baseline": ema.id, "best": ema.id}, "saga")[-1]
    assert other == "registered: saga, version 2"
    tags = {model.tags["sagasr.role"] for model in client.search_logged_models([parents[0].info.experiment_id])}
    assert tags == {"baseline, best", ""}


def test_a_name_without_a_model_is_said_to_be_unused(make, tmp_path):
    plan = make()
    Tracker(plan).sync()
    page = tmp_path / "index.html"
    page.write_text("x")
    assert publish(plan, page, EFFECTS, (), {}, "saga")[-1].startswith("not registered: no cell has finished")
    away = replace(plan, tracking_uri="http://127.0.0.1:9")
    assert publish(away, page, EFFECTS, (), {}, "saga")[-1].startswith("report not in MLflow yet: ")
