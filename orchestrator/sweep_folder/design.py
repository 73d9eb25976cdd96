"""The design that a plan names, in words: its factors, the steps of its ladder, and what is promoted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.sweep_folder.names import Levels, cell_name


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
