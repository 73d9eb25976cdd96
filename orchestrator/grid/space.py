"""What a grid file may say (``GridFile``), and what it means: how a cell's levels become a configuration.

The stage of a factor is never declared: a factor whose patches stay under ``evaluation`` belongs to the eval stage, any
other to the train stage. Loads neither torch nor ray.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from orchestrator.grid.factors import Condition, Factor, Patch, holds
from orchestrator.grid.fractional import Fraction, fraction
from orchestrator.sweep_folder.columns import RESERVED
from orchestrator.sweep_folder.design import Levels, Promote, Step, cell_name
from sagasr.config.patching import leaves, nested, patch
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config, Data
from sagasr.config.strict import Strict
from sagasr.io.errors import ConfigError
from sagasr.metrics.table import METRICS
from sagasr.plugins.parts import load

STORAGE = "SAGASR_STORAGE"  # the variable that names the storage where a grid does not


class EarlyStopping(Strict):
    """When to stop: ``blocks`` launches no more seeds once every question is decided; the others but none search."""

    policy: Literal["blocks", "asha", "plateau", "none"] = "blocks"
    metric: str = "val/lsd"
    delta: float | None = Field(0.05, gt=0, description="smallest difference that matters; only LSDs have a default")
    spending: Literal["pocock", "obrien-fleming"] = "pocock"
    grace: int = Field(3, ge=0, description="validations of a trial before any rule may stop it")
    margin: float = Field(0.5, ge=0, description="a trial fails when its metric stays so much worse than the low's …")
    patience: int = Field(3, ge=1, description="… for so many validations in a row")
    reduction: float = Field(4, gt=1, description="asha: one in so many trials goes on at each rung")

    @model_validator(mode="before")
    @classmethod
    def _in_its_own_unit(cls, tree: Any) -> Any:
        """What matters of an LSD says nothing of another metric."""
        if isinstance(tree, Mapping) and not str(tree.get("metric", "val/lsd")).startswith("val/lsd"):
            return {"delta": None, **tree}
        return tree

    @model_validator(mode="after")
    def _knows_what_counts(self) -> Self:
        if self.policy == "plateau" and self.delta is None:
            raise ValueError(f"plateau has no delta for {self.metric}; add the smallest improvement that counts")
        return self


class Budget(Strict):
    max_gpu_hours: float | None = Field(None, gt=0, description="refuse, or ask, before spending more")
    price_per_gpu_hour: float | None = Field(None, gt=0, description="in any currency: money is then spoken of")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.max_gpu_hours is None and self.price_per_gpu_hour is None:
            raise ValueError("is empty; give max_gpu_hours, price_per_gpu_hour or both")
        return self


class Tracking(Strict):
    uri: str = Field(min_length=1, description="MLflow tracking URI; by default a sqlite file beside the storage")


class GridFile(Strict):
    """The keys of a grid file."""

    include: None = Field(None, description="another grid, whose keys hold where this one has none of its own")
    name: str
    question: str = ""
    base: str = Field(min_length=1)
    data: Data | None = Field(None, examples=["{train: train.csv, val: val.csv}"])
    factors: dict[str, Any]
    design: Literal["full", "one-at-a-time", "ladder", "fractional"] = "full"
    resolution: int | None = Field(None, ge=3, le=8)
    ladder: tuple[dict[str, Any], ...] = ()
    where: tuple[dict[str, Any], ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = (0, 1, 2)
    early_stopping: EarlyStopping = Field(EarlyStopping(), examples=["{policy: none}"])
    resources: dict[str, Runtime] = Field(default_factory=dict)
    budget: Budget | None = Field(None, examples=["{max_gpu_hours: 40}"])
    tracking: Tracking | None = Field(None, examples=["{uri: http://HOST:5000}"])
    storage: str = Field(default_factory=lambda: os.environ.get(STORAGE) or "./sweeps")
    promote: dict[str, Any] | None = None

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
            raise ValueError("use 1 to 63 of the characters a-z, 0-9 and -")
        return name

    @field_validator("storage")
    @classmethod
    def _is_a_place(cls, storage: str) -> str:
        if not storage.strip() or not storage.isprintable():
            raise ValueError("is no name of a folder")
        try:
            Path(storage).expanduser()
        except RuntimeError as error:
            raise ValueError("there is no such user") from error
        return storage

    @field_validator("factors", "seeds")
    @classmethod
    def _is_not_empty(cls, given: Any) -> Any:
        if not given:
            raise ValueError("is empty; list at least one")
        return given


class Rule(NamedTuple):
    """One entry of ``where``: where ``given`` holds, ``wanted`` must hold too (None: must not hold at all)."""

    given: Condition
    wanted: Condition | None

    def allows(self, levels: Mapping[str, str]) -> bool:
        """Return whether a cell keeps the rule."""
        return not holds(self.given, levels) or (self.wanted is not None and holds(self.wanted, levels))


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
    metrics = tuple(load("metric", part) for part in named)
    for part, metric in zip(named, metrics, strict=True):
        if metric.better not in ("lower", "higher"):
            raise ConfigError(f"metric {part}: better is {metric.better!r}, not 'lower' or 'higher'")
        if metric.name in RESERVED or not str(metric.name).isidentifier():
            raise ConfigError(f"metric {part}: name {metric.name!r} is a column that is there, or none; choose another")
    return metrics
