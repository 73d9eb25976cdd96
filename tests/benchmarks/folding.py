"""Cells that differ in evaluation alone: one training scored four ways, against a training for each."""

import tempfile
from pathlib import Path

from sagasr.evaluation.score_files import read_scores
from sagasr.training.train import train
from tests.benchmarks import data
from tests.benchmarks.measure import Row, seconds


def against_one_each(quick: bool) -> Row:
    """Two factors of two levels, low-frequency replacement and weights; quality: the same score of every clip."""
    steps = 4 if quick else 16
    changes = {"training.steps": steps, "validation.every": max(1, steps // 2), "validation.clips": 3}
    settings = data.config("tiny", **changes)
    store = data.store_path(settings)
    variants = {
        f"{lfr} {weights}": settings.evaluation.model_copy(update={"lfr": lfr, "weights": weights})
        for lfr in ("off", "hard")
        for weights in ("ema", "raw")
    }
    with tempfile.TemporaryDirectory() as scratch:
        together = Path(scratch) / "together"
        ours = seconds(lambda: train(settings, together, store, variants))
        theirs = sum(
            seconds(lambda name=name: train(settings, Path(scratch) / name, store, {name: variants[name]}))  # type: ignore[misc]
            for name in variants
        )
        equal = all(read_scores(together, name) == read_scores(Path(scratch) / name, name) for name in variants)
    return Row([ours / 4], [theirs / 4], f"cell, {steps} steps", "the same scores, clip by clip", equal)
