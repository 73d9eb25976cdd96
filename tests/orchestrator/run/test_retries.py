"""How often a trial is started again, when it counts as frozen, and what its driver tells the scheduler. No Ray."""

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.run import watchdog as guard
from orchestrator.run.driver import Beats, validations, why_ended
from orchestrator.run.lanes import Ended, Failed, Need
from orchestrator.run.ray_internals import trainer
from orchestrator.run.retries import WAITS_S, BrokenGpu, Kind, Problem, Retries, kind_of
from orchestrator.run.worker import Task, train_trial
from orchestrator.sweep_folder import trial_marks
from orchestrator.sweep_folder.paths import SweptTrial
from sagasr.config.parsing import parse
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config, Evaluation
from sagasr.io.errors import DataError, SagasrError, StorageError
from sagasr.io.files import write_json
from sagasr.io.lease import Lost, me
from sagasr.training import train as training
from sagasr.training.harness import TrainResult
from sagasr.training.trial_log import History, Status, write_status
from tests.processes import forked

LOST = Problem("lost", "its process or node was lost")
BUG = Problem("bug", "ZeroDivisionError: division by zero")


def test_a_lost_process_is_started_again_a_few_times_each_later_than_the_last() -> None:
    retries = Retries(rows=4)
    assert [retries.after(LOST, step=-1) for _ in range(4)] == [*WAITS_S, None]
    assert retries.reason == "its process or node was lost (4 times without a new checkpoint)"


def test_as_long_as_checkpoints_advance_there_is_no_limit() -> None:
    retries = Retries(rows=4)
    assert {retries.after(LOST, step) for step in range(0, 1_000, 10)} == {WAITS_S[0]}


def test_the_same_exception_again_is_a_bug_and_ends_the_trial() -> None:
    retries = Retries(rows=4)
    assert retries.after(BUG, 10) == WAITS_S[0]
    assert retries.after(BUG, 10) is None
    assert retries.reason == BUG.reason


def test_unusable_input_is_not_tried_again() -> None:
    assert Retries(rows=4).after(Problem("input", "clip.flac: broken"), 0) is None


def test_out_of_memory_halves_what_is_taken_at_once_until_it_is_one_row() -> None:
    retries, memory = Retries(rows=10), Problem("memory", "OutOfMemoryError: CUDA out of memory")
    parts = []
    while retries.after(memory, -1) == WAITS_S[0]:
        parts.append(retries.micro_batches)
    assert parts == [2, 4, 8, 10]
    assert "OutOfMemoryError: CUDA out of memory; a batch was taken one row at a time (10 parts)" in retries.reason
    assert "gpus_per_worker" in retries.reason


def test_out_of_memory_goes_on_from_the_parts_that_were_needed_before() -> None:
    retries, memory = Retries(rows=16, micro_batches=4), Problem("memory", "CUDA out of memory")
    assert retries.after(memory, 100) == WAITS_S[0]
    assert retries.micro_batches == 8


@pytest.mark.parametrize(
    ("problem", "waits"),
    [(LOST, list(WAITS_S)), (BUG, [WAITS_S[0]]), (Problem("gpu", "GPU 0 of a is broken"), [WAITS_S[0]])],
)
@pytest.mark.parametrize("step", [-1, 100])
def test_starts_for_want_of_memory_use_up_none_of_the_others(problem: Problem, waits: list[float], step: int) -> None:
    retries, memory = Retries(rows=16), Problem("memory", "CUDA out of memory")
    for _ in range(3):
        retries.after(memory, step)
    assert retries.micro_batches == 8
    assert [retries.after(problem, step) for _ in range(len(waits) + 1)] == [*waits, None]


def test_out_of_memory_with_a_batch_of_one_row_ends_at_once() -> None:
    retries = Retries(rows=1)
    assert retries.after(Problem("memory", "CUDA out of memory"), -1) is None
    assert "parts" not in retries.reason


def test_a_broken_gpu_gets_one_start_on_another_and_the_same_there_is_the_trainings_own_fault() -> None:
    retries = Retries(rows=4)
    assert retries.after(Problem("gpu", "GPU 0 of a is broken"), 10) == WAITS_S[0]
    assert retries.after(Problem("gpu", "GPU 1 of a is broken"), 10) is None
    assert retries.reason == "GPU 1 of a is broken"
    advanced = Retries(rows=4)
    assert advanced.after(Problem("gpu", "GPU 0 of a is broken"), 10) == WAITS_S[0]
    assert advanced.after(Problem("gpu", "GPU 1 of a is broken"), 20) == WAITS_S[0]


