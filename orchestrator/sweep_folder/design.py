"""The design that a plan names, in words: factors, levels, cells, the steps of its ladder, and what is promoted.

A level is the same word in plan.json, in the tables and in the report.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Levels = dict[str, str]  # of a cell: a level per factor

SAME = (("True", "true", "on"), ("False", "false", "off"), ("None", "null", "nan", "<NA>"))  # words of one level


def cell_name(levels: Mapping[str, str]) -> str:
    """Return the readable name of a cell: ``text=caption rolloff=on``."""
    return " ".join(f"{factor}={level}" for factor, level in levels.items())


def word_of(value: object) -> str:
    """Return a level as a word: 0.10 -> 0.1, 100.0 -> 100; ``level_of`` finds the plan's own word for it."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def level_of(value: object, levels: tuple[str, ...]) -> str:
    """Return the level that ``value`` means, or its own word when it is none of them."""
    word = word_of(value)
    same: tuple[str, ...] = next((words for words in SAME if word in words), ())
    for spelling in (str(value), word, *same):
        if spelling in levels:
            return spelling
    number = number_of(word)
    return next((level for level in levels if math.isclose(number_of(level), number, rel_tol=1e-6)), word)


def levels_of(values: Iterable[object], levels: tuple[str, ...]) -> list[str]:
    """Return the level that each value means, working out each distinct value once."""
    values = list(values)
    meaning = {value: level_of(value, levels) for value in set(values)}
    return [meaning[value] for value in values]


def number_of(word: str) -> float:
    """Return the number that a word means (a float32 of it is as near as 1e-7); NaN where it means none."""
    try:
        return float(word)
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class Factor:
    """One design choice: its levels as words, the baseline first."""

    name: str
    levels: tuple[str, ...]
    stage: str
    under: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # levels of others beside which alone it acts

    @property
    def baseline(self) -> str:
        return self.levels[0]

    @property
    def where(self) -> str:
        """The levels of others beside which it acts, in words."""
        return cell_name({name: "|".join(levels) for name, levels in self.under.items()})


class Step(NamedTuple):
    """One rung of the ladder: a level for every factor, and the step it is compared with (None for the first)."""

    step: str
    levels: Levels
    versus: str | None


class Promote(NamedTuple):
    """The part that decides (``source``: levels) and the costly part that runs for what mattered there (``target``)."""

    when: str
    source: Levels
    target: Levels

    def waits(self, levels: Mapping[str, str]) -> bool:
        """Return whether a cell runs only when promoted."""
        return all(levels[factor] == level for factor, level in self.target.items())

    def decides(self, levels: Mapping[str, str]) -> bool:
        """Return whether a cell belongs to the part that decides."""
        return all(levels[factor] == level for factor, level in self.source.items())
