"""What a model makes of the validation clips, with its scores; their means, and their summary on one line."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from sagasr.metrics.distance import ALL, Distance
from sagasr.metrics.registry import Scores


class Prediction(NamedTuple):
    """What a model makes of the validation clips under one setting: audio [n, C, T], scores per clip, and distances
    over all clips and per domain.
    """

    audio: Tensor
    scores: list[Scores]
    distances: list[Distance]

    @property
    def lsd(self) -> float:
        """The mean that a training is judged by: NaN if one clip has none, for then its audio is not finite."""
        values = [row["lsd"] for row in self.scores]
        return sum(math.nan if value is None else value for value in values) / len(values)

    def means(self) -> dict[str, float]:
        """Return what the curves show: each metric's mean over the clips that have it, and the distances over all."""
        overall = [distance for distance in self.distances if distance.domain == ALL]
        return means(self.scores) | {it.metric: it.value for it in overall if it.value is not None}


def means(scores: Iterable[Scores]) -> dict[str, float]:
    """Return each metric's mean over the clips where it is defined; metrics defined nowhere are left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in scores:
        for name, value in row.items():
            if value is not None:
                values[name].append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def summary(scores: Sequence[Scores], distances: Iterable[Distance] = ()) -> str:
    """Return means and distances on one line; a metric that not every clip has says how many have it."""
    averages = means(scores)
    missing = {name: sum(row[name] is None for row in scores) for name in scores[0]} if scores else {}
    parts = [
        f"{name} {averages[name]:.3f}" + (f" ({len(scores) - absent} of {len(scores)} clips)" if absent else "")
        if name in averages
        else f"{name} – (no clip)"
        for name, absent in missing.items()
    ]
    for distance in distances:
        if distance.domain == ALL:
            value = "–" if distance.value is None else f"{distance.value:.3f}"
            parts.append(f"{distance.metric} {value} ({distance.reason or f'{distance.n} windows'})")
    return "  ".join(parts)
