"""The encoded store: every recording degraded, encoded and measured once, then mapped into memory by all trainings.

    <root>/<12 hex digits>/train.arrow   one record per recording: high latents, K low ones, one value per possible crop
                           val.arrow     one record per scored clip: the frozen pair, as audio and as latents
                           meta.json     counts, latent statistics, vocabulary, roll-off regression, the recordings

Arrow IPC files without compression. The name is the identity of what went in (sound, texts, domains, and the settings
of audio, degradation, codec and validation), so a store never changes and a change of any of these makes another one.
Records are in the order of their content's hash: names and order of the files change nothing.

Latents are those of whole recordings as recorded; the gain that brings a crop to the
level at which the model works is stored beside them and applied when it is drawn. A crop of
the latents differs from the latents of the crop within the codec's few frames of overlap at its two ends.
"""

import errno
import os
import re
import shutil
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sagasr import config as settings
from sagasr.audio.degrade import degrade, draw_degradation, frozen_degradation
from sagasr.audio.files import problem_of, read_audio
from sagasr.audio.spectrum import rolloff_hz
from sagasr.codec import Codec, LatentNorm, build_codec
from sagasr.config import SAMPLE_RATE, Config
from sagasr.data.manifest import Row, Source, content_hashes, rows_for
from sagasr.data.statistics import (
    STEP,
    Moments,
    estimate_rolloff,
    fit_rolloff,
    gain_of,
    latent_moments,
    mean_power,
    measure_crops,
    rms_of,
    rolloff_features,
)
from sagasr.errors import ConfigError, DataError
from sagasr.files import read_json, write_json
from sagasr.fingerprint import RESULT_VERSION, file_sha256, fingerprint, seed_of, short
from sagasr.text import vocabulary_of

SILENCE_RMS = 1e-5  # -100 dBFS, after removing a constant offset
FADE = 220  # samples, 5 ms
GROUP_BYTES = 64 << 20  # records written together
ABANDONED_AFTER_S = 24 * 3_600  # a temporary folder that old belongs to a process that was killed

Progress = Callable[[int, int], None]
Record = dict[str, Any]
T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")


class Recording(NamedTuple):
    """A row with the hash of its file."""

    sha256: str
    row: Row


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
        return {"off": "", "caption": self.caption, "transcript": self.transcript}[source]


@dataclass(frozen=True)
class Training:
    """Views of the training records, index by index: latents [D, N] and [K, D, N], crop values [G] and [K, G]."""

    captions: list[str]
    transcripts: list[str]
    samples: list[int]
    high: list[Tensor]
    low: list[Tensor]
    rolloff_high_hz: list[np.ndarray]
    rolloff_low_hz: list[np.ndarray]
    gain: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.high)

    def texts(self, source: Source) -> list[str]:
        """Return what a model with this text source is told of each recording."""
        return {"off": [""] * len(self), "caption": self.captions, "transcript": self.transcripts}[source]


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
            found = (path / name).stat().st_size if (path / name).is_file() else None
            if found != size:
                raise DataError(
                    f"{path / name}: {found or 0} bytes, not the {size} written; delete {path} to encode anew"
                )
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


