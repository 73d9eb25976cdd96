"""What the answer cost, what had been predicted, and what was saved and by what."""

from pathlib import Path

import pytest

from orchestrator.analysis.load import read_sweep
from orchestrator.formats import duration
from orchestrator.report.cost import cost_of
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.io.files import read_json, write_json
from tests.orchestrator.sweep_folders import noisy_grid, write_sweep

FACTORS = {"text": ["off", "caption"], "lfr": ["off", "hard"]}


def written(folder: Path) -> dict:
    """Write 3 seeds of 4 cells on 6 trainings: seed 2 was not needed, one training of seed 1 was stopped halfway."""
    rows = noisy_grid(FACTORS, 3, {})
    for row in rows:
        row |= {"trial": f"{row['text']}{row['seed']}", "wall_seconds": 100.0, "gpu_seconds": 50.0, "steps": 10}
        row["stopped_at_step"] = 5.0 if (row["text"], row["seed"]) == ("caption", 1) else None
        if row["seed"] == 2:
            row |= {"status": "not needed", "reason": "decided", "wall_seconds": None, "gpu_seconds": None, "lsd": None}
    data = {"data": {"train": "a", "val": "b"}, "audio": {}}
    trials = [{"trial": name, "config": {**data, "seed": i}} for i, name in enumerate(("off0", "caption0"))]
    write_sweep(folder, rows, FACTORS, eval_stage=["lfr"], trials=trials)
    one = {"seconds": 80.0, "gpu_hours": 0.01, "disk_bytes": 3_000_000}
    write_json(folder / "estimate.json", {"trials": {"off0": one, "caption1": one}, "price_per_gpu_hour": 2.0})
    checkpoints = folder / "trials" / "off0" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "tensors").write_bytes(bytes(6_000_000))
    return cost_of(read_sweep(folder), read_json(folder / "plan.json"), SweepPaths(folder))


def test_every_saving_is_named_with_its_reason(tmp_path: Path) -> None:
    cost = written(tmp_path)
    assert (cost["trainings"], cost["replicates"]) == (4, 8)
    assert (cost["wall"], cost["gpu"]) == (duration(400), duration(200))
    assert cost["folded"] == duration(400)  # each training served two cells
    assert (cost["stops"], cost["stopped"]) == (1, duration(100))
    assert cost["unneeded"] == [{"reason": "decided", "trainings": 2, "saved": duration(200)}]
    assert cost["stores"] == 1


def test_a_factor_called_steps_is_not_taken_for_the_steps_of_a_training(tmp_path: Path) -> None:
    factors = {"steps": ["100", "25"], "text": ["off", "caption"]}
    rows = noisy_grid(factors, 3, {})
    for row in rows:
        row |= {"trial": f"{row['text']}{row['seed']}", "wall_seconds": 100.0, "training_steps": 10}
        row["stopped_at_step"] = 5.0 if row["seed"] == 2 else None
    write_sweep(tmp_path, rows, factors, eval_stage=["steps"])
    cost = cost_of(read_sweep(tmp_path), {}, SweepPaths(tmp_path))
    assert (cost["stops"], cost["stopped"]) == (2, duration(200))


def test_what_was_predicted_stands_beside_what_it_took(tmp_path: Path) -> None:
    cost = written(tmp_path)
    assert [tuple(row.values()) for row in cost["compared"]] == [
        ("training time", "80 s", "100 s", "1.25"),
        ("GPU-hours", "0.01", "0.0139", "1.39"),
        ("money, at 2 per GPU-hour", "0.02", "0.0278", "1.39"),
        ("disk", "3 MB", "6 MB", "2.00"),
    ]  # a training that was stopped halfway says nothing of a whole one
    off = next(row for row in cost["rows"] if row["levels"] == ("off",))
    assert (off["trainings"], off["served"], off["wall"]) == (2, 4, 100.0)
    assert off["gpu_hours"] == pytest.approx(100 / 3600)


def test_without_times_nothing_is_claimed(tmp_path: Path) -> None:
    write_sweep(tmp_path, noisy_grid(FACTORS, 2, {}), FACTORS)
    assert cost_of(read_sweep(tmp_path), {}, SweepPaths(tmp_path)) == {"rows": []}
    (tmp_path / "estimate.json").write_text("broken")
    assert cost_of(read_sweep(tmp_path), {}, SweepPaths(tmp_path)) == {"rows": []}
