"""What a grid file may say: its keys and their shapes. The names of factors and levels are checked when it is read."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sagasr.config.runtime import Runtime
from sagasr.config.settings import Data
from sagasr.config.strict import Strict


class EarlyStopping(Strict):
    """When to stop: ``blocks`` launches no more seeds once every question is decided; ``asha`` is a search."""

    policy: Literal["blocks", "asha", "none"] = "blocks"
    metric: str = "val/lsd"
    delta: float | None = Field(0.05, gt=0, description="smallest difference that matters; only LSDs have a default")
    spending: Literal["pocock", "obrien-fleming"] = "pocock"
    grace: int = Field(3, ge=0, description="validations of a trial before any rule may stop it")
    margin: float = Field(
        0.5, ge=0, description="a trial fails when its metric stays this much worse than the low input's …"
    )
    patience: int = Field(3, ge=1, description="… for so many validations in a row")
    reduction: float = Field(4, gt=1, description="asha: one in so many trials goes on at each rung")

    @model_validator(mode="before")
    @classmethod
    def _in_its_own_unit(cls, tree: Any) -> Any:
        """What matters of an LSD says nothing of another metric."""
        if isinstance(tree, Mapping) and not str(tree.get("metric", "val/lsd")).startswith("val/lsd"):
            return {"delta": None, **tree}
        return tree


class Budget(Strict):
    max_gpu_hours: float | None = Field(None, gt=0, description="refuse, or ask, before spending more")
    price_per_gpu_hour: float | None = Field(
        None, gt=0, description="in any currency: plan and report then speak of money"
    )

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
    storage: str = "./sweeps"
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
