"""What trainings leave behind, written without training, and what an MLflow server has of it."""

from typing import Any

from orchestrator.plan.ledger import record
from orchestrator.plan.plan import Plan, Trial
from orchestrator.tracking.client import connect
from sagasr.io.files import write_json
from sagasr.training.trial_log import History, Status, write_status


def journal(
    plan: Plan, trial: Trial, steps: int, state: Any = "running", checkpoint: int | None = None, **status: Any
) -> None:
    """Write what a training leaves behind: a loss every step, scores of each variant every other one."""
    folder = plan.paths.trial(trial.id)
    record(plan.paths, trial)
    history = History(folder)
    done = max((r["step"] for r in history), default=0)
    for step in range(done + 1, steps + 1):
        history.append(step, {"train/loss": 1 / step})
        if step % 2 == 0:
            for number, variant in enumerate(trial.variants):
                history.append(step, {"val/lsd": 3 - step / 10 + number, "val/si_sdr": 1.0}, variant=variant.id)
    if checkpoint is not None:
        path = folder / "checkpoints" / f"step-{checkpoint:08d}" / "manifest.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {})
    write_status(folder, Status(state=state, step=steps, steps=8, started=1e9, updated=1e9 + steps, **status))


def runs_of(plan: Plan, uri: str = "") -> tuple[Any, dict[str, Any], list[Any]]:
    """Return a client, the run of each replicate, of which there is but one, and the parent runs."""
    client = connect(uri or plan.tracking_uri)
    experiment = client.get_experiment_by_name(plan.name)
    found = client.search_runs([experiment.experiment_id])
    by_replicate = {run.data.tags["sagasr.replicate"]: run for run in found if "sagasr.replicate" in run.data.tags}
    parents = [run for run in found if "sagasr.replicate" not in run.data.tags]
    assert len(by_replicate) + len(parents) == len(found), "a replicate has more than one run"
    return client, by_replicate, parents


def curve(client: Any, run: Any, name: str) -> list[tuple[int, float, int]]:
    """Return step, value and time of every point of one curve, repeated ones too."""
    return [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run.info.run_id, name)]
