"""The columns of every table in results/, by name and type. A table has the keys, a column per factor, then its own."""

from collections.abc import Iterable

from sagasr.io.trial_folder import DISTANCES, SCORE_KEYS
from sagasr.metrics.table import METRICS

Columns = dict[str, str]


def _all(kind: str, *names: str) -> Columns:
    return dict.fromkeys(names, kind)


TEXT, WHOLE, NUMBER = "string", "int64", "double"
KEYS = _all(TEXT, "sweep", "replicate", "cell", "trial", "variant") | _all(WHOLE, "seed")
ENDED = _all(TEXT, "status", "reason")  # how a replicate stands, or ended; then the steps of its training
STOPPED = _all(WHOLE, "stopped_at_step")  # then the metrics
VOLATILE = _all(TEXT, "device") | _all(NUMBER, "gpu_seconds", "wall_seconds") | _all(TEXT, "mlflow_run_id")
FINGERPRINTS = _all(TEXT, "fingerprint", "trial_fingerprint", "data_fingerprint", "config_fingerprint")
SCORED = _all(TEXT, *SCORE_KEYS)
CURVES = _all(TEXT, "replicate", "metric") | _all(WHOLE, "step") | _all(NUMBER, "value")

OWN = KEYS | ENDED | STOPPED | VOLATILE | FINGERPRINTS | SCORED | CURVES | DISTANCES
# what no factor and no metric of a user's own may be called: columns, and keys of a ladder's step or of the report
RESERVED = frozenset({*OWN, *METRICS, "audio", "config", "fingerprints", "unit", "versus"})
# what is no metric in a table of anyone's, though it may be a number
NO_METRIC = frozenset(
    {*KEYS, *ENDED, *STOPPED, *VOLATILE, *SCORED}
    | {"steps", "training_steps", "order", "block", "attempt", "parameters"}
)


def steps_column(factors: Iterable[str]) -> str:
    """Return the results column of a training's steps: a factor called ``steps``, of the sampler, has that name."""
    return "training_steps" if "steps" in factors else "steps"


def replicates(factors: Iterable[str], metrics: Iterable[str]) -> Columns:
    """Return the columns of replicates.parquet."""
    factors = list(factors)
    steps = _all(WHOLE, steps_column(factors))
    return _keys(factors) | ENDED | steps | STOPPED | _all(NUMBER, *metrics) | VOLATILE | FINGERPRINTS


def clips(factors: Iterable[str], metrics: Iterable[str]) -> Columns:
    """Return the columns of clips.parquet: scores of the trained models."""
    return {name: kind for name, kind in references(factors, metrics).items() if name != "subject"}


def references(factors: Iterable[str], metrics: Iterable[str]) -> Columns:
    """Return the columns of references.parquet: scores of the answers to beat, by ``subject``."""
    return _keys(factors) | SCORED | _all(NUMBER, *metrics)


def distances(factors: Iterable[str]) -> Columns:
    """Return the columns of distances.parquet."""
    return _keys(factors) | DISTANCES


def _keys(factors: Iterable[str]) -> Columns:
    return KEYS | _all(TEXT, *factors)
