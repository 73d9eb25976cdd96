"""What a grid means: factors, rules, the ladder, and how a cell's levels become a configuration.

The stage of a factor is never declared: a factor whose patches stay under ``evaluation`` belongs to the eval stage, any
other to the train stage. Loads neither torch nor ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.grid.factors import Patch
from orchestrator.grid.fractional import Fraction, fraction
from orchestrator.grid.levels import Condition, Factor, holds
from orchestrator.grid.schema import GridFile
from orchestrator.sweep_folder.columns import RESERVED
from orchestrator.sweep_folder.design import Levels, Promote, Step, cell_name
from sagasr.config.patching import leaves, nested, patch
from sagasr.config.settings import Config
from sagasr.io.errors import ConfigError
from sagasr.metrics.table import METRICS


class Rule(NamedTuple):
    """One entry of ``where``: where ``given`` holds, ``wanted`` must hold too (None: must not hold at all)."""

    given: Condition
    wanted: Condition | None

    def allows(self, levels: Mapping[str, str]) -> bool:
        """Return whether a cell keeps the rule."""
        if not holds(self.given, levels):
            return True
        return self.wanted is not None and holds(self.wanted, levels)


@dataclass(frozen=True)
class SearchSpace:
    """A grid file known to be sound.

    ``tree`` and ``base`` are the files as resolved: overrides, absolute paths. ``grid`` has the keys that speak of no
    level; those that do are factors, ladder, where and promote.
    """

    source: Path
    tree: Mapping[str, Any]
    base: Mapping[str, Any]
    grid: GridFile
    factors: Mapping[str, Factor]
    ladder: tuple[Step, ...]
    where: tuple[Rule, ...]
    promote: Promote | None

    @property
    def baseline(self) -> Levels:
        return {name: factor.baseline for name, factor in self.factors.items()}

    @cached_property
    def metrics(self) -> Mapping[str, str]:
        """Which way is good, by metric: ours and the user's own."""
        return {metric.name: metric.better for metric in (*METRICS.values(), *own_metrics(self.base))}

    @cached_property
    def fraction(self) -> Fraction | None:
        """The generators and aliases of a fractional design."""
        fractional = self.grid.design == "fractional"
        return fraction(tuple(self.factors), self.grid.resolution or 4) if fractional else None

    def allows(self, levels: Mapping[str, str]) -> bool:
        """Return whether a cell keeps all rules of ``where``."""
        return all(rule.allows(levels) for rule in self.where)

    def exists(self, name: str, levels: Mapping[str, str]) -> bool:
        """Return whether a factor may leave its baseline beside these levels (``under``)."""
        under = self.factors[name].under
        return holds(under, levels) and all(self.exists(parent, levels) for parent in under)

    def resolve(self, levels: Mapping[str, str]) -> dict[str, Any]:
        """Return the configuration tree of a cell, not yet validated. What a factor lies under is patched before it."""
        ordered = sorted(levels, key=self._depth)
        return patch(self.base, *(self._patch(name, levels) for name in ordered))

    def _depth(self, name: str) -> int:
        return max((1 + self._depth(parent) for parent in self.factors[name].under), default=0)

    def _patch(self, name: str, levels: Mapping[str, str]) -> Patch:
        """Return what a factor changes; where it does not exist, what it lies under decides the keys of both."""
        factor = self.factors[name]
        changes = factor.levels[levels[name]]
        if not factor.under or self.exists(name, levels):
            return changes
        taken = [path for parent in factor.under for path in self.factors[parent].paths]
        return {key: value for key, value in leaves(changes).items() if not any(nested(key, path) for path in taken)}


@dataclass(frozen=True)
class Cell:
    """One level for every factor, and the configuration they resolve to (with the seed of the first block)."""

    levels: Levels
    config: Config

    @property
    def name(self) -> str:
        return cell_name(self.levels)


def own_metrics(base: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the metrics of the user's own that a configuration names. Raises ConfigError where one cannot be used."""
    validation = base.get("validation")
    named = validation.get("metrics") if isinstance(validation, Mapping) else None
    if not isinstance(named, list) or not all(isinstance(part, str) and ":" in part for part in named):
        return ()  # none, or the configuration's own check says what is wrong
    from sagasr.plugins.parts import load

    found = tuple(load("metric", part) for part in named)
    for part, metric in zip(named, found, strict=True):
        if metric.better not in ("lower", "higher"):
            raise ConfigError(f"metric {part}: better is {metric.better!r}, not 'lower' or 'higher'")
        if metric.name in RESERVED or not str(metric.name).isidentifier():
            raise ConfigError(f"metric {part}: name {metric.name!r} is a column that is there, or none; choose another")
    return found
