"""The small files by which the processes of a sweep tell each other of a trial: who trains it, how it hung, its end."""

import json
from pathlib import Path

from sagasr.io.errors import SagasrError
from sagasr.io.files import read_json, write_json

# in a trial's folder
LEASE, WORKER, HUNG, STOPPED = ".worker.lease", ".worker.json", ".hung.json", "stopped.json"
# in the sweep's folder
LAUNCH = ".launch"  # which launch of the sweep counts
TRACKING = ".tracking.json"  # what each tracking server has been sent


def mark_stopped(folder: Path, reason: str, step: int) -> None:
    """Write down the decision to stop a training early, before anything else can fail: no resume takes it back."""
    write_json(folder / STOPPED, {"reason": reason, "step": step})


def stop_reason(folder: Path) -> str | None:
    """Return why a training was stopped early, or None."""
    return _reason(folder / STOPPED)


def mark_hung(folder: Path, seconds: float) -> None:
    """Write down that a worker showed no sign of life for so long."""
    write_json(folder / HUNG, {"reason": hang_of(seconds)})


def hang_of(seconds: float) -> str:
    """Return the words for a hang; the log says where it hung."""
    return f"no sign of life for {seconds:g} s"


def hang_reason(folder: Path) -> str | None:
    """Return how the last worker of a trial hung, or None."""
    return _reason(folder / HUNG)


def placement_group(folder: Path) -> str | None:
    """Return the placement group of the workers of a trial, as they wrote it down, or None."""
    try:
        return read_json(folder / WORKER)["placement_group"] or None
    except (SagasrError, KeyError, TypeError):
        return None


def committed_step(folder: Path) -> int:
    """Return the step of the newest committed checkpoint, -1 before the first."""
    committed = (folder / "checkpoints").glob("step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in committed), default=-1)


def _reason(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return str(read_json(path)["reason"])
    except (SagasrError, KeyError, TypeError, json.JSONDecodeError):
        return ""
