"""The benchmark command runs, both sides of its rows give the same, and a row whose sides differ is void. No times."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import COLUMNS, chosen, line, run
from tests.benchmarks.measure import Row
from tests.benchmarks.rows import ENTRIES

ROOT = Path(__file__).parents[2]


def benchmarks(*arguments: str) -> tuple[int, list[list[str]], str]:
    """Return exit code, the table's lines by column, and what was said beside it."""
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [row for row in done.stdout.splitlines() if row.startswith("|")]
    return done.returncode, [[cell.strip() for cell in row.strip("|").split("|")] for row in lines], done.stderr


def check(names: list[str], table: list[list[str]]) -> None:
    assert table[0] == list(COLUMNS)
    assert [row[0].split()[0] for row in table[2:]] == [f"`{name}`" for name in names]
    for row in table[2:]:
        assert len(row) == len(COLUMNS)
        if row[1] != "not run: no GPU":  # as the tests hide GPUs
            assert all(row[place] for place in (1, 2, 3, 5))
            assert "VOID" not in row[5]


@pytest.mark.slow
def test_a_row_has_both_sides_their_ratio_and_that_they_give_the_same() -> None:
    code, table, said = benchmarks("lsd", "step-gpu", "--quick")
    assert code == 0, said
    check(["step-gpu", "lsd"], table)
    assert table[2][1] == "not run: no GPU"


@pytest.mark.slow
def test_steps_validations_reads_and_shared_trainings_give_what_their_peers_give() -> None:
    code, table, said = benchmarks("step", "validation", "reads", "fold", "checkpoint", "--quick")
    assert code == 0, said
    check(["step", "validation", "fold", "reads", "checkpoint"], table)


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES if entry.needs == "cuda"])
def test_a_row_of_a_gpu_runs_on_a_cpu_and_holds(name: str, tmp_path: Path) -> None:
    (entry,) = chosen([name])
    row = run(entry._replace(needs="cpu"), quick=True, scratch=str(tmp_path))
    assert row is not None
    assert row.holds, row.quality
    assert min(row.ours + row.theirs) > 0


def test_one_name_stands_for_all_rows_of_a_gpu() -> None:
    code, table, said = benchmarks("gpu", "--quick")
    assert code == 0, said
    names = [row[0].split()[0].strip("`") for row in table[2:]]
    assert names == [entry.name for entry in ENTRIES if entry.needs == "cuda"]
    assert {"step-gpu-full", "fused-gpu"} <= {*names}
    assert {row[1] for row in table[2:]} == {"not run: no GPU"}


def test_a_row_whose_sides_differ_is_void() -> None:
    row = Row([1.0, 2.0, 4.0], [2.0, 4.0, 12.0], "step", "loss 0.5, 1 apart", holds=False, floor=0.5)
    told = line(ENTRIES[0], row)
    assert "VOID: loss 0.5, 1 apart" in told
    assert "**2** (2-3)" in told
    assert "2 s (1-4) / step" in told
    assert "4.00" in told  # times the floor


def test_no_two_rows_have_one_name_and_an_unknown_one_is_refused() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    code, table, said = benchmarks("speed")
    assert (code, table) == (2, [])
    assert "speed" in said
