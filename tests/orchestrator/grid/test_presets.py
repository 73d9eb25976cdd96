"""Sweeps from the presets paper.yaml and plan.yaml: planned at every size, or told in one line which weights lack."""

import json

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.cli.sweep import sweep
from orchestrator.grid.factors import STANDARD
from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan
from orchestrator.plan.preflight import preflight
from sagasr.codec.stable_audio_codecs import empty_autoencoder
from tests.sagasr.model.stable_audio import autoencoder_config

SIZES = ["small", "full"]


@pytest.fixture
def grid_of(make_grid):
    """Write a grid from a preset, over recordings of its own."""

    def write(preset, **factors):
        return make_grid(
            base=f"{preset}.yaml", factors={"text": ["off", "caption"], "size": SIZES} | factors, seeds=[0]
        )

    return write


@pytest.fixture
def weights(tmp_path):
    """Settings that name an autoencoder in the published layout, with few channels, and the description of a T5."""
    folder = tmp_path / "weights"
    (folder / "t5").mkdir(parents=True)
    (folder / "vae.json").write_text(json.dumps(autoencoder_config()))
    with torch.random.fork_rng(devices=[]):
        save_file(empty_autoencoder(folder / "vae.json").state_dict(), folder / "vae.safetensors")
    (folder / "t5" / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 768}))
    (folder / "t5" / "tokenizer.json").write_text("{}")
    return {
        "codec.checkpoint": str(folder / "vae.safetensors"),
        "codec.config": str(folder / "vae.json"),
        "conditions.text.encoder.model": str(folder / "t5"),
    }


@pytest.mark.parametrize("preset", ["paper", "plan"])
def test_without_weights_one_line_says_which_lack_and_how_to_get_them(preset, grid_of, capsys, monkeypatch):
    grid = grid_of(preset)
    monkeypatch.chdir(grid.parent)
    assert sweep([str(grid), "--plan"]) == 2
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert "stable-audio-open-1.0/model.safetensors: no such file" in line
    assert "hf download stabilityai/stable-audio-open-1.0" in line
    assert said.out == ""


@pytest.mark.parametrize(
    ("preset", "frames", "ids", "small", "full"),
    [("paper", 128, 2, 44e6, 1.057e9), ("plan", 32, 2, 45e6, 1.062e9)],
)
def test_with_weights_every_size_is_planned_with_its_own_widths(preset, frames, ids, small, full, grid_of, weights):
    plan = make_plan(read_space(grid_of(preset), settings=weights))
    found = preflight(plan.cells, preset)
    assert len(found) == 4
    for cell in plan.cells:
        batch, size = cell.config.training.batch_size, cell.levels["size"]
        shapes = found[cell.name]
        assert shapes.latents == (batch, 64, frames)
        assert shapes.tokens == (batch, 130, {"small": 512, "full": 768}[size])
        assert shapes.parameters == pytest.approx({"small": small, "full": full}[size], rel=0.02)


def test_roll_off_routes_are_a_factor_of_equal_transformers(grid_of, weights):
    grid = grid_of("paper", size=["small"], text=["caption"], rolloff_route=["both", "cross", "global"])
    cells = make_plan(read_space(grid, settings=weights)).cells
    assert [cell.config.conditions.rolloff_route for cell in cells] == ["both", "cross", "global"]
    assert len({shapes.parameters for shapes in preflight(cells, "routes").values()}) == 1


def test_the_ratio_of_low_frequency_replacement_costs_no_training(grid_of, weights):
    grid = grid_of("paper", size=["small"], text=["caption"], lfr=["off", "hard"], lfr_ratio=["off", "on"])
    plan = make_plan(read_space(grid, settings=weights))
    assert (len(plan.cells), len(plan.trials)) == (3, 1)  # without replacement there is no ratio
    assert STANDARD["lfr_ratio"].baseline == "off"
