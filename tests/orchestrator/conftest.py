"""Grid files on disk with real recordings, for tests of planning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sagasr.io.files import dump_yaml

BASE = {
    "audio": {"segment": 8192},
    "codec": {"kind": "wavelet", "levels": 6},
    "conditions": {"text": {"encoder": {"kind": "words"}}},
    "model": {"embed_dim": 64, "depth": 1, "num_heads": 2, "cond_dim": 64},
    "training": {"steps": 4, "batch_size": 2},
    "validation": {"every": 4, "clips": 2, "segment": 8192},
    "evaluation": {"sampler": {"steps": 2}},
}
GRID = {
    "name": "trial-run",
    "question": "Does it work?",
    "base": "base.yaml",
    "data": {"train": "manifest.csv", "val": "manifest.csv"},
    "factors": {"text": ["off", "caption"], "lfr": ["off", "hard"]},
    "seeds": [0, 1],
}
MakeGrid = Callable[..., Path]


@pytest.fixture
def make_grid(tmp_path: Path) -> MakeGrid:
    """Write base, recordings, manifest and a grid whose keys are replaced by the arguments; return the grid's path."""

    def write(config: dict[str, Any] | None = None, **changes: Any) -> Path:
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        rows = ["path,split,domain,caption"]
        for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
            soundfile.write(folder / f"{name}.flac", 0.1 * rng.standard_normal(16_384), 44_100)
            rows.append(f"{name}.flac,{split},noise,a noise called {name}")
        (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
        (folder / "base.yaml").write_text(dump_yaml(config or BASE))
        grid = {key: value for key, value in (GRID | changes).items() if value is not None}
        path = folder / "grid.yaml"
        path.write_text(dump_yaml(grid))
        return path

    return write
