"""What the answer cost and what was saved: by sharing trainings, by stopping, by promoting only what mattered."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from orchestrator.analysis.load import Sweep
from orchestrator.analysis.tables import numbers, training_steps
from orchestrator.formats import duration, file_size, number
from orchestrator.sweep_folder.json_files import Prediction, read_prediction
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.io.states import State

CELLS_SHOWN = 200
STORE = ("data", "audio", "codec", "degradation", "validation")  # sections of a configuration that decide its encoding


def cost_of(sweep: Sweep, plan: Mapping[str, Any], paths: SweepPaths) -> dict[str, Any]:
    """Return hours per cell, in all, as predicted before, and what was saved; ``rows`` is empty without times."""
    table = pq.read_table(paths.table("replicates")).to_pandas()
    table["status"] = table.get("status", pd.Series("done", index=table.index)).astype(str)
    before = read_prediction(paths.root)
    trainings = _trainings(table, sweep, before)
    if trainings.empty:
        return {"rows": []}
    levels = [factor.name for factor in sweep.factors if factor.stage != "eval" and factor.name in table] or ["seed"]
    rows = [
        {
            "levels": tuple(map(str, name if isinstance(name, tuple) else (name,))),
            "trainings": len(part),
            "served": int(part["served"].sum()),
            "wall": part["wall_seconds"].mean(),
            "gpu_hours": part["gpu_seconds"].sum() / 3_600,
            "predicted": part["predicted"].mean(),
        }
        for name, part in trainings.groupby(levels, sort=False)
    ]
    configs = [trial["config"] for trial in plan.get("trials") or [] if isinstance(trial.get("config"), Mapping)]
    wall, stopped = trainings["wall_seconds"], trainings["stopped_at_step"]
    named = "trial" in table
    return {
        "rows": rows[:CELLS_SHOWN],
        "left": max(0, len(rows) - CELLS_SHOWN),
        "names": levels,
        "trainings": len(trainings),
        "replicates": int(trainings["served"].sum()),
        "wall": duration(float(wall.sum())),
        "gpu": duration(float(trainings["gpu_seconds"].sum())),
        "folded": duration(float((wall * (trainings["served"] - 1)).sum())),
        "stopped": duration(float((wall * (trainings["budget"] / stopped - 1)).where(stopped > 0).sum())),
        "stops": int((stopped > 0).sum()),
        "compared": _compared(trainings, before, paths) if named else [],
        "unneeded": _unneeded(table, trainings, levels) if named else [],
        "stores": len({json.dumps([config.get(key) for key in STORE], sort_keys=True) for config in configs}),
    }


def _trainings(table: pd.DataFrame, sweep: Sweep, before: Prediction) -> pd.DataFrame:
    """Return a row for each training that took time; ``served``: its replicates, ``predicted``: seconds, ``budget``."""
    ran = table[numbers(table, "wall_seconds").gt(0)]
    served = pd.Series(1, index=ran.index)
    predicted = pd.Series(np.nan, index=ran.index)
    if "trial" in ran:
        served = ran.groupby("trial")["trial"].transform("size")
        predicted = ran["trial"].astype(str).map({trial: estimate.seconds for trial, estimate in before.trials.items()})
    measured = {name: numbers(ran, name) for name in ("wall_seconds", "gpu_seconds", "stopped_at_step")}
    budget = training_steps(ran, [factor.name for factor in sweep.factors])
    ran = ran.assign(**measured, budget=budget, served=served, predicted=predicted.astype(float))
    return ran.drop_duplicates("trial") if "trial" in ran else ran


def _unneeded(table: pd.DataFrame, trainings: pd.DataFrame, levels: list[str]) -> list[dict[str, Any]]:
    """Return, by reason, how many trainings were never started and about how long they would have taken.

    That is the mean of the trainings of their cell; where none ran, nothing is claimed.
    """
    left = table[table["status"].isin((State.NOT_NEEDED, State.HELD)) & ~table["trial"].isin(set(trainings["trial"]))]
    left = left.drop_duplicates("trial")
    if left.empty:
        return []
    means = trainings.groupby(levels)["wall_seconds"].mean()
    index = pd.MultiIndex.from_frame(left[levels]) if len(levels) > 1 else pd.Index(left[levels[0]])
    left = left.assign(expected=means.reindex(index).to_numpy(), reason=left["reason"].fillna("").astype(str))
    return [
        {
            "reason": str(reason),
            "trainings": len(part),
            "saved": duration(float(part["expected"].sum())) if part["expected"].notna().any() else None,
        }
        for reason, part in left.groupby("reason", sort=False)
    ]


def _compared(trainings: pd.DataFrame, before: Prediction, paths: SweepPaths) -> list[dict[str, str]]:
    """Return what was predicted of the trainings that ran to their end, beside what they took; without that, nothing.

    Disk is left out where checkpoints were deleted.
    """
    ended = trainings["status"].eq(State.DONE) & trainings["predicted"].notna() & ~trainings["stopped_at_step"].gt(0)
    whole = trainings[ended]
    trials = [str(trial) for trial in whole["trial"]]
    predicted = [before.trials[trial] for trial in trials]
    seconds, hours = float(whole["wall_seconds"].sum()), float(whole["gpu_seconds"].sum()) / 3_600
    hours_before = sum(trial.gpu_hours for trial in predicted)
    rows: list[tuple[str, Callable[[float], str], float, float]] = [
        ("training time", duration, sum(trial.seconds for trial in predicted), seconds),
        ("GPU-hours", number, hours_before, hours),
    ]
    if (price := before.price_per_gpu_hour) is not None:
        rows.append((f"money, at {price:g} per GPU-hour", number, hours_before * price, hours * price))
    if all(paths.of(trial).checkpoints.is_dir() for trial in trials):
        files = [path for trial in trials for path in paths.trial(trial).rglob("*") if path.is_file()]
        rows.append(
            (
                "disk",
                file_size,
                sum(trial.disk_bytes for trial in predicted),
                sum(path.stat().st_size for path in files),
            )
        )
    return [
        {"what": title, "predicted": shown(then), "took": shown(now), "ratio": f"{now / then:.2f}"}
        for title, shown, then, now in rows
        if then > 0
    ]


def hours_per_step(table: pd.DataFrame, factors: Sequence[str]) -> dict[str, float]:
    """Return the hours that one step of each replicate's training took: of GPUs, or of the clock where it had none."""
    if not {"replicate", "wall_seconds"} <= set(table):
        return {}
    wall, gpu, stopped = (numbers(table, name) for name in ("wall_seconds", "gpu_seconds", "stopped_at_step"))
    steps = stopped.where(stopped.gt(0), training_steps(table, factors))
    hours = (gpu if gpu.gt(0).any() else wall) / 3_600 / steps
    return {str(name): float(value) for name, value in zip(table["replicate"], hours, strict=True) if value > 0}
