"""MLflow follows the trial folders: the tracker reads their journals and sends what is new, while the sweep goes on.

It runs in a thread of the sweep process; no training ever waits for it, or knows of it. What a server misses is sent
the next time. Each point arrives once:

- only records that a checkpoint has made final are sent;
- a point counts as sent once the server has said so;
- after a request that failed, or where the server has other values than it was sent (restored from a backup, say), the
  server is asked which points it has. MLflow's SQL stores drop a point that is equal in step, value *and* time, but a
  step that was trained again after its answer was lost has another time.
"""

import io
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.plan.plan import Plan, Replicate, Trial
from orchestrator.sweep_folder.redact import plain, redact_tree
from orchestrator.tracking.client import is_refusal, reason_of
from orchestrator.tracking.describe import TAG_LENGTH
from orchestrator.tracking.points import Offsets, curves, last_of, milliseconds, read_trial, unsent
from orchestrator.tracking.runs import SweepRuns
from sagasr.io.errors import SagasrError
from sagasr.io.states import State
from sagasr.training.trial_log import Status

logger = logging.getLogger(__name__)

EVERY_S = 5.0  # seconds between two passes over the journals
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # waits after the first, second, … failure in a row
BATCH = 900  # metrics in one request; with the parameters below MLflow's limit of 1,000
RUN_STATUS = {State.DONE: "FINISHED", State.FAILED: "FAILED", State.STOPPED: "KILLED", State.INTERRUPTED: "KILLED"}


class Undelivered(NamedTuple):
    """What the tracking server still lacks: replicates, and why the last attempt failed."""

    replicates: int
    reason: str


