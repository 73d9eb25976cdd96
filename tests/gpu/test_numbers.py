"""A GPU gives the numbers that a CPU gives: losses, latents, scores and files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sagasr.codec.codec import build_codec
from sagasr.config.settings import Patched, Pqmf, Wavelet
from sagasr.evaluation.evaluate import evaluate
from sagasr.evaluation.validation_set import Validation
from sagasr.model.ema import Ema
from sagasr.upsample.upsampler import Settings, Upsampler
from tests.benchmarks import data
from tests.gpu.subjects import NAMES, batch_of, config_of, curve, losses_of, module_of, trained

CODECS = [Wavelet(kind="wavelet", levels=7), Patched(kind="patched"), Pqmf(kind="pqmf", bands=64)]

TF32_DB = -50  # where a GPU may sample in TF32: LSD does not notice


@pytest.mark.parametrize(("precision", "close"), [("32-true", 1e-4), ("bf16-mixed", 1e-2)])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_has_the_loss_that_it_has_on_a_cpu(name: str, precision: str, close: float, device: str) -> None:
    changes = {"training.precision": precision, "training.learning_rate": 1e-4}
    found = losses_of(module_of(config_of(name, device, **changes), device), 2)
    exact = config_of(name, device, **changes | {"training.precision": "32-true"})
    assert found == pytest.approx(losses_of(module_of(exact, "cpu"), 2), rel=close)
    assert found[0] != found[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_trains_with_the_training_section_that_it_ships(name: str, device: str, tmp_path: Path) -> None:
    config = config_of(name, device, **{"training.steps": 2})
    assert trained(config, device, tmp_path / "own").state == "done"
    exact = config_of(name, device, **{"training.steps": 2, "training.precision": "32-true"})
    assert trained(exact, "cpu", tmp_path / "cpu").state == "done"
    loss, expected = (curve(tmp_path / out, "train/loss") for out in ("own", "cpu"))
    assert loss.keys() == {2}
    assert loss == pytest.approx(expected, rel=1e-2 if config.training.precision == "bf16-mixed" else 5e-4)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.kind)
def test_an_exact_codec_is_exact_and_the_pqmf_as_near_as_on_a_cpu(codec: Any, device: str) -> None:
    audio = 0.1 * torch.randn(2, 1, 32_768, generator=torch.Generator().manual_seed(0))
    transform = build_codec(codec, 1)
    expected = audio if codec.kind != "pqmf" else transform.decode(transform.encode(audio), audio.shape[-1])
    transform.to(device)
    back = transform.decode(transform.encode(audio.to(device)), audio.shape[-1]).cpu()
    assert decibels(back - expected, expected) < -100


def test_a_validation_has_the_lsd_that_it_has_on_a_cpu(device: str) -> None:
    config = config_of("tiny", device)
    codec, clips = build_codec(config.codec, 1), Validation.of(data.store(config), config)
    found = []
    for place in (device, "cpu"):
        model = module_of(config, place).model.eval()
        found.append(evaluate(model, Ema(model), codec, clips, {"default": config.evaluation})["default"])
    assert found[0].lsd == pytest.approx(found[1].lsd, abs=1e-3)
    assert decibels(found[0].audio - found[1].audio, found[1].audio) < TF32_DB


def test_an_upsampled_recording_is_that_of_a_cpu(device: str, tmp_path: Path) -> None:
    trained(config_of("tiny", device, **{"training.steps": 2}), "cpu", tmp_path)
    audio = 0.1 * np.random.default_rng(0).standard_normal(30_000)
    mine, expected = (
        Upsampler.load(tmp_path, device=place).upsample(audio, 16_000, Settings(steps=4)) for place in (device, "cpu")
    )
    assert decibels(torch.from_numpy(mine - expected), torch.from_numpy(expected)) < TF32_DB


@pytest.mark.parametrize("name", NAMES)
def test_attention_in_bf16_takes_a_fused_kernel(name: str, device: str) -> None:
    config = config_of(name, device, **{"training.precision": "bf16-mixed"})
    module, batch = module_of(config, device), batch_of(config, device)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        with torch.autocast(device, torch.bfloat16):
            loss = module.training_step(batch, 0)
        loss.backward()
    attentions = {event.key for event in seen.key_averages() if "scaled_dot_product" in event.key}
    assert any("flash" in key or "efficient" in key or "cudnn" in key for key in attentions), attentions
    assert not any("attention_math" in key for key in attentions), attentions


def decibels(difference: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the level of a difference below its reference."""
    power = difference.double().square().mean() / reference.double().square().mean()
    return float(10 * torch.log10(power + 1e-30))
