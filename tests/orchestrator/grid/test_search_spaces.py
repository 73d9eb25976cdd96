"""Every shipped grid loads, expands and passes preflight; what it asks is what it says."""

import pytest

from orchestrator.grid.expand import expand
from orchestrator.grid.read import read_space, shipped
from orchestrator.plan.cost import costs_of
from orchestrator.plan.ledger import scan
from orchestrator.plan.plan import make_plan
from orchestrator.plan.preflight import preflight
from sagasr.config.parsing import parse
from sagasr.config.settings import SIZES, Config
from sagasr.io.files import dump_yaml, read_yaml

FOLDER = shipped("demo.yaml").parent
GRIDS = sorted(path.name for path in FOLDER.glob("*.yaml") if "factors" in read_yaml(path))
BASES = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name not in GRIDS and "cluster" not in path.name)


@pytest.mark.parametrize("name", BASES)
def test_each_base_is_a_full_configuration(name):
    parse(Config, read_yaml(FOLDER / name) | {"data": {"train": "a.csv", "val": "b.csv"}}, name)


@pytest.mark.parametrize("name", GRIDS)
def test_each_grid_expands_and_passes_preflight(name):
    plan = make_plan(read_space(FOLDER / name))
    shapes = preflight(plan.cells, name)
    assert set(shapes) == {cell.name for cell in plan.cells}
    for cell in plan.cells:
        batch, channels, frames = shapes[cell.name].latents
        assert batch == cell.config.training.batch_size
        assert channels * frames == cell.config.audio.segment * cell.config.audio.channels
    assert all(cost.seconds > 0 for cost in costs_of(plan, shapes, scan(plan)).values())


def test_the_demo_reads_three_cells_from_each_training_and_stops_when_decided():
    plan = make_plan(read_space(FOLDER / "demo.yaml"))
    assert set(plan.space.factors) == {"text", "rolloff", "latent_dropout", "lfr"}
    assert len(plan.cells) == 24
    assert len(plan.trials) == 8 * len(plan.seeds)
    assert (len(plan.seeds), plan.space.grid.early_stopping.policy) == (4, "blocks")
    assert {trial.size for trial in plan.trials} == {"tiny"}
    assert all(len(trial.variants) == 3 for trial in plan.trials)


def test_the_grid_crosses_five_factors_in_six_blocks():
    space = read_space(FOLDER / "grid.yaml")
    assert set(space.factors) == {"text", "rolloff", "lfr", "latent_dropout", "size"}
    assert len(expand(space)) == 48
    assert space.grid.seeds == (0, 1, 2, 3, 4, 5)


def test_the_ladder_climbs_as_the_study_was_planned():
    plan = make_plan(read_space(FOLDER / "ladder.yaml"))
    steps = {step.step: step for step in plan.space.ladder}
    versus = {name: step.versus for name, step in steps.items()}
    assert versus == {"0": None, "1": "0", "2'": "1", "2": "2'", "2''": "2'", "3": "2'", "4": "3"}
    changed = {
        name: {key: level for key, level in step.levels.items() if steps[step.versus].levels[key] != level}
        for name, step in steps.items()
        if step.versus
    }
    assert changed == {
        "1": {"text": "caption"},
        "2'": {"rolloff": "on"},
        "2": {"lfr": "hard"},
        "2''": {"lfr": "crossfade"},
        "3": {"latent_dropout": "0.1"},
        "4": {"size": "full"},
    }
    lowest = {"text": "off", "rolloff": "off", "lfr": "off", "latent_dropout": "off", "size": "small"}
    assert steps["0"].levels == lowest
    rows = {row.cell: row.trial for row in plan.replicates if row.seed == 0}
    by_step = {cell: rows[" ".join(f"{k}={v}" for k, v in steps[cell].levels.items())] for cell in steps}
    assert by_step["2'"] == by_step["2"] == by_step["2''"]
    assert len(set(by_step.values())) == 5


@pytest.mark.parametrize("size", SIZES)
def test_every_standard_level_passes_preflight_at_every_size(size, tmp_path):
    factors = {
        "text": ["off", "caption", "transcript"],
        "rolloff": ["off", "on"],
        "rolloff_route": ["both", "cross", "global", "prepend"],
        "lfr": ["off", "hard", "crossfade"],
        "lfr_ratio": ["off", "on"],
        "latent_dropout": ["off", 0.1],
        "null_latent": ["zero", "minus5"],
        "time_sampler": ["uniform", "logit-normal"],
        "schedule": ["linear", "linear-quadratic"],
        "weights": ["ema", "raw"],
        "guidance": ["off", "paper"],
        "rolloff_target": ["oracle", "fixed", "estimated"],
        "steps": [100, 25],
        "size": [size],
    }
    grid = tmp_path / "all.yaml"
    tree = {"name": "all", "base": "small.yaml", "data": {"train": "shipped", "val": "shipped"}, "factors": factors}
    grid.write_text(dump_yaml(tree | {"design": "one-at-a-time"}))
    cells = expand(read_space(grid))
    assert len(cells) == 1 + sum(len(levels) - 1 for levels in factors.values())
    assert len(preflight(cells, size)) == len(cells)
