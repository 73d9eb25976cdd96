"""How trials end that cannot say so themselves: stopped early, interrupted, or left without their processes."""

import contextlib
import time
from collections.abc import Sequence

from orchestrator.plan.plan import Trial
from orchestrator.storage.folder import SweepFolder
from orchestrator.sweep_folder.trial_marks import mark_stopped, mark_unneeded, stop_reason
from sagasr.io.errors import SagasrError
from sagasr.io.lease import wait_free
from sagasr.io.states import State
from sagasr.training.trial_log import Status, read_status, write_status

SETTLE_S = 20.0  # how long a stopped training may take to let go of its folder
INTERRUPTED_S = 5.0  # how long an interrupted one may, after ``wait_for_halt``


class TrialEnds:
    """Writes the final statuses into the trial folders of a sweep, each once its worker has let go of the folder."""

    def __init__(self, storage: SweepFolder) -> None:
        self.storage = storage
        self._stopping: set[str] = set()  # stopped early, by workers that may live a few steps more

    def stop(self, trial: str, reason: str, step: int) -> None:
        """Tell the worker of a trial that the search has stopped it."""
        files = self.storage.paths.of(trial)
        mark_stopped(files.root, reason, step)
        self.storage.send(files.stopped)
        self._stopping.add(trial)

    def release(self, trial: str, reason: str, launch: str) -> None:
        """Tell the worker of a trial to save and end: nobody needs its result now."""
        files = self.storage.paths.of(trial)
        mark_unneeded(files.root, reason, launch)
        self.storage.send(files.stopped)

    def reason(self, trial: str) -> str:
        """Return why a trial ended or is to end; nothing where it has simply finished."""
        status = self._status(trial)
        return stop_reason(self.storage.paths.trial(trial)) or (status.reason if status else "")

    def end_stopped(self, wait_s: float = 0.0) -> None:
        """Write the status of trials that were stopped, once their workers have let go or ``wait_s`` is over."""
        for trial in list(self._stopping):
            if self._is_free(trial, wait_s) or wait_s:
                self._stopping.remove(trial)
                self.end(trial, State.STOPPED, stop_reason(self.storage.paths.trial(trial)) or "stopped early")

    def end(self, trial: str, state: State, reason: str) -> None:
        """Write how a trial ended, unless it is done."""
        status = self._status(trial) or Status(state=State.WAITING)
        if status.state is not State.DONE:
            end = {"state": state, "reason": reason, "updated": time.time()}
            write_status(self.storage.paths.trial(trial), Status.model_validate(status.model_dump() | end))
            self.storage.send(self.storage.paths.of(trial).status)

    def settle(self, trials: Sequence[Trial], state: State, reason: str) -> None:
        """Write the final status of trials that Ray left without one, after their workers have exited."""
        self.storage.fetch_trials(trial.id for trial in trials)
        self.end_stopped(SETTLE_S)
        for trial in trials:
            status = self._status(trial.id)
            if status is not None and status.state in (State.RUNNING, State.WAITING):
                self._is_free(trial.id, INTERRUPTED_S if state is State.INTERRUPTED else SETTLE_S)
                self.end(trial.id, state, reason)
            elif status is None and state is State.FAILED:
                self.end(trial.id, state, reason)

    def wait_for_halt(self, trials: Sequence[Trial], wait_s: float) -> None:
        """Wait until the trainings that run have saved and ended; those that have not begun need not be waited for."""
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            statuses = {trial.id: self._status(trial.id) for trial in trials}
            running = [trial for trial, status in statuses.items() if status and status.state is State.RUNNING]
            if all(self._is_free(trial) for trial in running):
                return
            time.sleep(0.2)

    def _is_free(self, trial: str, wait_s: float = 0.0) -> bool:
        """Return whether no worker holds the trial's folder, waiting for that a while."""
        return wait_free(self.storage.paths.of(trial).lease, wait_s)

    def _status(self, trial: str) -> Status | None:
        with contextlib.suppress(SagasrError):
            return read_status(self.storage.paths.trial(trial))
        return None
