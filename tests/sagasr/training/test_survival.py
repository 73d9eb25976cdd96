"""What a training survives: a halt anywhere, full and vanished disks, damaged checkpoints, zombies, NaN."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config
from sagasr.data.batches import Batch, Draws
from sagasr.data.encode import encode_store
from sagasr.data.store import Store
from sagasr.io import failpoints as faults
from sagasr.io import lease
from sagasr.io.errors import DataError, StorageError
from sagasr.io.files import dump_yaml, write_json, write_text
from sagasr.io.signals import Halt
from sagasr.training import checkpoint
from sagasr.training.harness import Harness, TrainResult
from sagasr.training.module import SagaModule, parts_of
from sagasr.training.train import train
from sagasr.training.trial_log import History, read_status
from tests.small import BASE, write_recordings

STEPS, EVERY = 6, 3
TREE = patch(
    BASE,
    {
        "training": {"steps": STEPS, "batch_size": 3, "learning_rate": 1e-3},
        "validation": {"every": EVERY, "clips": 1},
    },
)
RUNTIME = Runtime(checkpoint_every=2)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    manifest = str(write_recordings(tmp_path_factory.mktemp("recordings")))
    return parse(Config, {**TREE, "data": {"train": manifest, "val": manifest}}, "test")


@pytest.fixture(scope="module")
def store(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_store(config, tmp_path_factory.mktemp("encoded"))


@pytest.fixture(scope="module")
def calm(config: Config, store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of an undisturbed training."""
    out = tmp_path_factory.mktemp("calm")
    assert train(config, out, store, runtime=RUNTIME).state == "done"
    return outcome(out)


@pytest.fixture
def go(config: Config, store: Path) -> Callable[..., TrainResult]:
    """Train in a folder, with what is given as the harness."""

    def run(out: Path, **harness: Any) -> TrainResult:
        return train(config, out, store, runtime=RUNTIME, harness=Harness(**harness))

    return run


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    faults.arm([])


def outcome(out: Path) -> dict[str, Any]:
    """Return what must not depend on what happened on the way."""
    last = checkpoint.folder_of(out / "checkpoints", STEPS)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in last.iterdir()}
    records = [{k: v for k, v in record.items() if k != "time"} for record in History(out)]
    return {**files, "records": records, "scores": (out / "scores" / "default.parquet").read_bytes()}


def half_way(out: Path, go: Callable[..., TrainResult], step: int = 5) -> None:
    """Leave a training at a step, with two checkpoints."""
    history = History(out)
    result = go(out, halt=lambda: Halt("asked") if (out / f"checkpoints/step-{step - 1:08d}").exists() else None)
    assert (result.state, list(history)[-1]["step"] <= step) == ("interrupted", True)


