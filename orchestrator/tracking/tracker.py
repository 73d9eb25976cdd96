"""The only door to MLflow. Trial folders come first, this follows them: what a server misses is sent the next time.

A ``Tracker`` reads the journals of a sweep's trials and sends what is new: one experiment per sweep, one parent run,
one run per replicate. It runs in a thread of the sweep process; no training ever waits for it, or knows of it.

Nothing is lost: a point counts as sent only once the server has said so, and what a server lacks after all (restored
from a backup, its run deleted) is seen when it is met again, and sent. Nothing comes twice: only records that a
checkpoint has made final are sent, no step of a curve is sent again once it arrived, and where the answer to a request
was lost, the server is asked what it has. Of two runs of one replicate, which a lost answer can leave, one is deleted.
"""

import contextlib
import logging
import os
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from orchestrator.plan.plan import Plan, Replicate, Trial
from orchestrator.run.proxies import spare_this_machine
from orchestrator.sweep_folder.paths import SweepPaths, sqlite_file
from orchestrator.sweep_folder.redact import plain, redact, redact_tree
from sagasr.io.errors import ConfigError, SagasrError
from sagasr.io.files import read_json, write_json
from sagasr.io.fingerprint import short
from sagasr.io.machine import cpus_here
from sagasr.io.states import State
from sagasr.io.trial_folder import CHECKPOINT, TrialFolder
from sagasr.io.trial_log import History, Status, read_status

logger = logging.getLogger(__name__)

