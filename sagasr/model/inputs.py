"""The conditions of a batch, as data draw them and the model takes them."""

from typing import NamedTuple

from torch import Tensor


class ConditionInputs(NamedTuple):
    """The conditions of a batch: prepared text, roll-off of (low, high) in Hz [B, 2], seconds (start, total) [B, 2]."""

    text: Tensor
    rolloff_hz: Tensor
    seconds: Tensor
