"""The small study of most tests: seconds of noise, a model that trains in moments, and a grid of few trainings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sagasr.config.patching import patch
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
    "factors": {"text": ["off", "caption"], "lfr": ["off", "hard"]},  # two trainings, each read in two ways
    "seeds": [0, 1],
}


def write_recordings(folder: Path, train: str = "ab", val: str = "c") -> Path:
    """Write a recording of noise for each letter; return their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = ["path,split,domain,caption"]
    for name in train + val:
        soundfile.write(folder / f"{name}.flac", 0.1 * rng.standard_normal(16_384), 44_100)
        rows.append(f"{name}.flac,{'val' if name in val else 'train'},noise,a noise called {name}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder / "manifest.csv"


def write_grid(
    folder: Path, settings: Mapping[str, Any] | None = None, *, val: str = "c", config: Any = BASE, **keys: Any
) -> Path:
    """Write recordings, the configuration as base, and the grid; return the grid's path.

    ``settings`` change the base by dotted paths; ``keys`` replace those of the grid, and None takes one away.
    """
    write_recordings(folder, val=val)
    (folder / "base.yaml").write_text(dump_yaml(patch(config, settings) if settings else config))
    path = folder / "grid.yaml"
    path.write_text(dump_yaml({key: value for key, value in (GRID | keys).items() if value is not None}))
    return path
