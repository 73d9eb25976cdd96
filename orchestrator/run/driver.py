"""A trial's driver: starts its workers as often as need be, sees that they move, and tells Tune how they do. No torch.

Every training runs in a lane (see ``lanes``): a run of Ray Train that is kept for the next training of the same needs.
The trial folder is the one channel: a worker writes its journal there and the driver reads it. So training never waits
for Ray, and what a run of Ray leaves behind is never needed again.
"""

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.exceptions import RayError

from orchestrator.run.broken_gpus import Gpu, avoid, avoided, forgive, too_few
from orchestrator.run.lanes import Closed, Ended, Failed, Lane, Need
from orchestrator.run.ray_internals import worker_errors
from orchestrator.run.retries import BrokenGpu, Kind, Problem, Retries, lost, note, one_line, problem_of
from orchestrator.run.watchdog import START_S, end_with_parent
from orchestrator.run.worker import METRIC, TIME, Parameters, Task, point_key
from orchestrator.sweep_folder.paths import SweptTrial
from orchestrator.sweep_folder.trial_marks import committed_step, hang_of
from sagasr.io.errors import SagasrError
from sagasr.io.lease import read_owner
from sagasr.io.states import State
from sagasr.training.trial_log import History, Status, read_status, write_status

HEAD = "node:__internal_head__"  # a resource of the head of every Ray
POLL_S = 0.5
CLEAN_S = 5.0  # for the end of the lanes when their driver ends
CAUSES: tuple[Kind, ...] = ("memory", "gpu", "storage", "input", "bug")  # the first of these explains the others
LOOK_S = 5.0  # between two looks whether a GPU that is waited for can still come
LEAVE_S = 20.0  # how long a training that was stopped early may take to end by itself
FROZEN_S = 15.0  # beyond the time after which a worker that hangs ends itself, so that one that cannot is ended


