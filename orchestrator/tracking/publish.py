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

from orchestrator.plan.plan import Plan
from orchestrator.sweep_folder.redact import plain

LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` serves by default
MAX_COMPARED = 8  # runs in the saved comparison
MAX_CURVES = 24  # runs in the saved chart
ARTIFACTS, PAGE = "report", "index.html"
KIND = ("mlflow.experimentKind", "custom_model_development")  # the UI shows trainings, not conversations with models


def publish(plan: Plan, page: Path, effects: pd.DataFrame, compared: Sequence[str] = ()) -> list[str]:
    """Send page and effects to the parent run; return lines for the terminal with the links.

    ``compared``: replicates that the saved comparison shows side by side.
    """
    from orchestrator.tracking.tracker import connect, search_runs

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
        known = search_runs(client, experiment.experiment_id, "tags.`sagasr.kind` = 'replicate'")
        runs = {run.data.tags["sagasr.replicate"]: run.info.run_id for run in known}
        seed = str(plan.seeds[0])
        chosen = [run.info.run_id for run in known if run.data.params.get("seed") == seed]
        side = [runs[one] for one in compared if one in runs][:MAX_COMPARED]
        return links(plan.tracking_uri, experiment.experiment_id, parent, side, chosen, f"val/{plan.metric}")
    except Exception as error:  # noqa: BLE001 - whatever a server answers, the page is there
        reason = plain((str(error).splitlines() or [type(error).__name__])[0], 200)
        return [f"report not in MLflow yet: {reason}; the same command sends it again"]


def links(
    uri: str, experiment: str, parent: str, runs: Sequence[str], curves: Sequence[str] = (), metric: str = "val/lsd"
) -> list[str]:
    """Return lines with addresses of the user interface: ``curves`` in one chart, ``runs`` side by side, the report.

    MLflow's own list of runs folds the replicates under their sweep, so its charts would show the sweep alone.
    """
    base = re.sub(r"//[^/]*@", "//", uri).rstrip("/") if uri.startswith(("http://", "https://")) else LOCAL
    found = []
    if curves:
        shown = list(curves[:MAX_CURVES])
        chart = {"runs": shown, "experiments": [experiment], "metric": metric, "plot_metric_keys": [metric]}
        words = "&x_axis=step&y_axis_scale=linear&line_smoothness=1&show_point=false"
        rest = "&plot_layout=%7B%7D&deselected_curves=%5B%5D&last_linear_y_axis_range=%5B%5D"
        found.append(f"{metric} of {len(shown)} runs, first seed: {base}/#/metric?{_query(chart)}{words}{rest}")
    if len(runs) > 1:
        query = _query({"runs": list(runs), "experiments": [experiment]})
        found.append(f"compare {len(runs)} runs: {base}/#/compare-runs?{query}")
    found.append(f"report in MLflow: {base}/#/experiments/{experiment}/runs/{parent}/artifacts/{ARTIFACTS}/{PAGE}")
    return found


def _query(values: Mapping[str, Any]) -> str:
    return "&".join(f"{key}={quote(json.dumps(value, separators=(',', ':')))}" for key, value in values.items())


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