def encode_store(config: Config, root: Path, *, workers: int = 1, progress: Progress | None = None) -> Path:
    """Return the store of a configuration below ``root``, encoding it first if it is not there.

    It appears whole or not at all; of two processes that encode the same one, the first to finish wins. Raises
    ConfigError for the manifests, and DataError naming every recording that cannot be used, before anything appears.
    """
    train, val = recordings(config)
    identity = store_identity(config, train, val)
    final = root / short(fingerprint(identity))
    if (final / "meta.json").is_file():
        return final
    _refuse_shared(train, val)
    _make_root(root, final.name)
    folder = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=root))
    try:
        with ThreadPoolExecutor(max_workers=workers) as pool:
            _encode_into(folder, config, identity, train, val, _Pass(pool, 2 * workers, progress))
        _publish(folder, final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{root}: no space left on the disk for the encoded recordings; free some") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return final


def recordings(config: Config) -> tuple[list[Recording], list[Recording]]:
    """Return what trains and what may be scored, each in the order of the hashes.

    Raises ConfigError for the manifests, and DataError naming every file that is missing, broken or not the one meant.
    """
    rows, faults = [], []
    for split, name in (("train", config.data.train), ("val", config.data.val)):
        try:
            rows.append(rows_for(Path(name), split))  # type: ignore[arg-type]
        except ConfigError as error:
            faults += [line for line in str(error).splitlines() if line not in faults]
    if faults:
        raise ConfigError("\n".join(faults))
    together = rows[0] + rows[1]
    try:
        digests = content_hashes(together)
    except DataError as error:
        raise DataError(_with_broken_ones(str(error).splitlines(), together)) from error
    pairs = [Recording(digest, row) for digest, row in zip(digests, together, strict=True)]
    return _in_content_order(pairs[: len(rows[0])]), _in_content_order(pairs[len(rows[0]) :])


def store_identity(config: Config, train: Sequence[Recording], val: Sequence[Recording]) -> dict[str, Any]:
    """Return all that decides the content of a store."""
    codec = config.codec.model_dump(mode="json")
    if isinstance(config.codec, settings.StableAudio):
        codec |= {key: file_sha256(Path(codec[key])) for key in ("checkpoint", "config")}
    return {
        "version": RESULT_VERSION,
        "audio": config.audio.model_dump(mode="json"),
        "codec": codec,
        "degradation": config.degradation.model_dump(mode="json"),
        "validation": config.validation.model_dump(mode="json", exclude={"every"}),
        **{
            split: [[it.sha256, it.row.caption, it.row.transcript, it.row.domain] for it in part]
            for split, part in (("train", train), ("val", val))
        },
    }


def select_clips(val: Sequence[Recording], at_most: int) -> list[Recording]:
    """Return the recordings to score: one of each domain in turn, each domain in the order of its hashes."""
    domains: dict[str, list[Recording]] = {}
    for recording in val:
        domains.setdefault(recording.row.domain, []).append(recording)
    turns = zip_longest(*(part for _, part in sorted(domains.items())))
    chosen = [recording for turn in turns for recording in turn if recording is not None][:at_most]
    return sorted(chosen, key=lambda it: (it.row.domain, it.sha256))


def clip_names(chosen: Sequence[Recording]) -> list[str]:
    """Return a readable name for each clip that is safe as a file name and stands for one clip only."""
    names = [re.sub(r"[^\w.-]+", "-", re.sub(r"\.\w+$", "", it.row.path)).strip("-.")[-80:] for it in chosen]
    return [
        name if name and names.count(name) == 1 else f"{name}-{it.sha256[:8]}-{position}"
        for position, (name, it) in enumerate(zip(names, chosen, strict=True))
    ]


def _encode_into(
    folder: Path,
    config: Config,
    identity: dict[str, Any],
    train: Sequence[Recording],
    val: Sequence[Recording],
    run: "_Pass",
) -> None:
    """Write the three files. Raises DataError naming every unusable recording."""
    codec = build_codec(config.codec, config.audio.channels)
    chosen = select_clips(val, config.validation.clips)
    run.total = len(train) + len(chosen)
    summary = _Summary(codec.latent_channels)

    records = run.over(train, partial(_load_train, config), partial(_train_record, config, codec))
    _write_arrow(folder / "train.arrow", TRAIN_SCHEMA, map(summary.take, records))
    regression = {} if run.problems else summary.regression()
    records = run.over(chosen, partial(_load_val, config), partial(_val_record, config, codec, regression))
    names = iter(clip_names(chosen))
    _write_arrow(folder / "val.arrow", VAL_SCHEMA, (record | {"name": next(names)} for record in records))
    if run.problems:
        raise DataError("\n".join(run.problems))

    files = [folder / "train.arrow", folder / "val.arrow"]
    meta = {
        "fingerprint": fingerprint(identity),
        "settings": {key: value for key, value in identity.items() if key not in ("train", "val")},
        "sample_rate": SAMPLE_RATE,
        "channels": config.audio.channels,
        "segment": config.audio.segment,
        "ratio": codec.ratio,
        "latent_channels": codec.latent_channels,
        "companding": codec.companding,
        "variants": config.degradation.variants,
        "counts": {"train": len(train), "val": len(chosen), "val_available": len(val)},
        "vocabulary": {
            "caption": vocabulary_of(it.row.caption for it in train),
            "transcript": vocabulary_of(it.row.transcript for it in train),
        },
        **summary.statistics(),
        "rolloff_regression": regression,
        "bytes": {file.name: file.stat().st_size for file in files},
        "sha256": {file.name: file_sha256(file) for file in files},
        "recordings": {
            split: [{"path": it.row.path, "sha256": it.sha256, "domain": it.row.domain} for it in part]
            for split, part in (("train", train), ("val", chosen))
        },
    }
    write_json(folder / "meta.json", meta)


class _Pass:
    """One pass over all recordings: encodes in parallel, in order; after the first problem it only looks for others."""

    def __init__(self, pool: ThreadPoolExecutor, ahead: int, progress: Progress | None) -> None:
        self.pool, self.ahead, self.progress = pool, ahead, progress
        self.total, self.done = 0, 0
        self.problems: list[str] = []

    def over(self, items: Iterable[T], load: Callable[[T], S], encode: Callable[[S], Record]) -> Iterator[Record]:
        """Yield the records of the items in their order; collect what ``load`` finds wrong."""

        def job(item: T) -> Record | str | None:
            try:
                loaded = load(item)
            except DataError as error:
                return str(error)
            return None if self.problems else encode(loaded)

        for found in _in_order(self.pool, job, items, self.ahead):
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)
            if isinstance(found, str):
                self.problems.append(found)
            elif found is not None and not self.problems:
                yield found


