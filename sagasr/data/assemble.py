"""What makes shards a store: recordings.arrow and meta.json, with the statistics of the training set."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sagasr.codec.codec import Codec
from sagasr.config.settings import Config
from sagasr.constants import SAMPLE_RATE
from sagasr.data.corpus import Corpus, Recording, clip_names, record_settings
from sagasr.data.measures import Moments, fit_rolloff
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
    summary = _Summary(codec.latent_channels)
    table: list[dict[str, Any]] = []
    notes: list[dict[str, str]] = []
    for split, named in shards.items():
        recordings = corpus.of(split)
        times = Counter(recording.sha256 for recording in recordings)
        places: dict[str, tuple[int, int]] = {}
        remarks: dict[str, list[str]] = {}
        for number, name in enumerate(named):
            for place, record in enumerate(read_records(folder / name, SCHEMAS[split])):
                places[record["id"]], remarks[record["id"]] = (number, place), record["notes"]
                for _ in range(times[record["id"]] if split == "train" else 0):
                    summary.take(record)
        for recording, name in zip(recordings, clip_names(recordings), strict=True):
            table.append(_row(split, recording, name, *places[recording.sha256]))
            notes += [{"split": split, "path": recording.row.path, "note": it} for it in remarks[recording.sha256]]
    write_arrow(folder / "recordings.arrow", ROWS, table)
    files = [folder / "recordings.arrow", *(folder / name for named in shards.values() for name in named)]
    meta = {
        **_facts(config, codec, corpus, available),
        **summary.statistics(),
        "rolloff_regression": summary.regression(),
        "shards": {split: list(named) for split, named in shards.items()},
        "bytes": {file.name: file.stat().st_size for file in files},
        "sha256": {file.name: hashes.get(file.name) or file_sha256(file) for file in files},
        "left_out": [{"split": it.split, "path": it.path, "reason": it.reason} for it in corpus.unreadable],
        "notes": sorted(notes, key=lambda it: (it["split"], it["path"], it["note"])),
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
            source: vocabulary_of(getattr(it.row, source) for it in corpus.train)
            for source in ("caption", "transcript")
        },
    }


def _row(split: Split, recording: Recording, name: str, shard: int, place: int) -> dict[str, Any]:
    """Return a recording's row of recordings.arrow."""
    said = {key: getattr(recording.row, key) for key in ("path", "domain", "caption", "transcript")}
    return {"split": split, "id": recording.sha256, "name": name, **said, "shard": shard, "place": place}


class _Summary:
    """What the training set says as a whole; records are taken in the order of their ids."""

    def __init__(self, channels: int) -> None:
        self.moments = Moments(channels)
        self.samples, self.recordings = 0, 0
        self.features: list[np.ndarray] = []
        self.rolloffs: list[float] = []
        self.groups: list[int] = []
        self.power, self.log_power = np.zeros(()), np.zeros(())

    def take(self, record: Record) -> None:
        """Add one record's share."""
        self.moments.add(*record["moments"].reshape(2, -1))
        features = record["features"].reshape(len(record["filter"]), -1)
        self.features += [row.copy() for row in features]
        self.rolloffs += [record["rolloff_hz"]] * len(features)
        self.groups += [self.recordings] * len(features)
        self.power = self.power + record["power"].astype(np.float64)
        self.log_power = self.log_power + record["log10_power"].astype(np.float64)
        self.samples += record["samples"]
        self.recordings += 1

    def regression(self) -> dict[str, Any]:
        return fit_rolloff(np.stack(self.features), np.array(self.rolloffs), self.groups)

    def statistics(self) -> dict[str, Any]:
        """Return latent statistics and the mean spectrum of the highs, both at the level at which the model works."""
        return {
            "train_seconds": self.samples / SAMPLE_RATE,
            "norm": self.moments.norm(),
            "high_spectrum": {
                "power": (self.power / self.recordings).tolist(),
                "log10_power": (self.log_power / self.recordings).tolist(),
            },
        }
