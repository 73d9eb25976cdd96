"""Trained models in MLflow: configuration and weights as ``sagasr-upsample --checkpoint`` loads them, without a pickle.

A model is known by its replicate, so that the same command sends nothing twice.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import Plan, Replicate, Trial
from orchestrator.sweep_folder.redact import redact_tree
from orchestrator.tracking.client import status_code
from orchestrator.tracking.describe import PARAM_LENGTH, TAG_LENGTH, texts
from sagasr.io.files import dump_yaml

ROLE, REPLICATE = "sagasr.role", "sagasr.replicate"


def log_models(
    client: Any, experiment: str, plan: Plan, runs: Mapping[str, str], roles: Mapping[str, str]
) -> dict[str, Any]:
    """Send the trained model of each role's replicate, if the server lacks it; return the models by role.

    ``runs``: the run of each replicate. A role is a tag, which another model may have tomorrow. Raises whatever the
    client raises.
    """
    known = {model.tags.get(REPLICATE): model for model in client.search_logged_models([experiment])}
    models: dict[str, Any] = {}
    for trial in plan.trials:
        for row in trial.replicates:
            own = [role for role, replicate in roles.items() if replicate == row.id and row.id in runs]
            model = known.get(row.id)
            if own and (model is None or model.status != "READY"):
                model = _send(client, experiment, plan, trial, row, runs[row.id], model)
            if model is not None:
                if model.tags.get(ROLE, "") != (role := ", ".join(own)):
                    client.set_logged_model_tags(model.model_id, {ROLE: role})
                models |= dict.fromkeys(own, model)
    return models


def register(client: Any, name: str, model: Any) -> str:
    """Make a model the newest version of ``name`` in the registry, unless it is one already; return what was done."""
    try:
        client.get_registered_model(name)
    except Exception as error:
        if status_code(error) != 404:
            raise
        client.create_registered_model(name)
    replicate = model.tags[REPLICATE]
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(REPLICATE) == replicate:
            return f"registered already: {name}, version {version.version}"
    tags = {key: value for key, value in model.tags.items() if key.startswith("sagasr.") and key != ROLE}
    version = client.create_model_version(
        name, model.artifact_location, model.source_run_id, tags, model_id=model.model_id
    )
    return f"registered: {name}, version {version.version}"


def _send(client: Any, experiment: str, plan: Plan, trial: Trial, row: Replicate, run: str, model: Any) -> Any:
    """Send a model whole, also one that was begun and not ended; None where its training left no checkpoint."""
    from mlflow.entities import LoggedModelOutput

    with tempfile.TemporaryDirectory(prefix="sagasr-model-") as folder:
        if not _write(plan, trial, row, Path(folder)):
            return model
        if model is None:
            tags = {REPLICATE: row.id, "sagasr.trial": trial.id, "sagasr.sweep": plan.name, "sagasr.cell": row.cell}
            levels = texts({**row.levels, "seed": row.seed}, PARAM_LENGTH)
            name = f"{plan.name}-{row.id}"
            model = client.create_logged_model(experiment, name, run, texts(tags, TAG_LENGTH), levels, "sagasr")
            client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
        client.log_model_artifacts(model.model_id, folder)
    return client.finalize_logged_model(model.model_id, "READY")


def _write(plan: Plan, trial: Trial, row: Replicate, target: Path) -> bool:
    """Write a trial folder with the weights that the replicate was scored with, and nothing that only training needs.

    Returns whether there were any.
    """
    from sagasr.training import checkpoint

    folder = plan.paths.of(trial.id)
    newest = checkpoint.newest(folder.checkpoints)
    if newest is None or not folder.model.exists():
        return False
    evaluation = next(variant.evaluation for variant in trial.variants if variant.id == row.variant)
    config = trial.config.model_copy(update={"evaluation": evaluation})
    state = checkpoint.load(newest)
    prefix = "model."
    weights = {name: value for name, value in state["state_dict"].items() if name.startswith(prefix)}
    if evaluation.weights == "ema":
        weights |= {prefix + name: value for name, value in state["ema"].items() if prefix + name in weights}
    checkpoint.save({"state_dict": weights, "ema": {}}, target / "checkpoints" / newest.name)
    (target / "config.yaml").write_text(dump_yaml(redact_tree(config.model_dump(mode="json"))), encoding="utf-8")
    shutil.copy(folder.model, target)
    return True
