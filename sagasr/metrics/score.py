"""Estimates scored against high clips: every metric of the table, and words for what has none."""

import math
from collections.abc import Collection, Iterable

from torch import Tensor

from sagasr.audio.spectrum import cutoff_bin
from sagasr.metrics.registry import COMPUTE, Scores
from sagasr.metrics.spectra import Pair, Spectra
from sagasr.metrics.table import METRICS


class Reference:
    """A high clip [C, T] against which estimates are scored; its spectra are computed once.

    ``cutoff_hz`` divides lsd_lf from lsd_hf; ``splice_hz`` is where low-frequency replacement joins, by default there.
    """

    def __init__(self, high: Tensor, cutoff_hz: float, splice_hz: float | None = None) -> None:
        self._high = Spectra(high)
        self._cutoff = cutoff_bin(cutoff_hz)
        self._splice = cutoff_bin(cutoff_hz if splice_hz is None else splice_hz)

    def score(self, estimate: Tensor, names: Collection[str] = METRICS) -> Scores:
        """Return metrics by name for an estimate [C, T]; None where undefined, all if it is not finite."""
        if estimate.shape != self._high.audio.shape:
            raise ValueError(f"estimate {list(estimate.shape)} and high {list(self._high.audio.shape)} differ in shape")
        pair = Pair(self._high, Spectra(estimate), self._cutoff, self._splice)
        if not (pair.high.is_finite and pair.estimate.is_finite):
            return dict.fromkeys(names)
        scores = {name: COMPUTE[name](pair) for name in names}
        return {name: value if value is not None and math.isfinite(value) else None for name, value in scores.items()}

    def remark(self, estimate: Tensor) -> str:
        """Return what is odd about a clip, so that its scores are not taken for those of sound; mostly nothing."""
        sides = (("high", self._high), ("estimate", Spectra(estimate)))
        odd = [f"{name} is not finite" for name, side in sides if not side.is_finite]
        odd += [f"{name} is digital silence" for name, side in sides if side.is_silent]
        return "; ".join(odd + [f"{name} passes full scale" for name, side in sides if side.passes_full_scale])


def score(high: Tensor, estimate: Tensor, low_cutoff_hz: float) -> Scores:
    """Return every metric by name for one estimate [C, T] of a high clip [C, T]."""
    return Reference(high, low_cutoff_hz).score(estimate)


def score_many(references: Iterable[Reference], estimates: Iterable[Tensor]) -> list[Scores]:
    """Return the scores of estimates [C, T], each against its reference; one by one, which is fastest on a CPU."""
    return [reference.score(estimate) for reference, estimate in zip(references, estimates, strict=True)]
