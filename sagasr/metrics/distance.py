"""Distribution distance: how far a set of predictions is from the set of its high clips, whatever clip is whose.

The Fréchet distance (FD) between normal distributions fitted to embeddings of windows of 1 s, every 0.5 s, pooled over
the clips; clips shorter than that are one window each. It sees what a distance per clip cannot: whether predictions
sound like the material, rather than like their average. With n windows it is too large by about trace(covariance) / n
on each side, more with more dimensions: compare only at equal n, as within a sweep, where all score the same clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sagasr.constants import SAMPLE_RATE
from sagasr.metrics.embedders import Embedder

WINDOW = SAMPLE_RATE
HOP = SAMPLE_RATE // 2
ALL = "all"  # no domain has this name
CLIPS = 8  # cut into windows at once, which overlap and so take twice the memory of their clips


class Distance(NamedTuple):
    """One distance of a set of predictions: of all clips, or of one domain's. ``value`` None has its ``reason``."""

    domain: str
    metric: str
    value: float | None
    n: int  # windows on each side
    clips: int
    reason: str


@dataclass(frozen=True)
class Normal:
    """A normal distribution: its mean [D], and a root [R, D] whose squared product root.T @ root is the covariance."""

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> "Normal":
        """Return the distribution fitted to embeddings [n, D], n of at least 2."""
        values = embeddings.double()
        mean = values.mean(0)
        centred = (values - mean) / (len(values) - 1) ** 0.5
        # Where there are more windows than dimensions, their triangular factor has the same product and is smaller.
        return cls(mean, torch.linalg.qr(centred, mode="r").R if centred.shape[0] > centred.shape[1] else centred)


def frechet(one: Normal, other: Normal) -> float:
    """Return |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), never negative.

    The trace of that root is the sum of the singular values of root1 @ root2.T. So no matrix root is taken, and
    covariances of fewer windows than dimensions, which have no inverse, are as good as any.
    """
    cross = torch.linalg.svdvals(one.root @ other.root.T).sum()
    spread = one.root.square().sum() + other.root.square().sum() - 2 * cross
    return max(0.0, float((one.mean - other.mean).square().sum() + spread))


def windows(audio: Tensor) -> Tensor:
    """Return windows [n, W, L] of the mono mix of clips [n, C, T]; the last one ends where the clip ends."""
    mono = audio.mean(1)
    length = mono.shape[-1]
    if length <= WINDOW:
        return mono[:, None]
    starts = [*range(0, length - WINDOW, HOP), length - WINDOW]
    return torch.stack([mono[:, start : start + WINDOW] for start in starts], dim=1)


class Distances:
    """High clips [n, C, T] of some domains, from which predictions of them are measured; embedded once."""

    def __init__(self, high: Tensor, domains: Sequence[str], embedder: Embedder) -> None:
        self._embedder, self._high = embedder, _embedded(high, embedder)
        self._clips = {ALL: [*range(len(domains))]}
        for domain in sorted(set(domains)):
            self._clips[domain] = [index for index, other in enumerate(domains) if other == domain]

    def of(self, estimates: Tensor) -> list[Distance]:
        """Return the distance of estimates [n, C, T] over all clips and per domain."""
        embedded = _embedded(estimates, self._embedder)
        return [self._distance(domain, clips, embedded) for domain, clips in self._clips.items()]

    def _distance(self, domain: str, clips: list[int], embedded: Tensor) -> Distance:
        high, estimate = (part[clips].flatten(0, 1) for part in (self._high, embedded))
        bad = sum(not bool(part.isfinite().all()) for part in embedded[clips])
        value, reason = None, ""
        if bad:  # without them, n would be another
            reason = f"{bad} of {len(clips)} clips are not finite"
        elif len(high) < 2:
            reason = "1 window has no covariance"
        else:
            value = frechet(Normal.of(high), Normal.of(estimate))
        return Distance(domain, f"fd_{self._embedder.name}", value, len(high), len(clips), reason)


def _embedded(audio: Tensor, embedder: Embedder) -> Tensor:
    """Return embeddings [n, W, D], NaN for windows that are not finite."""

    def part(clips: Tensor) -> Tensor:
        cut = windows(clips)
        finite = cut.isfinite().all(-1, keepdim=True)
        embedded = embedder.embed(torch.where(finite, cut, 0.0).flatten(0, 1)).unflatten(0, cut.shape[:2])
        return torch.where(finite, embedded, torch.nan)

    return torch.cat([part(clips) for clips in audio.split(CLIPS)])
