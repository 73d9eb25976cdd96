"""Runs the trainer in a trial's folder, with that folder's log, lease and watchdog: what the workers of a lane do."""

import contextlib
import faulthandler
import functools
import gc
import json
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from orchestrator.run.broken_gpus import Gpu
from orchestrator.run.nodes import unseen
from orchestrator.run.retries import BrokenGpu, Problem, kind_of, one_line, problem_of
from orchestrator.run.same_code import Code, check_same, code_here
from orchestrator.run.watchdog import Guard, Preempted, only_writer
from orchestrator.storage.folder import SweepFolder
from orchestrator.storage.mirror import mirrored, send_store, shared_store
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config, Evaluation, Text
from sagasr.config.strict import Strict
from sagasr.io.errors import ConfigError, DataError, SagasrError
from sagasr.io.trial_folder import TrialFolder
from sagasr.model.counts import CONTEXT

METRIC, TIME = "loss", "step"  # what Tune is told after a validation: the smaller the better, and where
TAKEOVER_S = 60.0  # how long a new worker waits for the one it replaces to be gone
Parameters = Mapping[str, Any]  # task (JSON), attempt, micro_batches


def point_of(levels: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Return the point of the search space that a trial is: its configuration, as Tune shows it."""
    return {**levels, "seed": seed}


def point_key(point: Mapping[str, Any]) -> str:
    """Return a point as one text."""
    return json.dumps(point, sort_keys=True)


class Task(Strict):
    """All that a trial needs to run, on any node that reaches the storage."""

    trial: str
    uri: str = ""  # where the sweep is kept, if not in a folder that every node reaches
    folder: str
    scratch: str  # where Ray Train may keep what it insists on keeping
    store: str
    sweep: str  # a file that holds ``launch`` for as long as this sweep is the one that counts
    launch: str
    config: Config
    variants: dict[str, Evaluation]
    runtime: Runtime
    metric: str = "val/lsd"  # the metric by which a search ranks trials
    maximise: bool = False
    grace: int = 3
    margin: float = 0.5
    patience: int = 3
    code: Code | None = None  # what the sweep runs, and every worker must

    @property
    def sweep_folder(self) -> SweepFolder:
        """The folder of the sweep, on the machine of the trial's driver."""
        return SweepFolder(Path(self.folder).parents[1], self.uri)


def train_in_thread(parameters: Parameters, rank: int = 0) -> Problem | None:
    """Train a trial as one worker; return what went wrong. The exception stays here, where its type is known."""
    problems: list[Problem] = []

    def work() -> None:
        try:
            train_trial(parameters, rank)
        except Exception as error:  # noqa: BLE001 - the driver decides what follows
            problems.append(problem_of(error))

    # In a thread of its own, this thread's signals and settings in torch are left as they are.
    thread = threading.Thread(target=work, name="training")
    thread.start()
    thread.join()
    forget()
    return problems[0] if problems else None


def train_trial(parameters: Parameters, rank: int = 0) -> None:
    """Train in the trial's folder; the first worker is the only process that writes there."""
    task = Task.model_validate_json(parameters["task"])
    if task.code:  # of a node that has joined since the sweep began, too, and of a process that started since
        check_same(task.code, [code_here()])
    if not task.uri:
        if not Path(task.sweep).exists():  # a node that has joined since the sweep looked at all nodes
            raise ConfigError(unseen(f"node {socket.gethostname()}", Path(task.sweep).parent))
        _work(task, parameters, rank)
        return
    with mirrored(task.uri, task.trial, rank) as (folder, launch):
        own = {"folder": str(folder), "sweep": str(launch), "store": str(shared_store(task.uri, Path(task.store)))}
        _work(task.model_copy(update=own), parameters, rank)


def _work(task: Task, parameters: Parameters, rank: int) -> None:
    folder, runtime = Path(task.folder), task.runtime
    folder.mkdir(parents=True, exist_ok=True)
    with logged_to(TrialFolder(folder).log(rank)):
        # The others wait in silence while the first validates alone. When one of them hangs, the first waits for it.
        hang_s = math.inf if rank else runtime.hang_seconds
        guard = Guard(folder, Path(task.sweep), task.launch, hang_s, runtime.notice_seconds)
        try:
            if guard.wanted() is None:
                with _fenced(task, rank) as fence:
                    _train(task, parameters, guard, fence)
            if guard.preempted:
                raise Preempted("the machine told its process to end")
        except SagasrError as error:
            sys.stderr.write(f"{error}\n")
            raise
        except Exception as error:  # noqa: BLE001 - raised again, with its GPU
            traceback.print_exc()
            raise _with_gpu(error) from None  # the log has it all
        finally:
            guard.close()


def _with_gpu(error: Exception) -> Exception:
    """Return the exception of a broken GPU as one that says which it is, and where."""
    gpu = Gpu.of_this_worker() if kind_of(error) == "gpu" else None
    return BrokenGpu(gpu.broken(one_line(error))) if gpu else error


@contextlib.contextmanager
def _fenced(task: Task, rank: int) -> Iterator[Callable[[], object]]:
    """Hold the trial's folder for the block, as the first worker; yields what raises once another process has it."""
    if rank:
        yield lambda: None
        return
    with only_writer(Path(task.folder), TAKEOVER_S) as lease:
        yield lease.check


def keep_to_share(runtime: Runtime) -> None:
    """Keep this process within its share of a GPU's memory, and of the cores while it compiles."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, int(runtime.cpus_per_worker))))
    if 0 < runtime.gpus_per_worker < 1:
        import torch

        if torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            torch.cuda.set_per_process_memory_fraction(fence_of(runtime.gpus_per_worker, memory))


def fence_of(share: float, memory: int) -> float:
    """Return the part of a GPU's ``memory`` (bytes) that tensors may take: a share, less what torch does not count."""
    return max(share - CONTEXT / memory, share / 2)


def _train(task: Task, parameters: Parameters, guard: Guard, fence: Callable[[], object]) -> None:
    keep_to_share(task.runtime)
    from sagasr.io.signals import Halt
    from sagasr.training.harness import FailureRule, Harness
    from sagasr.training.train import train

    runtime, config = task.runtime, task.config
    rule = FailureRule(
        task.margin, task.patience, min(1.0, task.grace * config.validation.every / config.training.steps)
    )
    accelerator = "gpu" if runtime.gpus_per_worker else "cpu"

    def halt() -> Halt | None:
        wanted = guard.wanted()
        return Halt(*wanted) if wanted else None

    harness = Harness(
        accelerator=accelerator,
        rule=rule,
        attempt=parameters["attempt"],
        halt=halt,
        fence=fence,
        pulse=guard.pulse,
        micro_batches=parameters.get("micro_batches", 1),
    )
    if runtime.workers > 1:
        from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

        from sagasr.training.module import ShardedStrategy

        class Sharded(ShardedStrategy, RayDDPStrategy):  # type: ignore[misc]
            """On the device that Ray gives the worker."""

        # Gradients live where they are summed over the workers: no second copy of them.
        strategy = Sharded() if runtime.sharded else RayDDPStrategy(gradient_as_bucket_view=True)
        ours = {"strategy": strategy, "environment": RayLightningEnvironment(), "devices": "auto"}
        harness = replace(harness, **ours)
    train(config, Path(task.folder), Path(task.store), task.variants, runtime, harness)


# ------------------------------------------------------------------------------------------------------------- encoding


def encode(config: str, root: str, uri: str = "", texts: Sequence[str] = ()) -> str:
    """Return the path of the encoded store of a configuration (JSON), encoding it if need be. Runs as a Ray task.

    ``texts``: the text settings (JSON) of all trainings on it, whose frozen encoders then need to read each text once.
    With the URI of a sweep the store is sent there too, for the other machines.
    """
    from sagasr.data.encode import encode_store
    from sagasr.data.store import Store
    from sagasr.data.texts import embed_texts

    store = encode_store(Config.model_validate_json(config), Path(root))
    for text in map(Text.model_validate_json, texts):
        with contextlib.suppress(DataError):  # the trainings that need this encoder say so, and the others run
            embed_texts(Store.open(store), text)
    if uri:
        send_store(uri, store)
    return str(store)


# ---------------------------------------------------------------------------------------------------------------- small


def forget() -> None:
    """Give back the memory of a training that has ended."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send all that this process prints, also from native code, to the end of a file for the block."""
    before, streams = (sys.stdout, sys.stderr), _streams()
    kept = [os.dup(number) for number in (1, 2)]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _flush(before)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    sys.stdout, sys.stderr = streams
    faulthandler.enable(sys.stderr)
    sys.stdout.write(
        f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {socket.gethostname()} {sys.executable}\n"
    )
    try:
        yield
    finally:
        _flush(streams)
        sys.stdout, sys.stderr = before
        for number, original in zip((1, 2), kept, strict=True):
            os.dup2(original, number)
            os.close(original)


@functools.cache
def _streams() -> tuple[TextIO, TextIO]:
    """Return streams to wherever the descriptors 1 and 2 lead: whoever keeps one keeps no file of a past training."""
    out, err = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    return out, err


def _flush(streams: tuple[TextIO, TextIO]) -> None:
    for stream in streams:
        stream.flush()
