"""Every path of a sweep folder, in one place. Names of files are ids or fixed words, never text a user wrote."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from sagasr.io.trial_folder import TrialFolder


@dataclass(frozen=True)
class SweptTrial(TrialFolder):
    """A trial's folder inside a sweep, with what the sweep itself keeps in it."""

    @property
    def record(self) -> Path:
        """The trial's plan entry beside its results, so that a folder explains itself."""
        return self.root / "trial.json"

    @property
    def worker(self) -> Path:
        """Which process trains here, and where."""
        return self.root / ".worker.json"

    @property
    def hung(self) -> Path:
        """How the last worker hung."""
        return self.root / ".hung.json"

    @property
    def stopped(self) -> Path:
        """The decision to stop this training early, which no resume takes back."""
        return self.root / "stopped.json"


@dataclass(frozen=True)
class SweepPaths:
    """``<storage>/<name>/``. Nothing is made by asking for a path."""

    root: Path

    @property
    def grid(self) -> Path:
        return self.root / "grid.yaml"

    @property
    def base(self) -> Path:
        """The base configuration as resolved, which ``grid`` names."""
        return self.root / "base.yaml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def recordings(self) -> Path:
        """The sha256 of every recording as this sweep first met it, by its path."""
        return self.root / "recordings.json"

    @property
    def lease(self) -> Path:
        """Who writes here: host, process and start time."""
        return self.root / ".lease.json"

    @property
    def launch(self) -> Path:
        """Which launch of the sweep goes on; workers end when it is another (``run.watchdog``)."""
        return self.root / ".launch"

    @property
    def ray(self) -> Path:
        """What Ray writes while the sweep runs; nothing is read from it."""
        return self.root / ".ray"

    @property
    def tracking(self) -> Path:
        """What each tracking server has of each replicate. Losing it only costs time."""
        return self.root / ".tracking.json"

    @property
    def estimate(self) -> Path:
        return self.root / "estimate.json"

    @property
    def looks(self) -> Path:
        return self.root / "looks.json"

    @property
    def promotion(self) -> Path:
        return self.root / "promotion.json"

    @property
    def speeds(self) -> Path:
        """What was measured of machines, for all sweeps of a storage: it lies beside them."""
        return self.root.parent / "speeds.json"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, trial: str) -> Path:
        """Return the folder that ``sagasr.training.train.train`` writes."""
        return self.trials / trial

    def of(self, trial: str) -> SweptTrial:
        """Return the paths inside a trial's folder."""
        return SweptTrial(self.trial(trial))

    @property
    def results(self) -> Path:
        return self.root / "results"

    def table(self, name: str) -> Path:
        """Return a results table: replicates, clips, curves, references, distances, effects or preferences."""
        return self.results / f"{name}.parquet"

    @property
    def audio(self) -> Path:
        return self.root / "audio"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"

    @property
    def forest(self) -> Path:
        """The effects as a picture."""
        return self.report.with_name("effects.svg")


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a sqlite file; in a path as it is, ``%`` and ``?`` would mean something else."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a tracking URI, or None where that is no sqlite file."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])) if uri.startswith("sqlite:///") else None
