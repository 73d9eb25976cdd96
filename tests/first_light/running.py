# ruff: noqa: T201
"""Parts of first light are run: each in a process group of its own, which ends with the part's limit at the latest."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Part(NamedTuple):
    """A command with its limit in seconds, the modules it needs, and how what it says is read: text and facts."""

    name: str
    command: tuple[str, ...]
    limit: float
    needs: tuple[str, ...]
    read: Callable[[list[str]], tuple[str, Any]]


class Outcome(NamedTuple):
    """How a part ended (passed, failed, missing for want of a package, skipped for want of time), and what it told."""

    name: str
    state: str
    seconds: float
    told: str
    facts: Any = None


def carry_out(parts: Sequence[Part], out: Path, until: float) -> list[Outcome]:
    """Run parts in turn; one whose limit does not end before ``until`` (monotonic) is skipped."""
    outcomes = []
    for part in parts:
        outcomes.append(outcome_of(part, out, until - time.monotonic()))
        print(f"{outcomes[-1].state:>8}  {part.name}: {outcomes[-1].told}", flush=True)
    return outcomes


def outcome_of(part: Part, out: Path, left: float) -> Outcome:
    """Run one part, if its packages and its time are there; all it says goes into a log of its own."""
    if absent := [name for name in part.needs if not present(name)]:
        return Outcome(part.name, "missing", 0.0, f"not run: this Python lacks {', '.join(absent)}")
    if part.limit > left:
        return Outcome(part.name, "skipped", 0.0, f"may take {part.limit:g} s; {max(0.0, left):.0f} s are left")
    log, began = out / f"{part.name}.log", time.monotonic()
    code = run(part.command, log, part.limit)
    seconds = time.monotonic() - began
    if code is None:
        return Outcome(part.name, "failed", seconds, f"not over after {part.limit:g} s; see {log.name}")
    told, facts = part.read(log.read_text(encoding="utf-8", errors="replace").splitlines())
    if code:
        return Outcome(part.name, "failed", seconds, f"exit code {code}: {told}; see {log.name}", facts)
    return Outcome(part.name, "passed", seconds, told, facts)


def run(command: Sequence[str], log: Path, limit: float) -> int | None:
    """Return the exit code of a command, or None when it is not over in so many seconds; its children end with it."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def present(name: str) -> bool:
    """Return whether a module can be imported, without doing so."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