class Tracker:
    """Follows the trial folders of a plan; ``start``, then ``close``."""

    def __init__(
        self, plan: Plan, trials: Sequence[Trial] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.plan = plan
        self.trials = tuple(plan.trials if trials is None else trials)
        self.tags = dict(tags or {})
        self.problem = ""
        self._offsets = Offsets(plan.paths, plan.tracking_uri)
        self._runs: SweepRuns | None = None  # the connection; dropped after every failure
        self._seen: dict[str, tuple[float, ...]] = {}
        self._failed = False
        self._wake, self._closing, self._complete = threading.Event(), False, True
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)

    @property
    def run_ids(self) -> dict[str, str]:
        """Return the MLflow run of each replicate that has one."""
        return {replicate: entry["run"] for replicate, entry in self._offsets.runs.items()}

    def start(self) -> None:
        """Begin to follow the journals."""
        self._thread.start()

    def close(self, complete: bool = True, timeout_s: float = 60.0) -> Undelivered:
        """Send what is left, waiting at most ``timeout_s``, and return what could not be sent."""
        self._complete, self._closing = complete, True
        self._wake.set()
        self._thread.join(timeout_s)
        return self.undelivered()

    def undelivered(self) -> Undelivered:
        """Return how many replicates the server does not know fully yet."""
        waiting = 0
        for trial in self.trials:
            status, records = read_trial(self.plan.paths.trial(trial.id))
            if status is not None:
                for row in trial.replicates:
                    entry = self._offsets.of(row.id)
                    new = unsent(curves(records, row.variant, status), entry.get("sent", {}))
                    waiting += bool(new) or (status.state.final and entry.get("state") != status.state)
        return Undelivered(waiting, self.problem)

    def sync(self) -> None:
        """Make one pass: create what is missing, send what is new. Raises whatever the client raises."""
        try:
            if self._runs is None:
                self._seen = {}
                self._runs = SweepRuns(self.plan, self._offsets, self.tags)
            refusals = [error for trial in self.trials if (error := self._follow_trial(self._runs, trial))]
            self._runs.send_plan()
            if self._closing:
                self._runs.client.set_terminated(self._runs.parent, "FINISHED" if self._complete else "KILLED")
            if refusals:
                raise refusals[-1]
        except Exception:
            self._runs, self._failed = None, True
            raise
        finally:
            self._offsets.save()

    def _follow(self) -> None:
        failures = 0
        while True:
            last = self._closing
            if last and self._failed:
                self._runs = None  # a lost answer may have left a second run; connecting finds it
            try:
                self.sync()
                failures, self.problem = 0, ""
            except Exception as error:  # noqa: BLE001 - whatever a client raises, the sweep goes on
                self.problem = reason_of(error)
                failures += 1
                logger.debug("tracking: %s", self.problem)
            if last:
                return
            self._wake.wait(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] if failures else EVERY_S)
            self._wake.clear()

    def _follow_trial(self, runs: SweepRuns, trial: Trial) -> Exception | None:
        """Send what is new of one trial. Returns what the server refused of a replicate; the others are sent still."""
        folder = self.plan.paths.trial(trial.id)
        files = (folder / name for name in ("status.json", "history.jsonl", "checkpoints", "scores"))
        stamp = tuple(path.stat().st_mtime if path.exists() else 0.0 for path in files)
        if stamp == self._seen.get(trial.id):
            return None
        status, records = read_trial(folder)
        if status is None:
            return None
        refusal: Exception | None = None
        for row in trial.replicates:
            try:
                run = self._send_points(runs, trial, row, status, records)
            except Exception as error:
                if before := self._offsets.of(row.id).get("run"):
                    self._offsets.set(row.id, {"run": before})  # nobody knows what arrived
                if not is_refusal(error):
                    raise
                refusal = error
                continue
            try:
                self._send_end(runs, run, trial, row, status)
            except Exception as error:  # noqa: BLE001 - an artifact store of its own may be away; the others go on
                refusal = error
        if refusal is None:
            self._seen[trial.id] = stamp
        return refusal

    def _send_points(
        self, runs: SweepRuns, trial: Trial, row: Replicate, status: Status, records: Sequence[Mapping[str, Any]]
    ) -> str:
        """Send the points that the run of a replicate lacks, and what it says beside them; return the run."""
        from mlflow.entities import Metric, Param, RunTag

        about = runs.descriptions.of(trial, row)
        run = runs.of(trial, row, about, status.started)
        entry = self._offsets.of(row.id)
        points = curves(records, row.variant, status)
        if "sent" in entry:
            new = unsent(points, entry["sent"])
            sent = {**entry["sent"], **last_of(new)}
        else:
            there = runs.points(run)
            known = {(point.name, point.step) for point in there}
            new = [point for point in points if (point.name, point.step) not in known]
            sent = last_of([*there, *new])
        is_described = entry.get("about") == about.digest
        params = [] if is_described else [Param(*item) for item in runs.params(row, about).items()]
        tags = [] if is_described else [RunTag(*item) for item in about.tags.items()]
        if entry.get("state") in RUN_STATUS and entry["state"] != status.state:
            runs.client.update_run(run, status="RUNNING")
        for start in range(0, max(len(new), not is_described), BATCH):
            metrics = [Metric(*point) for point in new[start : start + BATCH]]
            runs.client.log_batch(run, metrics, *((params, tags) if start == 0 else ()))
        if not is_described:
            runs.describe(trial, row, about)
        self._offsets.set(row.id, {**entry, "sent": sent, "about": about.digest})
        return run

    def _send_end(self, runs: SweepRuns, run: str, trial: Trial, row: Replicate, status: Status) -> None:
        """Send the files of a finished replicate, and how its training ended."""
        entry = self._offsets.of(row.id)
        if entry.get("state") == status.state:
            return
        if status.state.final:
            self._send_files(runs, run, trial, row)
            if devices := "; ".join(f"attempt {device.attempt}: {device}" for device in status.devices):
                runs.client.set_tag(run, "sagasr.device", plain(devices, TAG_LENGTH))
        if status.state in RUN_STATUS:
            if status.reason:
                runs.client.set_tag(run, "sagasr.reason", plain(status.reason, TAG_LENGTH))
            elif entry.get("has_reason"):  # of an end that it has gone on from
                runs.client.delete_tag(run, "sagasr.reason")
            runs.client.set_terminated(run, RUN_STATUS[status.state], milliseconds(status.updated))
        self._offsets.set(row.id, {**entry, "state": status.state, "has_reason": bool(status.reason)})

    def _send_files(self, runs: SweepRuns, run: str, trial: Trial, row: Replicate) -> None:
        from PIL import Image

        from orchestrator.report.listening import triptych

        folder = self.plan.paths.of(trial.id)
        evaluation = next(variant.evaluation for variant in trial.variants if variant.id == row.variant)
        config = trial.config.model_dump(mode="json") | {"evaluation": evaluation.model_dump(mode="json")}
        runs.client.log_dict(run, redact_tree(config), "config.json")
        for audio in sorted(folder.audio(row.variant).glob("*.flac")):
            runs.client.log_artifact(run, str(audio), "audio")
            low, high = (folder.audio(kind) / audio.name for kind in ("low", "high"))
            try:
                picture = Image.open(io.BytesIO(triptych(low, audio, high)))
            except (SagasrError, OSError) as error:
                logger.debug("no spectrogram of %s: %s", audio, error)
                continue
            runs.client.log_image(run, picture, f"spectrograms/{audio.stem}.png")
        if folder.log().exists():
            runs.client.log_artifact(run, str(folder.log()))
