"""How a GPU multiplies float32: codecs with all its bits, sampling with the 11 that TF32 keeps. A CPU keeps them all.

An exact codec rounded to TF32 costs 0.1 of LSD; a sampling, 0.00002, and it runs several times faster. The flags belong
to the process, not to a thread: threads that encode at once enter together, and the last to leave restores them. So a
process encodes, trains or samples, but not one in a thread beside the other.
"""

import threading
from typing import Any

import torch

_CUDNN: Any = torch.backends.cudnn
_OPERATIONS: tuple[Any, ...] = (_CUDNN.conv, _CUDNN.rnn, torch.backends.cuda.matmul)


class _TensorFloats:
    """A context in which convolutions and products of matrices on a GPU may use TF32, or may not."""

    def __init__(self, allowed: bool) -> None:
        self.allowed, self.lock, self.inside = allowed, threading.Lock(), 0
        self.before: list[str] = []

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.before = [operation.fp32_precision for operation in _OPERATIONS]
                _allow(self.allowed, self.allowed)
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                _allow(self.before[0] == "tf32", self.before[2] == "tf32")
                for operation, precision in zip(_OPERATIONS, self.before, strict=True):
                    operation.fp32_precision = precision


def _allow(convolutions: bool, products: bool) -> None:
    """Set torch's older flags: these keep the newer ones in step, and not the other way round."""
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


exact = _TensorFloats(False)
fast = _TensorFloats(True)
