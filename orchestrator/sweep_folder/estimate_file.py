"""estimate.json: what each training was predicted to take before it began, to be compared with what it did take."""

from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import Field

from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import SagasrError
from sagasr.io.files import read_json, write_json


class Predicted(Strict):
    """Of one training, by itself."""

    seconds: float = Field(ge=0)
    gpu_hours: float = Field(ge=0)
    disk_bytes: int = Field(0, ge=0)


class Prediction(Strict):
    """All of estimate.json."""

    trials: dict[str, Predicted] = Field(default_factory=dict)
    price_per_gpu_hour: float | None = None


def read_prediction(folder: Path) -> Prediction:
    """Return what was predicted in a sweep folder; nothing where that was not recorded or cannot be read."""
    path = SweepPaths(folder).estimate
    try:
        return parse(Prediction, read_json(path), str(path)) if path.exists() else Prediction()
    except SagasrError:
        return Prediction()


def write_prediction(folder: Path, new: Mapping[str, Predicted], begun: Collection[str], price: float | None) -> None:
    """Write what trials are predicted to take; for those that have ``begun``, what was said before stands."""
    before = read_prediction(folder).trials
    trials = {
        trial: before.get(trial, predicted) if trial in begun else predicted for trial, predicted in sorted(new.items())
    }
    gone = {trial: predicted for trial, predicted in before.items() if trial not in trials}  # no longer in the grid
    tree = Prediction(trials=gone | trials, price_per_gpu_hour=price)
    write_json(SweepPaths(folder).estimate, tree.model_dump(mode="json"))
