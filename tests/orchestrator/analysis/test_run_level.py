"""What only whole runs have: distances between distributions, speed of learning, middle halves, failures."""

import itertools
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.diagnostics import failure_rates
from orchestrator.analysis.effects import effects
from orchestrator.analysis.load import read_sweep
from orchestrator.analysis.metrics import shared_curves
from tests.orchestrator.sweep_folders import TWO, noisy_grid, primary, with_clips, write_sweep


def named(seeds: int, effect: dict[str, float]) -> list[dict]:
    return [{**row, "replicate": f"r{i}", "trial": f"t{i}"} for i, row in enumerate(noisy_grid(TWO, seeds, effect))]


def distances(rows: list[dict], windows: dict[str, int] | None = None) -> pd.DataFrame:
    """Return distances of which text takes away 3 on speech and 1 over all, and nothing on music."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"replicate": row["replicate"], "subject": subject, "metric": "fd_spectral", "domain": domain,
             "value": 10 - gain * (row["text"] != "off") + random.normal(0, 0.1), "reason": "",
             "n": (windows or {}).get(row["replicate"], 40), "clips": 8}
            for row in rows
            for domain, gain in (("all", 1.0), ("speech", 3.0), ("music", 0.0))
            for subject in ("model", "low")
        ]
    )  # fmt: skip


def written(folder: Path, rows: list[dict], table: pd.DataFrame) -> Path:
    overall = table[(table["domain"] == "all") & (table["subject"] == "model")].set_index("replicate")["value"]
    clips = with_clips(rows, 4)
    rows = [{**row, "fd_spectral": overall[row["replicate"]]} for row in rows]
    write_sweep(folder, rows, TWO, clips=clips)
    table.to_parquet(folder / "results" / "distances.parquet")
    return folder


def test_a_distance_is_analysed_per_run_and_per_domain(tmp_path: Path) -> None:
    rows = named(3, {"text": -0.2})
    table = effects(read_sweep(written(tmp_path, rows, distances(rows))))
    found = table[(table["metric"] == "fd_spectral") & (table["factor"] == "text") & table["with"].isna()]
    found = found.set_index("domain")
    assert list(found.index) == ["all", "music", "speech"]
    assert found["estimate"].to_list() == pytest.approx([-1, 0, -3], abs=0.15)
    assert found["verdict"].str.split(" ").str[0].to_list() == ["improves", "undecided", "improves"]
    assert set(found["unit"]) == {"FD"}
    assert set(found["family"]) == {"exploratory"}
    assert found["se_total"].to_list() == pytest.approx(found["se_run"].to_list())


def test_a_distance_measured_on_unequally_many_windows_is_no_comparison(tmp_path: Path) -> None:
    rows = named(3, {})
    sweep = read_sweep(written(tmp_path, rows, distances(rows, {"r0": 20})))
    assert "fd_spectral is left out: it was measured on 20 to 40 windows" in sweep.notes
    assert "fd_spectral" not in set(effects(sweep)["metric"])


def learning(rows: list[dict], steps: tuple[int, ...] = (10, 20, 40, 80)) -> pd.DataFrame:
    """Return curves 4 / sqrt(step): with text they reach the same end, twice as slowly before."""
    random = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {"replicate": row["replicate"], "metric": "val/lsd", "step": step,
             "value": 4 * (step / (2 if row["text"] != "off" and step < 80 else 1)) ** -0.5 + random.normal(0, 1e-3)}
            for row in rows
            for step in steps
        ]
    )  # fmt: skip


def test_speed_is_an_outcome_of_its_own(tmp_path: Path) -> None:
    rows = named(3, {})
    write_sweep(tmp_path, rows, TWO)
    learning(rows).to_parquet(tmp_path / "results" / "curves.parquet")
    sweep = read_sweep(tmp_path)
    table = effects(sweep)
    found = table[(table["factor"] == "text") & table["with"].isna()].set_index("metric")
    assert found.loc["learning_area", "verdict"] == "harms"
    x = np.log([10, 20, 40, 80])
    slow, fast = 4 / np.sqrt([5, 10, 20, 80]), 4 / np.sqrt([10, 20, 40, 80])
    expected = (np.trapezoid(slow, x) - np.trapezoid(fast, x)) / (x[-1] - x[0])
    assert found.loc["learning_area", "estimate"] == pytest.approx(expected, abs=2e-3)
    assert found.loc["steps_to_reach", "unit"] == "steps"
    assert sweep.runs["steps_to_reach"].max() <= 80


def test_the_first_step_at_the_baseline_s_end_is_interpolated(tmp_path: Path) -> None:
    rows = named(1, {})
    curves = pd.DataFrame(
        [
            {"replicate": row["replicate"], "metric": "val/lsd", "step": step, "value": value}
            for row in rows
            for step, value in zip((10, 20, 30), (3, 2, 1) if row["text"] == "off" else (2, 0, 0), strict=True)
        ]
    )
    write_sweep(tmp_path, rows, TWO)
    curves.to_parquet(tmp_path / "results" / "curves.parquet")
    runs = read_sweep(tmp_path).runs
    assert set(runs[runs["@text"] == "off"]["steps_to_reach"]) == {30.0}
    assert set(runs[runs["@text"] == "caption"]["steps_to_reach"]) == {15.0}


def test_curves_of_few_points_or_other_steps_say_nothing() -> None:
    runs = pd.DataFrame({"replicate": ["a", "b"]})
    rows = [{"replicate": r, "metric": "val/lsd", "step": s, "value": 1.0} for r, s in itertools.product("ab", (1, 2))]
    assert shared_curves(pd.DataFrame(rows), runs, "lsd") is None
    assert shared_curves(None, runs, "lsd") is None


def test_a_clip_that_runs_away_moves_the_mean_and_not_the_middle_half(tmp_path: Path) -> None:
    rows = named(3, {})
    clips = [{**clip, "si_sdr": 10.0 + 0.01 * index} for index, clip in enumerate(with_clips(rows, 8))]
    for clip in clips:
        if clip["clip"] == "c0" and clip["text"] != "off":
            clip["si_sdr"] = -500.0
    rows = [{**row, "si_sdr": 1.0} for row in rows]
    write_sweep(tmp_path, rows, TWO, clips=clips)
    table = effects(read_sweep(tmp_path))
    found = table[(table["factor"] == "text") & table["with"].isna() & (table["domain"] == "all")].set_index("metric")
    assert found.loc["si_sdr", "estimate"] < -50
    assert abs(found.loc["si_sdr_middle", "estimate"]) < 1


def test_failures_are_compared_between_levels_by_trainings(tmp_path: Path) -> None:
    factors = {**TWO, "lfr": ["off", "hard"]}
    rows = noisy_grid(factors, 4, {})
    for row in rows:
        if row["size"] == "full" and row["seed"] < 3:
            row |= {"status": "failed", "reason": "loss is NaN", "lsd": None}
    write_sweep(tmp_path, rows, factors, eval_stage=["lfr"])
    rates = {one.factor: one for one in failure_rates(read_sweep(tmp_path))}
    assert set(rates) == set(TWO)
    size = rates["size"]
    assert (size.failed, size.ended, size.failed_baseline, size.ended_baseline) == (12, 16, 0, 16)
    assert size.p == pytest.approx(2 * comb(16, 12) / comb(32, 12))
    assert size.p_adjusted == pytest.approx(3 * size.p)
    assert rates["text"].p == 1.0


def test_without_failures_there_is_nothing_to_compare(tmp_path: Path) -> None:
    write_sweep(tmp_path, noisy_grid(TWO, 2, {"text": -0.2}), TWO)
    sweep = read_sweep(tmp_path)
    assert failure_rates(sweep) == []
    assert primary(effects(sweep), "text")["n_failed"] == 0
