"""Recordings are encoded before anything trains on them: one Ray task for each store that the trials need."""

from collections.abc import Sequence
from typing import Any

from orchestrator.plan.plan import Plan, Trial
from orchestrator.run.retries import one_line
from orchestrator.run.worker import encode
from sagasr.io.errors import SagasrError
from sagasr.io.fingerprint import fingerprint


def encode_all(plan: Plan, trials: Sequence[Trial]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the encoded store of each trial, each made once, and why it could not be made where it could not."""
    import ray

    root = str(plan.storage.stores.resolve())
    kinds = {trial.id: fingerprint(_decides_store(trial)) for trial in trials}
    texts: dict[str, dict[str, None]] = {kind: {} for kind in kinds.values()}
    for trial in trials:
        texts[kinds[trial.id]][trial.config.conditions.text.model_dump_json()] = None
    remote = ray.remote(max_calls=1)(encode)
    pending = {}
    for trial in trials:
        if kinds[trial.id] not in pending:
            gpus = trial.resources.gpus_per_worker
            pending[kinds[trial.id]] = remote.options(num_cpus=1, num_gpus=gpus).remote(
                trial.config.model_dump_json(), root, plan.storage.uri, list(texts[kinds[trial.id]])
            )
    stores: dict[str, str] = {}
    problems: dict[str, str] = {}
    for kind, reference in pending.items():
        try:
            stores[kind] = ray.get(reference)
        except ray.exceptions.RayError as error:
            problems[kind] = _why_not_encoded(error)
    return (
        {trial: stores[kind] for trial, kind in kinds.items() if kind in stores},
        {trial: problems[kind] for trial, kind in kinds.items() if kind in problems},
    )


def _why_not_encoded(error: Any) -> str:
    """Return what ended an encoding: an exception of its own, or the loss of its process or node."""
    from ray.exceptions import RayTaskError

    if not isinstance(error, RayTaskError):
        return f"encoding: its process or node was lost: {one_line(error)}"
    cause = error.cause if isinstance(error.cause, BaseException) else error
    return str(cause) if isinstance(cause, SagasrError) else f"encoding: {type(cause).__name__}: {cause}"


def _decides_store(trial: Trial) -> dict[str, Any]:
    sections = {"data", "audio", "codec", "degradation", "validation"}
    return trial.config.model_dump(mode="json", include=sections)
