"""Recordings for short trainings, and what two trainings have in common."""

import csv
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

import sagasr
from sagasr.evaluation.score_files import read_scores
from sagasr.training import checkpoint
from sagasr.training.trial_log import History

RECORDINGS = Path(sagasr.__file__).parent / "recordings"


def copy_recordings(folder: Path, train: int, val: int) -> Path:
    """Copy so many shipped recordings, taken from the three domains in turn; return their manifest."""
    with (RECORDINGS / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    kept = []
    for split, count in (("train", train), ("val", val)):
        domains = [[row for row in rows if (row["split"], row["domain"]) == (split, domain)]
                   for domain in ("speech", "music", "effects")]  # fmt: skip
        kept += [domains[place % 3][place // 3] for place in range(count)]
    for row in kept:
        (folder / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RECORDINGS / row["path"], folder / row["path"])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["path", "split", "domain", "text"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
    return folder / "manifest.csv"


def few_recordings(folder: Path) -> Path:
    """Copy nine of the shipped recordings, six to train and three to validate on; return their manifest."""
    return copy_recordings(folder, train=6, val=3)


def final_state(out: Path) -> dict[str, torch.Tensor]:
    """Return weights, averaged weights and optimiser moments of a training's last checkpoint."""
    newest = checkpoint.newest(out / "checkpoints")
    assert newest is not None
    state = checkpoint.load(newest)
    moments = state["optimizer_states"][0]["state"]
    return {
        **state["state_dict"],
        **{f"ema.{name}": value for name, value in state["ema"].items()},
        **{f"adam.{index}.{name}": value for index, part in moments.items() for name, value in part.items()},
    }


def same_training(one: Path, other: Path, variants: Iterable[str] = ("default",)) -> bool:
    """Return whether two trainings ended in the same weights, records and scores, bit for bit."""
    first, second = final_state(one), final_state(other)
    records = [[{k: v for k, v in record.items() if k != "time"} for record in History(out)] for out in (one, other)]
    return (
        first.keys() == second.keys()
        and all(torch.equal(first[name], second[name]) for name in first)
        and records[0] == records[1]
        and all(read_scores(one, name) == read_scores(other, name) for name in variants)
    )
