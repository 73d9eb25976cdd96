"""plan.json as the analysis reads it.

``sagasr-report`` reads the plans of others too. ``PlanRead`` asks for as little of them as it can: a level or a seed
may be a word or a number; cells and trials may be missing, or have a form of their own, which is then passed over.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from orchestrator.sweep_folder.design import Factor, Promote, Step, level_of, word_of
from sagasr.io.errors import DataError, did_you_mean, nearest
from sagasr.io.files import read_json
from sagasr.io.fingerprint import fingerprint, short
from sagasr.metrics.table import Better

TAKEN = ("seed", "status")  # columns that every table of results has

Word = str | bool | int | float | None  # a level or a seed, as it is written


def _one_of(*words: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is not None and value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}{nearest(str(value), words)}")
        return value

    return check


def _size_of_effect(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and math.isfinite(value) and value >= 0):
        raise ValueError(f"{value!r:.60} is no size of an effect; give a number of at least 0, or null")
    return value


def _factors(factors: Any) -> Any:
    if not isinstance(factors, Mapping):
        raise ValueError(f"expected a mapping from names to levels, found {factors!r:.80}")
    for name in factors:
        if name in TAKEN:
            raise ValueError(f"factor {name!r}: a column of the results has that name; rename the factor")
    return factors


def _named(metric: Any) -> Any:
    return {"name": metric} if isinstance(metric, str) else metric


def _by_name(metrics: Any) -> Any:
    """Return the metrics by their names in a mapping, or by their places in a list."""
    if isinstance(metrics, Mapping):
        return {key: {"name": key, **(spec if isinstance(spec, Mapping) else {})} for key, spec in metrics.items()}
    return {str(at): _named(metric) for at, metric in enumerate(metrics or [])}


def _known_form(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Return nothing for cells in another form: rows and factors say as much."""
    try:
        return validate(value or [])
    except ValidationError:
        return []


