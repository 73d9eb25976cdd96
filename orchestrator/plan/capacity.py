"""How many trainings fit on a machine at once."""

from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.plan.gpus import gpus_here
from sagasr.config.runtime import Runtime
from sagasr.io.machine import cpus_here

ROUNDING = 1e-9  # shares such as 0.1 do not add up to 1 exactly


class Resources(NamedTuple):
    """CPUs and GPUs: what a machine has, or a training takes."""

    cpus: float
    gpus: float

    def holds(self, wanted: "Resources") -> bool:
        """Return whether what is wanted fits in."""
        return wanted.cpus <= self.cpus + ROUNDING and wanted.gpus <= self.gpus + ROUNDING

    def how_many(self, wanted: "Resources") -> int:
        """Return how many of what is wanted fit in beside each other."""
        pairs = zip(self, wanted, strict=True)
        return min(int(available / amount + ROUNDING) for available, amount in pairs if amount)

    def __sub__(self, taken: "Resources") -> "Resources":
        return Resources(self.cpus - taken.cpus, self.gpus - taken.gpus)


def this_machine() -> Resources:
    """Return what this process may use."""
    return Resources(cpus_here(), gpus_here())


def of_all_workers(runtime: Runtime) -> Resources:
    """Return what the workers of a training take together."""
    return Resources(runtime.workers * runtime.cpus_per_worker, runtime.workers * runtime.gpus_per_worker)


def most_at_once(runtimes: Iterable[Runtime], room: Resources) -> int:
    """Return how many of the smallest trainings fit at once; at least one."""
    return max((room.how_many(of_all_workers(runtime)) for runtime in runtimes), default=1) or 1


def workers_beside(runtime: Runtime) -> int:
    """Return how many workers of a training fit beside each other on the same GPU or, without one, the same CPUs."""
    gpus, cpus = runtime.gpus_per_worker, runtime.cpus_per_worker
    each, room = (Resources(0, gpus), Resources(0, 1)) if gpus else (Resources(cpus, 0), Resources(cpus_here(), 0))
    return max(1, room.how_many(each))
