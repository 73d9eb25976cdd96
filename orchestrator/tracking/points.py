"""From a trial's journal to the points of MLflow's curves, and ``.tracking.json``: what a server has of them."""

import contextlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.sweep_folder.paths import SweepPaths, SweptTrial
from orchestrator.sweep_folder.redact import redact
from orchestrator.sweep_folder.trial_marks import committed_step
from sagasr.io.errors import SagasrError
from sagasr.io.files import read_json, write_json
from sagasr.io.states import State
from sagasr.training.trial_log import History, Status, read_status

logger = logging.getLogger(__name__)


class Point(NamedTuple):
    """One value of one curve."""

    name: str
    value: float
    milliseconds: int
    step: int


def read_trial(folder: Path) -> tuple[Status | None, list[Mapping[str, Any]]]:
    """Return a trial's status and its final records, with the load of its machine.

    None and nothing where there is no readable status.
    """
    try:
        status = read_status(folder)
    except SagasrError:
        return None, []
    if status is None:
        return None, []
    records: list[Mapping[str, Any]] = list(History(folder))
    if not status.state.final:  # a resume will drop what no checkpoint holds
        newest = committed_step(folder)
        records = [record for record in records if record["step"] <= newest] if newest > 0 else []
    return status, records + _load(folder, status)


def _load(folder: Path, status: Status) -> list[Mapping[str, Any]]:
    """Return the samples of the machine's load until the status was written; their step is their number, as MLflow's.

    A line that was cut short by a crash keeps its number.
    """
    records: list[Mapping[str, Any]] = []
    with contextlib.suppress(OSError):
        lines = SweptTrial(folder).load.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        for step, line in enumerate(line for line in lines if line.endswith("\n")):
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                record = json.loads(line)
                metrics = {f"system/{name}": float(value) for name, value in record["metrics"].items()}
                if record["time"] <= status.updated:
                    records.append({"step": step, "time": record["time"], "metrics": metrics})
    return records


def curves(records: Sequence[Mapping[str, Any]], variant: str, status: Status) -> list[Point]:
    """Return all points of one replicate: those of the shared training, and those of its own variant.

    A finished one also has its last scores, under their names in the results table, and what it cost. A name and step
    that a repair left twice keeps its first value.
    """
    rows = [
        (name, value, record)
        for record in records
        if record.get("variant", variant) == variant
        for name, value in record["metrics"].items()
    ]
    own = [record for record in records if record.get("variant") == variant]
    if own and status.state is State.DONE:
        scores = {name.removeprefix("val/"): value for name, value in own[-1]["metrics"].items()}
        scores |= {"wall_seconds": status.wall_seconds, "gpu_seconds": status.gpu_seconds}
        rows += [(name, value, own[-1]) for name, value in scores.items()]
    points: dict[tuple[str, int], Point] = {}
    for name, value, record in rows:
        point = Point(name, float(value), milliseconds(record["time"]), int(record["step"]))
        points.setdefault((name, point.step), point)
    return list(points.values())


def last_of(points: Iterable[Point]) -> dict[str, list[float]]:
    """Return the last step and value of each curve."""
    last: dict[str, list[float]] = {}
    for point in points:
        if point.name not in last or point.step >= last[point.name][0]:
            last[point.name] = [point.step, point.value]
    return last


def unsent(points: Iterable[Point], sent: Mapping[str, Sequence[float]]) -> list[Point]:
    """Return the points after the last one that was sent of their curve. Steps only rise, also after a resume."""
    return [point for point in points if point.name not in sent or point.step > sent[point.name][0]]


def milliseconds(seconds: float) -> int:
    """Return a time as MLflow keeps it."""
    return int(seconds * 1_000)


class Offsets:
    """What one tracking server has, an entry per replicate. Losing the file only costs time.

    An entry holds the ``run``, the last step and value that was ``sent`` of each curve, the digest of what the run says
    ``about`` its replicate, and the ``state`` it ended in. Where ``sent`` is missing, nobody knows what arrived, and
    the server is asked.
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

    def set(self, replicate: str, entry: dict[str, Any]) -> None:
        """Replace the entry of a replicate."""
        if entry != self.runs.get(replicate):
            self.runs = {**self.runs, replicate: entry}  # another thread may be reading
            self._changed = True

    def save(self) -> None:
        """Write the file, if something changed."""
        if self._changed:
            write_json(self.path, {"uri": self.uri, "runs": self.runs})
            self._changed = False
