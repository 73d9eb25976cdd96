"""Every path of a sweep folder, in one place. Names of files are ids or fixed words, never text a user wrote."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from sagasr.io.trial_folder import TrialFolder


class _Inside:
    """A path inside the folder ``root`` of its owner. Nothing is made by asking for it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "TrialFolder | SweepPaths", kind: type) -> Path:
        return folder.root / self.name


@dataclass(frozen=True)
class SweptTrial(TrialFolder):
    """A trial's folder inside a sweep, with what the sweep itself keeps in it."""

    record = _Inside("trial.json")  # the trial's plan entry beside its results, so that a folder explains itself
    worker = _Inside(".worker.json")  # which process trains here, and where
    hung = _Inside(".hung.json")  # how the last worker hung
    load = _Inside("load.jsonl")  # how busy the machine was that trained it
    stopped = _Inside("stopped.json")  # the decision to stop this training early, which no resume takes back


@dataclass(frozen=True)
class SweepPaths:
    """``<storage>/<name>/``."""

    root: Path

    grid = _Inside("grid.yaml")
    base = _Inside("base.yaml")  # the base configuration as resolved, which ``grid`` names
    plan = _Inside("plan.json")
    recordings = _Inside("recordings.json")  # the sha256 of every recording as this sweep first met it, by its path
    lease = _Inside(".lease.json")  # who writes here: host, process and start time
    launch = _Inside(".launch")  # which launch of the sweep goes on; workers of others end (``run.watchdog``)
    ray = _Inside(".ray")  # what Ray writes while the sweep runs; nothing is read from it
    tracking = _Inside(".tracking.json")  # what each tracking server has of each replicate; losing it only costs time
    estimate = _Inside("estimate.json")
    looks = _Inside("looks.json")
    promotion = _Inside("promotion.json")
    trials = _Inside("trials")
    results = _Inside("results")
    audio = _Inside("audio")
    report = _Inside("report/index.html")
    forest = _Inside("report/effects.svg")  # the effects as a picture

    @property
    def speeds(self) -> Path:
        """What was measured of machines, for all sweeps of a storage: it lies beside them."""
        return self.root.parent / "speeds.json"

    def trial(self, trial: str) -> Path:
        """Return the folder that ``sagasr.training.train.train`` writes."""
        return self.trials / trial

    def of(self, trial: str) -> SweptTrial:
        """Return the paths inside a trial's folder."""
        return SweptTrial(self.trial(trial))

    def table(self, name: str) -> Path:
        """Return a results table: replicates, clips, curves, references, distances, effects or preferences."""
        return self.results / f"{name}.parquet"


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a sqlite file; in a path as it is, ``%`` and ``?`` would mean something else."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a tracking URI, or None where that is no sqlite file."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])) if uri.startswith("sqlite:///") else None
