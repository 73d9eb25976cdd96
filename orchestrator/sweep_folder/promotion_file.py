"""promotion.json: which waiting cells were chosen to run, and why, so that a restart decides the same."""

from pathlib import Path

from orchestrator.sweep_folder.design import Levels
from orchestrator.sweep_folder.json_files import ByPlan, OfPlan, read_kept
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.config.strict import Strict
from sagasr.io.files import write_json


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
