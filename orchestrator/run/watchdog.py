"""Watches over a worker from inside its process: has its sweep ended, was it asked to save, does it still move?

Every node can read the sweep's launch file. The token of this launch means go on; followed by ``HALT``, save and end;
any other token means that another sweep has begun, and this process ends.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.run.machine_load import sampled
from orchestrator.sweep_folder.paths import SweptTrial
from orchestrator.sweep_folder.trial_marks import mark_hung, stop_mark
from sagasr.io import lease
from sagasr.io.errors import SagasrError
from sagasr.io.files import write_json, write_text

HALT = "\nhalt"
EVERY_S = 1.0
START_S = 300.0  # before its first sign of life a worker imports, and reads what it trains on

_terminated_at: list[float] = []  # when this process was told to end (monotonic)


class Preempted(RuntimeError):
    """The machine takes this process away; what it saved goes on elsewhere."""


def ask_to_halt(file: Path, launch: str) -> None:
    """Ask all workers of a launch to save and end."""
    write_text(file, launch + HALT)


def catch_terminate() -> bool:
    """Take SIGTERM as a notice instead of an end; True if this thread may decide that. To be run in a main thread."""
    if threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, lambda number, frame: _terminated_at.append(time.monotonic()))
    return True


def end_with_parent() -> None:
    """End this process soon after the one that started it, the raylet of its node; Ray itself does not always do so."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class Guard:
    """Watches from a thread of its own. ``wanted`` says why the training is to end, if it is."""

    def __init__(self, folder: Path, launch_file: Path, launch: str, hang_s: float, notice_s: float) -> None:
        self.folder, self.launch_file, self.launch = folder, launch_file, launch
        self.hang_s, self.notice_s = hang_s, notice_s
        self.halted, self.stopped = "", False
        self._moved = time.monotonic() + max(0.0, START_S - hang_s)
        self._over = threading.Event()
        self.look()
        threading.Thread(target=self._watch, name="guard", daemon=True).start()

    def pulse(self) -> None:
        """Note a sign of life."""
        self._moved = time.monotonic()

    def wanted(self) -> tuple[str, float | None] | None:
        """Return why the training should end now, and until when it can, if that is known; None to go on."""
        if _terminated_at:
            return "told to end by the machine", _terminated_at[0] + self.notice_s
        if self.stopped:
            return "stopped early", 0.0  # nobody goes on from what it could save
        return (self.halted, None) if self.halted else None

    @property
    def preempted(self) -> bool:
        return bool(_terminated_at)

    def close(self) -> None:
        self._over.set()

    def look(self) -> None:
        """Read the marks in the folders once. Ends this process when another sweep has begun."""
        if mark := stop_mark(self.folder):
            self.stopped = self.stopped or mark.launch is None
            self.halted = self.halted or (mark.reason if mark.launch == self.launch else "")
        with contextlib.suppress(OSError):
            content = self.launch_file.read_text(encoding="utf-8")
            if content == self.launch + HALT:
                self.halted = self.halted or "interrupted"
            elif content != self.launch:
                os._exit(1)

    def _watch(self) -> None:
        while not self._over.wait(min(EVERY_S, self.hang_s / 4)):
            self.look()
            still = time.monotonic() - self._moved
            if still > self.hang_s:
                faulthandler.dump_traceback(sys.stderr)
                with contextlib.suppress(SagasrError, OSError):
                    mark_hung(self.folder, self.hang_s)
                os._exit(1)


@contextlib.contextmanager
def only_writer(folder: Path, wait_s: float) -> Iterator[lease.Lease]:
    """Hold a trial folder as the attempt that counts; a living predecessor on this machine is ended.

    Meanwhile the load of the machine is sampled into it.
    """
    with lease.held(
        SweptTrial(folder).lease,
        wait_s=wait_s,
        replace=True,
        say=lambda text: sys.stderr.write(f"{text}\n"),
        on_lost=lambda: os._exit(1),
    ) as held:
        write_json(SweptTrial(folder).worker, {"pid": os.getpid()})
        SweptTrial(folder).hung.unlink(missing_ok=True)
        with sampled(SweptTrial(folder).load):
            yield held
