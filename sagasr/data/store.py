"""The encoded store, read: every file mapped into memory, so that all trainings on a node share its pages.

``sagasr.data.encode`` writes it. High and low latents of a recording lie in one record and are cropped with one index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sagasr.codec.latents import LatentNorm
from sagasr.data.measures import estimate_rolloff
from sagasr.data.rows import Source, Split, text_of
from sagasr.data.shards import ROWS, SCHEMAS, read_records, views
from sagasr.io.errors import DataError
from sagasr.io.files import read_json


class Clip(NamedTuple):
    """One scored clip: audio [C, T] and latents [D, N] at its own level. Beyond ``samples``, audio is padding."""

    id: str
    name: str
    domain: str
    caption: str
    transcript: str
    samples: int
    start: int
    total_samples: int
    cutoff_hz: float
    rolloff_low_hz: float
    rolloff_high_hz: float
    rolloff_estimated_hz: float
    gain: float
    high_audio: Tensor
    low_audio: Tensor
    high: Tensor
    low: Tensor

    def text(self, source: Source) -> str:
        """Return what a model with this text source is told."""
        return text_of(self, source)


class Entry(NamedTuple):
    """A recording of the store: which one it is, and what is said of it. ``name`` is safe as a file name."""

    id: str
    path: str
    name: str
    domain: str
    caption: str
    transcript: str


@dataclass(frozen=True)
class Training:
    """The training records, index by index.

    Latents are float16 [D, N] and [K, D, N], views of mapped files; crop values are [G] and [K, G].
    """

    entries: list[Entry]
    samples: list[int]
    mapped_high: list[np.ndarray]
    mapped_low: list[np.ndarray]
    rolloff_high_hz: list[np.ndarray]
    rolloff_low_hz: list[np.ndarray]
    gain: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.mapped_high)

    def texts(self, source: Source) -> list[str]:
        """Return what a model with this text source is told of each recording."""
        return [text_of(entry, source) for entry in self.entries]

    def crops(
        self, picked: Sequence[int], variants: Sequence[int], starts: Sequence[int], frames: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return high and low latents float16 [B, D, frames] of one batch, each pair cropped with one index."""
        shape = (len(picked), self.mapped_high[0].shape[0], frames)
        high, low = np.empty(shape, np.float16), np.empty(shape, np.float16)
        for place, (index, variant, start) in enumerate(zip(picked, variants, starts, strict=True)):
            high[place] = self.mapped_high[index][:, start : start + frames]
            low[place] = self.mapped_low[index][variant, :, start : start + frames]
        return high, low


@dataclass(frozen=True)
class Store:
    """An encoded store, mapped into memory. Open it by path in every process; it is not sent between them."""

    path: Path
    meta: dict[str, Any]
    train: Training
    clips: tuple[Clip, ...]

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Return the store at ``path`` without reading its latents. Raises DataError when files are missing or cut."""
        meta = read_json(path / "meta.json")
        for name, size in meta["bytes"].items():
            there = (path / name).stat().st_size if (path / name).is_file() else 0
            if there != size:
                raise DataError(f"{path / name}: {there} bytes, not the {size} written; delete {path} to encode anew")
        return cls(path, meta, _open_train(path, meta), _open_val(path, meta))

    @property
    def latent_channels(self) -> int:
        return int(self.meta["latent_channels"])

    @property
    def segment(self) -> int:
        """Samples of one training crop."""
        return int(self.meta["segment"])

    @property
    def frames(self) -> int:
        """Latent frames of one training crop."""
        return self.segment // int(self.meta["ratio"])

    @cached_property
    def norm(self) -> LatentNorm:
        """Normalisation of the latents as training draws them."""
        return LatentNorm(**{name: torch.tensor(values) for name, values in self.meta["norm"].items()})

    def vocabulary(self, source: Source) -> tuple[str, ...]:
        """Return the words of the training texts of a source, sorted."""
        return tuple(self.meta["vocabulary"].get(source, ()))

    def latent_gain(self, gain: Tensor) -> Tensor:
        """Return what companded latents are multiplied by when their audio is multiplied by ``gain``."""
        return gain ** float(self.meta["companding"])


def _open_train(path: Path, meta: dict[str, Any]) -> Training:
    channels, variants = meta["latent_channels"], meta["variants"]
    train = Training([], [], [], [], [], [], [])
    for entry, record in _in_store_order(path, meta, "train"):
        train.entries.append(entry)
        train.samples.append(record["samples"])
        train.mapped_high.append(record["high"].reshape(channels, -1))
        train.mapped_low.append(record["low"].reshape(variants, channels, -1))
        train.rolloff_high_hz.append(record["rolloff_high_hz"])
        train.rolloff_low_hz.append(record["rolloff_low_hz"].reshape(variants, -1))
        train.gain.append(record["gain"].reshape(variants, -1))
    return train


def _open_val(path: Path, meta: dict[str, Any]) -> tuple[Clip, ...]:
    audio, latents = meta["channels"], meta["latent_channels"]
    rows = {"high_audio": audio, "low_audio": audio, "high": latents, "low": latents}
    clips = []
    for entry, record in _in_store_order(path, meta, "val"):
        known = entry._asdict() | record
        known |= {"cutoff_hz": record["cutoff_hz"][0], "rolloff_high_hz": record["rolloff_hz"]}
        known["rolloff_estimated_hz"] = estimate_rolloff(
            meta["rolloff_regression"], record["features"], record["rolloff_low_hz"]
        )
        arrays = views([record[name].reshape(count, -1) for name, count in rows.items()])
        known |= dict(zip(rows, arrays, strict=True))
        clips.append(Clip(**{name: known[name] for name in Clip._fields}))
    return tuple(clips)


def _in_store_order(path: Path, meta: dict[str, Any], split: Split) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Yield what is said of each recording of a split, with its record."""
    shards = [list(read_records(path / name, SCHEMAS[split])) for name in meta["shards"][split]]
    for row in read_records(path / "recordings.arrow", ROWS):
        if row["split"] == split:
            yield Entry(*(row[name] for name in Entry._fields)), shards[row["shard"]][row["place"]]
