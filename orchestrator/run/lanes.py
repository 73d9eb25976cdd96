"""Lanes: runs of Ray Train that are kept, whose workers train one trial after the other with all that they imported.

To start a run of Ray Train takes as long as a small training: a controller, a group of workers, their imports. So a
trial's driver keeps its run for the next trial of the same needs, and lets it go when anything failed in it and when
none follows for ``IDLE_S``. The workers ask the ``Exchange``, one small actor of the sweep, what is next. No torch.
"""

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from orchestrator.run.broken_gpus import Gpu
from orchestrator.run.ray_internals import on_start, remove_group, trainer
from orchestrator.run.retries import Problem
from orchestrator.run.watchdog import catch_terminate
from orchestrator.run.worker import Parameters, train_in_thread
from sagasr.config.runtime import Runtime

IDLE_S = 2.0  # how long a lane waits for its next training; what it holds, others may need
LOOK_S = 0.5  # between two looks at whether the run of a lane is over
PATIENCE_S = 60.0  # how long a lane waits for its workers before smaller ones make room
CLOSE_S = 5.0  # in which the exchange is to answer a driver that ends
PEERS_WAIT_S = 1_800.0  # at least, until workers that wait for another give up
EXCHANGE = "sagasr-exchange"
OWNER = uuid.uuid4().hex[:8]  # this process


class Need(NamedTuple):
    """What the workers of a lane hold, each of them, and how long they wait for one another."""

    workers: int
    cpus: float
    gpus: float
    peers_wait_s: float

    @classmethod
    def of(cls, runtime: Runtime) -> "Need":
        """Return what a training needs.

        While the first worker validates, the others wait for it in NCCL or gloo: longer than it may be silent.
        """
        wait_s = max(PEERS_WAIT_S, 2 * runtime.hang_seconds)
        return cls(runtime.workers, runtime.cpus_per_worker, runtime.gpus_per_worker, wait_s)


@dataclass
class Book:
    """What the exchange knows of one lane. ``reports``: by training and worker, what went wrong, or None.

    ``held``: its workers wait however long it takes, so that nobody else gets their GPU.
    """

    workers: int
    size: tuple[float, float] = (0.0, 0.0)  # the GPUs and CPUs of all workers
    opened: float = field(default_factory=time.monotonic)
    tasks: list[Parameters | None] = field(default_factory=list)
    reports: dict[int, dict[int, Problem | None]] = field(default_factory=dict)
    gpus: dict[int, Gpu | None] = field(default_factory=dict)
    held: bool = False
    closed: bool = False

    @property
    def works(self) -> bool:
        """Whether it holds what its workers need, and will give it back."""
        return len(self.gpus) == self.workers and not self.closed and not self.held

    @property
    def waits(self) -> bool:
        return not self.gpus and not self.closed


