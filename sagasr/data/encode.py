"""Encoding: every recording checked, degraded, encoded and measured once, into a store that all trainings map.

    <root>/<12 hex digits>/train-….arrow     records of a few recordings: high latents, K low ones, levels, roll-offs
                           val-….arrow       the same of the scored clips: the frozen pair, as audio and as latents
                           recordings.arrow  names, domains and texts, and where each record lies
                           meta.json         counts, latent statistics, vocabulary, regression, what was left out

The folder's name is the identity of what went in, so a store never changes. Shards are committed one by one into a
hidden folder, which a killed run leaves for the next, and appear together under the store's name at the end. A record
that stands in any store below the same root is taken over, and a whole shard is shared by a hard link.

The work is a list of tasks (``data.tasks``), which this process or a cluster can perform.
"""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sagasr.config.settings import Config
from sagasr.constants import SAMPLE_RATE
from sagasr.data.corpus import (
    Corpus,
    Problem,
    clip_names,
    record_settings,
    recordings,
    select_clips,
    settings_key,
    store_identity,
)
from sagasr.data.measures import LEAST_POWER, fit_rolloff
from sagasr.data.rows import SPLITS, Split
from sagasr.data.store import PER_SHARD, ROWS, SCHEMAS, Record, grouped, ids_in, read_records, shard_name, write_arrow
from sagasr.data.tasks import Outcome, Task, codec_of, forget_codec, perform
from sagasr.io.errors import DataError, StorageError
from sagasr.io.failpoints import point
from sagasr.io.files import STORAGE_FAULTS, link_or_copy, make_folder, read_json, write_json
from sagasr.io.fingerprint import file_sha256, fingerprint, short
from sagasr.model.words import vocabulary_of

ABANDONED_AFTER_S = 24 * 3_600  # a temporary folder that old belongs to a process that was killed

Progress = Callable[[int, int], object]
Shards = Mapping[Split, Mapping[str, list[str]]]  # the ids of each shard, by its name
Runner = Callable[[Sequence[Task]], Iterator[Outcome]]


