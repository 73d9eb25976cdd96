"""Trial folders in, results tables out: replicates, clips, curves, references, and the listening set.

Every table is a function of the plan and the folders, in the plan's order, so that equal trainings give equal tables;
only ``columns.VOLATILE`` differ between two runs. Loads neither torch nor Ray.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.plan.plan import Plan, Replicate, Trial
from orchestrator.sweep_folder import columns
from sagasr.io.errors import SagasrError
from sagasr.io.files import link_or_copy, write_whole
from sagasr.io.fingerprint import fingerprint
from sagasr.io.states import State
from sagasr.io.trial_folder import SCORE_KEYS, distances_of
from sagasr.metrics.table import METRICS
from sagasr.training.trial_log import History, Status, read_status

if TYPE_CHECKING:
    from orchestrator.plan.ledger import Ledger

Rows = list[dict[str, Any]]


def collect(plan: Plan, ledger: "Ledger", run_ids: Mapping[str, str] | None = None) -> None:
    """Write the results tables and gather the listening set of all that the plan's trial folders hold.

    ``ledger``: where each replicate stands. ``run_ids``: the MLflow run by replicate.
    """
    scores = {
        (trial.id, row.variant): _rows(plan.paths.of(trial.id).scores(row.variant)) for trial, row in _pairs(plan)
    }
    distances = list(_distances(plan))
    overall = _overall(distances)
    first_rows = (row for rows in scores.values() for row in rows[:1])
    metrics = list(dict.fromkeys([*METRICS, *(name for row in first_rows for name in row if name not in SCORE_KEYS)]))
    measured = sorted({name for values in overall.values() for name in values})
    replicates = _replicates(plan, ledger, scores, overall, run_ids or {})
    factors = list(plan.space.factors)
    _write(plan, "replicates", replicates, columns.replicates(factors, [*metrics, *measured]))
    _write(plan, "clips", _clips(plan, scores), columns.clips(factors, metrics))
    _write(plan, "references", _references(plan), columns.references(factors, metrics))
    _write(plan, "curves", _curves(plan), columns.CURVES)
    _write(plan, "distances", distances, columns.distances(factors))
    gather_audio(plan)


def _pairs(plan: Plan) -> Iterator[tuple[Trial, Replicate]]:
    for trial in plan.trials:
        for row in trial.replicates:
            yield trial, row


def _keys(plan: Plan, row: Replicate) -> dict[str, Any]:
    values = (plan.name, row.id, row.cell, row.trial, row.variant, row.seed)
    return {**dict(zip(columns.KEYS, values, strict=True)), **row.levels}


def _distances(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield what was measured between whole distributions, per replicate, subject and domain, where it was."""
    for trial, row in _pairs(plan):
        files = plan.paths.of(trial.id)
        for scores in (files.scores(row.variant), files.references(row.variant)):
            for distance in _rows(distances_of(scores)):
                yield {**_keys(plan, row), **distance}


def _overall(distances: Rows) -> dict[str, dict[str, float]]:
    """Return, per replicate, the model's distances over all clips."""
    found: dict[str, dict[str, float]] = {}
    for row in distances:
        if row["subject"] == "model" and row["domain"] == "all" and row["value"] is not None:
            found.setdefault(row["replicate"], {})[row["metric"]] = row["value"]
    return found


def _replicates(
    plan: Plan,
    ledger: "Ledger",
    scores: Mapping[tuple[str, str], Rows],
    overall: Mapping[str, Mapping[str, float]],
    run_ids: Mapping[str, str],
) -> Rows:
    rows: Rows = []
    for trial, row in _pairs(plan):
        entry, status = ledger.entries[row.id], _status(plan, trial)
        rows.append(
            {
                **_keys(plan, row),
                columns.steps_column(plan.space.factors): trial.config.training.steps,
                "status": entry.state,
                "reason": entry.reason,
                "stopped_at_step": status.step if status and entry.state is State.STOPPED else None,
                **(
                    {**_means(scores[trial.id, row.variant]), **overall.get(row.id, {})} if entry.state.finished else {}
                ),
                "device": (status.device or None) if status else None,
                "gpu_seconds": status.gpu_seconds if status else None,
                "wall_seconds": status.wall_seconds if status else None,
                "mlflow_run_id": run_ids.get(row.id),
                "fingerprint": row.fingerprint,
                "trial_fingerprint": trial.fingerprint,
                "data_fingerprint": trial.data,
                "config_fingerprint": fingerprint(trial.config.model_dump(mode="json", exclude={"data", "evaluation"})),
            }
        )
    return rows


def _clips(plan: Plan, scores: Mapping[tuple[str, str], Rows]) -> Rows:
    return [{**_keys(plan, row), **score} for trial, row in _pairs(plan) for score in scores[trial.id, row.variant]]


def _references(plan: Plan) -> Rows:
    """Return the answers to beat: low input, shaped noise and the untrained model, per replicate."""
    return [
        {**_keys(plan, row), **score}
        for trial, row in _pairs(plan)
        for score in _rows(plan.paths.of(trial.id).references(row.variant))
    ]


def _curves(plan: Plan) -> Rows:
    """Return the curves of each replicate: those of its training, and its own variant's scores."""
    rows: Rows = []
    for trial in plan.trials:
        records = list(History(plan.paths.trial(trial.id)))
        for row in trial.replicates:
            rows += [
                {"replicate": row.id, "step": record["step"], "metric": name, "value": float(value)}
                for record in records
                if record.get("variant", row.variant) == row.variant
                for name, value in record["metrics"].items()
            ]
    return rows


def gather_audio(plan: Plan) -> None:
    """Link predictions to ``audio/<replicate>/`` and their clips to ``audio/high/`` and ``audio/low/``."""
    for trial, row in _pairs(plan):
        for source in sorted(plan.paths.of(trial.id).audio(row.variant).glob("*.flac")):
            _link(source, plan.paths.audio / row.id / source.name)
    for kind in ("high", "low"):
        seen: set[str] = set()
        for trial in plan.trials:
            for source in sorted(plan.paths.of(trial.id).audio(kind).glob("*.flac")):
                if source.name not in seen:
                    seen.add(source.name)
                    _link(source, plan.paths.audio / kind / source.name)


def _means(rows: Rows) -> dict[str, float]:
    """Return each metric's mean over the clips where it is defined; one defined nowhere stays absent."""
    names = [name for name in (rows[0] if rows else ()) if name not in SCORE_KEYS]
    found = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def _rows(path: Path) -> Rows:
    """Return the rows of a small table; threads and a search for more files would take six times as long."""
    if not path.exists():
        return []
    with pq.ParquetFile(path) as file:
        return file.read(use_threads=False).to_pylist()  # type: ignore[no-any-return]


def _status(plan: Plan, trial: Trial) -> Status | None:
    try:
        return read_status(plan.paths.trial(trial.id))
    except SagasrError:  # the ledger says so in the row's reason
        return None


def _write(plan: Plan, name: str, rows: Rows, types: columns.Columns) -> None:
    table = pa.Table.from_pylist(rows, pa.schema(list(types.items())))
    write_whole(plan.paths.table(name), lambda temporary: pq.write_table(table, temporary))


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it, unless it is up to date."""
    if target.exists() and (target.samefile(source) or target.stat().st_mtime >= source.stat().st_mtime):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source, target)
