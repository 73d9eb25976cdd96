"""What surrounds a training: how it is run, when it is to halt, whom it reports to, and how it ends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import Strategy

from sagasr.config.settings import Evaluation
from sagasr.io.signals import Halt
from sagasr.io.states import State

Variants = Mapping[str, Evaluation]


class FailureRule(NamedTuple):
    """Ends a training that diverges; looks at that training alone. A loss that is not finite always ends it."""

    margin: float = 0.5  # val LSD above that of the unprocessed input by so much …
    checks: int = 3  # … at so many validations in a row …
    grace: float = 0.3  # … after this share of the steps


RULE = FailureRule()


@dataclass(frozen=True)
class Harness:
    """What surrounds a training. ``report`` hears, on rank 0, the metrics of each validation.

    ``halt`` is asked after each step: a training that is asked to halt saves a checkpoint and ends as interrupted.
    ``fence`` raises when another process has taken the folder over; it is called before whatever counts is written.
    ``pulse`` is called at every sign of life. ``micro_batches``: parts a batch is taken in, to need less memory.
    """

    strategy: str | Strategy = "auto"
    environment: ClusterEnvironment | None = None
    accelerator: str = "auto"
    devices: int | str = 1
    report: Callable[[Mapping[str, float]], object] = lambda metrics: None
    rule: FailureRule = RULE
    attempt: int = 1
    halt: Callable[[], Halt | None] = lambda: None
    fence: Callable[[], object] = lambda: None
    pulse: Callable[[], object] = lambda: None
    micro_batches: int = 1


class TrainResult(NamedTuple):
    """How a training ended: done, failed or interrupted, with the reason and the step reached."""

    state: State
    reason: str
    step: int


class Interrupted(Exception):
    """The harness asked for a halt. The training goes on from here when it is started again."""
