"""Sweep folders written by hand: plan.json and results/*.parquet with known answers, for tests of the analysis."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sagasr.io.files import write_json

Rows = list[dict[str, Any]]


def write_sweep(
    folder: Path,
    rows: Rows,
    factors: dict[str, Sequence[str]],
    metric: str = "lsd",
    eval_stage: Sequence[str] = (),
    clips: Rows | None = None,
    under: dict[str, dict[str, list[str]]] | None = None,
    **plan: Any,
) -> Path:
    """Write a sweep folder: replicates with a level per factor, a seed and a value; the plan from what is given."""
    better = plan.pop("better", "lower")
    tree = {
        "name": "case",
        "question": "?",
        "metric": {"name": metric, "better": better, "delta": plan.pop("delta", None)},
        "factors": {
            name: {"baseline": levels[0], "levels": list(levels), "stage": "eval" if name in eval_stage else "train"}
            for name, levels in factors.items()
        },
        "seeds": sorted({row["seed"] for row in rows}),
        "expected_replicates": len(rows),
        **plan,
    }
    for name, levels in (under or {}).items():
        tree["factors"][name]["under"] = levels
    write_json(folder / "plan.json", tree)
    (folder / "results").mkdir(exist_ok=True)
    pd.DataFrame([{"status": "done", **row} for row in rows]).to_parquet(folder / "results" / "replicates.parquet")
    if clips is not None:
        pd.DataFrame(clips).to_parquet(folder / "results" / "clips.parquet")
    return folder


def primary(table: pd.DataFrame, factor: str, level: str | None = None) -> pd.Series:
    """Return the main effect of a factor's level on the plan's metric."""
    found = table[(table["family"] == "primary") & (table["factor"] == factor)]
    found = found if level is None else found[found["level"] == level]
    assert len(found) == 1
    return found.iloc[0]


def noisy_grid(
    factors: dict[str, Sequence[str]], seeds: int, effect: dict[str, float], sigma: float = 0.03, random: int = 0
) -> Rows:
    """Return a full grid: 1.2 + effects of non-baseline levels + seed + noise."""
    rng = np.random.default_rng(random)
    rows = []
    for seed in range(seeds):
        shift = rng.normal(0, 0.02)
        for levels in itertools.product(*factors.values()):
            cell = dict(zip(factors, levels, strict=True))
            gain = sum(effect.get(name, 0.0) for name, level in cell.items() if level != factors[name][0])
            rows.append({**cell, "seed": seed, "lsd": 1.2 + gain + shift + rng.normal(0, sigma)})
    return rows


TWO = {"text": ["off", "caption"], "rolloff": ["off", "on"], "size": ["small", "full"]}


def with_clips(rows: Rows, clips: int, random: int = 0, clip_effect: float = 0.0) -> Rows:
    """Return clip rows around each replicate's value; the effect of text varies by clip."""
    rng = np.random.default_rng(random)
    level, effect = rng.normal(0, 0.25, clips), rng.normal(0, clip_effect, clips)
    found = []
    for row in rows:
        keys = {key: value for key, value in row.items() if key != "lsd"}
        on = row["text"] != "off"
        for clip in range(clips):
            value = row["lsd"] + level[clip] + on * effect[clip] + rng.normal(0, 0.05)
            domain = "music" if clip % 2 else "speech"
            found.append({**keys, "clip": f"c{clip}", "domain": domain, "lsd": value, "lsd_hf": 2 * value})
    return found
