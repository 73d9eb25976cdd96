"""First light: a part that hangs, fails or lacks a package costs that part; without a GPU all runs on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.first_light import __main__ as first_light
from tests.first_light.__main__ import main, table
from tests.first_light.parts import cases_in, last, parts_on_cpu, parts_on_gpu, row_in, training_in, versions_in
from tests.first_light.running import ROOT, Part, carry_out

FAR = float("inf")


def part(name: str, script: str, limit: float = 60, needs: tuple[str, ...] = ()) -> Part:
    return Part(name, ("sh", "-c", script), limit, needs, lambda said: (last(said), None))


def test_a_part_that_hangs_ends_with_its_children_and_the_next_one_runs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "held")
    reader = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    hung = part("hung", f"sleep 1000 > {tmp_path / 'held'} & wait", limit=0.5)
    first, second = carry_out([hung, part("next", "echo well")], tmp_path, FAR)
    assert first[:2] == ("hung", "failed")
    assert "not over after 0.5 s" in first.told
    assert second == ("next", "passed", second.seconds, "well", None)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # nobody holds the other end
    os.close(reader)


def test_a_part_that_fails_lacks_a_package_or_comes_too_late_is_told_so(tmp_path: Path) -> None:
    failing = part("failing", "echo no such thing >&2; exit 3")
    lacking = part("lacking", "touch ran", needs=("os", "no_such_package", "no.such.part"))
    failed, missing = carry_out([failing, lacking], tmp_path, FAR)
    (late,) = carry_out([part("late", "touch ran")], tmp_path, until=0.0)
    assert (failed.state, failed.told) == ("failed", "exit code 3: no such thing; see failing.log")
    assert (missing.state, missing.told) == ("missing", "not run: this Python lacks no_such_package, no.such.part")
    assert (late.state, late.told) == ("skipped", "may take 60 s; 0 s are left")
    assert (tmp_path / "failing.log").read_text() == "no such thing\n"
    assert table([failed]).splitlines()[-1].startswith("| failing | failed | 0 s | exit code 3")


def test_what_the_parts_say_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_one(): pass\ndef test_two(): assert 0\n")
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", ".", "--junitxml=it.xml", "test_it.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    told, facts = cases_in(tmp_path / "it.xml")
    assert told == "1 passed, 1 failed: test_two"
    assert facts["seconds"].keys() == {"test_one", "test_two"}
    assert cases_in(tmp_path / "none.xml") == ("no test ran", None)
    lines = ["step 0 of 2  val loss 2.1  val LSD 3.3", "done at step 2; everything is in x", "  model  lsd 1.0"]
    assert training_in(lines)[0] == "done at step 2; step 0 of 2  val loss 2.1  val LSD 3.3"
    assert row_in(["| row |", "| `step-gpu` a step | 1 ms | peer: 2 ms | **2** | | loss 1 |"])[0].startswith(
        "1 ms, peer"
    )
    assert versions_in(["Traceback", "ImportError: no torch"]) == ("ImportError: no torch", None)


def test_without_time_nothing_runs_and_the_results_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out"), "--seconds", "0"]) == 0
    found = json.loads((tmp_path / "out" / "first-light.json").read_text())
    assert {it["state"] for it in found["parts"]} == {"skipped"}
    assert {"versions", "train-tiny", "train-small", "gpu-tests-on-cpu"} <= {it["name"] for it in found["parts"]}
    said = capsys.readouterr().out
    assert "No GPU here" in said
    assert "No GPU: nothing below ran on one." in said
    assert (tmp_path / "out" / "first-light.md").read_text() in said


def test_the_parts_for_a_gpu_are_those_of_the_cpu_and_every_row(tmp_path: Path) -> None:
    from tests.benchmarks.rows import ENTRIES

    names = [it.name for it in parts_on_gpu(tmp_path, tmp_path)]
    assert names[0] == "gpu-tests"  # the most important first
    assert {*names} >= {it.name.removesuffix("-on-cpu") for it in parts_on_cpu(tmp_path, tmp_path)} - {"fake-gpu"}
    assert {*names} >= {entry.name for entry in ENTRIES if entry.needs == "cuda"}


def test_it_says_why_there_is_no_gpu() -> None:
    command = [sys.executable, "-m", "tests.first_light.versions"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert (facts["gpu"], facts["why"]) == (None, "CUDA_VISIBLE_DEVICES hides them")  # as the tests do
    assert facts["torch"]
    assert isinstance(facts["tf32_cudnn"], bool)


@pytest.mark.slow
def test_there_are_ten_tests_of_a_gpu_which_say_when_there_is_none() -> None:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-rs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(told) >= 10, done.stdout  # a line for each function
    assert {line.rpartition(": ")[2] for line in told} == {"no GPU here"}


@pytest.mark.slow
@pytest.mark.timeout(1_000)
def test_without_a_gpu_the_trainings_run_on_the_cpu_and_the_results_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other parts are tests that this suite runs anyway."""
    trainings = [it for it in parts_on_cpu(tmp_path, tmp_path / "scratch") if it.name.startswith("train-")]
    monkeypatch.setattr(first_light, "parts_on_cpu", lambda *_: trainings)
    assert first_light.main(["--out", str(tmp_path), "--seconds", "4800"]) == 0  # each part's limit grows with it
    tree = json.loads((tmp_path / "first-light.json").read_text())
    assert tree["gpu"] is None
    assert {it["name"]: it["state"] for it in tree["parts"]} == dict.fromkeys(
        ("versions", "train-tiny", "train-small"), "passed"
    )
    assert (tmp_path / "first-light.md").read_text().startswith("No GPU: ")
