"""Initial weights that depend on a seed alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sagasr.io.fingerprint import seed_of


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Initialise what is built inside from ``parts`` alone, and leave the global generator as it was."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed_of(*parts))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
