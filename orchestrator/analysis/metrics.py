"""Which columns are metrics, in which unit, and which direction is better, when the plan does not say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.grid.factors import METRICS

Better = Literal["lower", "higher"]

# One unit of LSD is a log10 of power, so 1 LSD = 10 dB; it is never labelled "dB".
UNITS = {
    "lsd": "LSD",
    "lsd_hf": "LSD",
    "lsd_lf": "LSD",
    "lsd_ssr": "LSD",
    "log_sispec": "dB",
    "sispec": "dB",
    "si_sdr": "dB",
    "hf_ratio": "dB",
    "rolloff_error": "Hz",
    "seam": "dB",
}


DISTANCE = "fd_"  # metrics whose name begins so are distances between distributions: a property of a run, not of a clip


@dataclass(frozen=True)
class Metric:
    """One scored quantity. ``delta`` is the smallest effect that matters, in ``unit``; None when nobody named one."""

    name: str
    better: Better
    unit: str
    delta: float | None = None

    @property
    def sign(self) -> int:
        """+1 when a positive difference is an improvement, -1 otherwise."""
        return 1 if self.better == "higher" else -1


def is_distance(name: str) -> bool:
    return name.startswith(DISTANCE)


def column_of(name: str) -> str:
    """Return the results column of a logged metric name: ``val/lsd`` is stored as ``lsd``."""
    return str(name).rsplit("/", 1)[-1]


def metrics_of(plan: Mapping[str, Any], columns: Iterable[str]) -> tuple[Metric, ...]:
    """Return the plan's metric first, then every other metric that ``columns`` holds."""
    declared = _declared(plan)
    main = plan["metric"] if isinstance(plan["metric"], Mapping) else {"name": plan["metric"]}
    first = column_of(main["name"])
    known = {first: _metric(first, {**declared.get(first, {}), **main})}
    for name in columns:
        if name not in known:
            known[name] = _metric(name, declared.get(name, {}))
    return tuple(known.values())


def names_declared(plan: Mapping[str, Any]) -> set[str]:
    """Return the metric columns that the plan or the project knows by name."""
    return set(_declared(plan)) | set(METRICS)


def _declared(plan: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    listed = plan.get("metrics") or {}
    if isinstance(listed, Mapping):
        return {column_of(name): spec if isinstance(spec, Mapping) else {} for name, spec in listed.items()}
    specs = [{"name": spec} if isinstance(spec, str) else spec for spec in listed]
    return {column_of(spec["name"]): spec for spec in specs}


def knows_direction(plan: Mapping[str, Any], name: str) -> bool:
    """Return whether it is stated, or known, which way a metric is good."""
    main = plan["metric"] if isinstance(plan["metric"], Mapping) else {}
    stated = {**_declared(plan).get(name, {}), **(main if column_of(main.get("name", "")) == name else {})}
    return bool(stated.get("better")) or name in METRICS or is_distance(name)


def _metric(name: str, spec: Mapping[str, Any]) -> Metric:
    delta = spec.get("delta")
    stated = spec.get("better") or METRICS.get(name, "lower")
    direction: Better = "higher" if stated == "higher" else "lower"
    return Metric(
        name,
        direction,
        str(spec.get("unit") or UNITS.get(name, "FD" if is_distance(name) else "")),
        None if delta is None else float(delta),
    )
