"""The average of weights: its decay, its exchange with the live ones, and that it survives being stored."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sagasr.config.settings import Ema as EmaSettings
from sagasr.model.ema import Ema, decay_at


def test_decay_grows_as_in_stable_audio_tools() -> None:
    decays = [round(decay_at(n, 0.9999, 0.75), 4) for n in (0, 100, 1_000, 10_000)]
    assert decays == [0.0, 0.9686, 0.9944, 0.999]
    assert decay_at(10**9, 0.9999, 0.75) == 0.9999


def test_average_is_the_weighted_sum_worked_out_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    ema = Ema(module, EmaSettings(beta=0.9999, power=0.75))
    expected = 0.0
    for updates, value in enumerate([3.0, 5.0, -2.0]):
        nn.init.constant_(module.weight, value)
        ema.update()
        keep = 1 - (1 + updates) ** -0.75
        expected = keep * expected + (1 - keep) * value
    assert ema.weights()["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_swap_shows_the_average_and_brings_the_weights_back_even_after_an_error() -> None:
    module = nn.Linear(3, 2)
    ema = Ema(module)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    with torch.no_grad():
        module.weight += 1
    with ema.swap():
        assert torch.equal(module.weight, before["weight"])
    assert torch.equal(module.weight, before["weight"] + 1)
    with pytest.raises(RuntimeError, match="shapes"), ema.swap():
        module(torch.ones(1, 99))
    assert torch.equal(module.weight, before["weight"] + 1)
    assert torch.equal(ema.weights()["weight"], before["weight"])


def test_swapped_weights_still_train_with_their_optimiser() -> None:
    module = nn.Linear(3, 2)
    ema, optimiser = Ema(module), torch.optim.SGD(module.parameters(), lr=0.1)
    with ema.swap():
        module(torch.ones(1, 3))
    module(torch.ones(1, 3)).sum().backward()
    before = module.bias.detach().clone()
    optimiser.step()
    torch.testing.assert_close(module.bias.detach(), before - 0.1)


def test_frozen_weights_are_not_averaged() -> None:
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    assert set(Ema(module).weights()) == {"weight"}


def test_average_read_back_from_a_file_continues_bit_for_bit(tmp_path: Path) -> None:
    def stepped(ema: Ema, module: nn.Linear, steps: range) -> torch.Tensor:
        for step in steps:
            nn.init.constant_(module.weight, float(step))
            ema.update()
        return ema.weights()["weight"].clone()

    module = nn.Linear(4, 4)
    whole = stepped(Ema(module), module, range(6))
    module = nn.Linear(4, 4)
    first = Ema(module)
    stepped(first, module, range(3))
    save_file(first.state_dict(), tmp_path / "ema.safetensors")
    second = Ema(module)
    second.load_state_dict(load_file(tmp_path / "ema.safetensors"))
    assert torch.equal(stepped(second, module, range(3, 6)), whole)
