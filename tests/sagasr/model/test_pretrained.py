"""Stable Audio Open's transformer as a start: really loaded, from every wrapping, or refused with one line.

The checkpoints are written by stable-audio-tools' own modules, small; the true sizes are tried on the meta device.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.plan.plan import identity
from sagasr.cli.train import train
from sagasr.codec.stable_audio_codecs import empty_autoencoder
from sagasr.config.parsing import parse
from sagasr.config.settings import SIZES, Config
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import dump_yaml
from sagasr.model.conditions import build_transformer
from sagasr.model.inputs import ConditionInputs
from sagasr.model.pretrained import _corners, load_pretrained
from sagasr.model.saga import SagaModel, build_model
from sagasr.published.stable_audio import load_stock
from sagasr.published.weights import Weights, check_fit, fit, shapes_of
from sagasr.training.preflight import missing_weights
from tests.sagasr.model.stable_audio import (
    CONDITION,
    DEPTH,
    HEADS,
    WIDTH,
    autoencoder_tree,
    build_whole,
    transformer_config,
    whole_config,
)

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """The published model in small, all of it."""
    return build_whole()


def tree_of(checkpoint: Path, **conditions: Any) -> dict[str, Any]:
    return {
        "data": {"train": "t.csv", "val": "v.csv"},
        "audio": {"channels": 2, "segment": 8192},
        "codec": {
            "kind": "stable-audio",
            "checkpoint": str(checkpoint),
            "config": str(checkpoint.parent / "model_config.json"),
        },
        "conditions": {"text": {"encoder": {"kind": "words"}}, **conditions},
        "model": {
            "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "cond_dim": CONDITION,
            "latents": "raw", "init": "pretrained", "checkpoint": str(checkpoint),
        },
    }  # fmt: skip


def config_of(checkpoint: Path, **conditions: Any) -> Config:
    return parse(Config, tree_of(checkpoint, **conditions), "test")


def written(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> Path:
    """Write a checkpoint and the model_config.json beside it."""
    (folder / "model_config.json").write_text(json.dumps(whole_config()))
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
    else:
        torch.save({"state_dict": tensors, "epoch": 3, "global_step": 9, "loops": {}}, folder / name)
    return folder / name


def trainer_wrapped(published: nn.Module) -> Tensors:
    """What stable-audio-tools' trainer saves: everything under ``diffusion.``, and the average of the transformer."""
    whole = published.state_dict()
    raw = {f"diffusion.{key}": value for key, value in whole.items()}
    raw |= {key: value + 1 for key, value in raw.items() if key.startswith("diffusion.model.")}
    average = {f"diffusion_ema.ema_model.{key.removeprefix('model.')}": value for key, value in whole.items()}
    average = {key: value for key, value in average.items() if key.startswith("diffusion_ema.ema_model.model.")}
    return raw | average | {"diffusion_ema.initted": torch.tensor(True), "diffusion_ema.step": torch.tensor(9)}


def prefixed(published: nn.Module, prefix: str) -> Tensors:
    """The transformer alone under a prefix."""
    return {prefix + key: value for key, value in published.model.model.state_dict().items()}  # type: ignore[union-attr]


LAYOUTS = {
    "whole": lambda published: published.state_dict(),
    "trainer": trainer_wrapped,
    "unwrapped": lambda published: prefixed(published, ""),
    "model.": lambda published: prefixed(published, "model."),
    "module.diffusion.model.model.": lambda published: prefixed(published, "module.diffusion.model.model."),
}


def loaded(config: Config) -> SagaModel:
    model = build_model(config, vocabulary=("dog", "rain")).eval()
    load_pretrained(model, config)
    return model


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_before_the_first_step_the_widened_transformer_is_the_published_one_whatever_the_low_latents(
    published: nn.Module, tmp_path: Path, layout: str, name: str
) -> None:
    model = loaded(config_of(written(tmp_path, LAYOUTS[layout](published), name)))
    generator = torch.Generator().manual_seed(0)
    noisy, t = torch.randn(3, 64, 16, generator=generator), torch.rand(3, generator=generator)
    cross = torch.randn(3, 5, CONDITION, generator=generator)
    global_ = torch.randn(3, 2 * CONDITION, generator=generator)
    with torch.no_grad():
        expected = published.model.model(noisy, t, cross_attn_cond=cross, global_embed=global_)  # type: ignore[operator, union-attr]
        for scale in (0.0, 1.0, 100.0):
            low = scale * torch.randn(3, 64, 16, generator=generator)
            found = model.transformer(noisy, t, cross_attn_cond=cross, global_embed=global_, input_concat_cond=low)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1  # nothing hides in zeros


