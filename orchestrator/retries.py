"""What went wrong with a training, and how often it is started again."""

from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.guard import Preempted
from orchestrator.redact import redact
from sagasr.errors import SagasrError, StorageError
from sagasr.lease import Lost

WAITS_S = (1.0, 5.0, 20.0)  # before the first, second, … new start without a new checkpoint in between
Kind = Literal["input", "bug", "lost", "storage", "memory"]
# What one of several workers is told by gloo or NCCL when another one is gone.
PEER_GONE = ("connection reset by peer", "connection closed by peer", "remote process exited")


class Problem(NamedTuple):
    """Why the workers of a trial ended without a result."""

    kind: Kind
    reason: str


class Retries:
    """Decides how often a trial is started again. As long as checkpoints advance there is no limit: it will end.

    Without a new checkpoint: a lost process, node or disk gets ``WAITS_S`` more starts, an exception one (the same
    again is a bug), running out of memory one with the batch taken in two parts. Unusable input gets none.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows  # of a batch, on one worker
        self.micro_batches = 1
        self.reason = ""
        self._tries, self._reached = -1, -1

    def after(self, problem: Problem, step: int) -> float | None:
        """Return the seconds to wait before the next start, or None when there is to be none (see ``reason``)."""
        again = problem.reason == self.reason
        self._tries = 0 if step > self._reached else self._tries + 1
        self._reached, self.reason = max(step, self._reached), problem.reason
        match problem.kind:
            case "input":
                return None
            case "memory" if self.micro_batches == 1 and self.rows > 1:
                self.micro_batches = 2
                return WAITS_S[0]
            case "memory":
                self.reason += " (also with its batch taken in two parts)" if self.micro_batches > 1 else ""
                return None
            case "bug" if again or self._tries >= 1:
                return None
        if self._tries >= len(WAITS_S):
            self.reason += f" ({self._tries + 1} times without a new checkpoint)"
            return None
        return WAITS_S[self._tries]


def reached(folder: Path) -> int:
    """Return the step of the newest committed checkpoint, -1 before the first."""
    committed = (folder / "checkpoints").glob("step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in committed), default=-1)


def problem_of(error: BaseException) -> Problem:
    """Return what an exception of a training means."""
    return Problem(kind_of(error), one_line(error))


def kind_of(error: BaseException) -> Kind:
    """Return what kind of problem an exception is; types of torch and ray are told by name, as neither is imported."""
    text = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, StorageError):
        return "storage"
    if isinstance(error, (Preempted, Lost)):
        return "lost"
    if isinstance(error, SagasrError):
        return "input"
    if any(word in text for word in ("out of memory", "outofmemory", "can't allocate memory", "low on memory")):
        return "memory"
    if any(words in text for words in PEER_GONE):
        return "lost"
    return "memory" if isinstance(error, MemoryError) else "bug"


def one_line(error: BaseException) -> str:
    """Return an exception as one line, without secrets."""
    text = redact(next((line.strip() for line in str(error).splitlines() if line.strip()), ""))
    return text if isinstance(error, SagasrError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
