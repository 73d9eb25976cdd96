"""``.tracking.json`` in the sweep folder: what one tracking server has of each replicate."""

import logging
from typing import Any

from orchestrator.sweep_folder.paths import SweepPaths
from orchestrator.sweep_folder.redact import redact
from sagasr.io.errors import SagasrError
from sagasr.io.files import read_json, write_json

logger = logging.getLogger(__name__)


class Offsets:
    """One entry per replicate. Losing the file only costs time.

    An entry holds the ``run``, the last step and value that was ``sent`` of each curve, whether it has its ``params``,
    and the ``state`` it ended in. Where ``sent`` is missing, nobody knows what arrived, and the server is asked.
    """

    def __init__(self, paths: SweepPaths, uri: str) -> None:
        self.path, self.uri = paths.tracking, redact(uri)
        self.runs: dict[str, dict[str, Any]] = {}
        self._changed = False
        try:
            tree = read_json(self.path) if self.path.exists() else {}
            if tree.get("uri") == self.uri:
                self.runs = {replicate: dict(entry) for replicate, entry in tree["runs"].items()}
        except (SagasrError, AttributeError, KeyError, TypeError, ValueError):
            logger.debug("%s is broken; the server is asked what it has", self.path)

    def of(self, replicate: str) -> dict[str, Any]:
        """Return the entry of a replicate, empty where it has none."""
        return self.runs.get(replicate, {})

    def agrees(self, replicate: str, run: Any) -> bool:
        """Return whether a run on the server ends where the entry says."""
        entry = self.of(replicate)
        sent = {name: value for name, (_, value) in entry.get("sent", {}).items()}
        return bool(entry.get("run") == run.info.run_id and sent == run.data.metrics)

    def set(self, replicate: str, entry: dict[str, Any]) -> None:
        """Replace the entry of a replicate."""
        if entry != self.runs.get(replicate):
            self.runs = {**self.runs, replicate: entry}  # another thread may be reading
            self._changed = True

    def doubt(self, replicate: str) -> None:
        """Forget what was sent of a replicate, but not its run."""
        if replicate in self.runs:
            self.set(replicate, {"run": self.runs[replicate]["run"]})

    def save(self) -> None:
        """Write the file, if something changed."""
        if self._changed:
            write_json(self.path, {"uri": self.uri, "runs": self.runs})
            self._changed = False
