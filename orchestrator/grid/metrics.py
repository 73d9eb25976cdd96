"""Names of metrics and columns that a grid must know: which are taken, and what a user's own metrics are called."""

from collections.abc import Mapping
from typing import Any

from orchestrator.grid.factors import METRICS
from sagasr.io.errors import ConfigError

# columns of the results tables and keys of a ladder step, which no factor may be called
RESERVED = frozenset(
    {
        "audio",
        "clip",
        "clips",
        "cell",
        "config",
        "device",
        "domain",
        "fingerprint",
        "fingerprints",
        "gpu_seconds",
        "metric",
        "mlflow_run_id",
        "n",
    }
    | {"reason", "replicate", "seed", "status", "step", "stopped_at_step", "subject", "sweep", "trial", "unit", "value"}
    | {"remark", "variant", "versus", "wall_seconds", "config_fingerprint", "data_fingerprint", "trial_fingerprint"}
    | set(METRICS)
)


def own_metrics(base: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the metrics of the user's own that a configuration names. Raises ConfigError where one cannot be used."""
    validation = base.get("validation")
    named = validation.get("metrics") if isinstance(validation, Mapping) else None
    if not isinstance(named, list) or not all(isinstance(part, str) and ":" in part for part in named):
        return ()  # none, or the configuration's own check says what is wrong
    from sagasr.plugins.parts import load

    found = tuple(load("metric", part) for part in named)
    for part, metric in zip(named, found, strict=True):
        if metric.better not in ("lower", "higher"):
            raise ConfigError(f"metric {part}: better is {metric.better!r}, not 'lower' or 'higher'")
        if metric.name in RESERVED or not str(metric.name).isidentifier():
            raise ConfigError(f"metric {part}: name {metric.name!r} is a column that is there, or none; choose another")
    return found
