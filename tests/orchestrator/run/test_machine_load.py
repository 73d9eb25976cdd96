"""The load of a machine is sampled beside a training, under MLflow's names, and what cannot be read is left out."""

import json
from pathlib import Path

import pytest

from orchestrator.run import machine_load
from tests.processes import wait_for


def test_samples_are_appended_while_the_block_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_load, "EVERY_S", 0.05)
    file = tmp_path / "load.jsonl"
    with machine_load.sampled(file):
        wait_for(lambda: file.exists() and file.read_text().count("\n") > 2, "samples")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert {"system_memory_usage_megabytes", "system_memory_usage_percentage"} <= set(records[-1]["metrics"])
    assert all(0 <= value <= 100 for one in records for name, value in one["metrics"].items() if "percentage" in name)
    assert [one["time"] for one in records] == sorted(one["time"] for one in records)


def test_the_share_of_busy_cores_is_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_load, "STAT", tmp_path / "stat")
    looks = []
    for line in ("cpu  100 0 100 700 100 0 0 0 50 0", "cpu  160 0 115 720 105 0 0 0 50 0"):
        (tmp_path / "stat").write_text(f"{line}\ncpu0 1 2 3\n")
        looks.append(machine_load._cpu_ticks())
    assert machine_load._busy(*looks) == pytest.approx(75.0)


def test_a_machine_that_tells_nothing_has_no_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAT", "MEMORY"):
        monkeypatch.setattr(machine_load, name, tmp_path / "none")
    assert machine_load._memory() == machine_load._gpu() == {}
    assert machine_load._busy(machine_load._cpu_ticks(), machine_load._cpu_ticks()) < 0


def test_the_driver_is_asked_for_the_load_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for NVIDIA's library; a GPU that is shared out has no rates, which is answered by an error."""

    class Library:
        def nvmlInit_v2(self) -> int:
            return 0

        def nvmlDeviceGetHandleByUUID(self, uuid: bytes, device: object) -> int:
            return 0 if uuid == b"GPU-1" else 6

        def nvmlDeviceGetUtilizationRates(self, device: object, rates: object) -> int:
            return 3

        def nvmlDeviceGetPowerUsage(self, device: object, milliwatts: "object") -> int:
            milliwatts._obj.value = 71_500  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(machine_load.ctypes, "CDLL", lambda name: Library())
    assert machine_load._of_driver("GPU-1") == {"power_usage_watts": 71.5}
    assert machine_load._of_driver("GPU-2") == {}
