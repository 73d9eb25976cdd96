"""What runs inside Ray: a trial's small driver, and the workers it starts, which run ``sagasr.train``.

The trial folder is the one channel: a worker writes its journal there, the driver reads it and tells Tune. So training
never waits for Ray, and what a run of Ray leaves behind is never needed again. Only workers import torch.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from sagasr.config import Config, Evaluation, Runtime, Strict
from sagasr.errors import DataError, SagasrError
from sagasr.files import read_json, write_json
from sagasr.journal import History, Status, read_status, write_status

DRIVER = "trial_driver"  # the custom resource of trial drivers, so that they never compete with workers
METRIC, TIME = "val/lsd", "step"
RETRIES = 1  # new starts after a lost worker or node; an exception of a training would only come again
POLL_S = 0.5
TAKEOVER_S = 60.0  # how long a new worker waits for the one it replaces to be gone


class Task(Strict):
    """All that a trial needs to run, on any node that reaches the storage."""

    trial: str
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
    training = threading.Thread(target=_train_or_record, args=(task,), daemon=True)
    training.start()
    reported = -1
    while True:
        training.join(POLL_S)
        ended = not training.is_alive()
        for progress in validations(task, after=reported):
            tune.report({TIME: progress.step, METRIC: progress.value})
            reported = progress.step
        if ended:
            status = read_status(Path(task.folder))
            tune.report({TIME: max(reported, status.step if status else 0), METRIC: float("inf"), "ended": True})
            return


def validations(task: Task, after: int) -> Iterator[Progress]:
    """Yield the validations of the first variant behind step ``after``; one without a value is infinitely bad."""
    first = next(iter(task.variants))
    for record in History(Path(task.folder)):
        if record["step"] > after and record.get("variant") == first:
            yield Progress(record["step"], record["metrics"].get(METRIC, float("inf")))


def _train_or_record(task: Task) -> None:
    """Train, starting anew after a lost worker; whatever remains an error becomes the status of the trial."""
    folder = Path(task.folder)
    try:
        for left in range(RETRIES, -1, -1):
            problem = _fit(task)
            if problem is None:
                return
            if problem.final or not left:
                _fail(folder, problem.reason)
                return
    except Exception as error:  # noqa: BLE001 - one bad trial never ends the sweep
        _log(folder, traceback.format_exc())
        _fail(folder, _one_line(error))


class _Problem(NamedTuple):
    reason: str
    final: bool


def _fit(task: Task) -> _Problem | None:
    """Start the workers once and wait for them; return what went wrong."""
    from ray import train
    from ray.train.v2.api.exceptions import TrainingFailedError

    runtime, status = task.runtime, read_status(Path(task.folder))
    resources = {"CPU": runtime.cpus_per_worker, "GPU": runtime.gpus_per_worker}
    trainer = _trainer_class(runtime, task.lean)(
        train_worker,
        train_loop_config={"task": task.model_dump_json(), "attempt": status.attempt + 1 if status else 1},
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
    return None


def _problem(error: Exception, folder: Path) -> _Problem:
    """Tell an exception of the training, which would come again, from the loss of its process or node."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError, UserExceptionWithTraceback

    found = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    failures = [one._base_exc if isinstance(one, UserExceptionWithTraceback) else one for one in found]
    for failure in failures:
        if not isinstance(failure, (RayError, RayTrainError)):
            return _Problem(_one_line(failure), final=True)
    cause = getattr(failures[0], "health_check_failure", failures[0])
    _log(folder, f"{type(cause).__name__}: {cause}\n")
    return _Problem(f"its process or node was lost: {_one_line(cause)}", final=False)


def _trainer_class(runtime: Runtime, lean: bool) -> Any:
    """Return the Ray Train trainer.

    Several workers need the process group of ``TorchTrainer``. One worker does not, and its base class spares the
    driver and the controller the import of torch. ``lean`` leaves out two helper processes of each run: the data set
    manager, as no Ray data sets are used, and the cleaner of placement groups, whose work the sweep does itself
    (``free_resources``). Together that is about two thirds of the processor time of starting a trial.
    """
    if runtime.workers > 1:
        from ray.train.torch import TorchTrainer as Trainer
    else:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer as Trainer
    if not lean:
        return Trainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class LeanTrainer(Trainer):  # type: ignore[misc, valid-type]
        def _create_default_callbacks(self) -> list[Any]:
            unused = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]

    return LeanTrainer


