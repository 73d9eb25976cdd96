"""The model as a whole: guidance, nulls, gradients, equal starts, and that every size and condition fits together."""

import copy
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import SIZES, Config, Guidance, Sampler
from sagasr.model import flow
from sagasr.model.conditions import null_cross, null_low
from sagasr.model.guidance import Branch, guidance_branches
from sagasr.model.inputs import ConditionInputs
from sagasr.model.meta_step import shapes
from sagasr.model.saga import SagaModel, build_model
from sagasr.model.text import T5Encoder
from sagasr.published.stable_audio import compile_layers, load_stock
from sagasr.training.preflight import missing_weights

WORDS = ("bark", "dog", "rain")
BATCH, CHANNELS, FRAMES = 3, 16, 20


def config(size: str = "tiny", **sections: Any) -> Config:
    tree = {
        "data": {"train": "train.csv", "val": "val.csv"},
        "codec": {"kind": "patched", "patch": 16},
        "model": SIZES[size],
        "conditions": {"text": {"encoder": {"kind": "words", "max_tokens": 4}}},
        "training": {"batch_size": 2},
    }
    return parse(Config, patch(tree, sections), "test")


def words(**text: Any) -> dict[str, Any]:
    return {"encoder": {"kind": "words", "max_tokens": 4}} | text


def trained(settings: Config) -> SagaModel:
    """A model whose zero-initialised weights are no longer zero, so that every condition has an effect."""
    model = build_model(settings, vocabulary=WORDS)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if (weight == 0).all():
                weight.normal_(std=0.05, generator=generator)
    return model


def latents(seed: int) -> Tensor:
    return torch.randn(BATCH, CHANNELS, FRAMES, generator=torch.Generator().manual_seed(seed))


def inputs(model: SagaModel, *captions: str) -> ConditionInputs:
    text = model.prepare(captions or ["dog bark", "rain", "dog"])
    rolloff_hz = torch.tensor([[4_000.0, 15_000.0], [2_000.0, 20_000.0], [8_000.0, 12_000.0]])
    return ConditionInputs(text, rolloff_hz, torch.tensor([[1.0, 3.0], [2.0, 9.0], [0.5, 30.0]]))


TIME = torch.tensor([0.2, 0.5, 0.9])
EVERYTHING = torch.ones(BATCH, dtype=torch.bool)


# --- Guidance -----------------------------------------------------------------------------------------------------


def one_step(model: SagaModel, given: ConditionInputs, audio: float, text: float) -> Tensor:
    """Return the guided velocity at t = 1: what one Euler step over the whole path takes off the noise."""
    sampler = Sampler(steps=1, schedule="linear", guidance=Guidance(audio=audio, text=text))
    noise = latents(1)
    return noise - model.sample(latents(0), given, noise, sampler)


