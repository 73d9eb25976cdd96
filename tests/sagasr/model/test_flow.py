"""The path, its clock, the schedules and the sampler. Expected numbers are those of the paper's released settings."""

import pytest
import torch

from sagasr.model import flow


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 3, 8, 16, generator=generator)
    return data, noise


def test_path_starts_at_data_and_ends_at_noise() -> None:
    data, noise = pair()
    assert torch.equal(flow.interpolate(data, noise, torch.zeros(3)), data)
    assert torch.equal(flow.interpolate(data, noise, torch.ones(3)), noise)


def test_velocity_is_the_derivative_of_the_path() -> None:
    data, noise = (side.double() for side in pair())
    t, step = torch.full((3,), 0.3, dtype=torch.float64), 1e-6
    slope = (flow.interpolate(data, noise, t + step) - flow.interpolate(data, noise, t - step)) / (2 * step)
    torch.testing.assert_close(slope, flow.velocity(data, noise), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("kind", ["linear", "linear-quadratic"])
@pytest.mark.parametrize("steps", [1, 3, 25, 100])
def test_exact_velocity_of_a_known_pair_leads_back_to_the_data(kind: str, steps: int) -> None:
    data, noise = pair()
    found = flow.euler(lambda point, t: flow.velocity(data, noise), noise, flow.schedule(kind, steps))  # type: ignore[arg-type]
    assert (found - data).abs().max() < 1e-5


def test_flipped_clock_does_not_lead_back_to_the_data() -> None:
    data, noise = pair()
    times = flow.schedule("linear-quadratic", 100)
    backwards = flow.euler(lambda point, t: flow.velocity(data, noise), noise, times.flip(0))
    opposite = flow.euler(lambda point, t: -flow.velocity(data, noise), noise, times)
    assert (backwards - data).abs().mean() > 1
    assert (opposite - data).abs().mean() > 1


def test_velocity_that_depends_on_time_is_asked_at_the_start_of_each_step() -> None:
    asked: list[float] = []

    def velocity_at(point: torch.Tensor, t: float) -> torch.Tensor:
        asked.append(t)
        return torch.zeros_like(point)

    flow.euler(velocity_at, torch.zeros(1, 1, 1), flow.schedule("linear", 4))
    assert asked == [1.0, 0.75, 0.5, 0.25]


def test_linear_quadratic_schedule_is_the_released_one_at_100_steps() -> None:
    times = flow.schedule("linear-quadratic", 100)
    sizes = -times.diff()
    assert len(times) == 101
    assert times[[0, -1]].tolist() == [1, 0]
    assert times[50].item() == pytest.approx(0.95, abs=1e-12)
    assert sizes[0].item() == pytest.approx(0.001, abs=1e-12)
    assert sizes[50].item() == pytest.approx(0.00038, abs=1e-12)
    assert sizes[99].item() == pytest.approx(0.03762, abs=1e-12)


@pytest.mark.parametrize("kind", ["linear", "linear-quadratic"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 25, 50, 99, 1_000])
def test_schedules_fall_strictly_from_one_to_zero(kind: str, steps: int) -> None:
    times = flow.schedule(kind, steps)  # type: ignore[arg-type]
    assert len(times) == steps + 1
    assert times[[0, -1]].tolist() == [1, 0]
    assert (times.diff() < 0).all()


def test_training_times_follow_their_distributions_and_rise_together() -> None:
    uniform = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    flat, peaked = flow.time_of(uniform, "uniform"), flow.time_of(uniform, "logit-normal")
    for times in (flat, peaked):
        assert (times > 0).all()
        assert (times < 1).all()
    assert (peaked.diff() > 0)[1:-1].all()
    logits = (peaked / (1 - peaked)).log()[100:-100]
    expected = torch.distributions.Normal(0.0, 1.0).icdf(uniform[100:-100])
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-6)
