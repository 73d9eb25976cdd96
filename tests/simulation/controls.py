"""Controls that must fail beside the product: plain ASHA, as a small event loop, and stopping at a plateau."""

import bisect
import heapq

import numpy as np

from orchestrator.analysis.design_matrix import Array

WORKERS, SLOW_SIZE, JITTER, ETA = 8, 1.5, 0.05, 3


def asha(
    curves: Array, random: np.random.Generator, rungs: tuple[int, ...], large: np.ndarray, workers: int = WORKERS
) -> tuple[Array, np.ndarray]:
    """Return last reported values and who finished, [replicates, runs], under asynchronous halving in grid order.

    The rule of Ray 2.60 ``_Bracket``: at a rung, stop when worse than the best third of what it recorded so far.
    """
    replicates, runs, steps = curves.shape
    stops = (*rungs, steps)
    last = curves[..., -1].copy()
    finished = np.ones((replicates, runs), dtype=bool)
    for replicate in range(replicates):
        pace = np.exp(random.normal(0, JITTER, (runs, steps))) * np.where(large, SLOW_SIZE, 1.0)[:, None]
        due = np.cumsum(pace, axis=1)[:, [stop - 1 for stop in stops]]
        recorded: list[list[float]] = [[] for _ in rungs]
        waiting = iter(range(runs))
        events = [(due[run, 0], run, 0, 0.0) for run in (next(waiting) for _ in range(workers))]
        heapq.heapify(events)
        while events:
            now, run, rung, start = heapq.heappop(events)
            ends = rung == len(rungs)
            if not ends:
                value = float(curves[replicate, run, rungs[rung] - 1])
                if _stopped(value, recorded[rung]):
                    last[replicate, run], finished[replicate, run], ends = value, False, True
                bisect.insort(recorded[rung], value)
            if not ends:
                heapq.heappush(events, (start + due[run, rung + 1], run, rung + 1, start))
            elif (following := next(waiting, None)) is not None:
                heapq.heappush(events, (now + due[following, 0], following, 0, now))
    return last, finished


def _stopped(value: float, recorded: list[float]) -> bool:
    """Return whether ``value`` (lower is better) is worse than the 1/eta quantile of the sorted ``recorded``."""
    if not recorded:
        return False
    place = (len(recorded) - 1) / ETA
    low = int(place)
    high = min(low + 1, len(recorded) - 1)
    return value > recorded[low] + (place - low) * (recorded[high] - recorded[low])


def plateau_values(curves: Array, window: int = 4, gain: float = 0.02) -> Array:
    """Return the last values [replicates, runs] when each run stops once its own curve looks flat."""
    steps = curves.shape[-1]
    last = curves[..., -1].copy()
    going = np.ones(last.shape, dtype=bool)
    for step in range(2 * window, steps):
        before = curves[..., step - 2 * window : step - window].mean(axis=-1)
        now = curves[..., step - window : step].mean(axis=-1)
        stop = going & (before - now < gain)
        last[stop] = curves[..., step - 1][stop]
        going &= ~stop
    return np.asarray(last)
