"""Named points at which a test can make a process die, hang, lose its disk or slow down; else they do nothing.

``SAGASR_FAULTS`` holds a schedule as JSON: a list of ``{"point": NAME, "visit": N, "do": ACTION, "once": FILE}``. At
the Nth visit of the point in a process (from 1; default 1; 0: at each) the action happens. With ``once``, it happens to
one process only, whichever creates that file first. The same schedule gives the same failure, so a failure found is a
failure kept.
"""

import errno
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

VARIABLE = "SAGASR_FAULTS"
PAUSE_S = 0.1


class Injected(RuntimeError):
    """The error that the action ``raise`` raises."""


def _fail(error: BaseException) -> None:
    raise error


ACTIONS: dict[str, Callable[[str], None]] = {
    "kill": lambda point: os.kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda point: os.kill(os.getpid(), signal.SIGSTOP),
    "terminate": lambda point: os.kill(os.getpid(), signal.SIGTERM),
    "hang": lambda point: time.sleep(1e8),
    "pause": lambda point: time.sleep(PAUSE_S),
    "raise": lambda point: _fail(Injected(f"injected at {point}")),
    "enospc": lambda point: _fail(OSError(errno.ENOSPC, "No space left on device", point)),
    "eio": lambda point: _fail(OSError(errno.EIO, "Input/output error", point)),
    "memory": lambda point: _fail(MemoryError(f"injected at {point}")),
}


class _Schedule:
    def __init__(self, entries: Sequence[Mapping[str, Any]], trace: str | None) -> None:
        self.entries, self.trace = entries, trace
        self.visits: Counter[str] = Counter()

    def visit(self, point: str) -> None:
        self.visits[point] += 1
        if self.trace:
            with Path(self.trace).open("a", encoding="utf-8") as handle:
                handle.write(f"{point}\n")
        for entry in self.entries:
            visits = self.visits.total() if entry["point"] == "*" else self.visits[entry["point"]]
            due = entry["point"] in (point, "*") and entry.get("visit", 1) in (0, visits)
            if due and _first(entry):
                ACTIONS[entry["do"]](point)


_armed: _Schedule | None = None


def arm(entries: Sequence[Mapping[str, Any]], trace: str | None = None) -> None:
    """Arm a schedule in this process; every visit's name is appended to the file ``trace``, if given."""
    global _armed  # noqa: PLW0603 - one schedule per process, as its environment has one
    _armed = _Schedule(entries, trace)


def point(name: str) -> None:
    """Mark a moment at which state changes hands. Costs one comparison unless a schedule is armed."""
    if _armed is not None:
        _armed.visit(name)


def _first(entry: Mapping[str, Any]) -> bool:
    if "once" not in entry:
        return True
    try:
        Path(entry["once"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if os.environ.get(VARIABLE):
    arm(json.loads(os.environ[VARIABLE]))
