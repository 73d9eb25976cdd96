"""The answer in MLflow: the report page and the effects in the sweep's parent run, and links to its comparisons.

What cannot be sent is told in one line and harms nothing: the page lies in the sweep's folder, and the same command
sends it again. Like tracking.py, the only places that speak with MLflow.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from orchestrator.plan import Plan
from orchestrator.redact import plain

LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` serves by default
MAX_COMPARED = 8  # runs in the saved comparison
ARTIFACTS, PAGE = "report", "index.html"
KIND = ("mlflow.experimentKind", "custom_model_development")  # the UI shows trainings, not conversations with models


def publish(plan: Plan, page: Path, effects: pd.DataFrame, compared: Sequence[str] = ()) -> list[str]:
    """Send page and effects to the parent run; return lines for the terminal with the links.

    ``compared``: replicates that the saved comparison shows side by side.
    """
    from orchestrator.tracking import connect

    try:
        client = connect(plan.tracking_uri)
        experiment = client.get_experiment_by_name(plan.name)
        if experiment is None:
            return []
        parent = _one(client, experiment.experiment_id, "tags.`sagasr.kind` = 'sweep'")
        if parent is None:
            return []
        client.log_artifact(parent, str(page), ARTIFACTS)
        client.set_experiment_tag(experiment.experiment_id, *KIND)
        client.log_batch(parent, list(_metrics(effects, int(page.stat().st_mtime * 1_000))))
        runs = {}
        for replicate in compared[:MAX_COMPARED]:
            runs[replicate] = _one(client, experiment.experiment_id, f"tags.`sagasr.replicate` = '{replicate}'")
        return list(links(plan.tracking_uri, experiment.experiment_id, parent, [one for one in runs.values() if one]))
    except Exception as error:  # noqa: BLE001 - whatever a server answers, the page is there
        reason = plain((str(error).splitlines() or [type(error).__name__])[0], 200)
        return [f"report not in MLflow yet: {reason}; the same command sends it again"]


def links(uri: str, experiment: str, parent: str, runs: Sequence[str]) -> Sequence[str]:
    """Return lines with addresses of the user interface: curves of all runs, some runs side by side, the report."""
    base = re.sub(r"//[^/@]*@", "//", uri).rstrip("/") if uri.startswith(("http://", "https://")) else LOCAL
    found = [f"curves side by side: {base}/#/experiments/{experiment}/runs?compareRunsMode=CHART"]
    if len(runs) > 1:
        query = (
            f"runs={quote(json.dumps(list(runs), separators=(',', ':')))}&experiments={quote(json.dumps([experiment]))}"
        )
        found.append(f"compare {len(runs)} runs: {base}/#/compare-runs?{query}")
    found.append(f"report in MLflow: {base}/#/experiments/{experiment}/runs/{parent}/artifacts/{ARTIFACTS}/{PAGE}")
    return found


def to_compare(replicates: pd.DataFrame, cells: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the finished replicate of each cell with the first seed that it has, each once."""
    found: list[str] = []
    for levels in cells:
        rows = replicates
        for factor, level in levels.items():
            rows = rows[rows["@" + factor] == level]
        if len(rows) and "replicate" in rows and (name := str(rows["replicate"].iloc[0])) not in found:
            found.append(name)
    return found


def _metrics(effects: pd.DataFrame, when: int) -> Sequence[Any]:
    """Return the main effects and their intervals as metrics; names hold only what MLflow allows."""
    from mlflow.entities import Metric

    found = []
    rows = effects[(effects["family"] == "primary") & (effects["domain"] == "all")]
    for row in rows.to_dict("records"):
        name = re.sub(r"[^\w./ -]+", "_", f"effect/{row['factor']}/{row['level']}")[:200]
        for end, key in (("", "estimate"), ("/low", "low"), ("/high", "high")):
            if row[key] == row[key]:
                found.append(Metric(name + end, float(row[key]), when, 0))
    return found


def _one(client: Any, experiment: str, condition: str) -> str | None:
    runs = client.search_runs([experiment], condition, max_results=1)
    return str(runs[0].info.run_id) if runs else None
