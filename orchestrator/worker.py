"""What runs inside Ray: a trial's small driver, and the workers it starts, which run ``sagasr.train``.

The trial folder is the one channel: a worker writes its journal there, the driver reads it and tells Tune. So training
never waits for Ray, and what a run of Ray leaves behind is never needed again. Only workers import torch.
"""

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from orchestrator.guard import (
    LEASE,
    START_S,
    WORKER,
    Guard,
    Preempted,
    catch_terminate,
    hang_of,
    hung,
    only_writer,
    stopped,
)
from orchestrator.mirror import following, mirrored, send, send_store, shared_store
from orchestrator.redact import redact
from sagasr.config import Config, Evaluation, Runtime, Strict
from sagasr.errors import SagasrError, StorageError
from sagasr.files import read_json
from sagasr.journal import History, Status, read_status, write_status
from sagasr.lease import Lost, read_owner

DRIVER = "trial_driver"  # the custom resource of trial drivers, so that they never compete with workers
METRIC, TIME = "val/lsd", "step"
WAITS_S = (1.0, 5.0, 20.0)  # before the first, second, … new start without a new checkpoint in between
POLL_S = 0.5
TAKEOVER_S = 60.0  # how long a new worker waits for the one it replaces to be gone
FROZEN_S = 15.0  # beyond the time after which a worker that hangs ends itself, so that one that cannot is ended


class Task(Strict):
    """All that a trial needs to run, on any node that reaches the storage."""

    trial: str
    uri: str = ""  # where the sweep is kept, if not in a folder that every node reaches
    folder: str
    scratch: str  # where Ray Train may keep what it insists on keeping
    store: str
    sweep: str  # a file that holds ``launch`` for as long as this sweep is the one that counts
    launch: str
    lean: bool
    config: Config
    variants: dict[str, Evaluation]
    runtime: Runtime
    grace: int = 3
    margin: float = 0.5
    patience: int = 3


class Progress(NamedTuple):
    """What Tune is told after a validation."""

    step: int
    value: float


# ----------------------------------------------------------------------------------------------------------- the driver


def run_trial(parameters: Mapping[str, Any], tasks: Mapping[str, str]) -> None:
    """Run one Tune trial: start its workers, and report each validation that its journal gains."""
    from ray import tune

    task = Task.model_validate_json(tasks[parameters["trial"]])
    reported, beats = -1, Beats(task.runtime.hang_seconds + FROZEN_S)
    training = threading.Thread(target=_train_or_record, args=(task, beats), daemon=True)
    training.start()
    while True:
        training.join(POLL_S)
        ended = not training.is_alive()
        if not ended and beats.frozen(Path(task.folder)):
            _log(Path(task.folder), f"{hung(beats.limit_s)}, not even of its watchdog; its processes are ended\n")
            free_resources(Path(task.folder))
        for progress in validations(task, after=reported):
            tune.report({TIME: progress.step, METRIC: progress.value})
            reported = progress.step
        if ended:
            status = read_status(Path(task.folder))
            tune.report({TIME: max(reported, status.step if status else 0), METRIC: float("inf"), "ended": True})
            return


