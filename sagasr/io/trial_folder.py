"""The folder that a training writes: every path in it, and the columns of its tables. Loads nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCORE_KEYS = ("clip", "domain", "subject", "remark")  # a row of scores has these texts, and a number per metric
DISTANCES = {  # between whole distributions: a row per subject, metric and domain
    "subject": "string",
    "domain": "string",
    "metric": "string",
    "value": "double",
    "n": "int64",
    "clips": "int64",
    "reason": "string",
}
CHECKPOINT = "step-"  # begins the name of a checkpoint's folder, followed by its step


class Named:
    """A file or folder of this name, in the folder that an object has as ``root``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: Any, owner: type | None = None) -> Path:
        return Path(folder.root, self.name)


@dataclass(frozen=True)
class TrialFolder:
    """A trial's folder. Nothing is made by asking for a path."""

    root: Path

    config = Named("config.yaml")
    status = Named("status.json")
    history = Named("history.jsonl")
    checkpoints = Named("checkpoints")
    model = Named("model.json")  # what upsampling needs to know beside configuration and weights
    lease = Named(".worker.lease")  # who writes here

    def log(self, rank: int = 0) -> Path:
        """Return what a worker printed."""
        return self.root / (f"log-{rank}.txt" if rank else "log.txt")

    def scores(self, variant: str) -> Path:
        """Return the scores of a variant's predictions."""
        return self.root / "scores" / f"{variant}.parquet"

    def references(self, variant: str) -> Path:
        """Return the scores of the answers that a variant must beat."""
        return self.scores(f"references-{variant}")

    def audio(self, variant: str) -> Path:
        """Return the folder of the clips that are kept to listen to: of a variant, or ``high`` or ``low``."""
        return self.root / "audio" / variant


def distances_of(scores: Path) -> Path:
    """Return where the distances lie that belong to a table of scores."""
    return scores.with_name(f"distances-{scores.name}")