class Exchange:
    """What each lane is to do next, and how it went. An actor whose methods all run in one thread."""

    def __init__(self) -> None:
        self._books: dict[str, Book] = {}
        self._lanes: dict[str, str] = {}  # by trial
        self._news = asyncio.Condition()

    async def open(self, lane: str, need: Need) -> None:
        """Add a lane whose workers will come."""
        self._books[lane] = Book(need.workers, (need.workers * need.gpus, need.workers * need.cpus))

    async def turn(self, lane: str) -> bool:
        """Wait until a lane may ask for its workers; return whether it is still wanted."""
        book = self._books[lane]
        while self._gives_way(book) and not book.closed:
            await asyncio.sleep(LOOK_S)
        return not book.closed

    async def hand(self, lane: str, trial: str, task: Parameters) -> tuple[int, str | None] | None:
        """Add a training to a lane; return its number, and the lane that had the trial before.

        None where the lane is closed.
        """
        book = self._books.get(lane)
        if book is not None and book.works and self._gives_way(book):
            await self.close(lane)
        if book is None or book.closed:
            return None
        async with self._news:
            book.tasks.append(task)
            self._news.notify_all()
        before = self._lanes.get(trial)
        self._lanes[trial] = lane
        if before is None or before == lane:
            return len(book.tasks) - 1, None
        await self.close(before)
        return len(book.tasks) - 1, before

    async def join(self, lane: str, rank: int, gpu: Gpu | None) -> None:
        """Note that a worker has begun, and on which GPU."""
        async with self._news:
            if book := self._books.get(lane):
                book.gpus[rank] = gpu
                self._news.notify_all()

    async def gpu(self, lane: str) -> Gpu | None:
        """Wait for the first worker of a lane; return its GPU."""
        book = self._books[lane]
        async with self._news:
            await self._news.wait_for(lambda: 0 in book.gpus)
            return book.gpus[0]

    async def take(self, lane: str, number: int) -> Parameters | None:
        """Return a training, or None once the lane is closed: for all its workers alike, after a while without one."""
        book = self._books.get(lane)
        if book is None:  # of an exchange that was lost
            return None
        async with self._news:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait_for(lambda: number < len(book.tasks) or book.closed), IDLE_S)
            await self._news.wait_for(lambda: not book.held or book.closed)
            if number < len(book.tasks):
                return book.tasks[number]
            book.closed = True
            self._news.notify_all()
            return None

    async def report(self, lane: str, number: int, rank: int, problem: Problem | None) -> None:
        """Note how a training ended for one worker."""
        async with self._news:
            if book := self._books.get(lane):
                book.reports.setdefault(number, {})[rank] = problem
                self._news.notify_all()

    async def outcome(self, lane: str, number: int) -> list[Problem]:
        """Wait until all workers have reported; return what went wrong."""
        book = self._books[lane]
        async with self._news:
            await self._news.wait_for(lambda: len(book.reports.get(number, ())) == book.workers)
        return await self.problems(lane, number)

    async def problems(self, lane: str, number: int) -> list[Problem]:
        """Return what went wrong, as far as workers have reported it."""
        book = self._books[lane]
        book.tasks[number] = None  # of no more use
        return [problem for _, problem in sorted(book.reports.pop(number, {}).items()) if problem]

    async def hold(self, lane: str) -> None:
        """Have a lane's workers wait until it is closed, for the sake of the GPU that they hold."""
        if book := self._books.get(lane):
            book.held = True

    async def close(self, lane: str) -> None:
        """Send a lane's workers home once they have done what they have."""
        async with self._news:
            if book := self._books.get(lane):
                book.closed = True
                self._news.notify_all()

    def _gives_way(self, book: Book) -> bool:
        """Return whether a larger lane has waited for long, and may have its workers once others let go of theirs.

        Else small trainings, of which there is always one to go on with, would keep out one of several workers.
        """
        books = self._books.values()
        overdue = [other for other in books if other.waits and time.monotonic() - other.opened > PATIENCE_S]
        return any(other.size > book.size for other in overdue) and any(other.works for other in books)

    async def lane_of(self, trial: str) -> str | None:
        """Return the lane that a trial was handed to last."""
        return self._lanes.get(trial)