class _Summary:
    """What the training set says as a whole."""

    def __init__(self, channels: int) -> None:
        self.moments = Moments(channels)
        self.samples = 0
        self.features: list[np.ndarray] = []
        self.rolloffs: list[float] = []
        self.groups: list[int] = []
        self.powers: list[np.ndarray] = []
        self.log_powers: list[np.ndarray] = []

    def take(self, record: Record) -> Record:
        """Return the record without its share of the statistics, which is added here."""
        self.moments.add(*record.pop("moments"))
        features = record.pop("features")
        self.features += features
        self.rolloffs += [record.pop("rolloff_hz")] * len(features)
        self.groups += [len(self.powers)] * len(features)
        for name, total in (("power", self.powers), ("log10_power", self.log_powers)):
            total.append(record.pop(name))
        self.samples += record["samples"]
        return record

    def regression(self) -> dict[str, Any]:
        return fit_rolloff(np.stack(self.features), np.array(self.rolloffs), self.groups)

    def statistics(self) -> dict[str, Any]:
        """Return latent statistics and the mean spectrum of the highs, both at the level at which the model works."""
        return {
            "train_seconds": self.samples / SAMPLE_RATE,
            "norm": self.moments.norm(),
            "high_spectrum": {
                "power": np.mean(self.powers, axis=0).tolist(),
                "log10_power": np.mean(self.log_powers, axis=0).tolist(),
            },
        }


class _Loaded(NamedTuple):
    """A recording that can be used: what was read, and the high audio to encode, padded to a whole segment."""

    recording: Recording
    audio: np.ndarray
    start: int
    samples: int
    high: np.ndarray
    rolloff_hz: float


