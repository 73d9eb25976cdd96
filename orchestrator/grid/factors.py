"""Factors, their levels by name, and conditions on them. The standard factors are data: what each level patches.

Every standard level, the baseline too, states its value, so that a cell means the same whatever the base file says. A
factor's first level is its baseline.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from orchestrator.sweep_folder.design import Levels, number_of
from sagasr.config.faults import Faults
from sagasr.config.patching import leaves
from sagasr.config.settings import SIZES
from sagasr.io.errors import did_you_mean

Patch = Mapping[str, Any]
Condition = Mapping[str, frozenset[str]]  # for each factor that it names, the levels that satisfy it


@dataclass(frozen=True)
class Factor:
    """A choice: what each of its levels patches in a configuration."""

    name: str
    baseline: str
    levels: Mapping[str, Patch]
    under: Condition = field(default_factory=dict)

    @cached_property
    def paths(self) -> frozenset[str]:
        """The configuration paths that some level decides. A level that names a ``kind`` decides the whole section."""
        return frozenset(path.removesuffix(".kind") for changes in self.levels.values() for path in leaves(changes))

    @property
    def stage(self) -> Literal["train", "eval"]:
        return "eval" if all(path.startswith("evaluation.") for path in self.paths) else "train"


def level_name(value: object) -> str:
    """Return the text by which a level is known: 0.1 -> '0.1', 25.0 -> '25', True -> 'true', [0.9, 1] -> '0.9 1'."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(level_name, value)) or "[]"
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return unicodedata.normalize("NFC", text)  # an accent is one sign or two, and looks the same


def find_level(value: object, levels: Iterable[str]) -> str | None:
    """Return the level that a value names, by its text or by its number (1e-3 names '0.001'); None where none does."""
    name, levels = level_name(value), list(levels)
    return name if name in levels else next((level for level in levels if number_of(level) == number_of(name)), None)


def pairs(text: str) -> list[tuple[str, str, str]]:
    """Return the parts of ``text=caption, size=very large`` as name, '=' and level; a part without '=' has no level.

    Parts are separated by commas, or by a blank where ``NAME=`` follows: a level may hold blanks, as cells' names do.
    """
    parts = [part.partition("=") for part in re.split(r",|\s+(?=[\w.]+\s*=)", text) if part.strip()]
    return [(name.strip(), equals, level.strip()) for name, equals, level in parts]


def read_levels(given: Mapping[str, Any], factors: Mapping[str, Factor], here: str) -> Levels:
    """Return a level for each factor that ``given`` names. Raises ConfigError with a line per unknown name."""
    levels, faults = {}, Faults()
    for name, value in given.items():
        if name not in factors:
            faults.append(f"{here}: unknown factor {name!r}{did_you_mean(name, factors)}")
        elif (level := find_level(value, factors[name].levels)) is None:
            word = level_name(value)
            faults.append(f"{here}: factor {name!r} has no level {word!r}{did_you_mean(word, factors[name].levels)}")
        else:
            levels[name] = level
    faults.stop()
    return levels


def read_condition(given: Mapping[str, Any], factors: Mapping[str, Factor], here: str) -> dict[str, frozenset[str]]:
    """Return a condition in which a list of levels means any of them. Raises ConfigError as ``read_levels``."""
    condition: dict[str, frozenset[str]] = {}
    faults = Faults()
    for name, value in given.items():
        for level in value if isinstance(value, list) else [value]:
            with faults.collecting():
                known = read_levels({name: level}, factors, here)[name]
                condition[name] = condition.get(name, frozenset()) | {known}
    faults.stop()
    return condition


def parse_only(texts: Iterable[str], factors: Mapping[str, Factor]) -> tuple[Condition, ...]:
    """Return the conditions of ``--only``: a comma means and, several texts mean or. Raises ConfigError."""
    faults, conditions = Faults(), []
    for text in texts:
        given: dict[str, list[str]] = {}
        for name, equals, level in pairs(text):
            if equals:
                given.setdefault(name, []).append(level)
            else:
                faults.append(f"--only: expected 'FACTOR=LEVEL', e.g. 'text=caption' (found {name!r})")
        if not given and not faults:
            faults.append(f"--only: {text!r} names no cells; give FACTOR=LEVEL, or leave it out")
        with faults.collecting("--only: "):
            conditions.append(read_condition(given, factors, text))
    faults.stop()
    return tuple(conditions)


def holds(condition: Condition, levels: Mapping[str, str]) -> bool:
    """Return whether every factor named in ``condition`` stands at one of its levels."""
    return all(levels[factor] in wanted for factor, wanted in condition.items())


class Standard(NamedTuple):
    """A factor by name. ``other`` makes the patch of a level that is not listed here, or returns None."""

    levels: Mapping[str, Patch]
    other: Callable[[str], Patch | None] = lambda level: None
    hint: str = ""

    @property
    def baseline(self) -> str:
        return next(iter(self.levels))


def _switch(path: str, *levels: str) -> Standard:
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