def test_weights_stored_in_half_precision_are_read(published: nn.Module, tmp_path: Path) -> None:
    halves = {key: value.bfloat16() for key, value in published.state_dict().items()}
    model = loaded(config_of(written(tmp_path, halves)))
    for name, weight in model.transformer.named_parameters():  # type: ignore[union-attr]
        assert weight.dtype == torch.float32
        expected = halves[f"model.model.{name}"].float()
        assert torch.equal(weight[tuple(map(slice, expected.shape))], expected)


def test_the_low_latents_take_part_after_one_step(published: nn.Module, tmp_path: Path) -> None:
    model = loaded(config_of(written(tmp_path, published.state_dict())))
    width = model.transformer.transformer.project_in.weight  # type: ignore[union-attr]
    noisy, low = torch.randn(2, 64, 16), torch.randn(2, 64, 16)
    inputs = ConditionInputs(model.prepare(["dog", "rain"]), torch.full((2, 2), 8e3), torch.zeros(2, 2))
    model.loss(noisy, low, torch.randn_like(noisy), torch.full((2,), 0.5), inputs).backward()
    assert width.grad[:, 64:].abs().max() > 0  # type: ignore[union-attr, index]


def test_seconds_enter_as_published_and_roll_off_begins_at_nothing(published: nn.Module, tmp_path: Path) -> None:
    model = loaded(config_of(written(tmp_path, published.state_dict()), seconds="on"))
    seconds = torch.tensor([[3.0, 47.5], [0.0, 512.0]])
    noisy, low, t = torch.randn(2, 64, 16), torch.randn(2, 64, 16), torch.tensor([0.2, 0.9])
    rows = [{"seconds_start": float(start), "seconds_total": float(end)} for start, end in seconds]
    with torch.no_grad():
        theirs = published.conditioner(rows, "cpu")  # type: ignore[operator]
        global_ = torch.cat([theirs["seconds_start"][0], theirs["seconds_total"][0]], dim=-1).squeeze(1)
        for rolloff in (500.0, 20_000.0):
            inputs = ConditionInputs(model.prepare(["dog", "rain"]), torch.full((2, 2), rolloff), seconds)
            cross = model.conditioner(inputs).cross
            expected = published.model.model(noisy, t, cross_attn_cond=cross, global_embed=global_)  # type: ignore[operator, union-attr]
            torch.testing.assert_close(model.velocity(noisy, t, low, inputs), expected, atol=1e-5, rtol=1e-5)


def test_what_matched_is_counted_and_printed_and_our_own_conditions_are_new_not_missing(
    published: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, published.state_dict() | {"model.model.extra": torch.ones(2)})
    config = config_of(path, seconds="on", rolloff_route="prepend")
    model = build_model(config)
    parts = load_pretrained(model, config)
    transformer, conditions = parts
    assert [part.prefix for part in parts] == ["model.model.", "conditioner.conditioners."]
    assert transformer.matched == transformer.parameters
    assert transformer.unexpected == ("model.model.extra",)
    assert set(transformer.new) == {"to_prepend_embed.0.weight", "to_prepend_embed.2.weight"}
    assert set(transformer.corners) == {"preprocess_conv.weight", "transformer.project_in.weight"}
    assert (len(conditions.sources), conditions.missing, conditions.unexpected) == (6, (), ())
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("model.safetensors: ") for line in lines)
    assert "100 %), 0 missing, 1 unexpected, 2 new (not in such checkpoints); under 'model.model.'" in lines[0]
    assert "2 widened with zeros" in lines[0]
    assert "6 weights matched" in lines[1]
    assert lines[2].startswith("model.safetensors: conditions: 9 weights are new")  # roll-off, its token, words


def test_scratch_reads_no_file_and_draws_the_same_weights_as_ever(tmp_path: Path) -> None:
    tree = tree_of(tmp_path / "absent.safetensors")
    tree["model"] |= {"init": "scratch"}
    named = parse(Config, tree, "test")
    plain = parse(Config, tree | {"model": tree["model"] | {"checkpoint": None}}, "test")
    assert load_pretrained(build_model(named), named) == []
    for one, other in zip(build_model(named).parameters(), build_model(plain).parameters(), strict=True):
        assert torch.equal(one, other)


# --- refusals -----------------------------------------------------------------------------------------------------