def _load_train(config: Config, recording: Recording) -> _Loaded:
    """Return the whole recording. Raises DataError when it cannot be used."""
    audio = read_audio(recording.row.file, config.audio.channels)
    return _checked(config, recording, audio, 0, audio.shape[-1], config.audio.segment)


def _load_val(config: Config, recording: Recording) -> _Loaded:
    """Return the recording's loudest stretch. Raises DataError when it cannot be used."""
    audio = read_audio(recording.row.file, config.audio.channels)
    segment = config.validation.segment
    return _checked(config, recording, audio, _loudest(audio, segment), segment, segment)


def _checked(config: Config, recording: Recording, audio: np.ndarray, start: int, length: int, segment: int) -> _Loaded:
    """Return a stretch of audio [C, T]. Raises DataError when there is nothing in it to learn from."""
    if float(np.std(audio[:, start : start + length], axis=-1).max()) < SILENCE_RMS:
        raise DataError(f"{recording.row.file}: silent; remove it from the manifest")
    sound = _cut(audio, start, length)
    high = np.pad(sound, ((0, 0), (0, max(segment - sound.shape[-1], 0))))
    rolloff, least = rolloff_hz(high), config.degradation.cutoff_hz[0]
    if config.degradation.rolloff_cap * rolloff < least:
        raise DataError(
            f"{recording.row.file}: its roll-off is {rolloff:,.0f} Hz, so nothing is left to restore above a cutoff of "
            f"{least:,.0f} Hz; remove it from the manifest, or lower degradation.cutoff_hz"
        )
    return _Loaded(recording, audio, start, sound.shape[-1], high, rolloff)


