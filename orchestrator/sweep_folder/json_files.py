"""The small JSON files of a sweep folder: looks.json and promotion.json, which say what was decided, and estimate.json.

Looks: one that was taken stands. A restart reads it and spends nothing anew, even where a failed training was mended
since. Every plan that took looks in this folder keeps its account: looks under another plan are never forgotten.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

from pydantic import Field

from orchestrator.sweep_folder.design import Levels
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import ConfigError, DataError, SagasrError
from sagasr.io.files import read_json, write_json
from sagasr.io.fingerprint import short

Spending = Literal["pocock", "obrien-fleming"]
Basis = Literal["spending", "e-values"]
Word = Literal["different", "nil", "open"]
MIN_SEEDS = 2  # one seed leaves too little to decide on


class OfPlan(Strict):
    """What one plan decided."""

    plan_hash: str


E = TypeVar("E", bound=OfPlan)
T = TypeVar("T", bound=Strict)


class ByPlan(Strict, Generic[E]):
    """All of a file: an entry per plan, in the order in which they came."""

    plans: tuple[E, ...] = ()

    def of(self, plan_hash: str) -> E | None:
        return next((entry for entry in self.plans if entry.plan_hash == plan_hash), None)

    def put(self, entry: E) -> Self:
        """Return the file with this entry in the place of its plan's."""
        plans = {other.plan_hash: other for other in self.plans} | {entry.plan_hash: entry}
        return type(self)(plans=tuple(plans.values()))


def read_kept(kind: type[T], path: Path, remedy: str) -> T:
    """Return what a file keeps, or nothing kept (``kind()``) where there is none. Raises DataError, with the remedy."""
    if not path.exists():
        return kind()
    try:
        return parse(kind, read_json(path), str(path))
    except (ConfigError, DataError) as error:
        raise DataError(f"{error}\n{path} {remedy}") from error


def blocks(seeds: Sequence[int]) -> list[Sequence[int]]:
    """Return the seeds as they are run, one block after the other: the first ``MIN_SEEDS`` at once, then each."""
    return [seeds[:MIN_SEEDS], *(seeds[at : at + 1] for at in range(MIN_SEEDS, len(seeds)))]


class Estimated(Strict):
    """One primary contrast at one look. ``leverage``: its variance in units of the error variance."""

    value: float
    se: float
    df: float
    leverage: float | None


class Taken(Strict):
    """One look. ``seeds``: the complete blocks it saw; ``spent``: the error used up so far (None for e-values)."""

    seeds: tuple[str, ...]
    trials: tuple[str, ...]
    failed: tuple[str, ...]
    spent: float | None
    contrasts: dict[str, Estimated]


class Decided(Strict):
    """What is said of one contrast, the block that decided it, and its repeated 95 % interval at the last look."""

    word: Word
    after: int | None
    low: float | None
    high: float | None


class Account(OfPlan):
    """The looks of one plan. ``reason`` says why e-values decide, where they do; ``refused`` which looks were not."""

    max_seeds: int
    delta: float | None
    alpha: float
    spending: Spending
    basis: Basis
    reason: str
    looks: tuple[Taken, ...]
    refused: tuple[str, ...]
    decisions: dict[str, Decided]
    stop: bool

    @property
    def seen(self) -> int:
        """How many blocks the last look saw."""
        return len(self.looks[-1].seeds) if self.looks else 0

    @property
    def decided_after(self) -> int | None:
        """The block after which every primary contrast was decided, or None."""
        after = [decided.after for decided in self.decisions.values() if decided.after is not None]
        return max(after) if after and len(after) == len(self.decisions) else None

    @property
    def words(self) -> str:
        """Say in a few words where the looks stand."""
        if self.decided_after is not None:
            return f"decided after block {self.decided_after}"
        return f"not decided after block {self.seen} of {self.max_seeds}"

    def notes(self) -> list[str]:
        """Return what a reader of the results must know of the looks, in sentences."""
        failed = [
            f"the look after block {len(look.seeds)} was taken without {len(look.failed)} failed replicates"
            for look in self.looks
            if look.failed
        ]
        words = f"seeds: {self.words} (a look after every complete block from the {MIN_SEEDS}nd on)"
        return [words, *filter(None, [self.reason]), *failed, *self.refused]


class Looks(ByPlan[Account]):
    """All of looks.json: an account per plan, in the order in which they took their first look."""

    def basis(self, plan_hash: str, max_seeds: int, trials: frozenset[str]) -> tuple[Basis, str]:
        """Return what a plan that has taken no look may decide by, and why where that is not error spending.

        Where another plan has looked at some of the same ``trials``, its looks have spent the error already, and seeds
        may have been added because of what they said: e-values alone are valid then.
        """
        for other in reversed(self.plans):
            seen = {trial for look in other.looks for trial in look.trials}
            if other.plan_hash != plan_hash and other.looks and (seen & trials or not seen):
                more = f"seeds went from {other.max_seeds} to {max_seeds}"
                changed = more if other.max_seeds != max_seeds else "the plan was changed"
                return "e-values", (
                    f"{changed} after {len(other.looks)} looks under plan {short(other.plan_hash)}, which said: "
                    f"{other.words}; e-values, valid however seeds are added, decide now"
                )
        return "spending", ""


def read_looks(folder: Path) -> Looks:
    """Return the looks taken in a sweep folder. Raises DataError for a file that does not say what was spent."""
    remedy = (
        "says which looks were taken, so that none is taken twice; "
        "restore it, or move the sweep's folder away and begin anew"
    )
    return read_kept(Looks, SweepPaths(folder).looks, remedy)


def write_looks(folder: Path, looks: Looks) -> None:
    """Replace looks.json, whole."""
    write_json(SweepPaths(folder).looks, looks.model_dump(mode="json"))


class Judged(Strict):
    """One level of one factor, whether it goes on, and why."""

    factor: str
    level: str
    verdict: str
    estimate: float | None
    promoted: bool


class Decision(OfPlan):
    """What a plan promotes. ``gpu_hours`` is what that may cost, ``left`` what the budget still allowed (None: any)."""

    source: Levels
    target: Levels
    judged: tuple[Judged, ...]
    cells: tuple[Levels, ...]
    seeds: tuple[int, ...]
    replicates: tuple[str, ...]
    gpu_hours: float
    budget: float | None
    left: float | None
    reason: str

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(level.factor for level in self.judged if level.promoted))


class Decisions(ByPlan[Decision]):
    """All of promotion.json: a decision per plan."""


def read_decisions(folder: Path) -> Decisions:
    """Return what was decided in a sweep folder. Raises DataError for a file that cannot be read."""
    remedy = "says what was promoted; remove it, and that is decided again"
    return read_kept(Decisions, SweepPaths(folder).promotion, remedy)


def write_decisions(folder: Path, decisions: Decisions) -> None:
    """Replace promotion.json, whole."""
    write_json(SweepPaths(folder).promotion, decisions.model_dump(mode="json"))


class Predicted(Strict):
    """What one training was predicted to take before it began, by itself."""

    seconds: float = Field(ge=0)
    gpu_hours: float = Field(ge=0)
    disk_bytes: int = Field(0, ge=0)


class Prediction(Strict):
    """All of estimate.json."""

    trials: dict[str, Predicted] = Field(default_factory=dict)
    price_per_gpu_hour: float | None = None


def read_prediction(folder: Path) -> Prediction:
    """Return what was predicted in a sweep folder; nothing where that was not recorded or cannot be read."""
    path = SweepPaths(folder).estimate
    try:
        return parse(Prediction, read_json(path), str(path)) if path.exists() else Prediction()
    except SagasrError:
        return Prediction()
