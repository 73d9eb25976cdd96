"""The ablation around SAGA-SR: grid, plan, execution, tracking, analysis, report. ``Sweep`` is all of it in Python."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import Sweep

__all__ = ["Sweep"]


def __getattr__(name: str) -> Any:
    """Load ``Sweep`` when it is first asked for: importing a part of the package loads that part alone."""
    if name == "Sweep":
        from orchestrator.api import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
