"""Names of parts in a configuration: words for ours, by family; any other is a user's own (sagasr.plugins.parts)."""

from importlib.metadata import entry_points
from typing import Any

from pydantic import AfterValidator

from sagasr.io.errors import nearest

PARTS = {"metric": (), "embedder": ("spectral", "clap", "off"), "sampler": ("euler",), "codec": (), "conditioner": ()}
PART_KEYS = (
    "validation.metrics",
    "validation.distance.embedder",
    "evaluation.sampler.solver",
    "codec.part",
    "conditions.own",
)


def known(family: str) -> AfterValidator:
    """Return a check of one name or several: each is ours, or installed, or may be a class of a user's own."""

    def check(names: Any) -> Any:
        for part in [names] if isinstance(names, str) else names:
            _check(family, part)
        return names

    return AfterValidator(check)


def _check(family: str, part: str) -> None:
    if part in PARTS[family] or ":" in part:
        return
    installed = {point.name for point in entry_points(group=f"sagasr.{family}s")}
    if part not in installed:
        hint = nearest(part, installed | set(PARTS[family]))
        ours = f"none of {', '.join(PARTS[family])}, " if PARTS[family] else ""
        raise ValueError(f"{part!r} is {ours}not installed, and not FILE.py:CLASS{hint}")