ASYNC = "\nCUDA kernel errors might be asynchronously reported at some other API call"
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:104, "
# As they occur. CUDA's words are those of libcudart 13, NCCL's of libnccl 2, both as torch 2.14 passes them on.
MESSAGES: list[tuple[Kind, str]] = [
    # c10/cuda/CUDACachingAllocator.cpp
    ("memory", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 22.03 GiB of which 1"),
    ("memory", "CUDA out of memory. Allocation was preemptively rejected because it would exceed "
               "per_process_memory_fraction limit. Requested size: 2.00 GiB"),
    # c10/cuda/CUDAException.cpp: the text of cudaGetErrorString
    ("memory", "CUDA error: out of memory" + ASYNC),
    # aten/src/ATen/cuda/Exceptions.h and CUDABlas.cpp
    ("memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("memory", "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ("memory", "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    ("memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ("memory", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ("memory", "cuFFT error: CUFFT_ALLOC_FAILED"),
    # aten/src/ATen/native/cudnn/Conv_v8.cpp and ConvShared.cpp
    ("memory", "GET was unable to find an engine to execute this computation"),
    ("memory", "FIND was unable to find an engine to execute this computation"),
    ("memory", "Unable to find a valid cuDNN algorithm to run convolution"),
    # c10/core/impl/alloc_cpu.cpp, and the kernel's word for ENOMEM
    ("memory", "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    ("memory", "[Errno 12] Cannot allocate memory"),
    # NCCL, which quotes CUDA last
    ("memory", NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9\n"
               "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"),
    # cudaGetErrorString of 214, 220, 226, 719, 46, 100, 999
    ("gpu", "CUDA error: uncorrectable ECC error encountered" + ASYNC),
    ("gpu", "CUDA error: uncorrectable NVLink error detected during the execution" + ASYNC),
    ("gpu", "CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error" + ASYNC),
    ("gpu", "CUDA error: unspecified launch failure" + ASYNC),
    ("gpu", "CUDA error: CUDA-capable device(s) is/are busy or unavailable" + ASYNC),
    ("gpu", "CUDA error: no CUDA-capable device is detected" + ASYNC),
    ("gpu", "CUDA error: unknown error" + ASYNC),
    ("gpu", NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9\n"
            "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
            "Cuda failure 214 'uncorrectable ECC error encountered'"),
    # c10/cuda/CUDAFunctions.cpp
    ("gpu", "No CUDA GPUs are available"),
    ("gpu", "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
            "NumCudaDevices() that might have already set an error? Error 802: system not yet initialized"),
    # lightning.pytorch: no GPU answers where one was promised
    ("gpu", "No supported gpu backend found!"),
    # nvmlErrorString of NVML_ERROR_GPU_IS_LOST, and Xid 79 of the driver
    ("gpu", "GPU is lost"),
    ("gpu", "NVRM: Xid (PCI:0000:41:00): 79, pid=12345, GPU has fallen off the bus."),
    # torch/csrc/distributed/c10d: NCCLUtils, ProcessGroupNCCL, socket, TCPStore, Utils
    ("lost", "NCCL communicator was aborted on rank 0."),
    ("lost", NCCL + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9\n"
             "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. "),
    ("lost", NCCL + "remote process exited or there was a network error, NCCL version 2.28.9\n"
             "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."),
    ("lost", "[PG ID 0 PG GUID 0(default_pg) Rank 1] Watchdog caught collective operation timeout: WorkNCCL("
             "SeqNum=808, OpType=ALLREDUCE, NumelIn=9801523, NumelOut=9801523, Timeout(ms)=1800000) ran for "
             "1800020 milliseconds before timing out."),
    ("lost", "NCCL timeout when waiting for nonblocking call to become successful."),
    ("lost", "The client socket has timed out after 300000ms while trying to connect to (10.0.0.7, 29501)."),
    ("lost", "wait timeout after 1000ms, keys: /default_pg/0//worker_count"),
    ("lost", "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?"),
    ("lost", "Timed out after 301 seconds waiting for clients. 1/2 clients joined."),
    # third_party/gloo/gloo/transport/tcp
    ("lost", "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:30390: "
             "Connection reset by peer"),
    ("lost", "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:11526"),
    ("lost", "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Write error [127.0.0.1]:4222: Broken pipe"),
    ("lost", "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv "
             "operation to complete"),
    ("lost", "Gloo connectFullMesh failed with [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:144] no error"),
    # faults of a program: cudaGetErrorString of 710, 700, 716, 715, 98, 101
    ("bug", "CUDA error: device-side assert triggered" + ASYNC),
    ("bug", "CUDA error: an illegal memory access was encountered" + ASYNC),
    ("bug", "CUDA error: misaligned address" + ASYNC),
    ("bug", "CUDA error: an illegal instruction was encountered" + ASYNC),
    ("bug", "CUDA error: invalid device function" + ASYNC),
    ("bug", "CUDA error: invalid device ordinal" + ASYNC),
    ("bug", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    ("bug", "cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    ("bug", NCCL + "invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.28.9\nncclInvalidUsage: This "
            "usually reflects invalid usage of NCCL library.\nLast error:\n"
            "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 4000"),
    ("bug", "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    ("bug", "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "message"), MESSAGES)
def test_messages_of_gpus_and_networks_are_told_apart(kind: Kind, message: str) -> None:
    assert kind_of(RuntimeError(message)) == kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StorageError("disk: no space left"), "storage"),
        (DataError("clip: broken"), "input"),
        (SagasrError("one clip of 5.9 s does not fit: CUDA out of memory"), "input"),  # it was tried with less already
        (Lost("taken over"), "lost"),
        (guard.Preempted("told to end"), "lost"),
        (MemoryError(), "memory"),
        (BrokenGpu("GPU 0 of a is broken"), "gpu"),
        (RuntimeError("shapes differ"), "bug"),
    ],
)
def test_exceptions_are_told_apart(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def peer_dies(folder: Path) -> None:
    """Compute with another process, which is killed; write which kind of problem that is."""
    rank = int(os.fork() == 0)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        for step in range(10_000):
            if (rank, step) == (1, 50):
                os.kill(os.getpid(), signal.SIGKILL)
            torch.distributed.all_reduce(torch.ones(1_000))
    except RuntimeError as error:
        (folder / "kind").write_text(kind_of(error))


def test_a_worker_whose_peer_was_killed_has_not_met_a_bug(tmp_path: Path) -> None:
    assert forked(lambda: peer_dies(tmp_path)) == 0
    assert (tmp_path / "kind").read_text() == "lost"


def test_of_several_workers_the_cause_is_told_not_what_followed_from_it(tmp_path: Path) -> None:
    from ray.exceptions import ActorDiedError
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    gone = WorkerHealthCheckFailedError("a worker failed its health check", ActorDiedError())
    cut = RuntimeError("[pair.cc:545] Read error [127.0.0.1]:30390: Connection reset by peer.")

    def told(*failures: Exception) -> Problem:
        return why_ended(Ended(WorkerGroupError("", dict(enumerate(failures))), []), tmp_path)

    assert told(cut, gone).kind == "lost"
    assert "process or node was lost" in told(cut, gone).reason
    assert told(cut).kind == "lost"
    assert told(cut, MemoryError()).kind == "memory"
    assert told(RuntimeError("collective failed"), MemoryError()).kind == "memory"
    assert told(gone, cut, BrokenGpu("GPU 0 of a is broken")) == Problem("gpu", "GPU 0 of a is broken")
    assert told(gone, ZeroDivisionError("division by zero")) == BUG
    cause = Problem("gpu", "GPU 0 of a is broken")  # as the worker has told the exchange, before it raised
    run = WorkerGroupError("", {0: Failed(cause.reason), 1: gone})
    assert why_ended(Ended(run, [Problem("lost", "connection reset"), cause]), tmp_path) == cause
    assert why_ended(Ended(ActorDiedError(), []), tmp_path).kind == "lost"


@pytest.mark.parametrize(("hang_s", "at_least"), [(600.0, 1_800), (7_200.0, 14_400)])
def test_workers_wait_for_one_that_validates_longer_than_it_may_be_silent(hang_s: float, at_least: int) -> None:
    need = Need.of(Runtime(workers=2, hang_seconds=hang_s))
    _, settings = trainer(need.workers, need.peers_wait_s)
    assert settings["torch_config"].timeout_s == at_least > hang_s


def test_a_status_that_stands_still_is_frozen_whatever_the_clocks_say(tmp_path: Path) -> None:
    now = [0.0]
    beats = Beats(60.0, clock=lambda: now[0])
    status = Status(state="running", updated=1e9, beat=1)

    def after(seconds: float, **changes: object) -> bool:
        now[0] += seconds
        write_status(tmp_path, status.model_copy(update=changes))
        return beats.frozen(tmp_path)

    assert not after(0)
    assert not after(59)
    assert not after(59, beat=2, updated=0.0)  # it moved, though its clock went back thirty years
    assert not after(59, beat=2)
    assert after(2, beat=2)
    assert not after(1, beat=2)  # told once, then given time again
    assert not after(600, beat=2, state="waiting")  # who waits for a turn does not hang
    assert not after(0, beat=3)
    beats.begin(tmp_path, attempt=2)
    assert not after(600, beat=3)  # left by the attempt before, while the next one waits for its turn
    write_json(SweptTrial(tmp_path).lease, me().model_dump())
    assert not after(0, beat=3)
    assert not after(300, beat=3)  # it has its turn, and starts
    assert after(61, beat=3)
    assert not after(600, beat=4, attempt=2)
    assert after(61, beat=4, attempt=2)


def test_a_validation_without_a_value_is_infinitely_bad_never_equal_or_best(tmp_path: Path, config: Config) -> None:
    history = History(tmp_path)
    history.append(10, {"val/lsd": 1.5}, variant="v")
    history.append(20, {"val/lsd": math.nan, "val/si_sdr": 3.0}, variant="v")
    task = Task(
        trial="t", folder=str(tmp_path), scratch="", store="", sweep="", launch="", config=config,
        variants={"v": Evaluation()}, runtime=Runtime(),
    )  # fmt: skip
    assert list(validations(task, after=-1)) == [(10, 1.5), (20, math.inf)]
    larger = task.model_copy(update={"metric": "val/si_sdr", "maximise": True})
    assert list(validations(larger, after=-1)) == [(10, math.inf), (20, -3.0)]  # the smaller, the better, as ever


@pytest.fixture
def config() -> Config:
    return parse(Config, {"data": {"train": "m.csv", "val": "m.csv"}, "codec": {"kind": "wavelet"}}, "test")


def test_the_newest_committed_checkpoint_counts_as_progress(tmp_path: Path) -> None:
    assert trial_marks.committed_step(tmp_path) == -1
    for step in (100, 200):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000100" / "manifest.json").write_text("{}")
    assert trial_marks.committed_step(tmp_path) == 100  # the other has no manifest, so it does not exist


def test_a_guard_hears_of_a_halt_by_the_launch_file(tmp_path: Path) -> None:
    launch = tmp_path / ".launch"
    launch.write_text("one")
    watch = guard.Guard(tmp_path, launch, "one", hang_s=60, notice_s=5)
    assert watch.wanted() is None
    guard.ask_to_halt(launch, "one")
    watch.look()
    watch.close()
    assert watch.wanted() == ("interrupted", None)


def test_a_stop_that_was_decided_is_kept_with_its_reason(tmp_path: Path) -> None:
    assert trial_marks.stop_reason(tmp_path) is None
    trial_marks.mark_stopped(tmp_path, "asha: behind the others at step 30", 30)
    assert trial_marks.stop_reason(tmp_path) == "asha: behind the others at step 30"
    assert json.loads(SweptTrial(tmp_path).stopped.read_text())["step"] == 30


def silent(task: Task, rank: int) -> None:
    """Train in this process, without a sign of life after the first."""

    def train(config: Config, out: Path, store: Path, variants: Any, runtime: Runtime, harness: Any) -> TrainResult:
        harness.pulse()
        time.sleep(10 * runtime.hang_seconds)
        return TrainResult("done", "", 0)

    training.train = train  # type: ignore[assignment]
    train_trial({"task": task.model_dump_json(), "attempt": 1, "micro_batches": 1}, rank)


def test_only_the_first_worker_hangs_when_it_is_silent_as_the_others_wait_for_it(
    tmp_path: Path, config: Config
) -> None:
    (tmp_path / "launch").write_text("one")
    task = Task(
        trial="t", folder=str(tmp_path / "t"), scratch="", store="", sweep=str(tmp_path / "launch"), launch="one",
        config=config, variants={"v": Evaluation()}, runtime=Runtime(hang_seconds=0.2),
    )  # fmt: skip
    assert forked(lambda: silent(task, 1)) == 0
    assert trial_marks.hang_reason(tmp_path / "t") is None
    assert forked(lambda: silent(task, 0)) == 1
    assert trial_marks.hang_reason(tmp_path / "t") == trial_marks.hang_of(0.2)
