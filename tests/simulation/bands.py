"""What both simulations share: the 2^4 grid they are about, and a measured rate beside the band it must land in."""

import itertools
from dataclasses import dataclass

import numpy as np

FACTORS = ("text", "rolloff", "dropout", "size")
CELLS = np.array(list(itertools.product((0, 1), repeat=len(FACTORS))))


@dataclass(frozen=True)
class Check:
    """One measured rate beside its band."""

    rate: str
    measured: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.low <= self.measured <= self.high
