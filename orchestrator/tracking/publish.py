"""The answer in MLflow: page and effects in the sweep's parent run, trained models, and links to its comparisons.

A failure is one line for the user and harms nothing: the page lies in the sweep's folder, and the same command sends it
again.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.analysis.tables import has_levels
from orchestrator.plan.plan import Plan
from orchestrator.sweep_folder.redact import plain
from orchestrator.tracking.client import connect, reason_of, search_runs
from orchestrator.tracking.mlflow_internals import ARTIFACTS, links
from orchestrator.tracking.models import log_models, register

NO_MODEL = "no cell has finished with a checkpoint that is here"
MAX_COMPARED = 8  # runs in the saved comparison


def publish(
    plan: Plan,
    page: Path,
    effects: pd.DataFrame,
    compared: Sequence[str] = (),
    roles: Mapping[str, str] | None = None,
    name: str = "",
) -> list[str]:
    """Send page and effects to the parent run, and the models; return lines for the terminal with the links.

    ``compared``: replicates that the saved comparison shows side by side. ``roles``: those whose models are sent, by
    what they are; the ``best`` is registered as ``name``.
    """
    try:
        client = connect(plan.tracking_uri)
        experiment = client.get_experiment_by_name(plan.name)
        parents = search_runs(client, experiment.experiment_id, "sweep") if experiment else []
        if not parents:
            return []
        parent = parents[0].info.run_id
        client.log_artifact(parent, str(page), ARTIFACTS)
        client.log_batch(parent, _effect_metrics(effects, int(page.stat().st_mtime * 1_000)))
        replicates = search_runs(client, experiment.experiment_id, "replicate")
        run_ids = {run.data.tags["sagasr.replicate"]: run.info.run_id for run in replicates}
        first_seed = [run.info.run_id for run in replicates if run.data.params.get("seed") == str(plan.seeds[0])]
        side_by_side = [run_ids[name] for name in compared if name in run_ids][:MAX_COMPARED]
        metric = f"val/{plan.metric}"
        lower = plan.space.metrics[plan.metric] == "lower"
        shown = links(plan.tracking_uri, experiment.experiment_id, parent, side_by_side, first_seed, metric, lower)
    except Exception as error:  # noqa: BLE001 - whatever a server answers, the page is there
        return [f"report not in MLflow yet: {plain(reason_of(error), 200)}; the same command sends it again"]
    return [*shown, *_send_models(client, experiment.experiment_id, plan, run_ids, roles or {}, name)]


def _send_models(
    client: Any, experiment: str, plan: Plan, runs: Mapping[str, str], roles: Mapping[str, str], name: str
) -> list[str]:
    """Send the models and register the best; return a line where the user is to know of it."""
    try:
        models = log_models(client, experiment, plan, runs, roles)
        if not name:
            return []
        return [register(client, name, models["best"]) if "best" in models else f"not registered: {NO_MODEL}"]
    except Exception as error:  # noqa: BLE001 - whatever a server answers, the trial folders are there
        return [f"models not in MLflow yet: {plain(reason_of(error), 200)}; the same command sends them again"]


def to_compare(replicates: pd.DataFrame, cells: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the finished replicate of each cell with the first seed that it has, each once."""
    names: list[str] = []
    for levels in cells:
        rows = replicates[has_levels(replicates, levels)]
        if len(rows) and "replicate" in rows and (name := str(rows["replicate"].iloc[0])) not in names:
            names.append(name)
    return names


def _effect_metrics(effects: pd.DataFrame, milliseconds: int) -> list[Any]:
    """Return the main effects and their intervals as metrics; their names hold only what MLflow allows."""
    from mlflow.entities import Metric

    rows = effects[(effects["family"] == "primary") & (effects["domain"] == "all")]
    names = [re.sub(r"[^\w./ -]+", "_", f"effect/{row.factor}/{row.level}")[:200] for row in rows.itertuples()]
    return [
        Metric(name + suffix, value, milliseconds, 0)
        for suffix, key in (("", "estimate"), ("/low", "low"), ("/high", "high"))
        for name, value in zip(names, rows[key].tolist(), strict=True)
        if value == value
    ]
