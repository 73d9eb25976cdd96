"""Every path of a sweep folder, in one place. Names of files are ids or fixed words, never text a user wrote."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote


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
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, trial: str) -> Path:
        """Return the folder that ``sagasr.training.train.train`` writes."""
        return self.trials / trial

    def record(self, trial: str) -> Path:
        """Return where the trial's plan entry is kept beside its results, so that a folder explains itself."""
        return self.trial(trial) / "trial.json"

    def status(self, trial: str) -> Path:
        return self.trial(trial) / "status.json"

    def history(self, trial: str) -> Path:
        return self.trial(trial) / "history.jsonl"

    def scores(self, trial: str, variant: str) -> Path:
        return self.trial(trial) / "scores" / f"{variant}.parquet"

    def trial_audio(self, trial: str, variant: str) -> Path:
        return self.trial(trial) / "audio" / variant

    @property
    def results(self) -> Path:
        return self.root / "results"

    def table(self, name: str) -> Path:
        """Return a results table: replicates, clips, curves, references or effects."""
        return self.results / f"{name}.parquet"

    @property
    def audio(self) -> Path:
        return self.root / "audio"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a sqlite file; in a path as it is, ``%`` and ``?`` would mean something else."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a tracking URI, or None where that is no sqlite file."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])) if uri.startswith("sqlite:///") else None
