"""The only door to MLflow. Trial folders come first, this follows them: what a server misses is sent the next time.

A ``Tracker`` reads the journals of a sweep's trials and sends what is new: one experiment per sweep, one parent run,
one run per replicate. Only records that a checkpoint has made final are sent, and all timestamps come from the journal,
so that sending anything twice adds nothing. It runs in a thread of the sweep process; no training ever waits for it.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from orchestrator.paths import SweepPaths
from orchestrator.plan import Plan, Replicate, Trial
from sagasr.errors import SagasrError
from sagasr.files import read_json, write_json
from sagasr.fingerprint import short
from sagasr.journal import History, Status, read_status

logger = logging.getLogger(__name__)

EVERY_S = 5.0  # seconds between two passes over the journals
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # waits after the first, second, … failure in a row
TIMEOUT_S = 10  # of one request
BATCH = 1_000  # metrics in one request, MLflow's limit
STATES = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "interrupted": "KILLED"}
FINAL = frozenset({"done", "failed", "stopped"})


class Point(NamedTuple):
    """One value of one curve."""

    name: str
    value: float
    milliseconds: int
    step: int


class Undelivered(NamedTuple):
    """What the tracking server still lacks: replicates, and why the last attempt failed."""

    replicates: int
    reason: str


class Tracker:
    """Follows the trial folders of a plan; ``start``, then ``close``. ``run_ids``: the MLflow run by replicate."""

    def __init__(
        self, plan: Plan, trials: Sequence[Trial] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.plan = plan
        self.trials = tuple(plan.trials if trials is None else trials)
        self.tags = dict(tags or {})
        self.problem = ""
        self._offsets = Offsets(plan.paths, plan.tracking_uri)
        self._client: Any = None
        self._experiment = ""
        self._parent = ""
        self._known: dict[str, str] = {}
        self._seen: dict[str, tuple[float, ...]] = {}
        self._wake, self._over, self._complete = threading.Event(), False, True
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)

    @property
    def run_ids(self) -> dict[str, str]:
        """Return the MLflow run of each replicate that has one."""
        return {replicate: found["run"] for replicate, found in self._offsets.runs.items()}

    def start(self) -> None:
        """Begin to follow the journals."""
        self._thread.start()

    def close(self, complete: bool = True, timeout_s: float = 60.0) -> Undelivered:
        """Send what is left, waiting at most ``timeout_s``, and return what could not be sent."""
        self._complete = complete
        self._over = True
        self._wake.set()
        self._thread.join(timeout_s)
        return self.undelivered()

    def undelivered(self) -> Undelivered:
        """Return how many replicates the server does not know fully yet."""
        waiting = 0
        for trial in self.trials:
            status, records = _state(self.plan.paths, trial)
            if status is not None:
                final = committed(records, status, self.plan.paths.trial(trial.id))
                waiting += sum(
                    self._offsets.sent(row) < len(final)
                    or (status.state in FINAL and self._offsets.of(row).get("state") != status.state)
                    for row in trial.replicates
                )
        return Undelivered(waiting, self.problem)

    def sync(self) -> None:
        """Make one pass: create what is missing, send what is new. Raises whatever the client raises."""
        self._connect()
        for trial in self.trials:
            folder = self.plan.paths.trial(trial.id)
            stamp = tuple(
                _modified(folder / name) for name in ("status.json", "history.jsonl", "checkpoints", "scores")
            )
            if stamp == self._seen.get(trial.id):
                continue
            status, records = _state(self.plan.paths, trial)
            if status is not None:
                final = committed(records, status, folder)
                for row in trial.replicates:
                    self._send(trial, row, status, final)
                self._seen[trial.id] = stamp
        self._end_parent()

    # ----------------------------------------------------------------------------------------------------- the thread

    def _follow(self) -> None:
        failures = 0
        while True:
            last = self._over
            try:
                self.sync()
                failures, self.problem = 0, ""
            except Exception as error:
                self.problem = (str(error).splitlines() or [type(error).__name__])[0][:200]
                self._client = None
                failures += 1
                logger.debug("tracking: %s", self.problem, exc_info=True)
            if last:
                return
            self._wake.wait(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] if failures else EVERY_S)
            self._wake.clear()

    # ------------------------------------------------------------------------------------------------- what MLflow has

    def _connect(self) -> None:
        if self._client is None:
            self._known = {}
            self._seen = {}
            client = connect(self.plan.tracking_uri)
            self._experiment = _experiment(client, self.plan)
            for run in _search(client, self._experiment, "tags.`sagasr.kind` = 'replicate'"):
                self._known.setdefault(run.data.tags["sagasr.replicate"], run.info.run_id)
            self._parent = self._find_parent(client)
            self._client = client

    def _find_parent(self, client: Any) -> str:
        found = _search(client, self._experiment, "tags.`sagasr.kind` = 'sweep'")
        tags = {
            "sagasr.kind": "sweep",
            "sagasr.sweep": self.plan.name,
            "sagasr.plan": short(self.plan.hash),
            "mlflow.note.content": self.plan.question,
            **self.tags,
        }
        run = found[0] if found else client.create_run(self._experiment, tags=tags, run_name=self.plan.name)
        if found:
            for key, value in tags.items():
                if run.data.tags.get(key) != value:
                    client.set_tag(run.info.run_id, key, value)
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            client.log_artifact(run.info.run_id, str(self.plan.paths.grid))
            client.log_artifact(run.info.run_id, str(self.plan.paths.plan))
        return str(run.info.run_id)

    def _end_parent(self) -> None:
        if self._over:
            self._client.set_terminated(self._parent, "FINISHED" if self._complete else "KILLED")

    def _run_of(self, trial: Trial, row: Replicate, status: Status) -> str:
        """Return the run of a replicate, found by its tag or created."""
        if row.id not in self._known:
            tags = {
                "sagasr.kind": "replicate",
                "sagasr.replicate": row.id,
                "sagasr.trial": trial.id,
                "sagasr.variant": row.variant,
                "sagasr.cell": row.cell,
                "sagasr.sweep": self.plan.name,
                "sagasr.fingerprint": row.fingerprint,
                "sagasr.fingerprint.trial": trial.fingerprint,
                "sagasr.fingerprint.data": trial.data,
                "mlflow.parentRunId": self._parent,
                **self.tags,
            }
            run = self._client.create_run(
                self._experiment, start_time=_ms(status.started), tags=tags, run_name=f"{row.cell} seed={row.seed}"
            )
            self._known[row.id] = run.info.run_id
        return self._known[row.id]

    def _send(self, trial: Trial, row: Replicate, status: Status, final: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric, Param

        before = self._offsets.of(row)
        run = self._run_of(trial, row, status)
        if before.get("run") != run:
            before = {"run": run, "records": 0, "state": ""}
            params = [Param(name, level) for name, level in row.levels.items()] + [Param("seed", str(row.seed))]
            self._client.log_batch(run, params=params)
            self._offsets.write(row, before)
        if before["state"] == status.state and before["records"] >= len(final):
            return
        if before["state"] in STATES and before["state"] != status.state:
            self._client.update_run(run, status="RUNNING")
        points = list(points_of(final[before["records"] :], row.variant))
        final_sent = bool(before.get("final"))
        if status.state == "done" and not final_sent:
            points += final_points(final, row.variant, status)
            final_sent = bool(points)
        for start in range(0, len(points), BATCH):
            self._client.log_batch(run, [Metric(*point) for point in points[start : start + BATCH]])
        if status.state in FINAL:
            self._finish(trial, row, run, status)
        elif status.state in STATES:
            self._client.set_terminated(run, STATES[status.state], _ms(status.updated))
        self._offsets.write(row, {"run": run, "records": len(final), "state": status.state, "final": final_sent})

    def _finish(self, trial: Trial, row: Replicate, run: str, status: Status) -> None:
        folder = self.plan.paths.trial(trial.id)
        self._client.log_dict(
            run, trial.config.model_dump(mode="json") | {"evaluation": _evaluation(trial, row)}, "config.json"
        )
        for audio in sorted(self.plan.paths.trial_audio(trial.id, row.variant).glob("*.flac")):
            self._client.log_artifact(run, str(audio), "audio")
        if (folder / "log.txt").exists():
            self._client.log_artifact(run, str(folder / "log.txt"))
        if status.reason:
            self._client.set_tag(run, "sagasr.reason", status.reason[:5_000])
        self._client.set_terminated(run, STATES[status.state], _ms(status.updated))


class Offsets:
    """``.tracking.json`` in the sweep folder: how much of each journal one server has. Losing it only costs time."""

    def __init__(self, paths: SweepPaths, uri: str) -> None:
        self.path, self.uri = paths.root / ".tracking.json", _without_secrets(uri)
        self.runs: dict[str, dict[str, Any]] = {}
        try:
            tree = read_json(self.path) if self.path.exists() else {}
            if tree.get("uri") == self.uri:
                self.runs = tree["runs"]
        except (SagasrError, AttributeError, KeyError, TypeError):
            logger.debug("%s is broken; every journal is sent again", self.path)

    def of(self, row: Replicate) -> dict[str, Any]:
        return self.runs.get(row.id, {})

    def sent(self, row: Replicate) -> int:
        return int(self.of(row).get("records", 0))

    def write(self, row: Replicate, entry: dict[str, Any]) -> None:
        self.runs = {**self.runs, row.id: entry}
        write_json(self.path, {"uri": self.uri, "runs": self.runs})


# ---------------------------------------------------------------------------------------------------- from the journals


def committed(records: Sequence[Mapping[str, Any]], status: Status, folder: Path) -> list[Mapping[str, Any]]:
    """Return the records that no resume will drop: those up to the newest checkpoint, all once the trial has ended."""
    if status.state in FINAL:
        return list(records)
    steps = [int(path.parent.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*/manifest.json")]
    newest = max(steps, default=0)
    return [record for record in records if record["step"] <= newest] if newest else []


def points_of(records: Sequence[Mapping[str, Any]], variant: str) -> Iterator[Point]:
    """Yield the curve points of one replicate: those of the shared training, and its own variant's."""
    for record in records:
        if record.get("variant", variant) == variant:
            for name, value in record["metrics"].items():
                yield Point(name, float(value), _ms(record["time"]), int(record["step"]))


