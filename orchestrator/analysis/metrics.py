"""What a sweep is judged by: what its plan states of a metric, and what the table of metrics says where it does not."""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.sweep_folder.plan_file import PlanRead
from sagasr.metrics.table import Better, find_metric


@dataclass(frozen=True)
class Metric:
    """One scored quantity. ``delta`` is the smallest effect that matters, in ``unit``; None when nobody named one."""

    name: str
    better: Better
    unit: str
    delta: float | None = None
    definition: str = ""

    @property
    def sign(self) -> int:
        """+1 when a positive difference is an improvement, -1 otherwise."""
        return 1 if self.better == "higher" else -1


def metrics_of(plan: PlanRead, columns: Iterable[str]) -> tuple[Metric, ...]:
    """Return the plan's metric first, then every other metric that ``columns`` holds."""
    return tuple(_metric(plan, name) for name in dict.fromkeys((plan.metric.column, *columns)))


def is_known(plan: PlanRead, name: str) -> bool:
    """Return whether a column is a metric by its name: the plan names it, or the table of metrics."""
    return name in plan.metric_columns() or find_metric(name) is not None


def knows_direction(plan: PlanRead, name: str) -> bool:
    """Return whether it is stated, or known, which way a metric is good."""
    return plan.stated(name).better is not None or find_metric(name) is not None


def _metric(plan: PlanRead, name: str) -> Metric:
    stated, known = plan.stated(name), find_metric(name)
    return Metric(
        name,
        stated.better or (known.better if known else "lower"),
        str(stated.unit or (known.unit if known else "")),
        stated.delta,
        known.definition if known else "",
    )
