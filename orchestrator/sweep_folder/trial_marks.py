"""What a sweep notes in a trial's folder beside its results: that it was stopped early, and how its worker hung."""

from pathlib import Path

from orchestrator.sweep_folder.paths import SweptTrial
from sagasr.config.settings import Strict, parse
from sagasr.io.errors import SagasrError
from sagasr.io.files import read_json, write_json

NAMES = SweptTrial(Path())  # the paths inside any trial's folder
LEASE, WORKER, HUNG, STOPPED = (path.name for path in (NAMES.lease, NAMES.worker, NAMES.hung, NAMES.stopped))


class Mark(Strict):
    """stopped.json or .hung.json."""

    reason: str
    step: int | None = None


def mark_stopped(folder: Path, reason: str, step: int) -> None:
    """Write down that a training is stopped early, at once: no resume takes the decision back."""
    write_json(SweptTrial(folder).stopped, Mark(reason=reason, step=step).model_dump())


def stopped(folder: Path) -> str | None:
    """Return why a training was stopped early, or None."""
    return _reason(SweptTrial(folder).stopped)


def mark_hung(folder: Path, reason: str) -> None:
    """Write down how a worker hung."""
    write_json(SweptTrial(folder).hung, Mark(reason=reason).model_dump(exclude_none=True))


def hang_of(folder: Path) -> str | None:
    """Return how the last worker of a trial hung, or None."""
    return _reason(SweptTrial(folder).hung)


def _reason(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return parse(Mark, read_json(path), str(path)).reason
    except SagasrError:
        return ""
