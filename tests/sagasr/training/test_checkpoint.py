"""A checkpoint is complete and verified, or it does not exist."""

from pathlib import Path

import pytest
import torch

from sagasr.io.errors import DataError
from sagasr.training import checkpoint
from sagasr.training.trial_log import History, Status, read_status, write_status

TREE = {
    "step": 7,
    "nested": {1: (1.5, None, "text", [True, float("inf")]), "weights": {"a": torch.arange(6.0).view(2, 3)}},
    "half": torch.ones(3, dtype=torch.bfloat16),
    "shared": [torch.zeros(0), torch.tensor(3)],
}


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))  # type: ignore[arg-type]
    return one == other


def test_a_checkpoint_reads_back_equal(tmp_path: Path) -> None:
    folder = checkpoint.folder_of(tmp_path, 7)
    checkpoint.save(TREE, folder)
    assert equal(checkpoint.load(folder), TREE)
    assert checkpoint.newest(tmp_path) == folder
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_what_needs_a_pickle_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Path"):
        checkpoint.save({"path": tmp_path}, checkpoint.folder_of(tmp_path, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        checkpoint.save(TREE | {"step": step}, checkpoint.folder_of(tmp_path, step))
    path = checkpoint.folder_of(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    assert checkpoint.newest(tmp_path) == checkpoint.folder_of(tmp_path, 1)


def test_when_no_checkpoint_is_usable_training_does_not_start_anew_in_silence(tmp_path: Path) -> None:
    checkpoint.save(TREE, checkpoint.folder_of(tmp_path, 3))
    (checkpoint.folder_of(tmp_path, 3) / checkpoint.STATE).write_text("{}")
    with pytest.raises(DataError, match=r"step-00000003: state\.json does not match"):
        checkpoint.newest(tmp_path)


def test_two_checkpoints_are_kept_and_litter_of_dead_attempts_is_removed(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint.save(TREE, checkpoint.folder_of(tmp_path, step))
    (tmp_path / ".staged-dead").mkdir()
    checkpoint.prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000030"]


def test_history_ends_at_the_checkpoint_and_a_torn_line_does_not_count(tmp_path: Path) -> None:
    history = History(tmp_path)
    for step in (10, 20, 30):
        history.append(step, {"train/loss": 1.0 / step, "train/bad": float("nan")})
    with history.path.open("a") as handle:
        handle.write('{"step": 40, "metr')
    assert [record["step"] for record in history] == [10, 20, 30]
    history.resume(20)
    assert [(record["step"], record["metrics"]) for record in history] == [
        (10, {"train/loss": 0.1}),
        (20, {"train/loss": 0.05}),
    ]


def test_a_status_reads_back_equal(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    status = Status(state="failed", reason="loss is nan", step=3, steps=10, loss=None, val_lsd=1.5)
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
