"""The only door to MLflow: a client that fails fast, the experiment of a sweep, and what a server's errors mean."""

import logging
import os
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from orchestrator.plan.plan import Plan
from orchestrator.proxies import spare_this_machine
from orchestrator.sweep_folder.paths import sqlite_file
from orchestrator.sweep_folder.redact import redact
from orchestrator.tracking.mlflow_internals import KIND, move_artifacts, stop_database_retries
from orchestrator.tracking.points import Offsets
from sagasr.io.errors import ConfigError

TIMEOUT_S = 10  # of one request
KNOCK_S = 3.0  # until a machine that does not answer counts as down
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
DENIED = (401, 403)
NOT_ABOUT_THE_REQUEST = (*DENIED, 408, 425, 429)  # the other answers of 400 to 499 refuse this one request


def connect(uri: str) -> Any:
    """Return a quiet client with short timeouts and no retries of its own. Creates the folder of a sqlite file.

    Raises ConnectionError where no server listens.
    """
    spare_this_machine()
    _knock(uri)
    if "SSL_CERT_FILE" in os.environ and "CURL_CA_BUNDLE" not in os.environ:  # MLflow's client reads only the others
        os.environ.setdefault("REQUESTS_CA_BUNDLE", os.environ["SSL_CERT_FILE"])
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(TIMEOUT_S)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of every run that ends
    _quieten()
    from mlflow import MlflowClient

    _quieten()  # the import sets levels of its own
    if not uri.startswith(("http://", "https://", "databricks")):
        stop_database_retries()
    if file := sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def _quieten() -> None:
    for name in ("mlflow", "mlflow.store.db.utils", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _knock(uri: str) -> None:
    """Raise ConnectionError where no server listens, before the import of MLflow, which takes seconds.

    A server behind a proxy cannot be asked.
    """
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
    """Use a tracking server that the user named once, before the first training, and return a warning or "".

    A server that has runs of this sweep may be away: trainings never wait for it. Raises ConfigError for a server that
    denies this user, and for any other that cannot be used: it may never be there.
    """
    file = sqlite_file(plan.tracking_uri)
    is_new_file = file is not None and not (file.exists() and file.stat().st_size)
    if not plan.tracking_named or is_new_file:
        return ""
    try:
        find_experiment(connect(plan.tracking_uri), plan)
    except Exception as error:
        denied = status_code(error) in DENIED
        if not denied and Offsets(plan.paths, plan.tracking_uri).runs:
            return f"tracking: {redact(plan.tracking_uri)} is away ({reason_of(error)}); what it misses is sent later"
        remedy = "start MLflow there, or name another; with none named, a sqlite file in the storage keeps the runs"
        if denied:
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        elif isinstance(error, ImportError):
            remedy = f"install {error.name}"
        raise ConfigError(
            f"{plan.tracking_named} {redact(plan.tracking_uri)}: cannot be used ({reason_of(error)}); {remedy}"
        ) from error
    return ""


def find_experiment(client: Any, plan: Plan) -> str:
    """Return the experiment of the sweep, found by name or created.

    Without a server, its artifacts are kept in the storage. It opens as model training, unless a user chose otherwise.
    """
    experiment = client.get_experiment_by_name(plan.name)
    file = sqlite_file(plan.tracking_uri)
    artifacts = (file.parent if file else plan.folder.parent).resolve() / "mlartifacts" / plan.name
    kind = dict([KIND])
    if experiment is None:
        if plan.tracking_uri.startswith(("http://", "https://")):
            return str(client.create_experiment(plan.name, tags=kind))  # the server knows where its artifacts go
        return str(client.create_experiment(plan.name, artifacts.as_uri(), kind))
    if file and artifacts.is_dir():
        move_artifacts(file, experiment, artifacts.as_uri())
    if experiment.lifecycle_stage != "active":
        client.restore_experiment(experiment.experiment_id)
    if KIND[0] not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, *KIND)
    return str(experiment.experiment_id)


def search_runs(client: Any, experiment: str, kind: str) -> list[Any]:
    """Return all runs of an experiment of a kind, ``replicate`` or ``sweep``, oldest first."""
    runs: list[Any] = []
    page = None
    while page is None or page.token:
        page = client.search_runs(
            [experiment],
            f"tags.`sagasr.kind` = '{kind}'",
            max_results=1_000,
            order_by=["start_time ASC"],
            page_token=page.token if page else None,
        )
        runs += page
    return runs


def reason_of(error: Exception) -> str:
    """Return in a line why a request failed, without secrets and without the page that the server sent."""
    first = (str(error).splitlines() or [type(error).__name__])[0].partition(". Response body:")[0]
    return redact(first)[:200]


def is_refusal(error: Exception) -> bool:
    """Return whether the server understood a request and refuses it, so that others may still succeed."""
    return 400 <= (code := status_code(error)) < 500 and code not in NOT_ABOUT_THE_REQUEST


def status_code(error: Exception) -> int:
    """Return the HTTP status with which a server answered, or 0 where none did."""
    from mlflow.exceptions import MlflowException

    return int(error.get_http_status_code()) if isinstance(error, MlflowException) else 0
