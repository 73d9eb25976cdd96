"""The list of benchmarks: a name, where its function is, and what is compared. A new row is a function and a line here.

A function takes ``quick`` and the keywords of its line, and returns a ``Row``.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.benchmarks.measure import Row


class Entry(NamedTuple):
    """One benchmark: ``place`` is module:function below tests.benchmarks, ``needs`` the device it is about."""

    name: str
    place: str
    what: str
    peer: str
    needs: str = "cpu"
    keywords: dict[str, Any] = {}  # noqa: RUF012

    def run(self, quick: bool) -> Row:
        """Return the row. Raises what the benchmark raises."""
        module, _, function = self.place.partition(":")
        made: Callable[..., Row] = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)
        return made(quick, **self.keywords)


STOCK = "stable-audio-tools' training wrapper, latents and text cached too"
ONLINE = "the same step, both clips degraded and encoded in it"
LOOP = "three passes in turn, batches of 4, metrics with librosa"
ENTRIES = (
    Entry("step", "step:against_stock", "training step, small, batch 8", STOCK, keywords={"batch": 8}),
    Entry("step-gpu", "step:against_stock", "training step, small, batch 8", STOCK, "cuda", {"batch": 8}),
    Entry("step-gpu-256", "step:against_stock", "training step, small, batch 256", STOCK, "cuda", {"batch": 256}),
    Entry("step-gpu-full", "step:against_stock", "training step, full, batch 128", STOCK, "cuda",
          {"batch": 128, "size": "full"}),
    Entry("cached", "cached:against_online", "cached step, small, batch 4", ONLINE, keywords={"batch": 4}),
    Entry("cached-gpu", "cached:against_online", "cached step, small, batch 64", ONLINE, "cuda", {"batch": 64}),
    Entry("cached-gpu-full", "cached:against_online", "cached step, full, batch 64", ONLINE, "cuda",
          {"batch": 64, "size": "full"}),
    Entry("cell", "cell:against_script", "one small cell: encode, 248 steps of 64, validate 4 times",
          "script: encoders online, 16 micro-batches of 4, three passes, librosa"),
    Entry("cell-gpu", "cell:against_script", "one small cell: encode, 248 steps of 64, validate 4 times",
          "script: encoders online, 16 micro-batches of 4, three passes, librosa", "cuda"),
    Entry("fused", "fused:against_in_turn", "8 tiny cells as one model, batch 8 each", "the 8 in turn"),
    Entry("fused-gpu", "fused:against_in_turn", "8 small cells as one model, batch 8 each", "the 8 in turn", "cuda",
          {"size": "small"}),
    Entry("validation", "validation:against_passes", "validation, small, three branches", LOOP),
    Entry("validation-gpu", "validation:against_passes", "validation, small, 100 steps x three branches", LOOP, "cuda"),
    Entry("fold", "folding:against_one_each", "32 cells of which 4 share a training", "one training per cell"),
    Entry("reads", "reads:against_files", "random batches of 64 pairs", "one .npy and one .json per clip"),
    Entry("lsd", "lsd:one", "LSD of a prediction, high clip known", "librosa per clip"),
    Entry("lsd-family", "lsd:family", "all four LSDs, high clip known", "librosa per clip"),
    Entry("degrade", "degradation:against_released", "low clip of a recording, cutoff in steps of 50 Hz",
          "filter and resample_poly, cutoff in steps of 1 Hz"),
    Entry("checkpoint", "saving:against_lightning", "checkpoint of 0.2 GB: safetensors, hashed, read back, fsync",
          "Lightning's save_checkpoint"),
)  # fmt: skip
