"""A configuration says what it means, or says in one line what is wrong with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from sagasr.config.parsing import parse
from sagasr.config.patching import leaves, located, patch
from sagasr.config.settings import SIZES, Config, Training
from sagasr.config.stages import train_stage
from sagasr.io.errors import ConfigError
from sagasr.io.files import odd_value, parse_yaml
from sagasr.io.fingerprint import fingerprint

BASE = {"data": {"train": "train.csv", "val": "val.csv"}, "codec": {"kind": "wavelet"}}


def faults(changes: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(Config, patch(BASE, changes), "base.yaml")
    return str(caught.value).splitlines()


def test_defaults_are_those_of_the_paper() -> None:
    config = parse(Config, BASE, "base.yaml")
    assert (config.training.learning_rate, config.training.batch_size, config.training.steps) == (1e-5, 256, 26_000)
    assert (config.evaluation.sampler.guidance.audio, config.evaluation.sampler.guidance.text) == (1.4, 1.2)
    assert (config.conditions.low.dropout, config.conditions.text.dropout) == (0.1, 0.1)
    assert config.degradation.rolloff_cap == 0.94


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.num_heads": 7}, ["base.yaml", "num_heads 7", "embed_dim 512"]),
        ({"model.num_head": 8}, ["base.yaml", "model.num_head", "did you mean 'num_heads'"]),
        ({"codec.level": 3}, ["codec.level", "did you mean 'levels'"]),
        ({"training.steps": "10"}, ["training.steps", "integer", "'10'"]),
        ({"training.steps": 1.5}, ["training.steps", "1.5"]),
        ({"training.steps": True}, ["training.steps"]),
        ({"codec": {"kind": "wavelets"}}, ["codec", "wavelet", "pqmf"]),
        ({"conditions.rolloff": "of"}, ["conditions.rolloff: 'of' is none of off, on; did you mean 'off'?"]),
        ({"audio.segment": 65_537}, ["audio.segment 65537", "64 samples"]),
        ({"degradation.cutoff_hz": [8_000, 4_000]}, ["cutoff_hz", "ascend"]),
        ({"model.cond_dim": 192}, ["cond_dim 192", "num_heads 8"]),
    ],
)
def test_a_wrong_setting_is_one_line_with_place_and_remedy(changes: dict[str, object], expected: list[str]) -> None:
    found = faults(changes)
    assert len(found) == 1
    assert all(part in found[0] for part in expected), found


def test_all_wrong_settings_are_told_at_once() -> None:
    assert len(faults({"training.steps": 0, "training.batch_size": 0, "seeed": 1})) == 3


def test_keys_that_yaml_does_not_read_as_words_are_named() -> None:
    tree = parse_yaml("conditions: {low: {null: zero}, 7: 1}", "base.yaml")
    with pytest.raises(ConfigError) as caught:
        parse(Config, located(BASE | tree, Path.cwd()), "base.yaml")
    assert "unknown key 'conditions.low.null'" in str(caught.value)
    assert "unknown key 'conditions.7'" in str(caught.value)


def test_files_are_taken_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    tree = located({"data": {"train": "a.csv", "val": "shipped"}, "codec.checkpoint": "x.safetensors"}, tmp_path)
    assert tree["data"]["train"] == str(tmp_path / "a.csv")
    assert Path(tree["data"]["val"]).is_file()
    assert tree["codec.checkpoint"] == str(tmp_path / "x.safetensors")


def test_a_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match="data is missing"):
        parse(Config, {"codec": {"kind": "wavelet"}}, "base.yaml")


@pytest.mark.parametrize("size", SIZES)
def test_every_standard_size_is_valid(size: str) -> None:
    parse(Config, patch(BASE, {"model": SIZES[size]}), size)


def test_patches_take_dotted_paths_and_sub_trees_and_leave_the_original_alone() -> None:
    tree = {"a": {"b": 1, "c": 2}, "kinded": {"kind": "x", "only_x": 1}}
    assert patch(tree, {"a.b": 5, "a": {"c": 6}})["a"] == {"b": 5, "c": 6}
    assert patch(tree, {"kinded": {"kind": "y", "only_y": 2}})["kinded"] == {"kind": "y", "only_y": 2}
    assert patch(tree, {"kinded": {"only_x": 3}})["kinded"] == {"kind": "x", "only_x": 3}
    assert tree["a"] == {"b": 1, "c": 2}
    assert leaves({"a": {"b": 1}, "c.d": 2}) == {"a.b": 1, "c.d": 2}


def test_paths_and_the_eval_stage_do_not_enter_the_identity_of_a_training() -> None:
    base = train_stage(parse(Config, BASE, "x"))
    moved = train_stage(parse(Config, patch(BASE, {"data.train": "elsewhere.csv", "evaluation.lfr": "hard"}), "x"))
    longer = train_stage(parse(Config, patch(BASE, {"training.steps": 27_000}), "x"))
    assert fingerprint(base) == fingerprint(moved) != fingerprint(longer)


def test_a_configuration_loads_without_torch() -> None:
    modules = (
        "sagasr.config.settings, sagasr.config.stages, sagasr.io.files, sagasr.training.trial_log, sagasr.cli.train"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_whole_numbers_may_be_written_with_an_exponent_and_fractions_may_not_be_integers() -> None:
    tree = parse_yaml("steps: 1e4\nbatch_size: 1e2\nlearning_rate: 1e-4", "train.yaml")
    training = parse(Training, tree, "train.yaml")
    assert (training.steps, training.batch_size, training.learning_rate) == (10_000, 100, 1e-4)
    assert training == parse(Training, {"steps": 10_000, "batch_size": 100, "learning_rate": 1e-4}, "train.yaml")
    with pytest.raises(ConfigError, match=r"^train.yaml: steps: input should be a valid integer.* \(found 1.5\)$"):
        parse(Training, {"steps": 1.5}, "train.yaml")


@pytest.mark.parametrize("betas", [[0.9, 1.0], [-0.1, 0.9], [1, 2]])
def test_a_moment_decays(betas: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"betas\.[01]: input should be"):
        parse(Training, {"betas": betas}, "train.yaml")


def test_every_odd_value_is_named_with_its_key() -> None:
    assert odd_value({"a": [1, {"b": float("nan")}]}) == "a.1.b: nan is no finite number; give one"
    assert odd_value([{"a": {1}}]) == "0.a: {1} is read as a set; write a list"
    assert odd_value({"a": 1, 2: None, "c": [True, 0.5, "x"]}) is None