class Driver(tune.Trainable):  # type: ignore[misc]
    """Runs the Tune trials that it is given, one after the other; reports each validation that a journal gains."""

    @classmethod
    def default_resource_request(cls, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        """Stay beside the sweep, on the head, which every cluster has; no driver competes with workers."""
        return tune.PlacementGroupFactory([{HEAD: 0.001}])

    def setup(self, config: Mapping[str, Any], tasks: Mapping[str, str] = MappingProxyType({})) -> None:
        end_with_parent()
        self._tasks, self._lanes = tasks, Lanes()
        self._begin(self._tasks[point_key(config)])

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self._training.leave()
        self._begin(self._tasks[point_key(new_config)])
        return True

    def _begin(self, task: str) -> None:
        self._reported = -1
        self._training = Training(Task.model_validate_json(task), self._lanes)
        self._training.start()

    def step(self) -> dict[str, Any]:
        task = self._training.task
        while True:
            self._training.join(POLL_S)
            ended = not self._training.is_alive()
            if not ended:
                self._training.end_if_frozen()
            for progress in validations(task, after=self._reported):
                self._reported = progress.step
                return {TIME: progress.step, METRIC: progress.loss}
            if ended:
                status = read_status(Path(task.folder))
                step = max(self._reported, status.step if status else 0)
                return {TIME: step, METRIC: float("inf"), "ended": True, "done": True}

    def cleanup(self) -> None:
        self._training.left.set()
        self._lanes.leave(CLEAN_S)


class Progress(NamedTuple):
    """What Tune is told after a validation: the smaller ``loss``, the better the trial."""

    step: int
    loss: float


def validations(task: Task, after: int) -> Iterator[Progress]:
    """Yield the validations of the first variant behind step ``after``; one without a value is infinitely bad."""
    first = next(iter(task.variants))
    sign = -1 if task.maximise else 1
    for record in History(Path(task.folder)):
        if record["step"] > after and record.get("variant") == first:
            value = record["metrics"].get(task.metric)
            yield Progress(record["step"], float("inf") if value is None else sign * value)


# --------------------------------------------------------------------------------------------------------- one training


class Training(threading.Thread):
    """Trains one trial, starting anew as often as ``Retries`` allows; whatever remains an error becomes its status."""

    def __init__(self, task: Task, lanes: "Lanes") -> None:
        super().__init__(name=task.trial, daemon=True)
        self.task, self.folder = task, Path(task.folder)
        self.left = threading.Event()  # set when the trial is abandoned; no retry after that
        self._lanes = lanes
        self._beats = Beats(task.runtime.hang_seconds + FROZEN_S)

    def run(self) -> None:
        try:
            status = read_status(self.folder)
            rows = self.task.config.training.batch_size // self.task.runtime.workers
            retries = Retries(rows, status.micro_batches if status else 1)
            while (problem := self._train(retries.micro_batches)) is not None and not self.left.is_set():
                wait_s = retries.after(problem, committed_step(self.folder))
                note(self.folder, f"{problem.reason}{'' if wait_s is None else f'; starting again in {wait_s:g} s'}\n")
                if wait_s is None:
                    self._lanes.forgive()
                    _fail(self.task, retries.reason)
                    return
                if self.left.wait(wait_s):
                    return
        except Exception as error:  # noqa: BLE001 - one bad trial never ends the sweep
            with contextlib.suppress(SagasrError, OSError):  # storage that is gone cannot be told so
                note(self.folder, traceback.format_exc())
                _fail(self.task, one_line(error))

    def _train(self, micro_batches: int) -> Problem | None:
        """Start the workers once and wait for them; return what went wrong."""
        with self.task.sweep_folder.following(self.task.trial):
            status = read_status(self.folder)
            attempt = status.attempt + 1 if status else 1
            self._beats.begin(self.folder, attempt)
            parameters: Parameters = {
                "task": self.task.model_dump_json(),
                "attempt": attempt,
                "micro_batches": micro_batches,
            }
            return self._lanes.train(self.task, parameters)

    def end_if_frozen(self) -> None:
        """End the workers if they have not moved for too long, not even to end themselves."""
        if self._beats.frozen(self.folder):
            note(self.folder, f"{hang_of(self._beats.limit_s)}, not even of its watchdog; its processes are ended\n")
            self._end_workers()

    def leave(self) -> None:
        """Wait for the end of a training that was stopped early; end its processes if it does not end itself."""
        self.left.set()
        self.join(LEAVE_S)
        while self.is_alive():
            self._end_workers()
            self.join(POLL_S)

    def _end_workers(self) -> None:
        self._lanes.kill()


class Beats:
    """Detects a stalled worker: the heartbeat counter in status.json stands still, by this process's own clock.

    Only the status of ``attempt`` counts: while a worker waits for its turn or starts, the status is of the attempt
    before. A worker that has taken the folder gets ``START_S`` more for its first sign of life.
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
            running = status is not None and (status.state, status.attempt) == (State.RUNNING, self.attempt)
            started = not running and self._token(folder) not in (None, self._before)
            now = (self.attempt, status.beat) if status and running else (self.attempt, -1) if started else None
            if now is None or now != self._last:
                self._last, self._since = now, self._clock()
        if self._clock() - self._since > self.limit_s + (START_S if started else 0.0):
            self._since = self._clock()
            return True
        return False

    def begin(self, folder: Path, attempt: int) -> None:
        """Note that an attempt begins; whoever holds the folder now belongs to an earlier one."""
        self._before, self.attempt = self._token(folder), attempt

    @staticmethod
    def _token(folder: Path) -> str | None:
        owner = read_owner(SweptTrial(folder).lease)
        return owner.token if owner else None


# ----------------------------------------------------------------------------------------------------------- the lanes


class Lanes:
    """The lane in which a driver's trainings run, one after the other as long as they need the same.

    It is let go when a training fails in it. A lane whose GPU broke is kept: as long as it holds its share, the next
    lane gets another GPU.
    """

    def __init__(self) -> None:
        self._lane: Lane | None = None
        self._lock = threading.Lock()
        self._holding: list[Lane] = []  # on broken GPUs
        self._left: list[Lane] = []  # told to end
        self._avoided: list[tuple[str, Gpu]] = []  # broken GPUs that this driver has reported to the others

    def train(self, task: Task, parameters: Parameters) -> Problem | None:
        """Train in the lane, once there is one; return what went wrong."""
        need, folder = Need.of(task.runtime), Path(task.folder)
        while True:
            gpu = None
            try:
                lane, gpu = self._sound(task, need)
                problem = first_cause(lane.train(task.trial, parameters))
            except BrokenGpu as error:
                return problem_of(error)
            except Closed:
                self.end()
                continue
            except Ended as ended:
                lane.kill()  # its controller may have been lost, which alone gives back what its workers held
                problem = why_ended(ended, folder)
            except RayError as error:  # the exchange was lost
                problem = lost(error, folder)
            if problem and problem.kind == "gpu" and gpu:
                self._avoid(task.launch, gpu, problem.reason)
            elif problem:
                self.end()
            return problem

    def end(self) -> None:
        """Let the lane go once its training has ended; the next training starts another."""
        with self._lock:
            self._end()

    def kill(self) -> None:
        """End the workers of the lane, whatever they do."""
        with self._lock:
            lane = self._lane
            self._end()
        if lane:
            lane.kill()

    def leave(self, wait_s: float) -> None:
        """Let all lanes go, and wait until they have given back what they hold."""
        with self._lock:
            self._end()
            lanes = self._left + self._holding
        for lane in self._holding:
            lane.close()
        end = time.monotonic() + wait_s
        for lane in lanes:
            if not lane.over.wait(max(0.0, end - time.monotonic())):
                lane.kill()

    def forgive(self) -> None:
        """Allow the GPUs again that this driver reported: a training that failed on two of them may be the cause.

        So where no GPU is left, each training finds out for itself, and says so.
        """
        for sweep, gpu in self._avoided:
            forgive(sweep, gpu)
        for lane in self._holding:
            lane.close()
        self._left += self._holding
        self._avoided, self._holding = [], []

    def _sound(self, task: Task, need: Need) -> tuple[Lane, Gpu | None]:
        """Return a lane whose GPU is not known to be broken, and the GPU. Raises BrokenGpu if none is left."""
        sweep, wanted = task.launch, need.workers * need.gpus
        while True:
            lane = self._take(need, task.scratch)
            if not need.gpus:
                return lane, None
            while not (begun := lane.gpu(LOOK_S))[0]:
                broken = avoided(sweep)
                if too_few(ray.nodes(), broken, wanted):
                    self.kill()
                    rest = "no other GPU is left" if wanted <= 1 else f"of the others there are fewer than {wanted:g}"
                    raise BrokenGpu(f"{next(iter(broken.values()))}; {rest}")
                if lane.over.is_set():  # it says why to who trains in it
                    return lane, None
            if need.workers > 1:
                return lane, None
            gpu = begun[1]
            if gpu not in avoided(sweep):
                return lane, gpu
            self._hold()

    def _avoid(self, sweep: str, gpu: Gpu, reason: str) -> None:
        avoid(sweep, gpu, reason)
        self._avoided.append((sweep, gpu))
        self._hold()

    def _hold(self) -> None:
        """Keep the lane for the sake of what it holds."""
        with self._lock:
            if self._lane is not None:
                self._lane.hold()
                self._holding.append(self._lane)
                self._lane = None

    def _take(self, need: Need, scratch: str) -> Lane:
        with self._lock:
            if self._lane is not None and (self._lane.need != need or self._lane.over.is_set()):
                self._end()
            if self._lane is None:
                self._lane = Lane(need, scratch)
            return self._lane

    def _end(self) -> None:
        self._left = [lane for lane in self._left if not lane.over.is_set()]
        if self._lane is not None:
            self._lane.close()
            self._left.append(self._lane)
            self._lane = None


def first_cause(problems: Sequence[Problem]) -> Problem | None:
    """Return of the problems of several workers the one that explains the others.

    Once one process is gone, the others lose their connection to it.
    """
    ranked = [problem for kind in CAUSES for problem in problems if problem.kind == kind]
    return next(iter([*ranked, *problems]), None)


def why_ended(ended: Ended, folder: Path) -> Problem:
    """Return what ended the run of a lane in the middle of a training."""
    raised, losses = worker_errors(ended.error) if ended.error else ([], [])
    problems = [*ended.problems, *(problem_of(error) for error in raised if not isinstance(error, Failed))]
    cause = first_cause(problems)
    if losses and (cause is None or cause.kind not in CAUSES):
        return lost(losses[0], folder)
    return cause or Problem("lost", "its run of Ray Train ended")


# ---------------------------------------------------------------------------------------------------------------- small


def _fail(task: Task, reason: str) -> None:
    folder = Path(task.folder)
    status = read_status(folder) or Status(state=State.FAILED)
    if not status.state.finished:
        end = {"state": State.FAILED, "reason": reason, "updated": time.time()}
        write_status(folder, status.model_copy(update=end))
        task.sweep_folder.send(SweptTrial(folder).status)
