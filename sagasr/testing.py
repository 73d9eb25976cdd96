"""The contracts that parts of a user's own keep, as checks that a test of theirs calls: ``check_metric(Loudness())``.

Each raises AssertionError saying what does not hold.
"""

import math
from typing import Any

import torch

from sagasr.config import SAMPLE_RATE


def check_metric(metric: Any) -> None:
    """A metric scores one estimate [C, T] of a high clip [C, T]: the same again, better for the better, never NaN."""
    assert metric.name.isidentifier(), f"name {metric.name!r} is a column: letters, digits and _ only"
    assert metric.better in ("lower", "higher"), f"better is {metric.better!r}, not 'lower' or 'higher'"
    assert isinstance(metric.unit, str), "unit is a word, '' where there is none"
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 2):
        high = 0.1 * torch.randn(channels, SAMPLE_RATE, generator=generator)
        kept = high.clone()
        worse = high + 0.1 * torch.randn(channels, SAMPLE_RATE, generator=generator)
        same, far = metric.score(high, high, 4_000.0), metric.score(high, worse, 4_000.0)
        for value in (same, far):
            assert value is None or (isinstance(value, float) and math.isfinite(value)), f"found {value!r}, no number"
        assert metric.score(high, worse, 4_000.0) == far, "equal clips have unequal scores"
        assert torch.equal(high, kept), "the clip was changed"
        if same is not None and far is not None:
            sign = 1 if metric.better == "lower" else -1
            assert sign * same <= sign * far, "the clip itself scores worse than noise over it"
        silence = metric.score(torch.zeros_like(high), high, 4_000.0)
        assert silence is None or math.isfinite(silence), "silence has a score that is no number; return None"


def check_embedder(embedder: Any) -> None:
    """An embedder makes finite vectors [n, D] of windows [n, T], each from its own window alone, silence too."""
    assert embedder.name.isidentifier(), f"name {embedder.name!r} ends a column: letters, digits and _ only"
    windows = 0.1 * torch.randn(3, SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    windows[2] = 0
    vectors = embedder.embed(windows)
    assert vectors.shape[:1] == (3,) == vectors.shape[:-1], f"found shape {list(vectors.shape)}, not [3, D]"
    assert bool(vectors.isfinite().all()), "a vector holds something that is no number"
    assert torch.equal(embedder.embed(windows), vectors), "equal windows have unequal vectors"
    alone = embedder.embed(windows[1:2])
    assert torch.allclose(alone[0], vectors[1], atol=1e-4), "a vector depends on the other windows"


def check_sampler(sampler: Any) -> None:
    """A sampler follows ``velocity_at(point, t)`` from noise at t = 1 to data at t = 0, nearer with more steps."""
    noise = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))

    def velocity_at(point: torch.Tensor, t: float) -> torch.Tensor:
        assert point.shape == noise.shape, f"asked for the velocity of a point of shape {list(point.shape)}"
        return point  # dx/dt = x: from x(1) to x(0) = x(1) / e

    errors = []
    for steps in (8, 64):
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        end = sampler.sample(velocity_at, noise.clone(), times)
        assert end.shape == noise.shape, f"the end has shape {list(end.shape)}, not that of the noise"
        assert end.dtype == noise.dtype, f"the end is {end.dtype}, not the noise's {noise.dtype}"
        errors.append(float((end - noise / math.e).abs().max()))
    assert errors[1] < errors[0] / 4 or errors[1] < 1e-4, (
        f"eight times the steps leave {errors[1]:.2g} of {errors[0]:.2g}"
    )
