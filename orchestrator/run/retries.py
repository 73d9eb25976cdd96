"""What went wrong with a training, and how often it is started again."""

from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.run.watchdog import Preempted
from orchestrator.sweep_folder.redact import redact
from orchestrator.sweep_folder.trial_marks import hang_reason
from sagasr.io.errors import GPU_MEMORY, SagasrError, StorageError, first_line
from sagasr.io.lease import Lost
from sagasr.io.trial_folder import TrialFolder

WAITS_S = (1.0, 5.0, 20.0)  # before the first, second, … new start without a new checkpoint in between
Kind = Literal["input", "bug", "lost", "storage", "memory", "gpu"]
# Messages of CUDA, its libraries, NCCL and gloo, in small letters, by their meaning; the first match counts. All others
# are bugs, such as an illegal access or a failed assertion on the device.
PHRASES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (
        "memory",
        (
            "outofmemory",  # the name of an exception
            "can't allocate memory",
            "cannot allocate memory",
            "low on memory",
            *GPU_MEMORY,
        ),
    ),
    (
        "gpu",
        (
            "uncorrectable ecc error",
            "uncorrectable nvlink error",
            "or a hardware error",
            "unspecified launch failure",
            "busy or unavailable",
            "no cuda gpus are available",
            "no cuda-capable device is detected",
            "no supported gpu backend found",  # Lightning, of a GPU that does not answer
            "unexpected error from cudagetdevicecount",
            "system not yet initialized",
            "cuda error: unknown error",
            "gpu is lost",
            "fallen off the bus",
        ),
    ),
    (
        "lost",  # what a worker is told when another one is gone
        (
            "connection reset by peer",
            "connection closed by peer",
            "connection was likely closed",
            "broken pipe",
            "remote process exited",
            "nccl communicator was aborted",
            "unhandled system error",
            "watchdog caught collective operation timeout",
            "nccl timeout",
            "socket has timed out",
            "timed out waiting",
            "waiting for clients",
            "wait timeout after",
            "connectfullmesh failed",
        ),
    ),
)
MORE_MEMORY = "a smaller model, shorter clips (audio.segment) or more memory (a larger GPU or gpus_per_worker)"


class Problem(NamedTuple):
    """Why the workers of a trial ended without a result."""

    kind: Kind
    reason: str


class BrokenGpu(RuntimeError):
    """A GPU failed, or cannot be reached; says which one, on which machine."""


class Retries:
    """Decides how often a trial is started again. As long as checkpoints advance there is no limit: it will end.

    Without a new checkpoint, a lost process, node or disk is retried after each of ``WAITS_S``; an exception once (the
    same again is a bug); a broken GPU once (the same on another GPU is the training's own fault). After running out of
    memory, a batch is taken in twice as many parts, until a part is one row. Unusable input is not retried.
    """

    def __init__(self, rows: int, micro_batches: int = 1) -> None:
        self.rows = rows  # of a batch, on one worker
        self.micro_batches = micro_batches  # parts that it is taken in
        self.reason = ""
        self._tries, self._reached = -1, -1

    def after(self, problem: Problem, step: int) -> float | None:
        """Return the seconds to wait before the next start, or None when there is to be none (see ``reason``)."""
        again = problem.reason == self.reason
        if step > self._reached:
            self._tries = -1
        if problem.kind != "memory":  # halving a batch comes to its end by itself
            self._tries += 1
        self._reached, self.reason = max(step, self._reached), problem.reason
        match problem.kind:
            case "input":
                return None
            case "memory" if self.micro_batches < self.rows:
                self.micro_batches = min(2 * self.micro_batches, self.rows)
                return WAITS_S[0]
            case "memory":
                parts = f" ({self.micro_batches} parts)" if self.rows > 1 else ""
                self.reason += f"; a batch was taken one row at a time{parts}, so it needs {MORE_MEMORY}"
                return None
            case "bug" if again or self._tries >= 1:
                return None
            case "gpu" if self._tries >= 1:
                return None
        if self._tries >= len(WAITS_S):
            self.reason += f" ({self._tries + 1} times without a new checkpoint)"
            return None
        return WAITS_S[self._tries]


def problem_of(error: BaseException) -> Problem:
    """Return what an exception of a training means."""
    return Problem(kind_of(error), one_line(error))


def lost(error: BaseException, folder: Path) -> Problem:
    """Return how a process or node was lost: hung, for want of memory, or for reasons that Ray may know."""
    note(folder, f"{type(error).__name__}: {error}\n")
    if (hang := hang_reason(folder)) is not None:
        return Problem("lost", hang)
    kind: Kind = "memory" if kind_of(error) == "memory" else "lost"
    return Problem(kind, f"its process or node was lost: {one_line(error)}")


def note(folder: Path, text: str) -> None:
    """Add a text to the log of a trial."""
    folder.mkdir(parents=True, exist_ok=True)
    with TrialFolder(folder).log().open("a", encoding="utf-8") as handle:
        handle.write(redact(text))


def kind_of(error: BaseException) -> Kind:
    """Return what kind of problem an exception is; types of torch and ray are told by name, as neither is imported."""
    match error:
        case StorageError():
            return "storage"
        case Preempted() | Lost():
            return "lost"
        case SagasrError():
            return "input"
        case MemoryError():
            return "memory"
        case BrokenGpu():
            return "gpu"
    text = f"{type(error).__name__}: {error}".lower()
    return next((kind for kind, phrases in PHRASES if any(phrase in text for phrase in phrases)), "bug")


def one_line(error: BaseException) -> str:
    """Return an exception as one line, without secrets."""
    text = redact(first_line(error)) if str(error).strip() else ""
    if isinstance(error, (SagasrError, BrokenGpu)) and text:
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")