def test_a_checkpoint_that_a_dead_attempt_left_in_the_making_goes_when_the_next_begins(
    go: Callable[..., TrainResult], tmp_path: Path
) -> None:
    half_way(tmp_path, go)
    left = tmp_path / "checkpoints" / ".staged-dead"
    left.mkdir()
    (left / "tensors.safetensors").write_bytes(b"half of them")
    saved = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert go(tmp_path, halt=lambda: Halt("at once", 0.0)).state == "interrupted"  # without saving and pruning
    assert not left.exists()
    assert set(saved) <= set((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("call", range(1, 13))
def test_a_training_halts_wherever_it_is_asked_saves_and_goes_on_bit_for_bit(
    go: Callable[..., TrainResult], calm: dict[str, Any], tmp_path: Path, call: int
) -> None:
    asked = []

    def halt() -> Halt | None:
        asked.append(1)
        return Halt("told to") if len(asked) >= call else None

    result = go(tmp_path, halt=halt)
    assert result.state == "interrupted"
    assert len(asked) == call  # it ends at once: at the end of a step, or between two steps of sampling
    status = read_status(tmp_path)
    assert status is not None
    assert status.reason.startswith("told to at step")
    saved = [checkpoint.step_of(path) for path in (tmp_path / "checkpoints").glob("step-*")]
    # A halt in the last validation goes back to the checkpoint before: a save there would count as the end.
    assert max(saved, default=0) >= result.step - (2 if result.step == STEPS else 0)
    assert go(tmp_path).state == "done"
    assert outcome(tmp_path) == calm


def test_a_save_that_does_not_fit_into_the_notice_is_not_begun(
    go: Callable[..., TrainResult], calm: dict[str, Any], tmp_path: Path
) -> None:
    def halt() -> Halt | None:
        reached = (tmp_path / "checkpoints" / "step-00000002").exists() and (read_status(tmp_path) or 0)
        return Halt("preempted", time.monotonic() - 1) if reached and reached.step >= 2 else None

    result = go(tmp_path, halt=halt)
    assert result.state == "interrupted"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert go(tmp_path).state == "done"
    assert outcome(tmp_path) == calm


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    go: Callable[..., TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SagaModule.training_step

    def poisoned(self: SagaModule, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = original(self, batch, batch_idx)
        if self.trainer.global_step == 4:  # the loss stays finite, the slope at this root is not
            weight = next(iter(self.model.parameters()))
            loss = loss + (weight - weight.detach()).square().sum().sqrt()
        return loss

    monkeypatch.setattr(SagaModule, "training_step", poisoned)
    result = go(tmp_path)
    assert result.state == "failed"
    assert "not finite at step 5" in result.reason
    state = checkpoint.load(checkpoint.folder_of(tmp_path / "checkpoints", 4))
    assert all(weight.isfinite().all() for weight in state["state_dict"].values())
    assert not list((tmp_path / "scores").glob("default*"))  # nothing that looks like a result


def test_a_batch_taken_in_parts_gives_the_gradient_of_the_whole(config: Config, store: Path) -> None:
    from sagasr.training.module import initial_module

    batch = Draws(Store.open(store), config).at(0)
    assert [part.high.shape[0] for part in parts_of(batch, 2)] == [2, 1]
    assert torch.equal(torch.cat([part.noise for part in parts_of(batch, 2)]), batch.noise)
    gradients = []
    for parts in (1, 2, 3):
        module = initial_module(config, Store.open(store), parts)
        loss = module.training_step(batch, 0)
        loss.backward()
        gradients.append([float(loss.detach()), *(w.grad.clone() for w in module.parameters() if w.grad is not None)])
    for other in gradients[1:]:
        assert other[0] == pytest.approx(gradients[0][0], rel=1e-5)
        for one, two in zip(gradients[0][1:], other[1:], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_checkpoint_cut_short_is_passed_over_and_told(
    go: Callable[..., TrainResult], calm: dict[str, Any], tmp_path: Path, share: float
) -> None:
    half_way(tmp_path, go)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    tensors = newest / checkpoint.TENSORS
    content = tensors.read_bytes()
    tensors.write_bytes(content[: int(share * len(content))])
    assert go(tmp_path).state == "done"
    assert outcome(tmp_path) == calm
    status = read_status(tmp_path)
    assert status is not None
    assert f"{newest.name}: {checkpoint.TENSORS} does not match its hash" in status.note


def test_one_flipped_bit_in_the_tensors_is_found(
    go: Callable[..., TrainResult], calm: dict[str, Any], tmp_path: Path
) -> None:
    half_way(tmp_path, go)
    tensors = sorted((tmp_path / "checkpoints").glob("step-*"))[-1] / checkpoint.TENSORS
    content = bytearray(tensors.read_bytes())
    content[-100] ^= 4
    tensors.write_bytes(content)
    assert go(tmp_path).state == "done"
    assert outcome(tmp_path) == calm


def test_with_every_checkpoint_damaged_a_training_stops_with_a_report(
    go: Callable[..., TrainResult], tmp_path: Path
) -> None:
    half_way(tmp_path, go)
    for tensors in (tmp_path / "checkpoints").glob(f"*/{checkpoint.TENSORS}"):
        tensors.write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable checkpoint.*remove this folder to train the trial anew"):
        go(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@as_root
def test_a_full_disk_leaves_the_previous_checkpoint_and_says_what_is_needed(
    go: Callable[..., TrainResult], calm: dict[str, Any], small_disk: Path
) -> None:
    out = small_disk / "trial"
    half_way(out, go)
    before = sorted(path.name for path in (out / "checkpoints").iterdir())
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 300_000))
    with pytest.raises(StorageError, match=r"no space left on the disk.*MB needed, 0 MB free.*previous.*intact"):
        go(out)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == before
    assert checkpoint.newest(out / "checkpoints") == out / "checkpoints" / before[-1]
    filler.unlink()
    assert go(out).state == "done"
    assert outcome(out) == calm


@as_root
def test_a_disk_that_turns_read_only_ends_the_attempt_and_costs_nothing_else(
    go: Callable[..., TrainResult], calm: dict[str, Any], small_disk: Path
) -> None:
    out = small_disk / "trial"
    half_way(out, go)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError, match="read-only"):
        go(out)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert go(out).state == "done"
    assert outcome(out) == calm


@pytest.mark.parametrize("point", ["checkpoint.tensors", "checkpoint.commit", "history.append", "file.written"])
def test_a_disk_fault_in_the_middle_of_a_write_leaves_what_was(
    go: Callable[..., TrainResult], calm: dict[str, Any], tmp_path: Path, point: str
) -> None:
    half_way(tmp_path, go)
    faults.arm([{"point": point, "visit": 1, "do": "enospc"}])
    with pytest.raises((StorageError, OSError)):
        go(tmp_path)
    faults.arm([])
    assert go(tmp_path).state == "done"
    assert outcome(tmp_path) == calm
    assert not [path for path in tmp_path.rglob(".*") if path.name.startswith((".tmp-", ".staged-"))]


def test_no_temporary_folder_of_the_system_is_needed(
    go: Callable[..., TrainResult], calm: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    assert go(tmp_path / "trial").state == "done"
    assert outcome(tmp_path / "trial") == calm


def test_a_clock_that_jumps_makes_no_negative_times_and_no_other_order(
    go: Callable[..., TrainResult], calm: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter([0.0, 86_400.0, -86_400.0] * 1_000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    half_way(tmp_path, go)
    assert go(tmp_path).state == "done"
    status = read_status(tmp_path)
    assert status is not None
    assert 0 < status.wall_seconds < 300
    assert outcome(tmp_path) == calm


def test_a_zombie_that_wakes_after_its_replacement_changes_nothing(
    config: Config, store: Path, calm: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / ".worker.lease"
    zombie = os.fork()
    if zombie == 0:
        try:
            faults.arm([{"point": "checkpoint.tensors", "visit": 2, "do": "freeze"}])
            with lease.held(path) as held:
                train(config, tmp_path, store, runtime=RUNTIME, harness=Harness(fence=held.check))
        finally:
            os._exit(3)
    _, status = os.waitpid(zombie, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    # A replacement on another machine, which cannot end it, and so could only wait for its silence.
    write_json(path, lease.me().model_copy(update={"host": "far"}).model_dump())
    assert train(config, tmp_path, store, runtime=RUNTIME).state == "done"
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    os.kill(zombie, signal.SIGCONT)
    _, status = os.waitpid(zombie, 0)
    assert os.WEXITSTATUS(status) == 3
    after = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert after == before
    assert outcome(tmp_path) == calm


@pytest.mark.slow
def test_the_command_saves_at_the_first_signal_and_has_one_writer(config: Config, tmp_path: Path) -> None:
    from sagasr.io.files import dump_yaml

    path, out = tmp_path / "config.yaml", tmp_path / "out"
    longer = {**config.model_dump(mode="json"), "training": {**TREE["training"], "steps": 5_000}}
    longer["validation"] = {**TREE["validation"], "every": 5_000}
    path.write_text(dump_yaml(longer))
    command = [sys.executable, "-c", "import sys; from sagasr.cli.train import train; sys.exit(train())", str(path)]
    training = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    try:
        while not ((status := read_status(out) if out.exists() else None) and status.step > 3):
            assert training.poll() is None
            time.sleep(0.1)
        with pytest.raises(DataError, match=f"process {training.pid}"):
            lease.acquire(out / ".worker.lease")
        training.terminate()
        assert training.communicate(timeout=30)[1] == (
            "interrupted; the same command again goes on from the last checkpoint\n"
        )
    finally:
        training.kill()
    assert training.returncode == 130
    status = read_status(out)
    assert status is not None
    assert status.reason == f"interrupted at step {status.step}; saved at step {status.step}"


def test_a_signal_interrupts_encoding_at_once_and_a_second_one_in_training_everything(
    config: Config, tmp_path: Path
) -> None:
    write_text(tmp_path / "config.yaml", dump_yaml(config.model_dump(mode="json")))
    out = tmp_path / "run"
    command = [sys.executable, "-c", "import sys; from sagasr.cli.train import train; sys.exit(train())"]
    command += [str(tmp_path / "config.yaml"), "--out", str(out)]

    def interrupted_at(*points: str) -> None:
        schedule = json.dumps([{"point": point, "do": "terminate"} for point in points])
        ended = subprocess.run(command, env={**os.environ, faults.VARIABLE: schedule}, capture_output=True, text=True)
        assert ended.returncode == 130, ended.stderr
        assert "Traceback" not in ended.stderr

    interrupted_at("encode.shard")
    assert not (out / "status.json").exists()  # no training began
    interrupted_at("train.step", "checkpoint.tensors")  # the first makes it save, the second comes meanwhile
    assert (out / "status.json").exists()
    assert checkpoint.newest(out / "checkpoints") is None