def _train_record(config: Config, codec: Codec, loaded: _Loaded) -> Record:
    """Return one record of train.arrow, with its share of the statistics."""
    recording, high, segment = loaded.recording, loaded.high, config.audio.segment
    seeds = [seed_of("degradation", recording.sha256, variant) for variant in range(config.degradation.variants)]
    draws = [draw_degradation(config.degradation, loaded.rolloff_hz, seed) for seed in seeds]
    lows = [degrade(high, draw) for draw in draws]
    low_crops = [measure_crops(low, segment) for low in lows]
    gain = np.stack([_gain(config, crops.rms) for crops in low_crops])
    latents, (power, log_power) = _encode(codec, high), mean_power(high)
    return {
        **_said_of(recording),
        "path": recording.row.path,
        "samples": loaded.samples,
        "filter": [draw.family for draw in draws],
        "order": [draw.order for draw in draws],
        "cutoff_hz": [draw.cutoff_hz for draw in draws],
        "rolloff_high_hz": measure_crops(high, segment).rolloff_hz,
        "rolloff_low_hz": np.stack([crops.rolloff_hz for crops in low_crops]),
        "gain": gain.astype(np.float32),
        "high": latents.astype(np.float16),
        "low": np.stack([_encode(codec, low) for low in lows]).astype(np.float16),
        "moments": latent_moments(latents, gain**codec.companding, segment // codec.ratio, STEP // codec.ratio),
        "features": [rolloff_features(low) for low in lows],
        "rolloff_hz": loaded.rolloff_hz,
        "power": power * np.square(gain).mean(),
        "log10_power": log_power + 2 * np.log10(gain).mean(),
    }


def _val_record(config: Config, codec: Codec, regression: dict[str, Any], loaded: _Loaded) -> Record:
    """Return one record of val.arrow, but for its name."""
    high = loaded.high
    draw = frozen_degradation(config.validation, config.degradation, loaded.rolloff_hz)
    low = degrade(high, draw)
    rolloff_low = rolloff_hz(low)
    return {
        **_said_of(loaded.recording),
        "samples": loaded.samples,
        "start": loaded.start,
        "total_samples": loaded.audio.shape[-1],
        "filter": draw.family,
        "order": draw.order,
        "cutoff_hz": draw.cutoff_hz,
        "rolloff_low_hz": rolloff_low,
        "rolloff_high_hz": loaded.rolloff_hz,
        "rolloff_estimated_hz": estimate_rolloff(regression, low, rolloff_low),
        "gain": clip_gain(config, low),
        "high_audio": high,
        "low_audio": low,
        "high": _encode(codec, high).astype(np.float16),
        "low": _encode(codec, low).astype(np.float16),
    }


def _said_of(recording: Recording) -> Record:
    row = recording.row
    return {"id": recording.sha256, "domain": row.domain, "caption": row.caption, "transcript": row.transcript}


def clip_gain(config: Config, low: np.ndarray) -> float:
    """Return the gain at which a model of this configuration is given low [C, T]; its output is divided by it."""
    return float(_gain(config, rms_of(low)))


def _gain(config: Config, rms: np.ndarray | float) -> np.ndarray:
    """Return the gains of low versions of these levels; 1 for the Stable Audio codec, whose latents do not scale."""
    return np.ones_like(rms) if isinstance(config.codec, settings.StableAudio) else gain_of(rms)


def _encode(codec: Codec, audio: np.ndarray) -> np.ndarray:
    return codec.encode(torch.from_numpy(audio)[None])[0].numpy()


def _cut(audio: np.ndarray, start: int, length: int) -> np.ndarray:
    """Return a stretch of audio [C, T], faded where it was cut: a sudden end is a click, which reaches Nyquist."""
    sound = audio[:, start : start + length].copy()
    ramp = np.sin(np.linspace(0, np.pi / 2, FADE, dtype=np.float32)) ** 2
    if start > 0:
        sound[:, :FADE] *= ramp
    if start + length < audio.shape[-1]:
        sound[:, -FADE:] *= ramp[::-1]
    return sound


def _loudest(audio: np.ndarray, length: int) -> int:
    """Return where the stretch of ``length`` samples with the most energy begins."""
    if audio.shape[-1] <= length:
        return 0
    energy = np.concatenate([[0.0], np.square(audio, dtype=np.float64).sum(0).cumsum()])
    return int(np.argmax(energy[length:] - energy[:-length]))


def _in_content_order(pairs: Iterable[Recording]) -> list[Recording]:
    return sorted(pairs, key=lambda it: (it.sha256, it.row.caption, it.row.transcript, it.row.domain, it.row.path))


def _with_broken_ones(problems: list[str], rows: Sequence[Row]) -> str:
    """Return the lines of ``problems`` together with those of the other files that hold no usable audio."""
    named = {line.split(": ")[0] for line in problems}
    others = [row.file for row in rows if str(row.file) not in named]
    with ThreadPoolExecutor() as pool:
        found = zip(others, pool.map(problem_of, others), strict=True)
        return "\n".join(problems + [f"{file}: {problem}" for file, problem in found if problem])


def _refuse_shared(train: Sequence[Recording], val: Sequence[Recording]) -> None:
    """Raise DataError when a recording is both learnt from and scored."""
    trained = {it.sha256: it.row.file for it in train}
    shared = [
        f"{it.row.file}: the same recording stands in training ({trained[it.sha256]}); remove it from one of the two"
        for it in val
        if it.sha256 in trained
    ]
    if shared:
        raise DataError("\n".join(shared))


def _make_root(root: Path, name: str) -> None:
    """Create the folder of stores and clear what killed processes left of this one."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{root}: cannot be created ({error.strerror or error}); choose another folder") from error
    for folder in root.glob(f".{name}-*"):
        if time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, final: Path) -> None:
    """Flush all files to disk and rename the folder into place, unless another process was first."""
    for file in folder.iterdir():
        file.chmod(0o644)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    folder.chmod(0o755)
    try:
        folder.rename(final)
    except OSError:
        if not (final / "meta.json").is_file():
            raise


def _in_order(pool: ThreadPoolExecutor, job: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield ``job(item)`` in the order of the items, with a bounded number of them waiting in memory."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(job, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


_F16, _F32 = pa.large_list(pa.float16()), pa.large_list(pa.float32())
_TEXTS = [(name, pa.string()) for name in ("domain", "caption", "transcript")]
TRAIN_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        *_TEXTS,
        ("samples", pa.int64()),
        ("filter", pa.list_(pa.string())),
        ("order", pa.list_(pa.int32())),
        ("cutoff_hz", pa.list_(pa.float32())),
        ("rolloff_high_hz", _F32),
        ("rolloff_low_hz", _F32),
        ("gain", _F32),
        ("high", _F16),
        ("low", _F16),
    ]
)
VAL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        *_TEXTS,
        ("samples", pa.int64()),
        ("start", pa.int64()),
        ("total_samples", pa.int64()),
        ("filter", pa.string()),
        ("order", pa.int32()),
        ("cutoff_hz", pa.float64()),
        ("rolloff_low_hz", pa.float64()),
        ("rolloff_high_hz", pa.float64()),
        ("rolloff_estimated_hz", pa.float64()),
        ("gain", pa.float64()),
        ("high_audio", _F32),
        ("low_audio", _F32),
        ("high", _F16),
        ("low", _F16),
    ]
)


def _write_arrow(path: Path, schema: pa.Schema, records: Iterable[dict[str, Any]]) -> None:
    group: list[dict[str, Any]] = []
    size = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for record in records:
            group.append(record)
            size += sum(value.nbytes for value in record.values() if isinstance(value, np.ndarray))
            if size >= GROUP_BYTES:
                writer.write_batch(_record_batch(schema, group))
                group, size = [], 0
        if group:
            writer.write_batch(_record_batch(schema, group))


def _record_batch(schema: pa.Schema, group: Sequence[dict[str, Any]]) -> pa.RecordBatch:
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


def _records(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield the records of an Arrow file, lists as numpy views of the mapped file. Raises DataError."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if not reader.schema.equals(schema):
            raise pa.ArrowInvalid("other columns than this version writes")
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            columns: dict[str, Sequence[Any]] = {}
            for name, column in zip(schema.names, batch.columns, strict=True):
                if pa.types.is_large_list(column.type):
                    flat, ends = column.values.to_numpy(), column.offsets.to_numpy()
                    columns[name] = [flat[a:b] for a, b in pairwise(ends)]
                else:
                    columns[name] = column.to_pylist()
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not readable ({reason}); delete {path.parent} to encode anew") from error


def _open_train(path: Path, meta: dict[str, Any]) -> Training:
    channels, variants = meta["latent_channels"], meta["variants"]
    train = Training([], [], [], [], [], [], [], [])
    for record in _records(path / "train.arrow", TRAIN_SCHEMA):
        train.captions.append(record["caption"])
        train.transcripts.append(record["transcript"])
        train.samples.append(record["samples"])
        train.high.append(_view(record["high"]).view(channels, -1))
        train.low.append(_view(record["low"]).view(variants, channels, -1))
        train.rolloff_high_hz.append(record["rolloff_high_hz"])
        train.rolloff_low_hz.append(record["rolloff_low_hz"].reshape(variants, -1))
        train.gain.append(record["gain"].reshape(variants, -1))
    return train


def _open_val(path: Path, meta: dict[str, Any]) -> tuple[Clip, ...]:
    audio, latents = meta["channels"], meta["latent_channels"]
    rows = {"high_audio": audio, "low_audio": audio, "high": latents, "low": latents}
    clips = []
    for record in _records(path / "val.arrow", VAL_SCHEMA):
        views = {name: _view(record[name]).view(count, -1) for name, count in rows.items()}
        clips.append(Clip._make(views[name] if name in views else record[name] for name in Clip._fields))
    return tuple(clips)


def _view(array: np.ndarray) -> Tensor:
    """Return a tensor on mapped, read-only memory. Nothing writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