def start_exchange() -> Any:
    """Start the exchange of a sweep beside this process, which owns it: it outlives every driver."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # It restarts empty: what it knew of is then started again by its drivers.
    options = {"name": EXCHANGE, "num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    return ray.remote(Exchange).options(**options).remote()


def free_lane(trial: str) -> None:
    """Give back what the lane of a trial holds, if its driver was ended before it could."""
    with contextlib.suppress(RayError, ValueError):
        if lane := ray.get(ray.get_actor(EXCHANGE).lane_of.remote(trial), timeout=CLOSE_S):
            remove_group(lane)


class Failed(RuntimeError):
    """A training failed in a worker, which has told the exchange why; it ends the run of its lane."""


def work(config: Mapping[str, Any]) -> None:
    """Train what the exchange hands out, one training after the other: the train loop of each worker of a lane."""
    import ray.train

    from orchestrator.run.watchdog import end_with_parent

    end_with_parent()
    context = ray.train.get_context()
    rank, alone = context.get_world_rank(), context.get_world_size() == 1
    exchange, lane, number = ray.get_actor(EXCHANGE), config["lane"], 0
    ray.get(exchange.join.remote(lane, rank, Gpu.of_this_worker()))
    while (task := ray.get(exchange.take.remote(lane, number))) is not None:
        problem = train_in_thread(task, rank)
        ray.get(exchange.report.remote(lane, number, rank, problem))
        # Nobody knows what a failure leaves behind, and the other workers may wait for this one. On a broken GPU the
        # process waits: as long as it holds its share, the next lane gets another GPU.
        if problem and not (alone and problem.kind == "gpu"):
            raise Failed(problem.reason)
        number += 1


class Closed(Exception):
    """The lane has waited too long and takes no more."""


class Ended(Exception):
    """The run of a lane ended in the middle of a training. ``problems``: what its workers had reported."""

    def __init__(self, error: BaseException | None, problems: Sequence[Problem]) -> None:
        super().__init__(str(error))
        self.error, self.problems = error, problems


class Lane:
    """One run of Ray Train, in a thread of its driver. ``error``: what ended it, once it is ``over``."""

    def __init__(self, need: Need, scratch: str) -> None:
        self.need, self.name = need, f"lane-{OWNER}-{uuid.uuid4().hex[:8]}"
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._exchange, self._scratch = ray.get_actor(EXCHANGE), scratch
        ray.get(self._exchange.open.remote(self.name, need))
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def train(self, trial: str, parameters: Parameters) -> list[Problem]:
        """Train a trial; return what went wrong. Raises Closed if the lane takes no more, Ended if its run ended."""
        handed = ray.get(self._exchange.hand.remote(self.name, trial, parameters))
        if handed is None:
            raise Closed
        number, before = handed
        if before and OWNER not in before:  # of a driver that was lost, perhaps with what its lane held
            remove_group(before)
        outcome = self._exchange.outcome.remote(self.name, number)
        while not ray.wait([outcome], timeout=LOOK_S)[0]:
            if self.over.is_set() and not ray.wait([outcome], timeout=0)[0]:
                raise Ended(self.error, ray.get(self._exchange.problems.remote(self.name, number)))
        return ray.get(outcome)  # type: ignore[no-any-return]

    def gpu(self, wait_s: float) -> tuple[bool, Gpu | None]:
        """Return whether the first worker has begun within a time, and its GPU."""
        asked = self._exchange.gpu.remote(self.name)
        ready = bool(ray.wait([asked], timeout=wait_s)[0])
        return ready, ray.get(asked) if ready else None

    def hold(self) -> None:
        """Have the workers wait until ``close``, with no training."""
        with contextlib.suppress(RayError):
            ray.get(self._exchange.hold.remote(self.name), timeout=CLOSE_S)

    def close(self) -> None:
        """Let the run end by itself, after its training."""
        with contextlib.suppress(RayError):
            ray.get(self._exchange.close.remote(self.name), timeout=CLOSE_S)

    def kill(self) -> None:
        """End the workers, whatever they do."""
        remove_group(self.name)

    def _run(self) -> None:
        try:
            if ray.get(self._exchange.turn.remote(self.name)):
                self._trainer().fit()
        except BaseException as error:  # noqa: BLE001 - of any kind: the driver says what follows
            self.error = error
        self.over.set()

    def _trainer(self) -> Any:
        from ray import train

        resources = {"CPU": self.need.cpus, "GPU": self.need.gpus}
        Trainer, settings = trainer(self.need.workers, self.need.peers_wait_s)
        return Trainer(
            work,
            train_loop_config={"lane": self.name},
            scaling_config=train.ScalingConfig(
                num_workers=self.need.workers,
                use_gpu=self.need.gpus > 0,
                resources_per_worker={name: amount for name, amount in resources.items() if amount},
            ),
            run_config=train.RunConfig(
                name=self.name,
                storage_path=self._scratch,
                # Whatever ends the workers, ``Retries`` decides: Ray Train would start them as the same attempt.
                failure_config=train.FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
                # Only a worker's main thread can take SIGTERM as a notice.
                callbacks=[on_start(catch_terminate, self.name)],
            ),
            **settings,
        )
