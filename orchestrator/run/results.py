"""Trial folders in, results tables out: replicates, clips, curves, references, and the listening set.

Every table is a function of the plan and the folders, in the plan's order, so that equal trainings give equal tables;
only ``VOLATILE`` columns differ between two runs. Loads neither torch nor Ray.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.grid.factors import METRICS, steps_column
from orchestrator.plan.ledger import Ledger
from orchestrator.plan.plan import Plan, Replicate, Trial
from sagasr.io.errors import SagasrError
from sagasr.io.files import link_or_copy, write_whole
from sagasr.io.fingerprint import fingerprint
from sagasr.io.trial_log import History, Status, read_status

VOLATILE = ("device", "gpu_seconds", "wall_seconds", "mlflow_run_id")
DISTANCE = pa.schema(
    [(name, pa.string()) for name in ("subject", "domain", "metric")]
    + [("value", pa.float64()), ("n", pa.int64()), ("clips", pa.int64()), ("reason", pa.string())]
)
ROW = pa.schema([(name, pa.string()) for name in ("clip", "domain", "subject", "remark")])

Rows = list[dict[str, Any]]


def collect(plan: Plan, ledger: Ledger, run_ids: Mapping[str, str] | None = None) -> None:
    """Write the results tables and gather the listening set of all that the plan's trial folders hold.

    ``ledger``: where each replicate stands. ``run_ids``: the MLflow run by replicate.
    """
    scores = {(trial.id, row.variant): _rows(plan.paths.scores(trial.id, row.variant)) for trial, row in _pairs(plan)}
    keys = _key_schema(plan)
    distances = list(_distances(plan))
    overall = _overall(distances)
    measured = sorted({name for found in overall.values() for name in found})
    own = dict.fromkeys(
        name for rows in scores.values() for row in rows[:1] for name in row if name not in (*ROW.names, *METRICS)
    )
    metrics = pa.schema([(name, pa.float64()) for name in (*METRICS, *own)])
    of_runs = pa.schema([(name, pa.float64()) for name in measured])
    curves = pa.schema(
        [(name, pa.string()) for name in ("replicate", "metric")] + [("step", pa.int64()), ("value", pa.float64())]
    )
    per_clip = [*keys, *ROW.remove(2), *metrics]
    replicates = _replicates(plan, ledger, scores, overall, run_ids or {})
    steps = steps_column(plan.space.factors)
    _write(plan, "replicates", replicates, _replicate_schema(keys, steps, pa.schema([*metrics, *of_runs])))
    _write(plan, "clips", _clips(plan, scores), pa.schema(per_clip))
    _write(plan, "references", _references(plan), pa.schema([*keys, *ROW, *metrics]))
    _write(plan, "curves", _curves(plan), curves)
    _write(plan, "distances", distances, pa.schema([*keys, *DISTANCE]))
    gather_audio(plan)


def _pairs(plan: Plan) -> Iterator[tuple[Trial, Replicate]]:
    for trial in plan.trials:
        for row in trial.replicates:
            yield trial, row


def _keys(plan: Plan, row: Replicate) -> dict[str, Any]:
    return {
        "sweep": plan.name,
        "replicate": row.id,
        "cell": row.cell,
        "trial": row.trial,
        "variant": row.variant,
        "seed": row.seed,
        **row.levels,
    }


def _distances(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield what was measured between whole distributions, per replicate, subject and domain, where it was."""
    for trial, row in _pairs(plan):
        for name in (f"distances-{row.variant}", f"distances-references-{row.variant}"):
            for found in _rows(plan.paths.scores(trial.id, name)):
                yield {**_keys(plan, row), **found}


def _overall(distances: Rows) -> dict[str, dict[str, float]]:
    """Return, per replicate, the model's distances over all clips."""
    found: dict[str, dict[str, float]] = {}
    for row in distances:
        if row["subject"] == "model" and row["domain"] == "all" and row["value"] is not None:
            found.setdefault(row["replicate"], {})[row["metric"]] = row["value"]
    return found


def _replicates(
    plan: Plan,
    ledger: Ledger,
    scores: Mapping[tuple[str, str], Rows],
    overall: Mapping[str, Mapping[str, float]],
    run_ids: Mapping[str, str],
) -> Rows:
    rows: Rows = []
    for trial, row in _pairs(plan):
        entry, status = ledger.entries[row.id], _status(plan, trial)
        finished = entry.state in ("done", "stopped")
        rows.append(
            {
                **_keys(plan, row),
                steps_column(plan.space.factors): trial.config.training.steps,
                "status": entry.state,
                "reason": entry.reason,
                "stopped_at_step": status.step if status and entry.state == "stopped" else None,
                **({**_means(scores[trial.id, row.variant]), **overall.get(row.id, {})} if finished else {}),
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
        for score in _rows(plan.paths.scores(trial.id, f"references-{row.variant}"))
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
        for source in sorted(plan.paths.trial_audio(trial.id, row.variant).glob("*.flac")):
            _link(source, plan.paths.audio / row.id / source.name)
    for kind in ("high", "low"):
        seen: set[str] = set()
        for trial in plan.trials:
            for source in sorted(plan.paths.trial_audio(trial.id, kind).glob("*.flac")):
                if source.name not in seen:
                    seen.add(source.name)
                    _link(source, plan.paths.audio / kind / source.name)


def _means(rows: Rows) -> dict[str, float]:
    """Return each metric's mean over the clips where it is defined; one defined nowhere stays absent."""
    names = [name for name in (rows[0] if rows else ()) if name not in ROW.names]
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


def _key_schema(plan: Plan) -> pa.Schema:
    texts = ["sweep", "replicate", "cell", "trial", "variant"]
    return pa.schema(
        [(name, pa.string()) for name in texts]
        + [("seed", pa.int64())]
        + [(name, pa.string()) for name in plan.space.factors]
    )


def _replicate_schema(keys: pa.Schema, steps: str, metrics: pa.Schema) -> pa.Schema:
    """Return the columns of replicates.parquet."""
    texts = ("mlflow_run_id", "fingerprint", "trial_fingerprint", "data_fingerprint", "config_fingerprint")
    return pa.schema(
        [
            *keys,
            pa.field("status", pa.string()),
            pa.field("reason", pa.string()),
            pa.field(steps, pa.int64()),
            pa.field("stopped_at_step", pa.int64()),
            *metrics,
            pa.field("device", pa.string()),
            pa.field("gpu_seconds", pa.float64()),
            pa.field("wall_seconds", pa.float64()),
            *(pa.field(name, pa.string()) for name in texts),
        ]
    )


def _write(plan: Plan, name: str, rows: Rows, schema: pa.Schema) -> None:
    table = pa.Table.from_pylist(rows, schema)
    write_whole(plan.paths.table(name), lambda temporary: pq.write_table(table, temporary))


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it, unless it is up to date."""
    if target.exists() and (target.samefile(source) or target.stat().st_mtime >= source.stat().st_mtime):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source, target)
