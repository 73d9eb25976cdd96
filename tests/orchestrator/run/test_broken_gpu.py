"""A GPU that fails in a training: it is left alone, the training goes on elsewhere, and a line says which it was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.run.broken_gpus import Gpu, too_few

pytestmark = [pytest.mark.timeout(2_400)]


def trained(folder: Path, *given: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.orchestrator.run.broken_gpu", str(folder), *given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=1_800)
    assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("share", ["1", "0.5"])
def test_a_training_goes_on_with_another_gpu_and_nobody_uses_the_broken_one_again(tmp_path: Path, share: str) -> None:
    found = trained(tmp_path, "2", "0", "--share", share)
    assert [one["gpus"] for one in found.values()] == [["0", "1"], ["1"], ["1"]]
    assert {one["state"] for one in found.values()} == {"done"}


@pytest.mark.cluster
@pytest.mark.slow
def test_where_the_only_gpu_is_broken_each_training_ends_with_a_line_that_names_it(tmp_path: Path) -> None:
    for one in trained(tmp_path, "1", "0").values():
        assert (one["gpus"], one["state"]) == (["0"], "failed")
        assert one["reason"].startswith("GPU 0 of ")
        assert "uncorrectable ECC error encountered" in one["reason"]
        assert one["reason"].endswith("; no other GPU is left")


@pytest.mark.cluster
@pytest.mark.slow
def test_a_training_that_fails_so_on_two_gpus_may_be_the_cause_so_that_others_may_use_them(tmp_path: Path) -> None:
    for one in trained(tmp_path, "2", "0", "1").values():
        assert (sorted(one["gpus"]), one["state"]) == (["0", "1"], "failed")
        assert one["reason"].startswith(f"GPU {one['gpus'][1]} of ")


def test_several_workers_lack_gpus_only_where_broken_ones_are_the_reason() -> None:
    four, dead = {"NodeID": "a", "Alive": True, "Resources": {"GPU": 4.0}}, {"NodeID": "b", "Alive": False}
    assert too_few([four], [Gpu("a", "2")], 4)
    assert not too_few([four], [Gpu("a", "2")], 3)
    assert not too_few([four], [], 8)  # those that an autoscaler will start are waited for
    assert not too_few([four, dead], [Gpu("b", "0")], 8)


def test_none_is_left_when_every_gpu_of_the_nodes_that_live_is_broken() -> None:
    two = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}
    dead = {"NodeID": "b", "Alive": False, "Resources": {"GPU": 4.0}}
    without = {"NodeID": "c", "Alive": True, "Resources": {"CPU": 8.0}}
    nodes = [two, dead, without]
    assert not too_few(nodes, [], 0.25)
    assert not too_few(nodes, [Gpu("a", "0")], 0.25)
    assert not too_few(nodes, [Gpu("a", "0"), Gpu("b", "0")], 0.25)  # the one of a node that is gone does not count
    assert too_few(nodes, [Gpu("a", "0"), Gpu("a", "1")], 0.25)
    assert not too_few([without], [], 0.25)  # those that an autoscaler will start are waited for