EVERY_S = 5.0  # seconds between two passes over the journals
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # waits after the first, second, … failure in a row
TIMEOUT_S = 10  # of one request
KNOCK_S = 3.0  # until a machine that does not answer counts as down
BATCH = 900  # metrics in one request; with its parameters below MLflow's limit of 1,000
SAVE_EVERY_S = 1.0  # between two writes of what was sent
NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6_000, 8_000  # characters, MLflow's limits
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
PASSING = (401, 403, 408, 425, 429)  # answers that say nothing of the request; others of 400 to 499 refuse this one
STATES = {
    State.DONE: "FINISHED",
    State.FAILED: "FAILED",
    State.STOPPED: "KILLED",
    State.INTERRUPTED: "KILLED",
}


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
        self._parent, self._plan_sent = "", ""
        self._known: dict[str, str] = {}
        self._doubtful: set[str] = set()
        self._seen: dict[str, tuple[float, ...]] = {}
        self._troubled = False
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
                for row in trial.replicates:
                    sent = self._offsets.of(row)
                    new = unsent(curves(final, row.variant, status), sent.get("sent", {}))
                    waiting += bool(new) or (status.state.final and sent.get("state") != status.state)
        return Undelivered(waiting, self.problem)

    def sync(self) -> None:
        """Make one pass: create what is missing, send what is new. Raises whatever the client raises."""
        try:
            self._connect()
            refusal = None
            for trial in self.trials:
                refusal = self._follow_trial(trial) or refusal
            self._follow_plan()
            if refusal is not None:
                raise refusal
        except Exception:
            self._client, self._troubled = None, True
            raise
        finally:
            self._offsets.save()

    def _follow_trial(self, trial: Trial) -> Exception | None:
        """Send what is new of one trial. Returns what the server refused of a replicate; the others are sent still."""
        folder = self.plan.paths.trial(trial.id)
        stamp = tuple(_modified(folder / name) for name in ("status.json", "history.jsonl", "checkpoints", "scores"))
        if stamp == self._seen.get(trial.id):
            return None
        status, records = _state(self.plan.paths, trial)
        if status is None:
            return None
        final = committed(records, status, folder)
        refusal: Exception | None = None
        for row in trial.replicates:
            try:
                self._send(trial, row, status, final)
            except _Unfinished as error:
                refusal = error
            except Exception as error:
                self._doubtful.add(row.id)
                if not _is_refusal(error):
                    raise
                self._known.pop(row.id, None)  # deleted meanwhile, perhaps; asked for at the next pass
                refusal = error
        if refusal is None:
            self._seen[trial.id] = stamp
        self._offsets.save(SAVE_EVERY_S)
        return refusal

    # ----------------------------------------------------------------------------------------------------- the thread

    def _follow(self) -> None:
        failures = 0
        while True:
            last = self._over
            if last and self._troubled:
                self._client = None  # what a lost answer left behind, such as a second run, is looked for once more
            try:
                self.sync()
                failures, self.problem = 0, ""
            except Exception as error:  # noqa: BLE001 - whatever a client raises, the sweep goes on
                self.problem = _reason(error)
                failures += 1
                logger.debug("tracking: %s", self.problem)
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
            found: dict[str, list[Any]] = {}
            for run in search_runs(client, self._experiment, "tags.`sagasr.kind` = 'replicate'"):
                found.setdefault(run.data.tags["sagasr.replicate"], []).append(run)
            for replicate, runs in found.items():
                run = self._only(client, runs, self._offsets.runs.get(replicate, {}).get("run"))
                self._known[replicate] = run.info.run_id
                if not self._offsets.agrees(replicate, run):
                    self._doubtful.add(replicate)
            self._parent = self._find_parent(client)
            self._client = client

    def _only(self, client: Any, runs: Sequence[Any], known: str | None = None) -> Any:
        """Return the run to keep, the one that was written to or else the oldest; the others are deleted."""
        kept = next((run for run in runs if run.info.run_id == known), runs[0])
        for run in runs:
            if run is not kept:
                client.delete_run(run.info.run_id)
        return kept

    def _find_parent(self, client: Any) -> str:
        found = search_runs(client, self._experiment, "tags.`sagasr.kind` = 'sweep'")
        tags = _tags(
            {
                "sagasr.kind": "sweep",
                "sagasr.sweep": self.plan.name,
                "mlflow.note.content": self.plan.question,
                **self.tags,
            }
        )
        if found:
            run = self._only(client, found)
            for key, value in tags.items():
                if run.data.tags.get(key) != value:
                    client.set_tag(run.info.run_id, key, value)
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = client.create_run(self._experiment, tags=tags, run_name=plain(self.plan.name, NAME_LENGTH))
        self._plan_sent = run.data.tags.get("sagasr.plan", "")
        return str(run.info.run_id)

    def _follow_plan(self) -> None:
        """Send the plan where the parent run lacks it, and its end where it ended."""
        known = short(self.plan.hash)
        if self._plan_sent != known:
            self._client.log_artifact(self._parent, str(self.plan.paths.grid))
            self._client.log_artifact(self._parent, str(self.plan.paths.plan))
            self._client.set_tag(self._parent, "sagasr.plan", known)
            self._plan_sent = known
        if self._over:
            self._client.set_terminated(self._parent, "FINISHED" if self._complete else "KILLED")

    def _run_of(self, trial: Trial, row: Replicate, status: Status, before: str | None) -> str:
        """Return the run of a replicate, found by its tag or created; a new one names the one it stands in for."""
        if row.id not in self._known:
            tags = {
                "sagasr.kind": "replicate",
                "sagasr.replicate": row.id,
                "sagasr.trial": trial.id,
                "sagasr.variant": row.variant,
                "sagasr.cell": row.cell,
                "sagasr.sweep": self.plan.name,
                "sagasr.io.fingerprint": row.fingerprint,
                "sagasr.io.fingerprint.trial": trial.fingerprint,
                "sagasr.io.fingerprint.data": trial.data,
                "mlflow.parentRunId": self._parent,
                **({"sagasr.replaces": before} if before else {}),
                **self.tags,
            }
            name = plain(f"{row.cell} seed={row.seed}", NAME_LENGTH)
            run = self._client.create_run(
                self._experiment, start_time=_ms(status.started), tags=_tags(tags), run_name=name
            )
            self._known[row.id] = run.info.run_id
            self._doubtful.discard(row.id)
        return self._known[row.id]

    def _send(self, trial: Trial, row: Replicate, status: Status, final: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric, Param

        before = self._offsets.of(row)
        run = self._run_of(trial, row, status, before.get("run"))
        if before.get("run") != run:
            before = {"run": run}
        points = curves(final, row.variant, status)
        sent: dict[str, list[float]] = dict(before.get("sent", {}))
        if row.id in self._doubtful:
            before = {"run": run}
            there = self._present(run)
            new = [point for point in points if (point.name, point.step) not in there]
            sent = last_of(points)
        else:
            new = unsent(points, sent)
        params = {} if before.get("params") else {**row.levels, "seed": str(row.seed)}
        if not new and not params and before.get("state") == status.state:
            return
        if before.get("state") in STATES and before["state"] != status.state:
            self._client.update_run(run, status="RUNNING")
        given = [Param(plain(name, NAME_LENGTH), plain(value, PARAM_LENGTH)) for name, value in params.items()]
        for start in range(0, max(len(new), 1), BATCH):
            part = new[start : start + BATCH]
            if part or given:
                self._client.log_batch(run, [Metric(*one) for one in part], given)
            given = []
        sent |= last_of(points)
        self._doubtful.discard(row.id)
        self._offsets.set(row, {**before, "run": run, "sent": sent, "params": True})
        if status.state.final:
            try:
                self._finish(trial, row, run, status)
            except Exception as error:
                raise _Unfinished(str(error)) from error
        elif status.state in STATES:
            self._client.set_terminated(run, STATES[status.state], _ms(status.updated))
        self._offsets.set(row, {"run": run, "sent": sent, "params": True, "state": status.state})

    def _present(self, run: str) -> set[tuple[str, int]]:
        """Return the name and step of every point that the server has; asked only where it is in doubt."""
        names = self._client.get_run(run).data.metrics
        return {(name, point.step) for name in names for point in self._client.get_metric_history(run, name)}

    def _finish(self, trial: Trial, row: Replicate, run: str, status: Status) -> None:
        folder = self.plan.paths.trial(trial.id)
        self._client.log_dict(
            run,
            redact_tree(trial.config.model_dump(mode="json") | {"evaluation": _evaluation(trial, row)}),
            "config.json",
        )
        for audio in sorted(self.plan.paths.of(trial.id).audio(row.variant).glob("*.flac")):
            self._client.log_artifact(run, str(audio), "audio")
            self._send_picture(trial, run, audio)
        if (log := TrialFolder(folder).log()).exists():
            self._client.log_artifact(run, str(log))
        if status.devices:
            devices = "; ".join(f"attempt {one.attempt}: {one}" for one in status.devices)
            self._client.set_tag(run, "sagasr.device", plain(devices, TAG_LENGTH))
        if status.reason:
            self._client.set_tag(run, "sagasr.reason", plain(status.reason, TAG_LENGTH))
        self._client.set_terminated(run, STATES[status.state], _ms(status.updated))

    def _send_picture(self, trial: Trial, run: str, audio: Path) -> None:
        """Send the spectrograms of low input, answer and high side by side, where all three can be read."""
        from orchestrator.report.spectrogram import triptych

        low, high = (self.plan.paths.of(trial.id).audio(kind) / audio.name for kind in ("low", "high"))
        try:
            picture = triptych(low, audio, high)
        except (SagasrError, OSError) as error:
            logger.debug("no spectrogram of %s: %s", audio, error)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{audio.stem}.png"
            path.write_bytes(picture)
            self._client.log_artifact(run, str(path), "spectrograms")


class Offsets:
    """``.tracking.json`` in the sweep folder: what one server has of each replicate. Losing it only costs time.

    An entry holds the ``run``, what was ``sent`` last of each curve (step and value), and the ``state`` it ended in.
    """

    def __init__(self, paths: SweepPaths, uri: str) -> None:
        self.path, self.uri = paths.tracking, redact(uri)
        self.runs: dict[str, dict[str, Any]] = {}
        self._saved, self._changed = 0.0, False
        try:
            tree = read_json(self.path) if self.path.exists() else {}
            if tree.get("uri") == self.uri:
                self.runs = {replicate: dict(entry) for replicate, entry in tree["runs"].items()}
        except (SagasrError, AttributeError, KeyError, TypeError, ValueError):
            logger.debug("%s is broken; the server is asked what it has", self.path)

    def of(self, row: Replicate) -> dict[str, Any]:
        return self.runs.get(row.id, {})

    def agrees(self, replicate: str, run: Any) -> bool:
        """Return whether a run on the server ends where what was sent ends."""
        entry = self.runs.get(replicate, {})
        sent = {name: value for name, (_, value) in entry.get("sent", {}).items()}
        return bool(entry.get("run") == run.info.run_id and sent == run.data.metrics)

    def set(self, row: Replicate, entry: dict[str, Any]) -> None:
        self.runs = {**self.runs, row.id: entry}
        self._changed = True

    def save(self, every_s: float = 0.0) -> None:
        """Write the file, if something changed and the last time is long enough ago."""
        if self._changed and time.monotonic() - self._saved >= every_s:
            write_json(self.path, {"uri": self.uri, "runs": self.runs})
            self._saved, self._changed = time.monotonic(), False


# ---------------------------------------------------------------------------------------------------- from the journals


def committed(records: Sequence[Mapping[str, Any]], status: Status, folder: Path) -> list[Mapping[str, Any]]:
    """Return the records that no resume will drop: those up to the newest checkpoint, all once the trial has ended."""
    if status.state.final:
        return list(records)
    steps = [
        int(path.parent.name.removeprefix(CHECKPOINT))
        for path in TrialFolder(folder).checkpoints.glob(f"{CHECKPOINT}*/manifest.json")
    ]
    newest = max(steps, default=0)
    return [record for record in records if record["step"] <= newest] if newest else []


def points_of(records: Sequence[Mapping[str, Any]], variant: str) -> Iterator[Point]:
    """Yield the curve points of one replicate: those of the shared training, and its own variant's."""
    for record in records:
        if record.get("variant", variant) == variant:
            for name, value in record["metrics"].items():
                yield Point(name, float(value), _ms(record["time"]), int(record["step"]))


def curves(records: Sequence[Mapping[str, Any]], variant: str, status: Status) -> list[Point]:
    """Return all points of one replicate, each name and step once: of two, as after a repair, the first."""
    points = [*points_of(records, variant)]
    if status.state is State.DONE:
        points += final_points(records, variant, status)
    return list({(point.name, point.step): point for point in reversed(points)}.values())[::-1]


def last_of(points: Iterable[Point]) -> dict[str, list[float]]:
    """Return the last step and value by curve."""
    found: dict[str, list[float]] = {}
    for point in points:
        if point.name not in found or point.step >= found[point.name][0]:
            found[point.name] = [point.step, point.value]
    return found


def unsent(points: Iterable[Point], sent: Mapping[str, Sequence[float]]) -> list[Point]:
    """Return the points behind the last that was sent of their curve: steps only rise, also in a journal cut short."""
    return [point for point in points if point.name not in sent or point.step > sent[point.name][0]]


def final_points(records: Sequence[Mapping[str, Any]], variant: str, status: Status) -> list[Point]:
    """Return the last scores of a finished replicate under their names in the results table, and what it cost."""
    own = [record for record in records if record.get("variant") == variant]
    if not own:
        return []
    last = own[-1]
    when = _ms(last["time"])
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
    """Return a quiet client with short timeouts and no retries of its own. Creates a missing sqlite file.

    Raises ConnectionError where no server listens.
    """
    spare_this_machine()
    _knock(uri)
    if "SSL_CERT_FILE" in os.environ and "CURL_CA_BUNDLE" not in os.environ:  # MLflow's client reads the others alone
        os.environ.setdefault("REQUESTS_CA_BUNDLE", os.environ["SSL_CERT_FILE"])
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(TIMEOUT_S)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    for name in ("mlflow", "mlflow.store.db.utils", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not uri.startswith(("http://", "https://", "databricks")):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 1
    if file := sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def _knock(uri: str) -> None:
    """Find out, before MLflow is loaded, which takes seconds, whether a server listens; through a proxy nobody can."""
    parts = urlsplit(uri)
    kind = parts.scheme.split("+")[0]
    proxied = kind in getproxies() and not proxy_bypass(parts.hostname or "")
    if kind in PORTS and parts.hostname and not proxied:
        port = parts.port or PORTS[kind]
        try:
            socket.create_connection((parts.hostname, port), KNOCK_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConnectionError(f"no server answers at {parts.hostname}:{port} ({reason})") from error


def check_server(plan: Plan) -> str:
    """Use the tracking server that somebody named once, before the first training; return what is to be said of it.

    One that has runs of this sweep may be away: trainings never wait for it. Raises ConfigError for one that refuses
    this user, and for another that cannot be used: it may never be there.
    """
    if not plan.tracking_named or _is_new_file(plan.tracking_uri):
        return ""
    try:
        _experiment(connect(plan.tracking_uri), plan)
    except Exception as error:
        refused = _code(error) in (401, 403)
        if not refused and Offsets(plan.paths, plan.tracking_uri).runs:
            return f"tracking: {redact(plan.tracking_uri)} is away ({_reason(error)}); what it misses is sent later"
        remedy = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            if refused
            else f"install {error.name}"
            if isinstance(error, ImportError)
            else "start MLflow there, or name another; with none named, a sqlite file in the storage keeps the runs"
        )
        raise ConfigError(
            f"{plan.tracking_named} {redact(plan.tracking_uri)}: cannot be used ({_reason(error)}); {remedy}"
        ) from error
    return ""


def _is_new_file(uri: str) -> bool:
    file = sqlite_file(uri)
    return file is not None and not (file.exists() and file.stat().st_size)


def _reason(error: Exception) -> str:
    """Return in a line what a client says of a request that failed, without secrets or the page that it was sent."""
    first = (str(error).splitlines() or [type(error).__name__])[0].partition(". Response body:")[0]
    return redact(first)[:200]


def _code(error: Exception) -> int:
    """Return the HTTP status with which a server answered, or 0 where none did."""
    from mlflow.exceptions import MlflowException

    return int(error.get_http_status_code()) if isinstance(error, MlflowException) else 0


def _experiment(client: Any, plan: Plan) -> str:
    """Return the experiment of the sweep, found by name or created; where there is no server, its artifacts are kept
    in the storage.
    """
    found = client.get_experiment_by_name(plan.name)
    uri, file = plan.tracking_uri, sqlite_file(plan.tracking_uri)
    artifacts = (file.parent if file else plan.folder.parent).resolve() / "mlartifacts" / plan.name
    if found is None:
        if uri.startswith(("http://", "https://")):
            return str(client.create_experiment(plan.name))  # the server knows where its artifacts go
        return str(client.create_experiment(plan.name, artifacts.as_uri()))
    if file and artifacts.is_dir():
        _move_artifacts(file, found, artifacts.as_uri())
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _move_artifacts(file: Path, experiment: Any, place: str) -> None:
    """Let an experiment keep its files where they lie since the storage was moved, which MLflow has no call for."""
    before = experiment.artifact_location
    if before != place and before.endswith(place[place.rindex("/mlartifacts/") :]):
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE experiment_id = ? AND substr({column}, 1, ?) = ?",
                    (place, len(before) + 1, experiment.experiment_id, len(before), before),
                )


class _Unfinished(Exception):
    """What is sent last of a replicate, its files and its end, did not arrive."""


def _is_refusal(error: Exception) -> bool:
    """Return whether the server understood a request and refuses it: for one replicate, and not for want of power."""
    return 400 <= (code := _code(error)) < 500 and code not in PASSING


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {plain(name, NAME_LENGTH): plain(value, TAG_LENGTH) for name, value in tags.items()}


def search_runs(client: Any, experiment: str, condition: str) -> list[Any]:
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


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _ms(seconds: float) -> int:
    return int(seconds * 1_000)


def environment_tags() -> dict[str, str]:
    """Return what is recorded of the machine and the code: commit, versions, hardware."""
    import platform
    import subprocess
    from importlib.metadata import version

    tags = {
        "sagasr.version": version("sagasr"),
        "sagasr.python": platform.python_version(),
        "sagasr.torch": version("torch"),
        "sagasr.hardware": f"{platform.machine()}, {cpus_here()} CPUs",
    }
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        tags["mlflow.source.git.commit"] = commit
    except (OSError, subprocess.SubprocessError):
        logger.debug("not a git checkout; no commit is recorded")
    return tags
