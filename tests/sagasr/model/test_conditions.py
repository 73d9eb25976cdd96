"""Conditions: their slots, their routes, their nulls, and that what is switched off leaves no trace."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sagasr.audio.spectrum import BIN_HZ, rolloff_hz
from sagasr.config.parsing import parse
from sagasr.config.settings import SIZES, Config
from sagasr.model.conditions import Conditioner, NumberEmbedding, drop, null_cross, null_low, rolloff_share
from sagasr.model.inputs import ConditionInputs, seeded

WORDS = ("bark", "dog", "rain")


def config(**conditions: Any) -> Config:
    text = {"encoder": {"kind": "words", "max_tokens": 4}} | conditions.pop("text", {})
    tree = {
        "data": {"train": "train.csv", "val": "val.csv"},
        "codec": {"kind": "patched"},
        "model": SIZES["tiny"],
        "conditions": {"text": text} | conditions,
    }
    return parse(Config, tree, "test")


def released_rolloff_hz(audio: torch.Tensor) -> float:
    """The last bin that does not reach the share, as the authors' code reads it."""
    return max(0.0, rolloff_hz(audio) - BIN_HZ)


def inputs(conditioner: Conditioner, low: float = 4_000.0, high: float = 16_000.0) -> ConditionInputs:
    text = conditioner.text.prepare(["dog bark", ""])
    return ConditionInputs(text, torch.tensor([[low, high]] * 2), torch.tensor([[1.0, 30.0]] * 2))


def test_cross_attention_holds_text_and_then_one_token_each_for_low_and_high() -> None:
    conditioner = Conditioner(config(), WORDS)
    given = inputs(conditioner)
    found = conditioner(given)
    assert found.cross.shape == (2, 4 + 2, 128)
    assert torch.equal(found.cross[:, :4], conditioner.text(given.text))
    assert conditioner.rolloff_low is not None
    assert conditioner.rolloff_high is not None
    assert torch.equal(found.cross[:, 4], conditioner.rolloff_low(torch.full((2,), 4_000 / 22_050)))
    assert torch.equal(found.cross[:, 5], conditioner.rolloff_high(torch.full((2,), 16_000 / 22_050)))


def test_global_route_puts_both_rolloffs_side_by_side() -> None:
    conditioner = Conditioner(config(), WORDS)
    found = conditioner(inputs(conditioner))
    assert found.prepend is None
    assert found.global_ is not None
    assert torch.equal(found.global_, found.cross[:, 4:].flatten(1))


def test_prepend_route_makes_one_token_of_the_transformers_width() -> None:
    conditioner = Conditioner(config(rolloff_route="prepend"), WORDS)
    found = conditioner(inputs(conditioner))
    assert found.global_ is None
    assert found.prepend is not None
    assert found.prepend.shape == (2, 1, 128)
    other = conditioner(inputs(conditioner, high=10_000)).prepend
    assert not torch.equal(found.prepend, other)


@pytest.mark.parametrize(("route", "width"), [("both", 4 * 128), ("prepend", 2 * 128)])
def test_seconds_join_the_global_vector(route: str, width: int) -> None:
    conditioner = Conditioner(config(rolloff_route=route, seconds="on"), WORDS)
    given = inputs(conditioner)
    found = conditioner(given).global_
    assert found is not None
    assert found.shape == (2, width)
    later = conditioner(given._replace(seconds=torch.tensor([[1.0, 60.0]] * 2))).global_
    assert torch.equal(found[:, : width - 128], later[:, : width - 128])
    assert not torch.equal(found[:, width - 128 :], later[:, width - 128 :])
    assert conditioner.seconds_total is not None
    half, whole, more = (
        conditioner(given._replace(seconds=torch.tensor([[1.0, total]] * 2))).global_[:, width - 128 :]
        for total in (256.0, 512.0, 600.0)
    )
    assert torch.equal(half, conditioner.seconds_total(torch.full((2,), 0.5)))  # of 512 s, as Stable Audio has it
    assert torch.equal(whole, more)
    assert not torch.equal(half, whole)


@pytest.mark.parametrize("route", ["both", "prepend"])
def test_rolloff_switched_off_is_zero_everywhere_and_keeps_its_slots(route: str) -> None:
    on = Conditioner(config(rolloff_route=route), WORDS)
    off = Conditioner(config(rolloff_route=route, rolloff="off"), WORDS)
    for shown, hidden in zip(on(inputs(on))[:3], off(inputs(off))[:3], strict=True):
        assert (shown is None) == (hidden is None)
        if shown is not None:
            assert shown.shape == hidden.shape
    low, high = off(inputs(off)), off(inputs(off, low=9_000, high=21_000))
    assert (low.cross[:, 4:] == 0).all()
    for one, other in zip(low[:3], high[:3], strict=True):
        assert one is other is None or torch.equal(one, other)


def test_text_switched_off_leaves_rolloff_tokens_where_they_were() -> None:
    with_text, without = Conditioner(config(), WORDS), Conditioner(config(text={"source": "off"}), WORDS)
    shown, hidden = with_text(inputs(with_text)).cross, without(inputs(without)).cross
    assert (hidden[:, :4] == 0).all()
    assert torch.equal(shown[:, 4:], hidden[:, 4:])  # the same seed gives the same embeddings in both cells


