"""What was decided and must not be decided again: small JSON files in a sweep folder, read strictly."""

from pathlib import Path
from typing import Generic, Self, TypeVar

from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import read_json


class OfPlan(Strict):
    """What one plan decided."""

    plan_hash: str


E = TypeVar("E", bound=OfPlan)
T = TypeVar("T", bound=Strict)


class ByPlan(Strict, Generic[E]):
    """All of a file: an entry per plan, in the order in which they came."""

    plans: tuple[E, ...] = ()

    def of(self, plan_hash: str) -> E | None:
        return next((entry for entry in self.plans if entry.plan_hash == plan_hash), None)

    def put(self, entry: E) -> Self:
        """Return the file with this entry in the place of its plan's."""
        plans = {other.plan_hash: other for other in self.plans} | {entry.plan_hash: entry}
        return type(self)(plans=tuple(plans.values()))


def read_kept(kind: type[T], path: Path, remedy: str) -> T:
    """Return what a file keeps, or nothing kept (``kind()``) where there is none. Raises DataError, with the remedy."""
    if not path.exists():
        return kind()
    try:
        return parse(kind, read_json(path), str(path))
    except (ConfigError, DataError) as error:
        raise DataError(f"{error}\n{path} {remedy}") from error
