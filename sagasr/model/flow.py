"""The straight path between data (t = 0) and noise (t = 1), and ways along it. Velocity is noise - data.

This is the clock of stable-audio-tools and of SAGA-SR's released code; the paper (arXiv 2509.24924) writes 1 - t and
the opposite velocity. Pure functions, no randomness of their own.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, assert_never

import torch
from torch import Tensor

REFERENCE_STEPS = 1_000  # of the linear grid that a linear-quadratic schedule starts on (Movie Gen, arXiv 2410.13720)


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the point of the path at time ``t`` [B], for data and noise [B, D, N]."""
    t = t[:, None, None]
    return (1 - t) * data + t * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity of the path, the same at every time."""
    return noise - data


def linear_guess(t: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Return (skip, scale), both [B, D, 1], at times ``t`` [B] for data of RMS ``level`` [D].

    ``skip * noisy`` is the best linear guess of the velocity when data are independent and Gaussian of that level, and
    ``scale`` the RMS of its error: the preconditioning of Karras et al. (arXiv 2206.00364) for the straight path.
    """
    t, variance = t[:, None, None], level[None, :, None].square()
    power = (1 - t).square() * variance + t.square()
    return (t - (1 - t) * variance) / power, (variance / power).sqrt()


def time_of(uniform: Tensor, kind: Literal["uniform", "logit-normal"]) -> Tensor:
    """Return training times in (0, 1) from draws of U(0, 1); both kinds rise with the draw, so cells stay paired."""
    uniform = uniform.clamp(1e-6, 1 - 1e-6)
    match kind:
        case "uniform":
            return uniform
        case "logit-normal":
            normal: Tensor = torch.special.ndtri(uniform)
            return normal.sigmoid()
        case unknown:
            assert_never(unknown)


def schedule(kind: Literal["linear", "linear-quadratic"], steps: int) -> Tensor:
    """Return the ``steps + 1`` times of a sampler, strictly falling from 1 to 0, as float64.

    Linear-quadratic: the first half are the first steps of a grid of 1,000, the rest fall quadratically to 0.
    """
    match kind:
        case "linear":
            return 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
        case "linear-quadratic":
            near = steps // 2
            first = 1 - torch.arange(near, dtype=torch.float64) / REFERENCE_STEPS
            share = torch.arange(steps - near + 1, dtype=torch.float64) / (steps - near)
            return torch.cat([first, (1 - near / REFERENCE_STEPS) * (1 - share**2)])
        case unknown:
            assert_never(unknown)


def steered(velocity: Tensor, point: Tensor, t: float, known: Tensor, share: Tensor) -> Tensor:
    """Return the velocity at ``point`` [B, D, N], by ``share`` [B, 1, N] replaced by that which leads to ``known``."""
    return torch.lerp(velocity, (point - known) / t, share)


def euler(velocity_at: Callable[[Tensor, float], Tensor], noise: Tensor, times: Tensor) -> Tensor:
    """Return the end of the path that starts at ``noise`` [B, D, N] and follows ``velocity_at(point, t)``."""
    point = noise
    for now, then in pairwise(times.tolist()):
        point = point + (then - now) * velocity_at(point, now)
    return point
