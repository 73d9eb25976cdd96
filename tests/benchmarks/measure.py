"""How two sides are timed in one run, and the row that comes of it.

On a CPU time is that of the processor: what other processes do meanwhile does not count. On a GPU it is the wall's.
"""

import gc
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """One comparison: seconds per ``unit`` of both sides, in pairs, and whether both gave the same.

    ``floor`` is what arithmetic alone would take at the matrix product's measured rate, where that is known.
    """

    ours: list[float]
    theirs: list[float]
    unit: str
    quality: str
    holds: bool
    floor: float | None = None

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours was, in each pair, in rising order."""
        return sorted(peer / own for own, peer in zip(self.ours, self.theirs, strict=True))


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each side, called in alternating order after one call of each that does not count."""
    sides = {"ours": ours, "theirs": theirs}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for repeat in range(repeats):
        for name in sorted(sides, reverse=bool(repeat % 2)):
            found[name].append(seconds(sides[name]))
    return found["ours"], found["theirs"]


def seconds(call: Callable[[], object]) -> float:
    """Return how long one call takes."""
    gc.collect()
    began = clock()
    call()
    return clock() - began


def clock() -> float:
    """Return the processor's time, or, where there is a GPU, the wall's once all of its work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Stamps:
    """The ends of so many steps; the first ones do not count, in which a GPU's layers are compiled, too.

    Work on a GPU runs behind. To wait for it at every step would slow it down, so only two ends are waited for, and
    what is known is the mean between them.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.taken, self.times = steps, 0, list[float]()
        self.warm = min(10, steps - 1) if torch.cuda.is_available() else 1

    def take(self) -> None:
        """A step has ended."""
        self.taken += 1
        waits = (self.warm, self.steps) if torch.cuda.is_available() else range(self.warm, self.steps + 1)
        if self.taken in waits:
            self.times.append(clock())

    def seconds(self) -> list[float]:
        """Return the seconds per step: of each, or on a GPU their mean."""
        gaps = [after - before for before, after in pairwise(self.times)]
        return [gap * len(gaps) / (self.steps - self.warm) for gap in gaps]


def product_rate(device: str) -> float:
    """Return the FLOP/s of a large matrix product: bfloat16 on a GPU, float32 and one thread on a CPU."""
    size, kind = (8_192, torch.bfloat16) if device == "cuda" else (1_024, torch.float32)
    matrix = torch.randn(size, size, device=device, dtype=kind)
    return 2 * size**3 / min(seconds(lambda: matrix @ matrix) for _ in range(12))


def spread(values: list[float]) -> str:
    """Return median, smallest and largest, of seconds."""
    scale, unit = next(
        (s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "us")) if statistics.median(values) >= s or u == "us"
    )
    middle, least, most = (value / scale for value in (statistics.median(values), min(values), max(values)))
    return f"{middle:.3g} {unit} ({least:.3g}-{most:.3g})"
