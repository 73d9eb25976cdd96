"""The small files by which the processes of a sweep tell each other of a trial: who trains it, how it hung, its end."""

from pathlib import Path

from orchestrator.sweep_folder.paths import SweptTrial
from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import SagasrError
from sagasr.io.files import read_json, write_json
from sagasr.io.trial_folder import CHECKPOINT


class Mark(Strict):
    """stopped.json or .hung.json. ``launch``: the only launch of the sweep for which the mark counts."""

    reason: str
    step: int | None = None
    launch: str | None = None


def mark_stopped(folder: Path, reason: str, step: int) -> None:
    """Write down the decision to stop a training early, before anything else can fail: no resume takes it back."""
    write_json(SweptTrial(folder).stopped, Mark(reason=reason, step=step).model_dump(exclude_none=True))


def mark_unneeded(folder: Path, reason: str, launch: str) -> None:
    """Ask the worker of a training to save and end; a later launch may go on with it."""
    write_json(SweptTrial(folder).stopped, Mark(reason=reason, launch=launch).model_dump(exclude_none=True))


def stop_reason(folder: Path) -> str | None:
    """Return why a training was stopped early for good, or None."""
    mark = stop_mark(folder)
    return mark.reason if mark and mark.launch is None else None


def stop_mark(folder: Path) -> Mark | None:
    """Return the mark by which a training is asked to end, or None."""
    return _mark(SweptTrial(folder).stopped)


def mark_hung(folder: Path, seconds: float) -> None:
    """Write down that a worker showed no sign of life for so long."""
    write_json(SweptTrial(folder).hung, Mark(reason=hang_of(seconds)).model_dump(exclude_none=True))


def hang_of(seconds: float) -> str:
    """Return the words for a hang; the log says where it hung."""
    return f"no sign of life for {seconds:g} s"


def hang_reason(folder: Path) -> str | None:
    """Return how the last worker of a trial hung, or None."""
    mark = _mark(SweptTrial(folder).hung)
    return mark.reason if mark else None


def committed_step(folder: Path) -> int:
    """Return the step of the newest committed checkpoint, -1 before the first."""
    committed = SweptTrial(folder).checkpoints.glob(f"{CHECKPOINT}*/manifest.json")
    return max((int(path.parent.name.removeprefix(CHECKPOINT)) for path in committed), default=-1)


def _mark(path: Path) -> Mark | None:
    if not path.exists():
        return None
    try:
        return parse(Mark, read_json(path), str(path))
    except SagasrError:
        return Mark(reason="")
