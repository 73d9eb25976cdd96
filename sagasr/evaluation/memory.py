"""A validation in as much memory as a GPU has left: fewer clips at once after each time that they did not fit."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from sagasr.io.errors import GPU_MEMORY, ValidationMemoryError, first_line

T = TypeVar("T")

BATCH = 32  # clips at once where memory allows
logger = logging.getLogger(__name__)


class AtOnce:
    """How many clips are sampled at once. One kept for all validations of a training remembers.

    ``say`` hears of each change.
    """

    def __init__(self, say: Callable[[str], object] = logger.warning) -> None:
        self.limit, self.say = BATCH, say

    def parts(self, clips: int, most: int, work: Callable[[slice], T]) -> list[T]:
        """Return what ``work`` makes of the clips in parts, in order; a part that does not fit is done again, smaller.

        Raises ValidationMemoryError where one clip does not fit.
        """
        done: list[T] = []
        start = 0
        while start < clips:
            size = min(most, self.limit, clips - start)
            found = self._tried(work, slice(start, start + size))
            if found is None:  # only now is all let go that the failure held
                gc.collect()
                torch.cuda.empty_cache()
                self.limit = size // 2
                self.say(f"{size} validation clips at once do not fit into the GPU's memory: {self.limit} from now on")
            else:
                done += found
                start += size
        return done

    def _tried(self, work: Callable[[slice], T], part: slice) -> list[T] | None:
        try:
            return [work(part)]
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if part.stop - part.start == 1:
                raise ValidationMemoryError(
                    "the validation, not the step, does not fit into the GPU's memory, even one clip at a time "
                    f"({first_line(error)}); give the trial a larger share of a GPU (gpus_per_worker) or "
                    "shorter clips (validation.segment)"
                ) from error
        return None


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a GPU's memory did not suffice."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(words in text for words in GPU_MEMORY)