def in_process(tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Perform tasks in this process, in their order.

    Each stays on one core: torch's threads would wait for one another on arrays as small as these.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from map(perform, tasks)
    finally:
        torch.set_num_threads(threads)
        forget_codec()  # a training that follows in this process has a codec of its own


def encode_store(
    config: Config,
    root: Path,
    *,
    progress: Progress | None = None,
    checking: Progress | None = None,
    runner: Runner = in_process,
) -> Path:
    """Return the store of a configuration below ``root``, encoding it first if it is not there.

    It appears whole or not at all; of two processes that encode the same one, the first to finish wins. ``progress``
    counts the recordings encoded, ``checking`` those looked at before; ``runner`` performs the tasks. Raises
    ConfigError for the manifests, and DataError naming every recording that cannot be used (or, by ``data.policy:
    quarantine``, leaves them out and lists them in meta.json), before anything appears.
    """
    corpus = recordings(config)
    names = _names(config, corpus)
    if store := _finished(root, names):
        return store
    _make_root(root, names[-1])
    work = root / f".{names[-1]}-work"
    build = _Build(config, corpus, root, work, runner)
    try:
        return build.run(names, progress, checking)
    except OSError as error:
        if store := _finished(root, names):  # another process was first and has cleared the folder that both worked in
            shutil.rmtree(work, ignore_errors=True)  # with what this one has written there since
            return store
        if remedy := STORAGE_FAULTS.get(error.errno or 0):
            raise StorageError(f"{root}: {remedy}") from error
        raise
    finally:
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()


class _Build:
    """One store on its way: what there is already, what is missing, and how it is put together."""

    def __init__(self, config: Config, corpus: Corpus, root: Path, work: Path, runner: Runner) -> None:
        self.config, self.corpus, self.root, self.work, self.runner = config, corpus, root, work, runner
        self.settings = {split: settings_key(config, split) for split in SPLITS}
        self.shards: dict[str, Path] = {}  # by name, complete ones below this root
        self.holders: dict[Split, dict[str, Path]] = {"train": {}, "val": {}}  # id -> a shard with its record
        self.hashes: dict[str, str] = {}  # of shards, by name

    def run(self, names: Sequence[str], progress: Progress | None, checking: Progress | None) -> Path:
        """Check, encode what is missing, and publish. Returns the store."""
        self._look_around()
        bad = self._check(checking)
        train, val = ([part for part in self.corpus.of(split) if part.sha256 not in bad] for split in SPLITS)
        left_out = self.corpus.unreadable + [
            Problem(split, row, bad[digest])
            for split in SPLITS
            for digest, row in self.corpus.of(split)
            if digest in bad
        ]
        if left_out and self.config.data.policy == "strict":
            raise DataError("\n".join(map(str, left_out)))
        for split, usable in (("train", train), ("val", val)):
            if not usable:
                source = getattr(self.config.data, split)
                raise DataError(f"{source}: no {split} recording can be used; the first: {left_out[0]}")
        used = Corpus(train, select_clips(val, self.config.validation.clips), left_out)
        shards: dict[Split, dict[str, list[str]]] = {}
        for split in SPLITS:
            groups = grouped({digest: row.file.stat().st_size for digest, row in used.of(split)})
            shards[split] = {shard_name(split, self.settings[split], ids): ids for ids in groups}
        self._encode(shards, used, progress)

        name = names[-1] if left_out else names[0]
        folder = make_folder(self.root, f".{name}-")
        try:
            for shard in (name for named in shards.values() for name in named):
                link_or_copy(self.work / shard, folder / shard)
            self._assemble(folder, used, shards, len(val))
            point("store.commit")
            try:
                folder.rename(self.root / name)
            except OSError:
                if not (self.root / name / "meta.json").is_file():  # else another process was first
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)
        return self.root / name

    def _look_around(self) -> None:
        """Find the shards of these settings in all stores below the root, and in what killed runs left."""
        for folder in sorted(self.root.iterdir()):
            unfinished = folder.name.endswith("-work")
            if not folder.is_dir() or not (unfinished or (folder / "meta.json").is_file()):
                continue
            for split in SPLITS:
                for path in sorted(folder.glob(f"{split}-*.arrow")):
                    if ids := ids_in(path, self.settings[split]):
                        self.shards[path.name] = path
                        self.holders[split] |= dict.fromkeys(ids, path)
            if not unfinished:
                known = read_json(folder / "meta.json").get("sha256", {})
                self.hashes |= {name: digest for name, digest in known.items() if name in self.shards}

    def _check(self, checking: Progress | None) -> dict[str, str]:
        """Return why recordings cannot be used, by content. Those that have records were looked at before."""
        tasks = []
        for split in SPLITS:
            files = [(digest, str(row.file)) for digest, row in self.corpus.of(split)]
            new = list(dict(item for item in files if item[0] not in self.holders[split]).items())
            for start in range(0, len(new), PER_SHARD):
                part = dict(new[start : start + PER_SHARD])
                tasks.append(Task(step="check", split=split, config=self.config, files=part))
        outcomes = self._performed(tasks, sum(len(task.files) for task in tasks), 0, checking)
        return {digest: reason for outcome in outcomes for digest, reason in outcome.problems.items()}

    def _encode(self, shards: Shards, used: Corpus, progress: Progress | None) -> None:
        """Bring every shard into the working folder."""
        self.work.mkdir(exist_ok=True)
        tasks = []
        for split, named in shards.items():
            files, holders = {digest: str(row.file) for digest, row in used.of(split)}, self.holders[split]
            for name, ids in named.items():
                if shard := self.shards.get(name):
                    with contextlib.suppress(FileNotFoundError):  # its store may just have gone
                        link_or_copy(shard, self.work / name)
                        continue
                task = Task(
                    step="encode",
                    split=split,
                    config=self.config,
                    files={digest: files[digest] for digest in ids},
                    settings=self.settings[split],
                    target=str(self.work / name),
                    donors=tuple(sorted({str(holders[digest]) for digest in ids if digest in holders})),
                )
                tasks.append(task)
        total = sum(len(ids) for named in shards.values() for ids in named.values())
        for outcome in self._performed(tasks, total, total - sum(len(task.files) for task in tasks), progress):
            self.hashes[outcome.target] = outcome.sha256

    def _performed(self, tasks: Sequence[Task], total: int, done: int, progress: Progress | None) -> Iterator[Outcome]:
        """Yield the outcomes of tasks, and show each recording that is done. Raises DataError where a file changed."""
        show = progress or (lambda done, total: None)
        for number in range(done):
            show(number + 1, total)
        for outcome in self.runner(tasks):
            if outcome.changed:
                remedy = "it changed while recordings were encoded; give the command again when nothing writes to it"
                raise DataError("\n".join(f"{file}: {remedy}" for file in outcome.changed))
            yield outcome
            for _ in range(outcome.recordings):
                show(done := done + 1, total)

    def _assemble(self, folder: Path, used: Corpus, shards: Shards, available: int) -> None:
        """Write recordings.arrow and meta.json beside all shards, which lie in ``folder``."""
        table: list[dict[str, Any]] = []
        notes: list[dict[str, str]] = []
        for split, named in shards.items():
            places: dict[str, dict[str, int]] = {}
            remarks: dict[str, list[str]] = {}
            for number, name in enumerate(named):
                for place, record in enumerate(read_records(folder / name, SCHEMAS[split])):
                    places[record["id"]], remarks[record["id"]] = {"shard": number, "place": place}, record["notes"]
            for (digest, row), name in zip(used.of(split), clip_names(used.of(split)), strict=True):
                known = {key: getattr(row, key) for key in ("path", "domain", "caption", "transcript")}
                table.append({"split": split, "id": digest, "name": name, **known, **places[digest]})
                notes += [{"split": split, "path": row.path, "note": note} for note in remarks[digest]]
        write_arrow(folder / "recordings.arrow", ROWS, table)
        files = [folder / "recordings.arrow", *(folder / name for named in shards.values() for name in named)]
        records = (record for name in shards["train"] for record in read_records(folder / name, SCHEMAS["train"]))
        meta = {
            **_facts(self.config, used, available),
            **_statistics(records, used),
            "shards": {split: list(named) for split, named in shards.items()},
            "bytes": {file.name: file.stat().st_size for file in files},
            "sha256": {file.name: self.hashes.get(file.name) or file_sha256(file) for file in files},
            "left_out": [{"split": split, "path": row.path, "reason": why} for split, row, why in used.unreadable],
            "notes": sorted(notes, key=lambda note: (note["split"], note["path"], note["note"])),
        }
        write_json(folder / "meta.json", meta)


def _finished(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name / "meta.json").is_file()), None)


def _names(config: Config, corpus: Corpus) -> list[str]:
    """Return the names that the store may have: where nothing has to be left out, quarantine is the same as strict."""
    policies = ["strict"] if config.data.policy == "strict" else ["strict", "quarantine"]
    if corpus.unreadable:
        policies = policies[-1:]
    return [short(fingerprint(store_identity(config, corpus, policy))) for policy in policies]


def _make_root(root: Path, name: str) -> None:
    """Create the folder of stores and clear what killed processes left of this one, but for finished shards."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{root}: cannot be created ({error.strerror or error}); choose another folder") from error
    for folder in root.glob(f".{name}-*"):
        if not folder.name.endswith("-work") and time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _facts(config: Config, corpus: Corpus, available: int) -> dict[str, Any]:
    """Return what is known of a store without its records; ``available`` recordings could be scored."""
    codec = codec_of(config)
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
