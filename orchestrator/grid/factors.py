"""The standard factors, as data: what each level patches in a configuration. A factor's first level is its baseline.

Every level, the baseline too, states its value, so that a cell means the same whatever the base file says.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sagasr.config.settings import SIZES

Patch = Mapping[str, Any]


class Standard(NamedTuple):
    """A factor by name. ``other`` makes the patch of a level that is not listed here, or returns None."""

    levels: Mapping[str, Patch]
    other: Callable[[str], Patch | None] = lambda level: None
    hint: str = ""

    @property
    def baseline(self) -> str:
        return next(iter(self.levels))


def _switch(path: str, *levels: str) -> Standard:
    """Return a factor whose levels are the values of one path."""
    return Standard({level: {path: level} for level in levels})


def _steps(level: str) -> Patch | None:
    return {"evaluation.sampler.steps": int(level)} if level.isdecimal() and int(level) > 0 else None


def _dropout(level: str) -> Patch | None:
    try:
        share = float(level)
    except ValueError:
        return None
    return {"conditions.low.dropout": share} if 0 < share < 1 else None


def _guidance(audio: float, text: float) -> Patch:
    return {"evaluation.sampler.guidance.audio": audio, "evaluation.sampler.guidance.text": text}


STANDARD: dict[str, Standard] = {
    "text": _switch("conditions.text.source", "off", "transcript", "caption"),
    "rolloff": _switch("conditions.rolloff", "off", "on"),
    "rolloff_route": _switch("conditions.rolloff_route", "both", "cross", "global", "prepend"),
    "lfr": _switch("evaluation.lfr", "off", "hard", "crossfade"),
    "lfr_ratio": _switch("evaluation.lfr_ratio", "off", "on"),
    "latent_dropout": Standard(
        {"off": {"conditions.low.dropout": 0.0}, "0.1": {"conditions.low.dropout": 0.1}},
        _dropout,
        "or any share between 0 and 1",
    ),
    "size": Standard(
        {size: {f"model.{key}": width for key, width in widths.items()} for size, widths in SIZES.items()}
    ),
    "weights": _switch("evaluation.weights", "ema", "raw"),
    "steps": Standard({"100": {"evaluation.sampler.steps": 100}}, _steps, "or any positive whole number"),
    "guidance": Standard({"off": _guidance(1.0, 1.0), "paper": _guidance(1.4, 1.2)}),
    "rolloff_target": _switch("evaluation.rolloff_target", "oracle", "fixed", "estimated"),
    "schedule": _switch("evaluation.sampler.schedule", "linear", "linear-quadratic"),
    "null_latent": _switch("conditions.low.empty", "zero", "minus5"),
    "time_sampler": _switch("training.time_sampler", "uniform", "logit-normal"),
    "init": _switch("model.init", "scratch", "pretrained"),
}

# what the authors of SAGA-SR chose (paper and released code), where a grid has these factors
PAPER: Mapping[str, str] = {
    "text": "caption",
    "rolloff": "on",
    "lfr": "hard",
    "latent_dropout": "0.1",
    "guidance": "paper",
    "weights": "raw",
    "steps": "100",
    "schedule": "linear-quadratic",
    "null_latent": "minus5",
    "time_sampler": "logit-normal",
}
