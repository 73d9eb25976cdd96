"""What Ctrl-C and SIGTERM do to a command: they interrupt it, or ask its training to save and end."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NamedTuple


class Halt(NamedTuple):
    """A request to interrupt: why, and until when (``time.monotonic``) the process will live, if that is known."""

    reason: str
    until: float | None = None


def interrupting() -> AbstractContextManager[None]:
    """Raise KeyboardInterrupt in the block at the first Ctrl-C or SIGTERM; a second one ends the process at once."""
    return _first_signal(signal.default_int_handler)


@contextmanager
def halting() -> Iterator[Callable[[], Halt | None]]:
    """Note the first Ctrl-C or SIGTERM; yields what a ``Harness`` asks. A second one ends the process at once."""
    asked = threading.Event()
    with _first_signal(lambda *signalled: asked.set()):
        yield lambda: Halt("interrupted") if asked.is_set() else None


@contextmanager
def _first_signal(heed: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call ``heed`` at the first SIGINT or SIGTERM of the block. Only a main thread may, and any other leaves them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    come = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal come
        if come:
            os._exit(130)  # of a KeyboardInterrupt, Lightning would make exit code 1
        come = True
        heed(number, frame)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
