"""What was decided and must not be decided again: small JSON files in a sweep folder, read strictly."""

from pathlib import Path
from typing import TypeVar

from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import read_json

T = TypeVar("T", bound=Strict)


def read_kept(kind: type[T], path: Path, remedy: str) -> T:
    """Return what a file keeps, or nothing kept (``kind()``) where there is none. Raises DataError, with the remedy."""
    if not path.exists():
        return kind()
    try:
        return parse(kind, read_json(path), str(path))
    except (ConfigError, DataError) as error:
        raise DataError(f"{error}\n{path} {remedy}") from error