class Beats:
    """Sees that a running trial's status stands still: by its count of heartbeats, and by this process's own clock.

    Only the status of ``attempt`` counts: while a worker waits for its turn or starts, that of the one before is there.
    One that has taken the folder, and so has had its turn, gets ``START_S`` more for its first sign of life.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._clock = limit_s, clock
        self.attempt = 1
        self._before: str | None = None  # the token of who held the folder before this attempt
        self._last: tuple[int, int] | None = None
        self._since = clock()

    def frozen(self, folder: Path) -> bool:
        """Return, once per limit, whether the trial is running and has not moved for so long."""
        started = False
        with contextlib.suppress(SagasrError, OSError):
            status = read_status(folder)
            running = status is not None and (status.state, status.attempt) == ("running", self.attempt)
            started = not running and self._token(folder) not in (None, self._before)
            now = (self.attempt, status.beat) if status and running else (self.attempt, -1) if started else None
            if now is None or now != self._last:
                self._last, self._since = now, self._clock()
        if self._clock() - self._since > self.limit_s + (START_S if started else 0.0):
            self._since = self._clock()
            return True
        return False

    def begin(self, folder: Path, attempt: int) -> None:
        """Note that an attempt begins; who holds the folder now is of an earlier one."""
        self._before, self.attempt = self._token(folder), attempt

    @staticmethod
    def _token(folder: Path) -> str | None:
        owner = read_owner(folder / LEASE)
        return owner.token if owner else None


def validations(task: Task, after: int) -> Iterator[Progress]:
    """Yield the validations of the first variant behind step ``after``; one without a value is infinitely bad."""
    first = next(iter(task.variants))
    for record in History(Path(task.folder)):
        if record["step"] > after and record.get("variant") == first:
            yield Progress(record["step"], record["metrics"].get(METRIC, float("inf")))


def _train_or_record(task: Task, beats: Beats) -> None:
    """Train, starting anew as often as ``Retries`` allows; whatever remains an error becomes the trial's status."""
    folder, retries = Path(task.folder), Retries(task.config.training.batch_size // task.runtime.workers)
    try:
        while (problem := _fit(task, retries.micro_batches, beats)) is not None:
            wait_s = retries.after(problem, reached(folder))
            _log(folder, f"{problem.reason}{'' if wait_s is None else f'; starting again in {wait_s:g} s'}\n")
            if wait_s is None:
                _fail(task, retries.reason)
                return
            time.sleep(wait_s)
    except Exception as error:  # noqa: BLE001 - one bad trial never ends the sweep
        with contextlib.suppress(SagasrError, OSError):  # storage that is gone cannot be told so
            _log(folder, traceback.format_exc())
            _fail(task, _one_line(error))


class Problem(NamedTuple):
    """Why the workers of a trial ended without a result."""

    kind: Literal["input", "bug", "lost", "storage", "memory"]
    reason: str


class Retries:
    """Decides how often a trial is started again. As long as checkpoints advance there is no limit: it will end.

    Without a new checkpoint: a lost process, node or disk gets ``WAITS_S`` more starts, an exception one (the same
    again is a bug), running out of memory one with the batch taken in two parts. Unusable input gets none.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows  # of a batch, on one worker
        self.micro_batches = 1
        self.reason = ""
        self._tries, self._reached = -1, -1

    def after(self, problem: Problem, step: int) -> float | None:
        """Return the seconds to wait before the next start, or None when there is to be none (see ``reason``)."""
        again = problem.reason == self.reason
        self._tries = 0 if step > self._reached else self._tries + 1
        self._reached, self.reason = max(step, self._reached), problem.reason
        match problem.kind:
            case "input":
                return None
            case "memory" if self.micro_batches == 1 and self.rows > 1:
                self.micro_batches = 2
                return WAITS_S[0]
            case "memory":
                self.reason += " (also with its batch taken in two parts)" if self.micro_batches > 1 else ""
                return None
            case "bug" if again or self._tries >= 1:
                return None
        if self._tries >= len(WAITS_S):
            self.reason += f" ({self._tries + 1} times without a new checkpoint)"
            return None
        return WAITS_S[self._tries]


def reached(folder: Path) -> int:
    """Return the step of the newest committed checkpoint, -1 before the first."""
    committed = (folder / "checkpoints").glob("step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in committed), default=-1)


def _fit(task: Task, micro_batches: int, beats: Beats) -> Problem | None:
    """Start the workers once and wait for them; return what went wrong."""
    with following(task.uri, Path(task.folder).parents[1], task.trial):
        return _fit_here(task, micro_batches, beats)


def _fit_here(task: Task, micro_batches: int, beats: Beats) -> Problem | None:
    from ray import train
    from ray.exceptions import RayError
    from ray.train.v2.api.exceptions import TrainingFailedError

    runtime, status = task.runtime, read_status(Path(task.folder))
    beats.begin(Path(task.folder), status.attempt + 1 if status else 1)
    resources = {"CPU": runtime.cpus_per_worker, "GPU": runtime.gpus_per_worker}
    trainer = _trainer_class(runtime, task.lean)(
        train_worker,
        train_loop_config={
            "task": task.model_dump_json(),
            "attempt": beats.attempt,
            "micro_batches": max(micro_batches, status.micro_batches if status else 1),
        },
        scaling_config=train.ScalingConfig(
            num_workers=runtime.workers,
            use_gpu=runtime.gpus_per_worker > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount},
        ),
        run_config=train.RunConfig(
            name=task.trial,
            storage_path=task.scratch,
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return _problem(error, Path(task.folder))
    except RayError as error:  # the controller itself was lost, and nobody gave back what its workers held
        free_resources(Path(task.folder))
        return _problem(error, Path(task.folder))
    return None


def _problem(error: Exception, folder: Path) -> Problem:
    """Tell the exceptions of a training from the loss of its process or node, and those from running out of memory."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError, UserExceptionWithTraceback

    found = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    failures = [one._base_exc if isinstance(one, UserExceptionWithTraceback) else one for one in found]
    for failure in failures:
        if not isinstance(failure, (RayError, RayTrainError)):
            return Problem(kind_of(failure), _one_line(failure))
    cause = getattr(failures[0], "health_check_failure", failures[0])
    _log(folder, f"{type(cause).__name__}: {cause}\n")
    if (hang := hang_of(folder)) is not None:
        return Problem("lost", hang)
    kind: Any = "memory" if kind_of(cause) == "memory" else "lost"
    return Problem(kind, f"its process or node was lost: {_one_line(cause)}")


def kind_of(error: BaseException) -> Literal["input", "bug", "lost", "storage", "memory"]:
    """Return what kind of problem an exception is; types of torch and ray are told by name, as neither is imported."""
    text = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, StorageError):
        return "storage"
    if isinstance(error, (Preempted, Lost)):
        return "lost"
    if isinstance(error, SagasrError):
        return "input"
    if any(word in text for word in ("out of memory", "outofmemory", "can't allocate memory", "low on memory")):
        return "memory"
    return "memory" if isinstance(error, MemoryError) else "bug"


