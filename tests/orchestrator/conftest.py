"""Grid files on disk with real recordings, for tests of planning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.small import BASE, write_grid

MakeGrid = Callable[..., Path]


@pytest.fixture
def make_grid(tmp_path: Path) -> MakeGrid:
    """Write base, recordings, manifest and a grid whose keys are replaced by the arguments; return the grid's path."""

    def write(config: dict[str, Any] | None = None, **changes: Any) -> Path:
        return write_grid(tmp_path / "study", config=config or BASE, **changes)

    return write
