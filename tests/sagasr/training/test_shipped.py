"""Every configuration that ships is trained as it ships: two steps, validations, checkpoints, an interruption.

Bases and grids are found by their files, so that one added later is tried, too. Only the model's widths, the length of
clips and the numbers of steps are small here; pretrained parts are small ones in the published layout.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sagasr
from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan
from sagasr.codec.stable_audio_codecs import empty_autoencoder
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config, Evaluation
from sagasr.data.encode import encode_store
from sagasr.io.files import read_yaml
from sagasr.io.signals import Halt
from sagasr.io.trial_folder import TrialFolder
from sagasr.training.harness import Harness
from sagasr.training.train import train
from sagasr.training.trial_log import History
from tests.sagasr.data.test_stored_texts import write_t5
from tests.sagasr.model.stable_audio import autoencoder_config
from tests.sagasr.training.trainings import few_recordings, same_training

SPACES = Path(sagasr.__file__).parents[1] / "search_spaces"
TREES = {path.name: read_yaml(path) for path in sorted(SPACES.glob("*.yaml"))}
GRIDS = [name for name, tree in TREES.items() if "factors" in tree]
BASES = [name for name in TREES if name not in GRIDS]
WIDTHS = {"embed_dim": 64, "depth": 1, "num_heads": 2, "cond_dim": 64}
SMALL = {
    "audio.segment": 8_192,
    "degradation.variants": 1,
    "training.steps": 2,
    "validation.segment": 8_192,
    "evaluation.sampler.steps": 2,
}
Settings = Mapping[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nine of the shipped recordings, an autoencoder and a T5 in the published layouts."""
    found = tmp_path_factory.mktemp("shipped")
    few_recordings(found)
    (found / "vae.json").write_text(json.dumps(autoencoder_config()))
    with torch.random.fork_rng(devices=[]):
        save_file(empty_autoencoder(found / "vae.json").state_dict(), found / "vae.safetensors")
    write_t5(found / "t5")
    return found


def settings_of(tree: Settings, folder: Path) -> dict[str, Any]:
    """Return what makes a shipped configuration small, with the pretrained parts that it names."""
    found = {"data": {"train": str(folder / "manifest.csv"), "val": str(folder / "manifest.csv")}, **SMALL}
    if tree["codec"]["kind"] == "stable-audio":
        found |= {"codec.checkpoint": str(folder / "vae.safetensors"), "codec.config": str(folder / "vae.json")}
    if tree["conditions"]["text"]["encoder"]["kind"] == "t5":
        found |= {"conditions.text.encoder.model": str(folder / "t5")}
    return found


def trained_twice(config: Config, variants: Mapping[str, Evaluation], store: Path, out: Path) -> None:
    """Train at one go and with an interruption after the first step, and hold one against the other."""
    runtime = Runtime(checkpoint_every=1)
    calm, halted = out / "calm", out / "halted"
    assert train(config, calm, store, variants, runtime).state == "done"
    first_step = halted / "checkpoints" / "step-00000001"
    halting = Harness(halt=lambda: Halt("asked") if first_step.exists() else None)
    stopped = train(config, halted, store, variants, runtime, halting)
    assert (stopped.state, stopped.step) == ("interrupted", 1)
    assert train(config, halted, store, variants, runtime).state == "done"
    assert same_training(calm, halted, variants)
    validated = {record["step"] for record in History(calm) if "val/lsd" in record["metrics"]}
    assert validated == {0, 2}
    assert all(TrialFolder(calm).scores(name).exists() for name in variants)


def test_there_are_bases_and_grids() -> None:
    assert set(BASES) >= {"tiny.yaml", "small.yaml", "plan.yaml", "paper.yaml"}
    assert set(GRIDS) >= {"demo.yaml", "grid.yaml", "ladder.yaml"}


@pytest.mark.parametrize("name", [name for name in BASES if name != "tiny.yaml"])
def test_each_base_for_gpus_states_its_precision(name: str) -> None:
    assert "precision" in TREES[name]["training"]


@pytest.mark.parametrize("name", BASES)
def test_each_base_trains_as_it_ships(name: str, folder: Path, tmp_path: Path) -> None:
    config = parse(Config, patch(TREES[name], {"model": WIDTHS}, settings_of(TREES[name], folder)), name)
    store = encode_store(config, folder / "stores")
    trained_twice(config, {"default": config.evaluation}, store, tmp_path)


@pytest.mark.parametrize("name", GRIDS)
def test_a_cell_of_each_grid_trains_as_it_ships(name: str, folder: Path, tmp_path: Path) -> None:
    """The last training of the first seed, which has most switched on; sizes are all alike here."""
    space = read_space(SPACES / name, settings=settings_of(TREES[TREES[name]["base"]], folder))
    trial = [trial for trial in make_plan(space).trials if trial.seed == 0][-1]
    config = parse(Config, patch(trial.config.model_dump(mode="json"), {"model": WIDTHS}), name)
    variants = {variant.id: variant.evaluation for variant in trial.variants}
    trained_twice(config, variants, encode_store(config, folder / "stores"), tmp_path)