def _trainer_class(runtime: Runtime, lean: bool) -> Any:
    """Return the Ray Train trainer.

    Several workers need the process group of ``TorchTrainer``. One worker does not, and its base class spares the
    driver and the controller the import of torch. ``lean`` leaves out two helper processes of each run: the data set
    manager, as no Ray data sets are used, and the cleaner of placement groups, whose work the sweep does itself
    (``free_resources``). Together that is about two thirds of the processor time of starting a trial. Every worker
    takes SIGTERM as a notice, which only its main thread can decide, before training starts in another.
    """
    if runtime.workers > 1:
        from ray.train.torch import TorchTrainer as Trainer
    else:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer as Trainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class Notice(WorkerGroupCallback):  # type: ignore[misc]
        def after_worker_group_start(self, worker_group: Any) -> None:
            worker_group.execute(catch_terminate)

    class OurTrainer(Trainer):  # type: ignore[misc, valid-type]
        def _create_default_callbacks(self) -> list[Any]:
            unused = (DatasetsCallback, PlacementGroupCleanerCallback) if lean else ()
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if not isinstance(callback, unused)] + [Notice()]

    return OurTrainer


def free_resources(folder: Path) -> None:
    """Give back what the workers of a trial held, if their driver was ended before it could."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with contextlib.suppress(SagasrError, KeyError, TypeError, ValueError):
        group = read_json(folder / WORKER)["placement_group"]
        if group:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


# ----------------------------------------------------------------------------------------------------------- the worker


def train_worker(parameters: Mapping[str, Any]) -> None:
    """Run as one Ray Train worker: train in the trial's folder, as the only one that writes there."""
    task = Task.model_validate_json(parameters["task"])
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    if not task.uri:
        _work(task, parameters, rank)
        return
    with mirrored(task.uri, task.trial, rank) as (folder, launch):
        own = {"folder": str(folder), "sweep": str(launch), "store": str(shared_store(task.uri, Path(task.store)))}
        _work(task.model_copy(update=own), parameters, rank)


def _work(task: Task, parameters: Mapping[str, Any], rank: int) -> None:
    import ray

    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    log_to(folder / ("log.txt" if rank == 0 else f"log-{rank}.txt"))
    runtime = task.runtime
    guard = Guard(folder, Path(task.sweep), task.launch, runtime.hang_seconds, runtime.notice_seconds)
    try:
        if guard.wanted() or stopped(folder) is not None:
            return
        if rank:
            _train(task, parameters, guard, lambda: None)
        else:
            group = ray.util.get_current_placement_group()
            with only_writer(folder, TAKEOVER_S, {"placement_group": group.id.hex() if group else None}) as lease:
                _train(task, parameters, guard, lease.check)
        if guard.preempted:
            raise Preempted("the machine told its process to end")
    except SagasrError as error:
        sys.stderr.write(f"{error}\n")
        raise
    except Exception:
        traceback.print_exc()
        raise
    finally:
        guard.close()
        sys.stdout.flush()
        sys.stderr.flush()


def _train(task: Task, parameters: Mapping[str, Any], guard: Guard, fence: Callable[[], object]) -> None:
    import torch

    from sagasr.train import FailureRule, Halt, Harness, train

    runtime, config = task.runtime, task.config
    torch.set_num_threads(max(1, int(runtime.cpus_per_worker)))
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

        ours = {"strategy": RayDDPStrategy(), "environment": RayLightningEnvironment(), "devices": "auto"}
        harness = replace(harness, **ours)
    train(config, Path(task.folder), Path(task.store), task.variants, runtime, harness)


# ------------------------------------------------------------------------------------------------------------- encoding


def encode(config: str, root: str, uri: str = "") -> str:
    """Return the path of the encoded store of a configuration (JSON), encoding it if need be. Runs as a Ray task.

    With the URI of a sweep it is sent there too, for the other machines.
    """
    from sagasr.data.encode import encode_store

    store = encode_store(Config.model_validate_json(config), Path(root))
    if uri:
        send_store(uri, store)
    return str(store)


# ---------------------------------------------------------------------------------------------------------------- small


def log_to(path: Path) -> None:
    """Send all that this process prints, also from native code, to the end of a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    faulthandler.enable(sys.stderr)
    sys.stdout.write(
        f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {socket.gethostname()} {sys.executable}\n"
    )


def _fail(task: Task, reason: str) -> None:
    folder = Path(task.folder)
    status = read_status(folder) or Status(state="failed")
    if status.state not in ("done", "stopped"):
        write_status(folder, status.model_copy(update={"state": "failed", "reason": reason, "updated": time.time()}))
        send(task.uri, folder.parents[1], f"trials/{task.trial}/status.json")


def _log(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as handle:
        handle.write(redact(text))


def _one_line(error: BaseException) -> str:
    text = redact(next((line.strip() for line in str(error).splitlines() if line.strip()), ""))
    return text if isinstance(error, SagasrError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