class _Entry(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class MetricEntry(_Entry):
    """What the plan says of a metric; the table of metrics says the rest."""

    name: str
    better: Annotated[Better | None, BeforeValidator(_one_of("lower", "higher"))] = None
    delta: Annotated[float | None, BeforeValidator(_size_of_effect)] = None
    unit: Word = None

    @property
    def column(self) -> str:
        """The results column of a metric that is logged as ``val/lsd``: ``lsd``."""
        return self.name.rsplit("/", 1)[-1]


class FactorEntry(_Entry):
    """A factor; ``under`` names the levels of others beside which alone it acts."""

    baseline: Word = None
    levels: list[Word]
    stage: Annotated[Literal["train", "eval"] | None, BeforeValidator(_one_of("train", "eval"))] = None
    under: dict[str, list[Word]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_levels(cls, spec: Any) -> Any:
        if not isinstance(spec, Mapping) or not isinstance(spec.get("levels"), list) or not spec["levels"]:
            raise ValueError(f"expected a baseline, levels and a stage, found {spec!r}")
        return {"baseline": spec["levels"][0], **spec}

    @model_validator(mode="after")
    def _has_its_baseline(self) -> Self:
        levels = list(map(word_of, self.levels))
        if word_of(self.baseline) not in levels:
            raise ValueError(f"baseline {word_of(self.baseline)!r} is none of its levels {levels}")
        return self

    def factor(self, name: str) -> Factor:
        """Return the factor, its levels as words."""
        words = (word_of(self.baseline), *map(word_of, self.levels))
        under = {other: tuple(map(word_of, levels)) for other, levels in (self.under or {}).items()}
        return Factor(name, tuple(dict.fromkeys(words)), self.stage or "train", under)


class StepEntry(_Entry):
    """A step of the ladder. Without ``levels``, its other keys are factors."""

    step: Word
    levels: dict[str, Word] | None = None
    versus: Word = None

    @property
    def named(self) -> Mapping[str, Any]:
        """The levels that it names; every other factor stands at its baseline."""
        return (self.model_extra or {}) if self.levels is None else self.levels


class ReplicateEntry(_Entry):
    """A cell with a seed."""

    seed: Word
    replicate: Word = None
    trial: Word = None
    variant: Word = None


class CellEntry(_Entry):
    """A combination of levels."""

    cell: Word = None
    levels: dict[str, Word]
    replicates: list[ReplicateEntry] | None = None


class PlanRead(_Entry):
    """What is read of anyone's plan.json. ``metric`` and ``factors`` must be there."""

    name: Word = None
    question: Word = None
    metric: Annotated[MetricEntry, BeforeValidator(_named)]
    factors: Annotated[dict[str, FactorEntry], BeforeValidator(_factors)]
    design: Any = None
    ladder: list[StepEntry] | None = None
    seeds: list[Word] | None = None
    early_stopping: dict[str, Any] | None = None
    expected_replicates: int | None = None
    left_out: Any = None
    confounded_with: Any = None
    metrics: Annotated[dict[str, MetricEntry], BeforeValidator(_by_name)] = {}
    promote: Any = None
    cells: Annotated[list[CellEntry], WrapValidator(_known_form)] = []
    trials: Any = None
    plan_hash: str
    known_words: dict[str, float] | None = None
    files: Any = None
    allowed: Any = None

    def stated(self, column: str) -> MetricEntry:
        """Return what the plan states of the metric in a results column; only its name where it does not know it."""
        entries = [entry for entry in self._metric_entries() if entry.column == column]
        stated = {key: value for entry in entries for key, value in entry.model_dump(exclude_unset=True).items()}
        return MetricEntry(**{**stated, "name": column})

    def metric_columns(self) -> set[str]:
        """Return the results columns of the metrics that the plan names."""
        return {entry.column for entry in self._metric_entries()}

    def _metric_entries(self) -> list[MetricEntry]:
        return [*self.metrics.values(), self.metric]

    def design_factors(self) -> tuple[Factor, ...]:
        """Return the factors, their levels as words."""
        return tuple(entry.factor(name) for name, entry in self.factors.items())

    def design_ladder(self, factors: tuple[Factor, ...]) -> tuple[Step, ...]:
        """Return the steps with a level for every factor. Raises ValueError naming a factor that there is not."""
        steps: list[Step] = []
        for position, entry in enumerate(self.ladder or ()):
            for name in entry.named:
                if name not in self.factors:
                    raise ValueError(f"ladder.{position}: unknown factor {name!r}{did_you_mean(name, self.factors)}")
            before = steps[-1].step if steps else None
            versus = before if entry.versus is None else word_of(entry.versus)
            steps.append(Step(word_of(entry.step), levels_of_cell(entry.named, factors), versus))
        return tuple(steps)

    def design_promote(self, factors: tuple[Factor, ...]) -> Promote | None:
        """Return what is promoted. Raises ValueError where that does not name levels of factors."""
        if not self.promote:
            return None
        known = {factor.name: factor.levels for factor in factors}
        try:
            source, target = (
                {str(name): level_of(level, known[name]) for name, level in self.promote[key].items()}
                for key in ("from", "to")
            )
        except (AttributeError, KeyError, TypeError) as error:
            expected = f"expected from and to, each with levels of factors, found {self.promote!r}"
            raise ValueError(f"promote: {expected}") from error
        return Promote(str(self.promote.get("when", "improves")), source, target)


def levels_of_cell(named: Mapping[str, Any], factors: tuple[Factor, ...]) -> dict[str, str]:
    """Return a level for every factor: those that are named, and the baselines of the others."""
    return {factor.name: level_of(named.get(factor.name, factor.baseline), factor.levels) for factor in factors}


def read_plan(path: Path) -> PlanRead:
    """Return the plan in a file. Raises DataError naming the first key that has another form than expected."""
    if not path.exists():
        raise DataError(f"{path}: no such file; a sweep folder holds plan.json and results/")
    tree = read_json(path)
    for key in ("metric", "factors"):
        if not isinstance(tree, dict) or not tree.get(key):
            raise DataError(f"{path}: key {key!r} is missing; write the plan again with sagasr-sweep")
    if not tree.get("plan_hash"):
        tree["plan_hash"] = short(fingerprint(tree))
    try:
        return PlanRead.model_validate(tree)
    except ValidationError as error:
        raise DataError(f"{path}: {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    keys = list(map(str, fault["loc"]))
    where = f"factor {keys[1]!r}" if keys[0] == "factors" and len(keys) == 2 else ".".join(keys)
    if fault["type"] == "value_error":  # in our own words
        return f"{where}: {fault['ctx']['error']}"
    return f"{where}: {fault['msg'].lower()} (found {fault['input']!r:.60}); write the plan again with sagasr-sweep"
