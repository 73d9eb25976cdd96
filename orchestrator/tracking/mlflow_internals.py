"""What MLflow has no public interface for, checked against 3.17.2: its retries, its table of places, its UI's pages."""

import contextlib
import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` serves by default
KIND = ("mlflow.experimentKind", "custom_model_development")  # the UI shows trainings, not conversations with models
TRAINING = "workflowType=machine_learning"  # says so in an address, as the UI may look at that alone
PLACES = (  # columns of its database that say where artifacts lie
    *(("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)
MAX_CURVES = 24  # runs in the saved chart
ARTIFACTS, PAGE = "report", "index.html"


def stop_database_retries() -> None:
    """Let a database that is away fail at once; MLflow would try for minutes."""
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 1


def move_artifacts(database_file: Path, experiment: Any, place: str) -> None:
    """Point an experiment to its artifacts in ``place``, where they lie after the storage was moved."""
    before = experiment.artifact_location
    if before != place and before.endswith(place[place.rindex("/mlartifacts/") :]):
        with contextlib.closing(sqlite3.connect(database_file)) as database, database:
            for table, column in PLACES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (place, len(before) + 1, before, len(before) + 1, f"{before}/"),
                )


def links(
    uri: str,
    experiment: str,
    parent: str,
    runs: Sequence[str],
    curves: Sequence[str] = (),
    metric: str = "val/lsd",
    lower: bool = True,
) -> list[str]:
    """Return lines with addresses of the user interface.

    ``curves`` in one chart, ``runs`` side by side, a table of all with the best first, the report. MLflow's own list of
    runs folds the replicates under their sweep, so its table and charts would show the sweep alone.
    """
    base = re.sub(r"//[^/]*@", "//", uri).rstrip("/") if uri.startswith(("http://", "https://")) else LOCAL
    lines = []
    if curves:
        shown = list(curves[:MAX_CURVES])
        chart = {"runs": shown, "experiments": [experiment], "metric": metric, "plot_metric_keys": [metric]}
        words = "&x_axis=step&y_axis_scale=linear&line_smoothness=1&show_point=false"
        rest = "&plot_layout=%7B%7D&deselected_curves=%5B%5D&last_linear_y_axis_range=%5B%5D"
        lines.append(f"{metric} of {len(shown)} runs, first seed: {base}/#/metric?{_query(chart)}{words}{rest}")
    if len(runs) > 1:
        query = _query({"runs": list(runs), "experiments": [experiment]})
        lines.append(f"compare {len(runs)} runs: {base}/#/compare-runs?{query}")
    if curves:
        wanted = quote("tags.`sagasr.kind` = 'replicate'")
        order = f"orderByKey={quote(f'metrics.`{metric}`')}&orderByAsc={str(lower).lower()}"
        lines.append(f"all runs: {base}/#/experiments/{experiment}/runs?{TRAINING}&searchFilter={wanted}&{order}")
    return [*lines, f"report in MLflow: {base}/#/experiments/{experiment}/runs/{parent}/artifacts/{ARTIFACTS}/{PAGE}"]


def _query(values: Mapping[str, Any]) -> str:
    return "&".join(f"{key}={quote(json.dumps(value, separators=(',', ':')))}" for key, value in values.items())