def test_number_embedding_is_the_stated_features_projected() -> None:
    embedding = NumberEmbedding(8).double()
    numbers = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    expected = []
    for number in numbers.tolist():
        angles = [2 * math.pi * number * frequency for frequency in embedding.frequencies.tolist()]
        features = [number, *map(math.sin, angles), *map(math.cos, angles)]
        expected.append(embedding.project.weight @ torch.tensor(features, dtype=torch.float64) + embedding.project.bias)
    torch.testing.assert_close(embedding(numbers), torch.stack(expected))
    assert len(embedding.frequencies) == 128


def test_numbers_beyond_their_range_count_as_its_end() -> None:
    embedding = NumberEmbedding(8)
    assert torch.equal(embedding(torch.tensor([1.5, -1.0])), embedding(torch.tensor([1.0, 0.0])))


def test_null_text_is_zeros_with_rolloff_tokens_included_and_null_low_is_minus_five_or_zero() -> None:
    values = torch.randn(2, 6, 8)
    assert (null_cross(values) == 0).all()
    assert (null_low(values, "minus5") == -5).all()
    assert (null_low(values, "zero") == 0).all()


def test_only_dropped_rows_become_null_and_bit_for_bit() -> None:
    values = torch.randn(3, 4, 5)
    null, mask = null_low(values, "minus5"), torch.tensor([False, True, False])
    found: Tensor = drop(values, null, mask)
    assert torch.equal(found[[0, 2]], values[[0, 2]])
    assert torch.equal(found[1], null[1])
    assert drop(values, null, None) is values


def test_initialisation_depends_on_its_seed_alone_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Conditioner(config(), WORDS).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = Conditioner(config(), WORDS).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with seeded(1, "x"):
        one = torch.randn(3)
    with seeded(2, "x"):
        other = torch.randn(3)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("route", "in_tokens", "in_global"),
    [("both", True, True), ("cross", True, False), ("global", False, True), ("prepend", True, None)],
)
def test_each_route_carries_rolloff_where_it_says_and_keeps_the_other_slot_empty(
    route: str, in_tokens: bool, in_global: bool | None
) -> None:
    conditioner = Conditioner(config(rolloff_route=route), WORDS)
    found = conditioner(inputs(conditioner))
    other = conditioner(inputs(conditioner, low=7_000, high=20_000))
    assert found.cross.shape == (2, 4 + 2, 128)
    assert bool(found.cross[:, 4:].any()) == in_tokens == bool((found.cross != other.cross)[:, 4:].any())
    if in_global is None:
        assert found.global_ is None
        assert not torch.equal(found.prepend, other.prepend)
    else:
        assert found.prepend is None
        assert found.global_.shape == (2, 2 * 128)
        assert bool(found.global_.any()) == in_global == (not torch.equal(found.global_, other.global_))


def test_routes_of_one_seed_embed_alike() -> None:
    both, cross, alone = (Conditioner(config(rolloff_route=route), WORDS) for route in ("both", "cross", "global"))
    whole, tokens, vector = (conditioner(inputs(conditioner)) for conditioner in (both, cross, alone))
    assert torch.equal(whole.cross, tokens.cross)
    assert torch.equal(whole.global_, vector.global_)


def test_low_and_high_are_embedded_by_two_instances() -> None:
    conditioner = Conditioner(config(), WORDS)
    found = conditioner(inputs(conditioner, low=5_000, high=5_000)).cross
    assert not torch.allclose(found[:, 4], found[:, 5])
    assert conditioner.rolloff_low.frequencies.requires_grad
    assert conditioner.rolloff_low.frequencies is not conditioner.rolloff_high.frequencies


def test_released_scale_is_the_released_index_over_all_bins() -> None:
    audio = torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0)) * 0.1
    for sound in (audio, audio.cumsum(1), torch.zeros(1, 40_000)):
        released = torch.tensor(released_rolloff_hz(sound) / BIN_HZ / 1_025)
        torch.testing.assert_close(rolloff_share(torch.tensor(rolloff_hz(sound)), "released"), released.float())
    hertz = torch.tensor([[0.0, 0.0], [1_009 * BIN_HZ, 49 * BIN_HZ]])
    expected = torch.tensor([[0.0, 0.0], [1_008 / 1_025, 48 / 1_025]])
    torch.testing.assert_close(rolloff_share(hertz, "released"), expected)
    torch.testing.assert_close(rolloff_share(torch.tensor([22_050.0]), "nyquist"), torch.tensor([1.0]))


def test_the_scale_of_the_configuration_is_the_one_that_is_embedded() -> None:
    conditioner = Conditioner(config(rolloff_scale="released"), WORDS)
    found = conditioner(inputs(conditioner)).cross[:, 4]
    share = rolloff_share(torch.full((2,), 4_000.0), "released")
    assert torch.equal(found, conditioner.rolloff_low(share))
