"""Trainings on a GPU: compiled, interrupted, short of memory, one after the other, sharded; and waiting for it."""

import contextlib
import gc
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sagasr.io.errors import SagasrError
from sagasr.io.signals import Halt
from sagasr.model.saga import SagaModel
from sagasr.published.stable_audio import compile_layers
from sagasr.training import checkpoint
from sagasr.training.trial_log import History, read_status
from tests.gpu.sharded import alone
from tests.gpu.subjects import config_of, losses_of, module_of, trained

ROOT = Path(__file__).parents[2]
MEBIBYTE = 2**20
PROFILED = 4  # steps
# In a step the CPU looks at two numbers of the GPU: whether the gradient is finite, and the loss. One more to spare.
WAITS = 3


def test_compiled_steps_are_compiled_and_have_the_loss_of_eager_ones(device: str) -> None:
    config = config_of("small", device, **{"training.precision": "bf16-mixed"})
    steps = 30 if device == "cuda" else 3
    eager, compiled = module_of(config, device), module_of(config, device)
    torch._dynamo.utils.counters.clear()
    compile_layers(compiled.model.transformer, "inductor" if device == "cuda" else "eager")
    losses = losses_of(compiled, steps)
    found = torch._dynamo.utils.counters
    assert found["stats"]["unique_graphs"] > 0
    assert found["frames"]["ok"] == found["frames"]["total"]  # none was given up in silence
    assert losses == pytest.approx(losses_of(eager, steps), rel=1e-2)


def test_an_interrupted_training_goes_on_to_where_it_would_have_come(device: str, tmp_path: Path) -> None:
    config = config_of("tiny", device, **{"training.steps": 6, "training.learning_rate": 1e-4, "validation.every": 3})
    assert trained(config, device, tmp_path / "calm").state == "done"
    asked = iter([None] * 6)  # within the first validation, too
    halted = trained(config, device, tmp_path / "again", halt=lambda: next(asked, Halt("asked")))
    assert halted.state == "interrupted"
    assert 0 < halted.step < 6
    assert trained(config, device, tmp_path / "again").state == "done"
    assert read_status(tmp_path / "again").resumed == halted.step  # type: ignore[union-attr]
    for mine, expected in zip(*(list(History(tmp_path / out)) for out in ("again", "calm")), strict=True):
        assert mine["step"] == expected["step"]
        names = mine["metrics"].keys() & (mine["metrics"] if device == "cpu" else {"train/loss", "val/loss", "val/lsd"})
        found = [[it["metrics"][name] for name in sorted(names)] for it in (mine, expected)]
        assert found[0] == pytest.approx(found[1], rel=0 if device == "cpu" else 1e-3)
    mine, expected = (weights_of(tmp_path / out) for out in ("again", "calm"))
    assert (mine - expected).norm() <= (0 if device == "cpu" else 1e-4) * expected.norm()


def test_a_shortage_of_memory_is_told_as_one_and_a_batch_in_four_parts_needs_less(device: str, tmp_path: Path) -> None:
    retries = pytest.importorskip("orchestrator.run.retries")
    config = config_of("small", device, **{"training.steps": 2, "training.batch_size": 64 if device == "cuda" else 4})
    peaks = {parts: peak_of(config, device, tmp_path / f"{parts}-parts", parts) for parts in (1, 4)}
    if device == "cpu":
        assert retries.kind_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")) == "memory"
        return
    assert peaks[4] < 0.7 * peaks[1]
    with only(sum(peaks.values()) / 2):
        assert retries.kind_of(error_of(config, device, tmp_path / "short")) == "memory"
        gc.collect()
        torch.cuda.empty_cache()
        assert trained(config, device, tmp_path / "short", micro_batches=4).state == "done"


def test_a_training_leaves_no_memory_in_use(device: str, tmp_path: Path) -> None:
    config = config_of("small", device, **{"training.steps": 2})
    before = left_in_use(device)
    for name in ("first", "second"):
        assert trained(config, device, tmp_path / name).state == "done"
        models, used = left_in_use(device)
        assert models <= before[0]
        assert used - before[1] < 50 * MEBIBYTE


@pytest.mark.slow
def test_a_sharded_training_saves_and_goes_on(device: str, scratch: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu.sharded", device, str(scratch), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=alone(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3_000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["states"] == ["interrupted", "done"]
    assert told["resumed"] == 2
    assert told["save"] <= 4.5  # weights, average and two moments, were all of them gathered at once


def test_a_step_waits_for_the_gpu_no_more_often_than_is_meant(device: str, tmp_path: Path) -> None:
    config = config_of("small", device, **{"training.steps": PROFILED + 6, "training.precision": "bf16-mixed"})
    found = profiled(config, device, tmp_path)
    assert found["cudaStreamSynchronize"] <= WAITS * PROFILED
    assert found["cudaDeviceSynchronize"] <= 2  # the profiler's own
    assert found["aten::mm"] + found["aten::addmm"] > PROFILED  # steps were seen


def profiled(config: Any, device: str, out: Path) -> Counter[str]:
    """Return how often each operation ran in so many steps of a training, after two that warm it up."""
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    seen, steps = profile(activities=kinds), []

    def halt() -> None:
        if read_status(out).step == 0 and not list(History(out)):  # type: ignore[union-attr]
            return  # within the first validation
        steps.append(1)
        if len(steps) == 4:
            seen.start()
        elif len(steps) == 4 + PROFILED:
            seen.stop()

    assert trained(config, device, out, halt=halt).state == "done"
    return Counter({event.key: event.count for event in seen.key_averages()})


def peak_of(config: Any, device: str, out: Path, parts: int) -> int:
    """Return the most bytes of the GPU that a training took at once, with its batch in so many parts; 0 on a CPU."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    assert trained(config, device, out, micro_batches=parts).state == "done"
    return torch.cuda.max_memory_reserved() if device == "cuda" else 0


@contextlib.contextmanager
def only(size: float) -> Iterator[None]:
    """Inside, the process has but so many bytes of the GPU."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def error_of(config: Any, device: str, out: Path) -> BaseException:
    """Return what a training raised, without the frames that would keep its memory."""
    try:
        ended = trained(config, device, out)
    except (RuntimeError, SagasrError) as error:
        return error.with_traceback(None)
    raise AssertionError(f"there was enough memory: {ended}")


def left_in_use(device: str) -> tuple[int, int]:
    """Return how many models this process holds, and the bytes in use on its GPU."""
    gc.collect()
    if device == "cuda":
        torch._C._cuda_clearCublasWorkspaces()  # held by the process, not by a training
    models = sum(type(it) is SagaModel for it in gc.get_objects())  # a dead proxy has no instance to ask for
    return models, torch.cuda.memory_allocated() if device == "cuda" else 0


def weights_of(out: Path) -> torch.Tensor:
    """Return the weights of the last checkpoint, in one row."""
    newest = checkpoint.newest(out / "checkpoints")
    assert newest is not None
    return torch.cat([it.flatten() for _, it in sorted(checkpoint.load(newest)["state_dict"].items())])
