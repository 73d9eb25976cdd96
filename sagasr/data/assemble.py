"""What makes shards a store: recordings.arrow and meta.json, with the statistics of the training set."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from sagasr.codec.codec import Codec
from sagasr.config.settings import Config
from sagasr.constants import SAMPLE_RATE
from sagasr.data.corpus import Corpus, clip_names, record_settings
from sagasr.data.measures import LEAST_POWER, fit_rolloff
from sagasr.data.rows import SPLITS, Split
from sagasr.data.shards import ROWS, SCHEMAS, Record, read_records, write_arrow
from sagasr.io.files import write_json
from sagasr.io.fingerprint import file_sha256
from sagasr.model.words import vocabulary_of

Shards = Mapping[Split, Mapping[str, list[str]]]  # the ids of each shard, by its name


def assemble(
    folder: Path,
    config: Config,
    codec: Codec,
    corpus: Corpus,
    shards: Shards,
    hashes: Mapping[str, str],
    available: int,
) -> None:
    """Write recordings.arrow and meta.json beside all shards, which lie in ``folder``.

    ``corpus`` holds what is used, ``available`` says how many recordings could be scored. Shards whose sha256 is not
    in ``hashes`` are read.
    """
    table: list[dict[str, Any]] = []
    notes: list[dict[str, str]] = []
    for split, named in shards.items():
        places: dict[str, dict[str, int]] = {}
        remarks: dict[str, list[str]] = {}
        for number, name in enumerate(named):
            for place, record in enumerate(read_records(folder / name, SCHEMAS[split])):
                places[record["id"]], remarks[record["id"]] = {"shard": number, "place": place}, record["notes"]
        for (digest, row), name in zip(corpus.of(split), clip_names(corpus.of(split)), strict=True):
            known = {key: getattr(row, key) for key in ("path", "domain", "caption", "transcript")}
            table.append({"split": split, "id": digest, "name": name, **known, **places[digest]})
            notes += [{"split": split, "path": row.path, "note": note} for note in remarks[digest]]
    write_arrow(folder / "recordings.arrow", ROWS, table)
    files = [folder / "recordings.arrow", *(folder / name for named in shards.values() for name in named)]
    records = (record for name in shards["train"] for record in read_records(folder / name, SCHEMAS["train"]))
    meta = {
        **_facts(config, codec, corpus, available),
        **_statistics(records, corpus),
        "shards": {split: list(named) for split, named in shards.items()},
        "bytes": {file.name: file.stat().st_size for file in files},
        "sha256": {file.name: hashes.get(file.name) or file_sha256(file) for file in files},
        "left_out": [{"split": it.split, "path": it.path, "reason": it.reason} for it in corpus.unreadable],
        "notes": sorted(notes, key=lambda note: (note["split"], note["path"], note["note"])),
    }
    write_json(folder / "meta.json", meta)


def _facts(config: Config, codec: Codec, corpus: Corpus, available: int) -> dict[str, Any]:
    """Return what is known of a store without its records."""
    return {
        "settings": {split: record_settings(config, split) for split in SPLITS},
        "sample_rate": SAMPLE_RATE,
        "channels": config.audio.channels,
        "segment": config.audio.segment,
        "ratio": codec.ratio,
        "latent_channels": codec.latent_channels,
        "companding": codec.companding,
        "variants": config.degradation.variants,
        "counts": {"train": len(corpus.train), "val": len(corpus.val), "val_available": available},
        "vocabulary": {
            source: vocabulary_of(getattr(row, source) for _, row in corpus.train)
            for source in ("caption", "transcript")
        },
    }


def _statistics(records: Iterable[Record], corpus: Corpus) -> dict[str, Any]:
    """Return what the training set says as a whole, each recording as often as it is named.

    Latents (``LatentNorm``) and the mean spectrum of the highs are at the level at which the model works.
    """
    times = Counter(digest for digest, _ in corpus.train)
    samples = first = second = log_rms = power = log_power = np.zeros(())
    features: list[np.ndarray] = []
    rolloffs: list[float] = []
    groups: list[int] = []
    named = chain.from_iterable(repeat(record, times[record["id"]]) for record in records)
    for number, record in enumerate(named):
        mean, square = record["moments"].reshape(2, -1)
        first, second = first + mean, second + square
        log_rms = log_rms + np.log(np.maximum(square, LEAST_POWER)) / 2
        power, log_power = power + record["power"].astype(float), log_power + record["log10_power"].astype(float)
        samples = samples + record["samples"]
        rows = record["features"].reshape(len(record["filter"]), -1).copy()
        features += list(rows)
        rolloffs += [record["rolloff_hz"]] * len(rows)
        groups += [number] * len(rows)
    count = len(corpus.train)
    mean = first / count
    std = np.sqrt(np.maximum(second / count - mean**2, 0))
    std = np.maximum(std, max(1e-3 * std.max(), 1e-8))  # channels that hold next to nothing are not blown up
    level = np.clip(np.exp(log_rms / count) / std, 1e-2, 1)
    return {
        "train_seconds": float(samples / SAMPLE_RATE),
        "norm": {"mean": mean.tolist(), "std": std.tolist(), "level": level.tolist()},
        "high_spectrum": {"power": (power / count).tolist(), "log10_power": (log_power / count).tolist()},
        "rolloff_regression": fit_rolloff(np.stack(features), np.array(rolloffs), groups),
    }
