"""What the answer cost and what was saved: by sharing trainings, by stopping, by promoting only what mattered."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from orchestrator.analysis.load import Sweep
from orchestrator.analysis.tables import training_steps
from orchestrator.sweep_folder.estimate_file import Prediction, read_prediction
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.io.states import State

CELLS_SHOWN = 200
STORE = ("data", "audio", "codec", "degradation", "validation")  # sections of a configuration that decide its encoding


def cost_of(sweep: Sweep, plan: Mapping[str, Any], paths: SweepPaths) -> dict[str, Any]:
    """Return hours per cell, in all, as predicted before, and what was saved; ``rows`` is empty without times."""
    table = pq.read_table(paths.table("replicates")).to_pandas()
    if "wall_seconds" not in table:
        return {"rows": []}
    factors = [one for one in sweep.factors if one.stage != "eval" and one.name in table]
    key = "trial" if "trial" in table else None
    table["status"] = table.get("status", pd.Series("done", index=table.index)).astype(str)
    ran = table[pd.to_numeric(table["wall_seconds"], errors="coerce").gt(0)]
    if ran.empty:
        return {"rows": []}
    trials = ran.drop_duplicates(key) if key else ran
    served = ran.groupby(key).size() if key else pd.Series(1, index=ran.index)
    names = ("wall_seconds", "gpu_seconds", "stopped_at_step")
    found = {
        name: pd.to_numeric(trials.get(name, pd.Series(np.nan, index=trials.index)), errors="coerce") for name in names
    }
    seconds = {name: found[name] for name in names[:2]}
    serves = trials[key].map(served) if key else served
    stopped = found["stopped_at_step"]
    budget = training_steps(trials, [one.name for one in sweep.factors])
    spared = (seconds["wall_seconds"] * (budget / stopped - 1)).where(stopped > 0).sum()
    before = read_prediction(paths.root)
    told = {trial: one.seconds for trial, one in before.trials.items()}
    guess = trials[key].astype(str).map(told).astype(float) if key else pd.Series(np.nan, index=trials.index)
    levels = [one.name for one in factors] or ["seed"]
    groups = trials.assign(**seconds, _served=serves, _guess=guess).groupby(levels, sort=False)
    rows = [
        {
            "levels": tuple(map(str, name if isinstance(name, tuple) else (name,))),
            "trainings": len(part),
            "served": int(part["_served"].sum()),
            "wall": part["wall_seconds"].mean(),
            "gpu_hours": part["gpu_seconds"].sum() / 3_600,
            "predicted": part["_guess"].mean(),
        }
        for name, part in groups
    ]
    wall, gpu = float(seconds["wall_seconds"].sum()), float(seconds["gpu_seconds"].sum())
    whole = trials.assign(**seconds)[trials["status"].eq(State.DONE) & guess.notna() & ~stopped.gt(0)]
    return {
        "rows": rows[:CELLS_SHOWN],
        "left": max(0, len(rows) - CELLS_SHOWN),
        "names": levels,
        "trainings": len(trials),
        "replicates": len(ran),
        "wall": duration(wall),
        "gpu": duration(gpu),
        "folded": duration(float((seconds["wall_seconds"] * (serves - 1)).sum())),
        "stopped": duration(float(spared)),
        "stops": int((stopped > 0).sum()),
        "compared": _compared(whole, before, paths) if key else [],
        "unneeded": _unneeded(table, trials, seconds["wall_seconds"], levels, key),
        "stores": _stores(plan),
    }


def _unneeded(
    table: pd.DataFrame, trials: pd.DataFrame, wall: "pd.Series[float]", levels: list[str], key: str | None
) -> list[dict[str, Any]]:
    """Return, by reason, how many trainings were never started and about how long they would have taken.

    That is the mean of the trainings of their cell; where none ran, nothing is claimed.
    """
    left = table[table["status"].isin((State.NOT_NEEDED, State.HELD))]
    if left.empty or key is None:
        return []
    left = left[~left[key].isin(set(trials[key]))].drop_duplicates(key)
    means = trials.assign(_wall=wall).groupby(levels)["_wall"].mean()
    index = pd.MultiIndex.from_frame(left[levels]) if len(levels) > 1 else pd.Index(left[levels[0]])
    times = means.reindex(index).to_numpy()
    out = []
    for reason, part in left.assign(_wall=times).groupby(left["reason"].fillna("").astype(str), sort=False):
        known = float(part["_wall"].sum())
        timed = duration(known) if part["_wall"].notna().any() else None
        out.append({"reason": str(reason), "trainings": len(part), "saved": timed})
    return out


def _stores(plan: Mapping[str, Any]) -> int | None:
    """Return how many encodings of the recordings the plan's trainings read, or None where it does not say."""
    configs = [one["config"] for one in plan.get("trials") or [] if isinstance(one.get("config"), Mapping)]
    if not configs:
        return None
    return len({json.dumps([one.get(name) for name in STORE], sort_keys=True) for one in configs})


def _compared(whole: pd.DataFrame, before: Prediction, paths: SweepPaths) -> list[dict[str, str]]:
    """Return what was predicted of the trainings that ran to their end, beside what they took; without that, nothing.

    ``whole``: one row per such training. What is not there any more (checkpoints may be deleted) is not compared.
    """
    trials = [str(trial) for trial in whole["trial"]] if len(whole) else []
    said = [before.trials[trial] for trial in trials]
    hours, hours_before = float(whole["gpu_seconds"].sum()) / 3_600, sum(one.gpu_hours for one in said)
    rows: list[tuple[str, Callable[[float], str], float, float]] = [
        ("training time", duration, sum(one.seconds for one in said), float(whole["wall_seconds"].sum()))
    ]
    if hours_before > 0:
        rows.append(("GPU-hours", _plain, hours_before, hours))
        if before.price_per_gpu_hour is not None:
            price = before.price_per_gpu_hour
            rows.append((f"money, at {price:g} per GPU-hour", _plain, hours_before * price, hours * price))
    if all(paths.of(trial).checkpoints.is_dir() for trial in trials):
        rows.append(("disk", _bytes, sum(one.disk_bytes for one in said), sum(map(_size, map(paths.trial, trials)))))
    return [
        {"what": what, "predicted": shown(then), "took": shown(now), "ratio": f"{now / then:.2f}"}
        for what, shown, then, now in rows
        if then > 0
    ]


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """Return seconds as people say them: 49 s, 12.5 min, 3.2 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7_200 else f"{seconds / 3_600:.3g} h"