def free_resources(folder: Path) -> None:
    """Give back what the workers of a trial held, if their driver was ended before it could."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with contextlib.suppress(SagasrError, KeyError, TypeError, ValueError):
        group = read_json(folder / ".worker.json")["placement_group"]
        if group:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


# ----------------------------------------------------------------------------------------------------------- the worker


def train_worker(parameters: Mapping[str, Any]) -> None:
    """Run as one Ray Train worker: train in the trial's folder, as the only one that writes there."""
    task = Task.model_validate_json(parameters["task"])
    folder = Path(task.folder)
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    folder.mkdir(parents=True, exist_ok=True)
    log_to(folder / ("log.txt" if rank == 0 else f"log-{rank}.txt"))
    try:
        if rank:
            _train(task, parameters["attempt"])
        else:
            with _only_writer(task):
                _train(task, parameters["attempt"])
    except SagasrError as error:
        sys.stderr.write(f"{error}\n")
        raise
    except Exception:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _train(task: Task, attempt: int) -> None:
    import torch

    from sagasr.train import FailureRule, Harness, train

    runtime, config = task.runtime, task.config
    torch.set_num_threads(max(1, int(runtime.cpus_per_worker)))
    rule = FailureRule(
        task.margin, task.patience, min(1.0, task.grace * config.validation.every / config.training.steps)
    )
    accelerator = "gpu" if runtime.gpus_per_worker else "cpu"
    harness = Harness(accelerator=accelerator, rule=rule, attempt=attempt)
    if runtime.workers > 1:
        from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

        harness = Harness(
            strategy=RayDDPStrategy(),
            environment=RayLightningEnvironment(),
            accelerator=accelerator,
            devices="auto",
            rule=rule,
            attempt=attempt,
        )
    train(config, Path(task.folder), Path(task.store), task.variants, runtime, harness)


@contextlib.contextmanager
def _only_writer(task: Task) -> Iterator[None]:
    """Hold the trial folder. A worker left over from a dead sweep ends itself as soon as another sweep has begun."""
    import ray

    folder = Path(task.folder)
    lock = FileLock(folder / ".worker.lock")
    try:
        lock.acquire(timeout=TAKEOVER_S)
    except Timeout as error:
        raise DataError(
            f"{folder}: another process still trains here ({_owner(folder)}); end it and start again"
        ) from error
    group = ray.util.get_current_placement_group()
    write_json(folder / ".worker.json", {"pid": os.getpid(), "placement_group": group.id.hex() if group else None})
    over = threading.Event()
    threading.Thread(target=_end_when_replaced, args=(task, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        lock.release()


def _end_when_replaced(task: Task, over: threading.Event) -> None:
    while not over.wait(1.0):
        with contextlib.suppress(OSError):
            if Path(task.sweep).read_text() != task.launch:
                os._exit(1)


def _owner(folder: Path) -> str:
    try:
        return f"process {read_json(folder / '.worker.json')['pid']}"
    except (SagasrError, KeyError, TypeError):
        return "unknown process"


# ------------------------------------------------------------------------------------------------------------- encoding


def encode(config: str, root: str) -> str:
    """Return the path of the encoded store of a configuration (JSON), encoding it if need be. Runs as a Ray task."""
    from sagasr.data.store import encode_store

    return str(encode_store(Config.model_validate_json(config), Path(root)))


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
    sys.stdout.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} {sys.executable}\n")


def _fail(folder: Path, reason: str) -> None:
    status = read_status(folder) or Status(state="failed")
    if status.state not in ("done", "stopped"):
        write_status(folder, status.model_copy(update={"state": "failed", "reason": reason, "updated": time.time()}))


def _log(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as handle:
        handle.write(text)


def _one_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text if isinstance(error, SagasrError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