@torch.no_grad()
def predictions(model: SagaModel, given: ConditionInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return u(0, 0), u(z, 0) and u(z, c) at t = 1, by the masks that training uses."""
    t, low, noise = torch.ones(BATCH), latents(0), latents(1)
    return (
        model.velocity(noise, t, low, given, EVERYTHING, EVERYTHING),
        model.velocity(noise, t, low, given, None, EVERYTHING),
        model.velocity(noise, t, low, given),
    )


def test_guidance_of_one_samples_the_conditional_prediction() -> None:
    model = trained(config())
    torch.testing.assert_close(one_step(model, inputs(model), 1, 1), predictions(model, inputs(model))[2])


def test_guidance_of_zero_samples_the_unconditional_prediction() -> None:
    model = trained(config())
    torch.testing.assert_close(one_step(model, inputs(model), 0, 0), predictions(model, inputs(model))[0])


def test_no_text_guidance_is_independent_of_the_text_and_some_is_not() -> None:
    model = trained(config())
    one, other = inputs(model, "dog", "dog", "dog"), inputs(model, "rain", "bark rain", "")
    assert torch.equal(one_step(model, one, 1.4, 0), one_step(model, other, 1.4, 0))
    assert not torch.equal(one_step(model, one, 1.4, 1.2), one_step(model, other, 1.4, 1.2))


def test_three_branches_in_one_batch_give_the_formula_of_the_paper() -> None:
    model = trained(config())
    null, low, full = predictions(model, inputs(model))
    assert not torch.allclose(null, low, atol=1e-3)
    assert not torch.allclose(low, full, atol=1e-3)
    expected = null + 1.4 * (low - null) + 1.2 * (full - low)
    torch.testing.assert_close(one_step(model, inputs(model), 1.4, 1.2), expected, atol=1e-4, rtol=1e-4)


def test_rolloff_stays_in_all_three_branches() -> None:
    model = trained(config())
    given = inputs(model)
    brighter = given._replace(rolloff_hz=given.rolloff_hz + 5_000)
    for one, other in zip(predictions(model, given), predictions(model, brighter), strict=True):
        assert not torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("conditions", "guidance", "expected"),
    [
        ({}, (1.4, 1.2), [(-0.4, False, False), (0.2, True, False), (1.2, True, True)]),
        ({}, (1.0, 1.0), [(1.0, True, True)]),
        ({}, (0.0, 0.0), [(1.0, False, False)]),
        ({}, (1.4, 0.0), [(-0.4, False, False), (1.4, True, False)]),
        ({}, (1.2, 1.2), [(-0.2, False, False), (1.2, True, True)]),
        # no text: its null was never seen, so every branch keeps the (empty) text and the roll-off tokens
        ({"text": words(source="off")}, (1.4, 1.2), [(-0.4, False, True), (1.4, True, True)]),
        ({"text": words(dropout=0.0)}, (1.4, 1.2), [(-0.4, False, True), (1.4, True, True)]),
        ({"low": {"dropout": 0.0}}, (1.4, 1.2), [(-0.2, True, False), (1.2, True, True)]),
        ({"low": {"dropout": 0.0}, "text": words(source="off")}, (1.4, 1.2), [(1.0, True, True)]),
    ],
)
def test_branches_are_only_those_that_have_an_effect_and_a_trained_null(
    conditions: dict[str, Any], guidance: tuple[float, float], expected: list[tuple[float, bool, bool]]
) -> None:
    scales = Guidance(audio=guidance[0], text=guidance[1])
    found = guidance_branches(config(conditions=conditions).conditions, scales)
    assert [branch[1:] for branch in found] == [branch[1:] for branch in expected]
    assert [branch.weight for branch in found] == pytest.approx([weight for weight, *_ in expected])
    assert sum(branch.weight for branch in found) == pytest.approx(1)
    assert all(isinstance(branch, Branch) for branch in found)


def test_untrained_null_text_never_reaches_the_network() -> None:
    model = trained(config(conditions={"text": words(source="off")}))
    given = inputs(model)
    full, masked = (model.velocity(latents(1), TIME, latents(0), given, None, mask) for mask in (None, EVERYTHING))
    assert torch.equal(full, masked)


@pytest.mark.parametrize("null", ["minus5", "zero"])
def test_null_of_dropout_is_the_null_of_guidance_bit_for_bit(null: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(config(conditions={"low": {"empty": null}}))
    seen: list[tuple[Tensor, Tensor]] = []
    run = model._transform

    def spy(noisy: Tensor, t: Tensor, low: Tensor, conditioning: Any) -> Tensor:
        seen.append((low, conditioning.cross))
        return run(noisy, t, low, conditioning)

    monkeypatch.setattr(model, "_transform", spy)
    given = inputs(model)
    model.velocity(latents(1), TIME, latents(0), given, EVERYTHING, EVERYTHING)
    one_step(model, given, 0, 0)
    one_step(model, given, 1.4, 1.2)
    (dropped_low, dropped_cross), (guided_low, guided_cross), (stacked_low, stacked_cross) = seen
    assert torch.equal(dropped_low, guided_low)
    assert torch.equal(dropped_cross, guided_cross)
    assert torch.equal(stacked_low[:BATCH], dropped_low)
    assert torch.equal(stacked_cross[:BATCH], dropped_cross)
    assert torch.equal(dropped_low, null_low(latents(0), null))  # type: ignore[arg-type]
    assert torch.equal(dropped_cross, null_cross(dropped_cross))


@pytest.mark.parametrize("source", ["caption", "off"])
def test_empty_text_tokens_that_are_only_counted_have_the_effect_of_those_that_are_there(source: str) -> None:
    encoder = {"kind": "t5", "model": "t5-small", "max_tokens": 128}
    model = trained(config(conditions={"text": {"source": source, "encoder": encoder}}))
    if isinstance(model.conditioner.text, T5Encoder):
        model.conditioner.text.recall({"short": torch.randn(5, 512), "long": torch.randn(29, 512)})
    compact = inputs(model, "short", "long", "short")
    padding = [0, 0] * (compact.text.ndim - 2) + [0, 128 - compact.text.shape[1]]
    padded = compact._replace(text=torch.nn.functional.pad(compact.text, padding))
    assert compact.text.shape[1] == (32 if source == "caption" else 16)
    dropped = torch.tensor([False, False, True])
    found = []
    for given in (compact, padded):
        model.zero_grad()
        loss = model.loss(latents(2), latents(0), latents(1), TIME, given, None, dropped)
        loss.backward()
        gradients = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
        found.append((loss.detach(), gradients, model.sample(latents(0), given, latents(1), Sampler(steps=2))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_compiled_layers_give_the_same_loss_and_gradients_under_the_same_names() -> None:
    """Traced and differentiated ahead of time as for a GPU, without the code that only a GPU would run."""
    from torch._dynamo.utils import counters

    plain, compiled = (trained(config()) for _ in range(2))
    compile_layers(compiled.transformer, backend="aot_eager")
    counters.clear()
    for model in (plain, compiled):
        model.loss(latents(2), latents(0), latents(1), TIME, inputs(model), EVERYTHING, None).backward()
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]
    for (name, one), (other_name, other) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert name == other_name
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)
    sampler = Sampler(steps=2)
    found = [model.sample(latents(0), inputs(model), latents(1), sampler) for model in (plain, compiled)]
    assert torch.equal(*found)


# --- Sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "linear-quadratic"])
def test_sampling_along_the_exact_velocity_ends_at_the_data(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of training is the clock of sampling: the model's own target, given back, leads to the data."""
    model = build_model(config(), vocabulary=WORDS)
    data, noise = latents(2), latents(1)
    seen: list[float] = []

    def exact(noisy: Tensor, t: Tensor, low: Tensor, conditioning: Any) -> Tensor:
        seen.append(float(t[0]))
        expected = flow.interpolate(data, noise, t[:BATCH])
        torch.testing.assert_close(noisy[:BATCH], expected, atol=1e-4, rtol=0)
        return flow.velocity(data, noise).repeat(len(noisy) // BATCH, 1, 1)

    monkeypatch.setattr(model, "_transform", exact)
    found = model.sample(latents(0), inputs(model), noise, Sampler(steps=20, schedule=schedule))  # type: ignore[arg-type]
    assert (found - data).abs().max() < 1e-5
    assert seen[0] == 1
    assert seen == sorted(seen, reverse=True)


def test_sampling_follows_the_schedule_of_its_settings() -> None:
    model = trained(config())
    given, noise = inputs(model), latents(1)
    sampler = Sampler(steps=5, schedule="linear-quadratic", guidance=Guidance(audio=1, text=1))
    ticks: list[int] = []
    found = model.sample(latents(0), given, noise, sampler, on_step=lambda: ticks.append(1))
    assert len(ticks) == 5
    point = noise
    times = flow.schedule("linear-quadratic", 5).tolist()
    with torch.no_grad():
        for now, then in pairwise(times):
            point = point + (then - now) * model.velocity(point, torch.full((BATCH,), now), latents(0), given)
    torch.testing.assert_close(found, point, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fails", [False, True])
def test_the_context_that_sampling_keeps_is_the_one_each_step_would_project(fails: bool) -> None:
    model = trained(config())
    before = list(model.state_dict())
    given = inputs(model, "dog bark", "", "rain")
    if fails:
        with pytest.raises(KeyboardInterrupt):
            model.sample(latents(0), given, latents(1), Sampler(steps=2), on_step=_interrupt)
    found = model.sample(latents(0), given, latents(1), Sampler(steps=2, schedule="linear"))
    assert list(model.state_dict()) == before
    half = latents(1) - 0.5 * guided(model, given, latents(1), 1.0)
    torch.testing.assert_close(found, half - 0.5 * guided(model, given, half, 0.5), atol=1e-4, rtol=1e-4)


def _interrupt() -> None:
    raise KeyboardInterrupt


@torch.no_grad()
def guided(model: SagaModel, given: ConditionInputs, point: Tensor, moment: float) -> Tensor:
    """Return the guided velocity, from one pass per branch: SAGA-SR's eq. 5 with s_a = 1.4 and s_t = 1.2."""
    t, low = torch.full((BATCH,), moment), latents(0)
    null = model.velocity(point, t, low, given, EVERYTHING, EVERYTHING)
    no_text, full = model.velocity(point, t, low, given, None, EVERYTHING), model.velocity(point, t, low, given)
    return null + 1.4 * (no_text - null) + 1.2 * (full - no_text)


def test_sampling_is_repeatable_and_each_clip_is_independent_of_its_batch() -> None:
    model = trained(config())
    given, sampler = inputs(model), Sampler(steps=3)
    whole = model.sample(latents(0), given, latents(1), sampler)
    assert torch.equal(whole, model.sample(latents(0), given, latents(1), sampler))
    alone = model.sample(latents(0)[:1], ConditionInputs(*(part[:1] for part in given)), latents(1)[:1], sampler)
    torch.testing.assert_close(alone, whole[:1], atol=1e-4, rtol=1e-4)


def test_sampling_stays_in_float32_under_autocast() -> None:
    model = trained(config())
    given, sampler = inputs(model), Sampler(steps=2)
    plain = model.sample(latents(0), given, latents(1), sampler)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.sample(latents(0), given, latents(1), sampler), plain)


@pytest.mark.parametrize("fails", [False, True])
def test_sampling_allows_tf32_and_then_leaves_torch_as_it_was(fails: bool) -> None:
    model, seen = trained(config()), list[tuple[bool, bool, str]]()

    def on_step() -> None:
        seen.append(_flags())
        if fails:
            raise KeyboardInterrupt

    before = _flags()
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        model.sample(latents(0), inputs(model), latents(1), Sampler(steps=2), on_step)
    assert seen == [(True, True, "high")] * (1 if fails else 2)
    assert _flags() == before == (True, False, "highest")


def _flags() -> tuple[bool, bool, str]:
    backends = torch.backends
    return backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()


def test_times_keep_their_bits_under_autocast_and_are_the_librarys_own() -> None:
    model = trained(config())
    host: Any = model.transformer
    times = torch.rand(500, 1, generator=torch.Generator().manual_seed(0))
    stock = load_stock("stable_audio_tools.models.blocks").FourierFeatures(1, 256)
    stock.weight = host.timestep_features.weight
    features = host.timestep_features(times)
    assert torch.equal(features, stock(times))
    seen: list[Tensor] = []
    handle = host.timestep_features.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.velocity(latents(1), TIME, latents(0), inputs(model))
        rounded = stock(times)
    handle.remove()
    assert torch.equal(seen[0], stock(TIME[:, None]))
    assert (rounded - features).abs().max() > 0.01  # what bfloat16 would do
    assert "transformer.timestep_features.weight" in model.state_dict()


@torch.no_grad()
def test_a_copy_of_a_model_follows_its_own_weights() -> None:
    model = trained(config())
    twin, given = copy.deepcopy(model), inputs(model)
    twin.transformer.timestep_features.weight += 1
    one, other = (it.velocity(latents(1), TIME, latents(0), given) for it in (model, twin))
    assert list(twin.state_dict()) == list(model.state_dict())
    assert not torch.equal(one, other)
    twin.transformer.load_state_dict(model.transformer.state_dict())
    assert torch.equal(twin.velocity(latents(1), TIME, latents(0), given), one)


@torch.no_grad()
def test_the_prepended_token_is_rolloff_and_the_time_of_the_point() -> None:
    model = trained(config(conditions={"rolloff_route": "prepend", "text": words()}))
    given, seen = inputs(model), []
    model.transformer.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    model.velocity(latents(1), TIME, latents(0), given)
    rolloff = model.conditioner(given).prepend
    host: Any = model.transformer
    assert rolloff is not None
    assert torch.equal(
        seen[0]["prepend_cond"][:, 0], rolloff[:, 0] + host.to_timestep_embed(host.timestep_features(TIME[:, None]))
    )
    model.sample(latents(0), given, latents(1), Sampler(steps=2, schedule="linear"))
    halfway = torch.full((BATCH, 1), 0.5)
    expected = rolloff[:, 0] + host.to_timestep_embed(host.timestep_features(halfway))
    torch.testing.assert_close(seen[2]["prepend_cond"][:BATCH, 0], expected)


@pytest.mark.parametrize(("route", "remains"), [("both", True), ("cross", False), ("global", True), ("prepend", True)])
def test_under_null_text_rolloff_remains_on_every_route_but_cross(route: str, remains: bool) -> None:
    model = trained(config(conditions={"rolloff_route": route, "text": words()}))
    given = inputs(model)
    brighter = given._replace(rolloff_hz=given.rolloff_hz + 5_000)
    null, full = ([predictions(model, conditions)[index] for conditions in (given, brighter)] for index in (0, 2))
    assert torch.allclose(*null, atol=1e-5) != remains
    assert not torch.allclose(*full, atol=1e-4)


# --- Learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["both", "prepend"])
def test_gradients_reach_transformer_words_rolloff_and_seconds(route: str) -> None:
    model = trained(config(conditions={"rolloff_route": route, "seconds": "on", "text": words()}))
    model.loss(latents(2), latents(0), latents(1), TIME, inputs(model)).backward()
    dead = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not dead
    assert not any(name.startswith("latent") for name, _ in model.named_parameters())


@pytest.mark.parametrize("rolloff", ["off", "on"])
@pytest.mark.parametrize("route", ["both", "cross", "global", "prepend"])
def test_every_weight_takes_part_even_when_conditions_are_off(route: str, rolloff: str) -> None:
    """Data-parallel training waits forever for a weight without a gradient."""
    settings = config(conditions={"rolloff_route": route, "rolloff": rolloff, "text": words(source="off")})
    model = build_model(settings)
    model(latents(2), latents(0), latents(1), TIME, inputs(model), EVERYTHING, EVERYTHING).backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_loss_of_the_right_velocity_is_zero_and_falls_when_trained() -> None:
    model = trained(config())
    given, high, low, noise = inputs(model), latents(2), latents(0), latents(1)
    with torch.no_grad():
        expected = (model.velocity(flow.interpolate(high, noise, TIME), TIME, low, given) - (noise - high)).square()
    before = model.loss(high, low, noise, TIME, given)
    torch.testing.assert_close(before, expected.mean())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(10):
        optimiser.zero_grad()
        model.loss(high, low, noise, TIME, given).backward()
        optimiser.step()
    assert model.loss(high, low, noise, TIME, given) < 0.7 * before


def test_t5_of_a_plan_is_not_part_of_the_model() -> None:
    t5 = config(conditions={"text": {"encoder": {"kind": "t5", "model": "t5-base"}}})
    names = dict(build_model(t5).conditioner.named_parameters())
    assert sorted(name for name in names if name.startswith("text")) == ["text.project.bias", "text.project.weight"]


# --- One start for all cells --------------------------------------------------------------------------------------


def test_transformer_starts_equal_in_all_cells_of_a_seed_and_differs_between_seeds() -> None:
    start = build_model(config(), vocabulary=WORDS).state_dict()
    cells = [
        {"text": words(source="off")},
        {"rolloff": "off", "text": words()},
        {"rolloff": "off", "text": words(source="off")},
        {"low": {"dropout": 0.0, "empty": "zero"}, "text": words(source="transcript")},
        {"rolloff_route": "cross", "text": words()},
        {"rolloff_route": "global", "text": words()},
    ]
    for conditions in cells:
        other = build_model(config(conditions=conditions), vocabulary=WORDS).state_dict()
        names = {name for name in start if name.startswith("transformer.")}
        assert names == {name for name in other if name.startswith("transformer.")}
        assert all(torch.equal(start[name], other[name]) for name in start.keys() & other.keys())
    seed = build_model(config(seed=0).model_copy(update={"seed": 1}), vocabulary=WORDS).state_dict()
    assert not torch.equal(
        seed["transformer.transformer.project_in.weight"], start["transformer.transformer.project_in.weight"]
    )


def test_zero_initialised_convolutions_of_the_host_stay_as_they_are() -> None:
    transformer = build_model(config(), vocabulary=WORDS).transformer
    assert not transformer.preprocess_conv.weight.any()  # type: ignore[union-attr,operator]
    assert not transformer.postprocess_conv.weight.any()  # type: ignore[union-attr,operator]


# --- Everything fits together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_route", ["prepend", "adaLN"])
@pytest.mark.parametrize("seconds", ["off", "on"])
@pytest.mark.parametrize("route", ["both", "cross", "global", "prepend"])
@pytest.mark.parametrize("rolloff", ["off", "on"])
@pytest.mark.parametrize("text", ["off", "words", "t5"])
def test_every_level_of_the_conditions_passes_a_step_on_meta(
    text: str, rolloff: str, route: str, seconds: str, time_route: str
) -> None:
    encoder = {"kind": "t5", "model": "t5-base"} if text == "t5" else words()["encoder"]
    conditions = {
        "text": {"source": "off" if text == "off" else "caption", "encoder": encoder},
        "rolloff": rolloff,
        "rolloff_route": route,
        "seconds": seconds,
    }
    settings = config(conditions=conditions, model=SIZES["tiny"] | {"time_route": time_route})
    found = shapes(settings)
    tokens = 128 if text == "t5" else 4
    assert found["cross_attention"] == (2, tokens + 2, 128)
    ids = 2 * (route != "prepend") + 2 * (seconds == "on")
    assert found["global"] == ((2, 128 * ids) if ids else None)
    assert found["prepend"] == ((2, 1, 128) if route == "prepend" else None)


@pytest.mark.parametrize("route", ["both", "prepend"])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_passes_a_step_on_meta_at_its_full_depth(size: str, route: str) -> None:
    settings = config(size, conditions={"rolloff_route": route, "text": words(), "seconds": "on"})
    with torch.device("meta"):
        model = build_model(settings, vocabulary=WORDS)
        given = ConditionInputs(torch.empty(2, 4, dtype=torch.int64), torch.empty(2, 2), torch.empty(2, 2))
        data = torch.empty(2, 16, 64)
        model.loss(data, data, data, torch.empty(2), given, *torch.empty(2, 2, dtype=torch.bool)).backward()
    counted = sum(weight.numel() for weight in model.parameters())
    assert shapes(settings, words=len(WORDS))["parameters"] == counted


def test_full_size_at_the_released_settings_has_the_released_shapes() -> None:
    settings = config(
        "full",
        codec={"kind": "stable-audio", "checkpoint": "absent", "config": "absent"},
        audio={"channels": 2, "segment": 262_144},
        conditions={"text": {"encoder": {"kind": "t5"}}},
    )
    found = shapes(settings)
    assert found["latents"] == (2, 64, 128)
    assert found["transformer_input"] == (2, 128, 128)
    assert found["cross_attention"] == (2, 130, 768)
    assert found["global"] == (2, 1536)
    assert found["transformer_parameters"] == pytest.approx(1.057e9, rel=1e-3)


def test_bytes_follow_the_parameters_and_activations_the_batch() -> None:
    one, two = shapes(config(training={"batch_size": 1})), shapes(config(training={"batch_size": 2}))
    assert one["weight_bytes"] == 4 * one["parameters"]
    assert one["training_bytes"] == two["training_bytes"] == 20 * one["parameters"]
    assert two["activation_bytes"] == pytest.approx(2 * one["activation_bytes"], rel=0.05)


def test_counted_activations_are_those_that_a_real_step_keeps() -> None:
    settings = config(audio={"segment": 16_384})
    model, kept = trained(settings), {}
    own = {weight.data_ptr() for weight in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    data = torch.randn(2, 16, 1_024)
    given = ConditionInputs(model.prepare(["dog", "rain"]), torch.rand(2, 2) * 20_000, torch.rand(2, 2))
    mask = torch.zeros(2, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(data, data, data, torch.rand(2), given, mask, mask)
    real = sum(size for size, _ in kept.values())
    assert shapes(settings, words=len(WORDS))["activation_bytes"] == pytest.approx(real, rel=0.05)


def test_absent_pretrained_parts_are_listed_with_the_way_to_get_them() -> None:
    settings = config(
        codec={"kind": "stable-audio", "checkpoint": "no.safetensors", "config": "no.json"},
        conditions={"text": {"encoder": {"kind": "t5", "model": "no-such-owner/t5"}}},
    )
    codec, text = missing_weights(settings)
    assert "stable-audio-open-1.0" in codec
    assert "hf download no-such-owner/t5" in text
    assert missing_weights(config()) == []
