"""What Ctrl-C and SIGTERM do to a command: they interrupt it, or ask its training to save and end."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sagasr.train import Halt


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block at SIGTERM as at Ctrl-C, in a main thread."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with _handled(handle):
        yield


@contextmanager
def halting() -> Iterator[Callable[[], Halt | None]]:
    """Catch the first signal for the block, in a main thread; yields what a ``Harness`` asks. A second one ends all."""
    asked = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if asked.is_set():
            os._exit(130)  # of a KeyboardInterrupt, Lightning would make exit code 1
        asked.set()

    with _handled(handle):
        yield lambda: Halt("interrupted") if asked.is_set() else None


@contextmanager
def _handled(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM so for the block; other threads than the main one may not, and leave them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