def refusal(config: Config) -> str:
    """Return the one line that the plan and the loading both give."""
    planned = [line for line in missing_weights(config) if "model.checkpoint" in line]
    with pytest.raises(DataError) as caught:
        loaded(config)
    assert planned == [str(caught.value)]
    assert "\n" not in planned[0]
    assert config.model.checkpoint is not None
    assert config.model.checkpoint in planned[0]
    assert "stabilityai/stable-audio-open-1.0" in planned[0]
    return planned[0]


def test_a_checkpoint_that_lacks_more_than_one_percent_is_refused_with_the_first_weight_it_lacks(
    published: nn.Module, tmp_path: Path
) -> None:
    weights = {key: value for key, value in published.state_dict().items() if ".layers.1.ff" not in key}
    line = refusal(config_of(written(tmp_path, weights)))
    assert "at least 99% must match (first without a match: transformer.layers.1.ff" in line


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"depth": 3}, "of its transformer would be used (first left over: transformer.layers.2."),
        ({"depth": 1}, "first without a match: transformer.layers.1."),
        ({"width": 128, "heads": 4}, "of another size than the transformer that is configured"),
        ({"width": 64, "heads": 1, "cond": 64}, "of another size than the transformer that is configured"),
    ],
)
def test_a_transformer_of_another_size_is_refused(tmp_path: Path, size: dict[str, int], words: str) -> None:
    path = written(tmp_path, build_whole(**size).state_dict())
    tree = whole_config()
    del tree["model"]["diffusion"]  # by the shapes alone
    (tmp_path / "model_config.json").write_text(json.dumps(tree))
    assert words in refusal(config_of(path))


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"num_heads": 4}, "its transformer has num_heads 4 (model_config.json), the configured one 2"),
        (
            {"attn_kwargs": {"qk_norm": "ln"}},
            "attn_kwargs {'qk_norm': 'ln'} (model_config.json), the configured one 'no",
        ),
        ({"global_cond_type": "adaLN"}, "global_cond_type 'adaLN'"),
    ],
)
def test_what_shapes_do_not_tell_is_read_from_the_published_configuration(
    published: nn.Module, tmp_path: Path, theirs: dict[str, Any], words: str
) -> None:
    path = written(tmp_path, published.state_dict())
    tree = whole_config()
    tree["model"]["diffusion"]["config"] |= theirs
    (tmp_path / "model_config.json").write_text(json.dumps(tree))
    assert words in refusal(config_of(path))


def test_an_autoencoder_alone_is_no_transformer(published: nn.Module, tmp_path: Path) -> None:
    weights = published.pretransform.model.state_dict()  # type: ignore[union-attr]
    assert "transformer: 0 weights matched" in refusal(config_of(written(tmp_path, weights)))  # type: ignore[arg-type]


def test_seconds_that_the_checkpoint_does_not_know_are_refused(published: nn.Module, tmp_path: Path) -> None:
    line = refusal(config_of(written(tmp_path, prefixed(published, "model.model.")), seconds="on"))
    assert "first without a match: seconds_start.frequencies" in line


def test_weights_that_are_not_numbers_are_refused(published: nn.Module, tmp_path: Path) -> None:
    weights = {key: value.clone() for key, value in published.state_dict().items()}
    weights["model.model.transformer.layers.0.self_attn.to_out.weight"][3, 4] = float("nan")
    with pytest.raises(DataError, match=r"model\.safetensors: .*self_attn\.to_out\.weight holds NaN"):
        loaded(config_of(written(tmp_path, weights)))


def test_an_absent_checkpoint_is_one_line_with_the_way_to_get_it(published: nn.Module, tmp_path: Path) -> None:
    line = refusal(config_of(tmp_path / "absent.safetensors"))
    assert "no such checkpoint" in line or "is not there" in line


