"""Where a training, or a replicate of a sweep, stands, and what follows from that."""

from enum import StrEnum


class State(StrEnum):
    """The one set of words for it: in status.json, in results tables and on the screen.

    A training has the first six states. A sweep says the others of replicates that have no training.
    """

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"  # early, on purpose
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    MISSING = "missing"
    STALE = "stale"  # trained or scored under other settings
    NOT_NEEDED = "not needed"  # the looks had decided before, or it was not promoted
    HELD = "held"  # waits until a factor matters elsewhere (`promote`)

    @property
    def finished(self) -> bool:
        """Whether it ended with values."""
        return self in (State.DONE, State.STOPPED)

    @property
    def final(self) -> bool:
        """Whether a training has ended so that no restart goes on with it."""
        return self.finished or self is State.FAILED

    @property
    def unneeded(self) -> bool:
        """Whether it has no training because the answer is in, or waits for one."""
        return self in (State.NOT_NEEDED, State.HELD)

    @property
    def settled(self) -> bool:
        """Whether nothing remains to be done (held: unless it is promoted)."""
        return self.finished or self.unneeded

    @property
    def mark(self) -> str:
        """The sign in front of its line, as of a difference between what is there and what is asked for."""
        return "=" if self.settled else _MARKS.get(self, ">")

    @property
    def colour(self) -> str:
        """Its style in a terminal."""
        return _COLOURS.get(self, "dim")


_MARKS = {State.MISSING: "+", State.STALE: "~", State.FAILED: "!"}
_COLOURS = {State.RUNNING: "cyan", State.DONE: "green", State.FAILED: "red"}
_COLOURS |= dict.fromkeys((State.STOPPED, State.INTERRUPTED), "yellow")
