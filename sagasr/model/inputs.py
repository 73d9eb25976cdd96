"""What a model takes: the conditions of a batch, as data draw them, and initial weights that depend on a seed alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from sagasr.io.fingerprint import seed_of


class ConditionInputs(NamedTuple):
    """The conditions of a batch: prepared text, roll-off of (low, high) in Hz [B, 2], seconds (start, total) [B, 2]."""

    text: Tensor
    rolloff_hz: Tensor
    seconds: Tensor


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Initialise what is built inside from ``parts`` alone, and leave the global generator as it was."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed_of(*parts))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