class Evil:
    """A pickled object that would run code when loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.proof,)  # type: ignore[return-value]


def test_a_checkpoint_with_code_inside_is_refused_and_not_run(published: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "model_config.json").write_text(json.dumps(whole_config()))
    proof = tmp_path / "code-ran"
    torch.save({"state_dict": published.state_dict(), "callbacks": Evil(proof)}, tmp_path / "model.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="getattr"):  # armed: it names code that a full load would run
        torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert "it could run code" in refusal(config_of(tmp_path / "model.ckpt"))
    assert not proof.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checkpoint": None}, "init pretrained needs a checkpoint: get stabilityai/stable-audio-open-1.0"),
        ({"latents": "normalised"}, "set latents: raw"),
        ({"preconditioning": "level"}, "preconditioning: off"),
    ],
)
def test_a_configuration_that_cannot_start_from_a_checkpoint_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    tree = tree_of(tmp_path / "model.safetensors")
    tree["model"] |= change
    with pytest.raises(ConfigError, match="test: model: ") as caught:
        parse(Config, tree, "test")
    assert words in str(caught.value)


def test_latents_of_another_codec_are_not_what_the_checkpoint_knows(tmp_path: Path) -> None:
    tree = tree_of(tmp_path / "model.safetensors") | {"codec": {"kind": "pqmf", "bands": 64}}
    with pytest.raises(ConfigError, match="knows the latents of codec stable-audio, not of pqmf"):
        parse(Config, tree, "test")


# --- identity and use ---------------------------------------------------------------------------------------------


def test_the_checkpoint_counts_by_its_content_and_only_where_it_is_used(published: nn.Module, tmp_path: Path) -> None:
    for folder, seed in (("one", 7), ("same", 7), ("other", 8)):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, (published if seed == 7 else build_whole(seed)).state_dict())
    paths = {name: tmp_path / name / "model.safetensors" for name in ("one", "same", "other")}
    trees = {name: identity(config_of(path)) for name, path in paths.items()}
    assert trees["one"] == trees["same"] != trees["other"]
    scratch = {}
    for name, path in paths.items():
        tree = tree_of(path)
        tree["codec"] = {"kind": "pqmf"}
        tree["audio"] = {"segment": 8192}
        tree["model"]["init"] = "scratch"
        scratch[name] = identity(parse(Config, tree, "test"))
    assert scratch["one"] == scratch["other"]


@pytest.mark.slow
def test_a_training_starts_from_the_checkpoint_and_an_absent_one_starts_nothing(
    published: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, published.state_dict())
    tree = tree_of(path) | {
        "data": {"train": "shipped", "val": "shipped"},
        "degradation": {"variants": 1},
        "training": {"steps": 2, "batch_size": 2},
        "validation": {"every": 2, "clips": 1, "segment": 8192},
        "evaluation": {"sampler": {"steps": 2}},
    }
    (tmp_path / "config.yaml").write_text(dump_yaml(tree))
    command = [str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    absent = ["--set", f"model.checkpoint={tmp_path / 'absent.ckpt'}"]
    assert train([*command, *absent]) == 2
    assert not (tmp_path / "run").exists()
    [line] = capsys.readouterr().err.splitlines()
    assert "absent.ckpt" in line
    assert "stabilityai/stable-audio-open-1.0" in line
    assert train(command) == 0
    captured = capsys.readouterr()
    assert "transformer: " in captured.err
    assert "autoencoder: " in captured.err
    assert "done at step 2" in captured.out


# --- true sizes ---------------------------------------------------------------------------------------------------


def on_paper(module: nn.Module, prefix: str) -> Weights:
    """A checkpoint that holds the shapes of a module and no values."""
    shapes = {prefix + key: shape for key, shape in shapes_of(module).items()}
    return Weights(Path("model.safetensors"), shapes, lambda name: torch.empty(shapes[name], device="meta"))


@pytest.mark.parametrize("seconds", ["off", "on"])
def test_the_published_transformer_of_1057_million_parameters_fits_the_full_size(tmp_path: Path, seconds: str) -> None:
    tree = tree_of(tmp_path / "model.safetensors", seconds=seconds)
    tree["model"] |= SIZES["full"]
    config = parse(Config, tree, "test")
    with torch.device("meta"):
        dit = load_stock("stable_audio_tools.models.dit").DiffusionTransformer
        theirs = dit(**transformer_config(width=1536, depth=24, heads=24, cond=768))
        ours = build_transformer(config, 64)
    assert sum(weight.numel() for weight in theirs.parameters()) == 1_056_828_544
    weights = on_paper(theirs, "model.model.")
    found = fit("transformer", shapes_of(ours), weights, corners=_corners(config))
    check_fit(found, weights, "")
    assert (found.matched, found.missing, found.unexpected) == (found.parameters, (), ())
    assert found.offered == sum(value.numel() for value in theirs.state_dict().values())
    assert len(found.corners) == (3 if seconds == "on" else 2)


def test_the_published_autoencoder_of_156_million_parameters_fits(tmp_path: Path) -> None:
    config = whole_config()
    config["model"]["pretransform"]["config"] = autoencoder_tree(channels=128)
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        autoencoder = empty_autoencoder(tmp_path / "model_config.json")
    assert sum(weight.numel() for weight in autoencoder.parameters()) == 156_112_514
    weights = on_paper(autoencoder, "pretransform.model.")
    found = fit("autoencoder", shapes_of(autoencoder), weights)
    check_fit(found, weights, "")
    assert found.matched == found.parameters
