"""From a trial's journal to the points of MLflow's curves. Pure, but for the reading of the trial's folder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.sweep_folder.trial_marks import committed_step
from sagasr.io.errors import SagasrError
from sagasr.io.states import State
from sagasr.training.trial_log import History, Status, read_status


class Point(NamedTuple):
    """One value of one curve."""

    name: str
    value: float
    milliseconds: int
    step: int


def read_trial(folder: Path) -> tuple[Status | None, list[Mapping[str, Any]]]:
    """Return a trial's status and its final records; None and nothing where there is no readable status."""
    try:
        status = read_status(folder)
    except SagasrError:
        return None, []
    return (status, committed(list(History(folder)), status, folder)) if status else (None, [])


def committed(records: Sequence[Mapping[str, Any]], status: Status, folder: Path) -> list[Mapping[str, Any]]:
    """Return the records that no resume will drop: those up to the newest checkpoint, all once the trial has ended."""
    if status.state.final:
        return list(records)
    newest = committed_step(folder)
    return [record for record in records if record["step"] <= newest] if newest > 0 else []


def curves(records: Sequence[Mapping[str, Any]], variant: str, status: Status) -> list[Point]:
    """Return all points of one replicate. A name and step that a repair left twice keeps its first value."""
    points = [*points_of(records, variant)]
    if status.state is State.DONE:
        points += final_points(records, variant, status)
    return list({(point.name, point.step): point for point in reversed(points)}.values())[::-1]


def points_of(records: Sequence[Mapping[str, Any]], variant: str) -> Iterator[Point]:
    """Yield the points of one replicate: those of the shared training, and those of its own variant."""
    for record in records:
        if record.get("variant", variant) == variant:
            for name, value in record["metrics"].items():
                yield Point(name, float(value), milliseconds(record["time"]), int(record["step"]))


def final_points(records: Sequence[Mapping[str, Any]], variant: str, status: Status) -> list[Point]:
    """Return the last scores of a finished replicate under their names in the results table, and what it cost."""
    own = [record for record in records if record.get("variant") == variant]
    if not own:
        return []
    last = own[-1]
    scores = {name.removeprefix("val/"): value for name, value in last["metrics"].items()}
    scores |= {"wall_seconds": status.wall_seconds, "gpu_seconds": status.gpu_seconds}
    return [Point(name, float(value), milliseconds(last["time"]), int(last["step"])) for name, value in scores.items()]


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