def final_points(records: Sequence[Mapping[str, Any]], variant: str, status: Status) -> list[Point]:
    """Return the last scores of a finished replicate under their names in the results table, and what it cost."""
    own = [record for record in records if record.get("variant") == variant]
    if not own:
        return []
    last, when = own[-1], _ms(status.updated)
    found = {name.removeprefix("val/"): value for name, value in last["metrics"].items()}
    found |= {"wall_seconds": status.wall_seconds, "gpu_seconds": status.gpu_seconds}
    return [Point(name, float(value), when, int(last["step"])) for name, value in found.items()]


def _state(paths: SweepPaths, trial: Trial) -> tuple[Status | None, list[Mapping[str, Any]]]:
    folder = paths.trial(trial.id)
    try:
        status = read_status(folder)
    except SagasrError:
        return None, []
    return status, list(History(folder)) if status else []


def _evaluation(trial: Trial, row: Replicate) -> dict[str, Any]:
    return next(variant.evaluation.model_dump(mode="json") for variant in trial.variants if variant.id == row.variant)


# -------------------------------------------------------------------------------------------------------------- MLflow


def connect(uri: str) -> Any:
    """Return a quiet client with short timeouts and no retries of its own. Creates a missing sqlite file."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(TIMEOUT_S)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    for name in ("mlflow", "mlflow.store.db.utils", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, plan: Plan) -> str:
    """Return the experiment of the sweep, found by name or created; with a sqlite file its artifacts lie beside it."""
    found = client.get_experiment_by_name(plan.name)
    if found is None:
        uri = plan.tracking_uri
        beside = Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts" / plan.name
        return str(client.create_experiment(plan.name, beside.as_uri() if uri.startswith("sqlite:///") else None))
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _search(client: Any, experiment: str, condition: str) -> list[Any]:
    """Return all runs of an experiment that meet a condition, oldest first."""
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment], condition, max_results=1_000, order_by=["start_time ASC"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _without_secrets(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.password else uri


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _ms(seconds: float) -> int:
    return int(seconds * 1_000)


def environment_tags(resources: Mapping[str, float] | None = None) -> dict[str, str]:
    """Return what is recorded of the machine and the code: commit, versions, hardware."""
    import platform
    import subprocess
    from importlib.metadata import version

    tags = {
        "sagasr.version": version("sagasr"),
        "sagasr.python": platform.python_version(),
        "sagasr.torch": version("torch"),
        "sagasr.hardware": json.dumps({k: v for k, v in sorted((resources or {}).items()) if ":" not in k})
        if resources
        else f"{platform.machine()}, {os.cpu_count()} CPUs",
    }
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        tags["mlflow.source.git.commit"] = commit
    except (OSError, subprocess.SubprocessError):
        logger.debug("not a git checkout; no commit is recorded")
    return tags
