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
        ours = PARTS[family]
        for part in [names] if isinstance(names, str) else names:
            if part in ours or ":" in part:
                continue
            installed = {point.name for point in entry_points(group=f"sagasr.{family}s")}
            if part not in installed:
                none_of = f"none of {', '.join(ours)}, " if ours else ""
                hint = nearest(part, installed | set(ours))
                raise ValueError(f"{part!r} is {none_of}not installed, and not FILE.py:CLASS{hint}")
        return names

    return AfterValidator(check)
