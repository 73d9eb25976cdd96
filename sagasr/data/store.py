"""The encoded store: shards of records, Arrow IPC files, uncompressed and mapped, whose pages trainings share.

A shard is committed whole. Its name is the identity of what is in it: the settings of its records and the contents of
their recordings. Its schema carries the settings too, so that single records can be taken over into other shards. High
and low latents of a recording lie in one record and are cropped with one index. ``sagasr.data.encode`` writes all.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sagasr.codec.latents import LatentNorm
from sagasr.data.measures import estimate_rolloff
from sagasr.data.rows import Source, Split, text_of
from sagasr.io.errors import DataError, first_line
from sagasr.io.files import read_json, write_whole
from sagasr.io.fingerprint import fingerprint

Record = dict[str, Any]  # numbers of one recording, by column

GROUP_BYTES = 64 << 20  # records written together
PER_SHARD = 16  # recordings, on average
MOST_PER_SHARD = 64
SHARD_BYTES = 64 << 20  # of recordings as stored on disk


def _columns(kind: pa.DataType, *names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, kind) for name in names]


_F16, _F32, _F64 = (pa.large_list(kind) for kind in (pa.float16(), pa.float32(), pa.float64()))
_COMMON = [("id", pa.string()), ("samples", pa.int64()), ("rolloff_hz", pa.float64()), ("notes", pa.list_(pa.string()))]
_COMMON += [("filter", pa.list_(pa.string())), ("order", pa.list_(pa.int32())), ("cutoff_hz", pa.list_(pa.float64()))]
SCHEMAS: Mapping[Split, pa.Schema] = {
    "train": pa.schema(
        [
            *_COMMON,
            *_columns(_F32, "rolloff_high_hz", "rolloff_low_hz", "gain"),
            *_columns(_F16, "high", "low"),
            *_columns(_F64, "moments", "features"),
            *_columns(_F32, "power", "log10_power"),
        ]
    ),
    "val": pa.schema(
        [
            *_COMMON,
            *_columns(pa.int64(), "start", "total_samples"),
            *_columns(pa.float64(), "rolloff_low_hz", "gain"),
            ("features", _F64),
            *_columns(_F32, "high_audio", "low_audio"),
            *_columns(_F16, "high", "low"),
        ]
    ),
}
# Which recordings a store holds, in its order, and where the record of each lies.
ROWS = pa.schema(
    [
        *_columns(pa.string(), "split", "id", "path", "name", "domain", "caption", "transcript"),
        *_columns(pa.int32(), "shard", "place"),
    ]
)


def grouped(sizes: Mapping[str, int]) -> list[list[str]]:
    """Return the ids (hashes), sorted, in groups of about PER_SHARD; ``sizes``: bytes of each.

    A group ends where the id itself says so, or at a limit: adding or removing a recording changes the groups next to
    it and no others.
    """
    groups: list[list[str]] = [[]]
    size = 0
    for name in sorted(sizes):
        groups[-1].append(name)
        size += sizes[name]
        if int(name[-8:], 16) % PER_SHARD == 0 or len(groups[-1]) == MOST_PER_SHARD or size >= SHARD_BYTES:
            groups.append([])
            size = 0
    return groups if groups[-1] else groups[:-1]


def shard_name(split: Split, settings: str, ids: Sequence[str]) -> str:
    """Return the file name of the shard that holds the records of these ids under these settings."""
    return f"{split}-{fingerprint([settings, list(ids)])[:16]}.arrow"


def write_arrow(path: Path, schema: pa.Schema, records: Iterable[Mapping[str, Any]]) -> None:
    """Write an Arrow IPC file whole, without compression; arrays become lists, and few records are held at a time.

    Raises StorageError when the disk cannot take it.
    """

    def write(temporary: Path) -> None:
        group: list[Mapping[str, Any]] = []
        size = 0
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for record in records:
                group.append(record)
                size += sum(value.nbytes for value in record.values() if isinstance(value, np.ndarray))
                if size >= GROUP_BYTES:
                    writer.write_batch(_batch(schema, group))
                    group, size = [], 0
            if group:
                writer.write_batch(_batch(schema, group))

    write_whole(path, write)


def read_records(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield the records of an Arrow file, long lists as numpy views of the mapped file. Raises DataError."""
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            if not reader.schema.equals(schema):
                raise pa.ArrowInvalid("other columns than this version writes")
            for number in range(reader.num_record_batches):
                columns = dict(zip(schema.names, map(_values, reader.get_batch(number).columns), strict=True))
                for values in zip(*columns.values(), strict=True):
                    yield dict(zip(columns, values, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable ({first_line(error)}); delete {path.parent} to encode anew") from error


def ids_in(path: Path, settings: str) -> list[str]:
    """Return the ids of a shard's records; none where it has other settings, is broken, or has just gone."""
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            if (reader.schema.metadata or {}).get(b"settings") != settings.encode():
                return []
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            return [name for batch in batches for name in batch.column("id").to_pylist()]
    except (pa.ArrowException, OSError, KeyError):
        return []


def views(arrays: Sequence[np.ndarray]) -> list[Tensor]:
    """Return tensors on mapped, read-only memory. Nothing writes to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return [torch.from_numpy(array) for array in arrays]


def _values(column: pa.Array) -> Sequence[Any]:
    if not pa.types.is_large_list(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    flat, ends = column.values.to_numpy(), column.offsets.to_numpy()
    return [flat[a:b] for a, b in pairwise(ends)]


def _batch(schema: pa.Schema, group: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    columns = []
    for column in schema:
        values = [record[column.name] for record in group]
        if pa.types.is_large_list(column.type):
            offsets = np.concatenate([[0], np.cumsum([value.size for value in values])]).astype(np.int64)
            flat = np.concatenate([value.ravel() for value in values])
            columns.append(pa.LargeListArray.from_arrays(offsets, pa.array(flat, column.type.value_type)))
        else:
            columns.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


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
