"""The first Ctrl-C or SIGTERM asks a training to save and end; a second one ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sagasr.train import Halt


@contextmanager
def halting() -> Iterator[Callable[[], Halt | None]]:
    """Catch the first signal for the block, in a main thread; yields what a ``Harness`` asks."""
    asked = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: Halt("interrupted") if asked.is_set() else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
