"""Encoding: every recording checked, degraded, encoded and measured once, into a store that all trainings map.

    <root>/<12 hex digits>/train-….arrow     records of a few recordings: high latents, K low ones, levels, roll-offs
                           val-….arrow       the same of the scored clips: the frozen pair, as audio and as latents
                           recordings.arrow  names, domains and texts, and where each record lies
                           meta.json         counts, latent statistics, vocabulary, regression, what was left out

The folder's name is the identity of what went in, so a store never changes and a change of any input makes another one.
Shards are committed one by one into a hidden folder, which a killed run leaves for the next, and appear together under
the store's name at the end. A record that stands in any store below the same root is taken over, not computed again,
and a whole shard is shared by a hard link: a store can be deleted or copied without regard to the others.

The work is a list of tasks, each of which reads and writes files alone, so that threads or a cluster can perform them.
"""

import contextlib
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field

from sagasr.codec.codec import Codec, build_codec
from sagasr.config.settings import SAMPLE_RATE, Config, OwnCodec
from sagasr.config.strict import Strict
from sagasr.data.corpus import (
    Corpus,
    Problem,
    Recording,
    clip_names,
    record_settings,
    recordings,
    select_clips,
    settings_key,
    store_identity,
)
from sagasr.data.encoded_record import Record, record_of
from sagasr.data.manifest import SPLITS, Split
from sagasr.data.measures import Moments, fit_rolloff
from sagasr.data.quality import usable
from sagasr.data.shards import (
    PER_SHARD,
    ROWS,
    SCHEMAS,
    grouped,
    ids_in,
    read_records,
    shard_name,
    write_arrow,
    write_shard,
)
from sagasr.io.errors import DataError, StorageError
from sagasr.io.failpoints import point
from sagasr.io.files import STORAGE_FAULTS, link_or_copy, make_folder, read_json, write_json
from sagasr.io.fingerprint import file_sha256, fingerprint, short
from sagasr.model.words import vocabulary_of
from sagasr.plugins.parts import identity

ABANDONED_AFTER_S = 24 * 3_600  # a temporary folder that old belongs to a process that was killed

Progress = Callable[[int, int], object]
T = TypeVar("T")
R = TypeVar("R")


class Item(Strict):
    """A recording to look at: its content and where it lies."""

    sha256: str
    file: str


class Task(Strict):
    """A few recordings to be checked, or encoded into the shard ``target``, taking records over from ``donors``."""

    step: Literal["check", "encode"]
    split: Split
    config: Config
    items: tuple[Item, ...]
    settings: str = ""
    target: str = ""
    donors: tuple[str, ...] = ()


class Outcome(Strict):
    """What became of a task.

    ``problems``: why recordings cannot be used, by content. ``changed``: files that are no longer what they were.
    """

    step: Literal["check", "encode"]
    recordings: int
    problems: dict[str, str] = Field(default_factory=dict)
    changed: tuple[str, ...] = ()
    target: str = ""
    sha256: str = ""


Runner = Callable[[Sequence[Task]], Iterator[Outcome]]


def encode_store(
    config: Config,
    root: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    checking: Progress | None = None,
    runner: Runner | None = None,
) -> Path:
    """Return the store of a configuration below ``root``, encoding it first if it is not there.

    It appears whole or not at all; of two processes that encode the same one, the first to finish wins. ``progress``
    counts the recordings encoded, ``checking`` those looked at before; ``runner`` performs the tasks, by default in
    ``workers`` threads. Raises ConfigError for the manifests, and DataError naming every recording that cannot be used
    (or, by ``data.policy: quarantine``, leaves them out and lists them in meta.json), before anything appears.
    """
    corpus = recordings(config)
    names = _names(config, corpus)
    for name in names:
        if (root / name / "meta.json").is_file():
            return root / name
    _make_root(root, names[-1])
    work = root / f".{names[-1]}-work"
    build = _Build(config, corpus, root, work, runner or in_process(workers))
    try:
        return build.run(names, progress, checking)
    except OSError as error:
        found = [root / name for name in names if (root / name / "meta.json").is_file()]
        if found:  # another process was first and has cleared the folder that both worked in
            shutil.rmtree(work, ignore_errors=True)  # with what this one has written there since
            return found[0]
        if remedy := STORAGE_FAULTS.get(error.errno or 0):
            raise StorageError(f"{root}: {remedy}") from error
        raise
    finally:
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()


def in_process(workers: int) -> Runner:
    """Return a runner that performs tasks in threads of this process, in their order.

    Each task stays on one core: torch's own threads would wait for one another on arrays as small as these.
    """

    def run(tasks: Sequence[Task]) -> Iterator[Outcome]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from _in_order(pool, perform, tasks, 2 * workers)
        finally:
            torch.set_num_threads(threads)
            _codec_of.cache_clear()  # a training that follows in this process has a codec of its own

    return run


def perform(task: Task) -> Outcome:
    """Do a task and say what became of it; the same task done twice, even at once, gives the same file."""
    return _check(task) if task.step == "check" else _encode(task)


# ------------------------------------------------------------------------------------------------------------ one task


def _check(task: Task) -> Outcome:
    problems, changed = {}, []
    for item in task.items:
        try:
            usable(task.config, task.split, Path(item.file))
        except DataError as error:
            if _changed(item):
                changed.append(item.file)
            else:
                problems[item.sha256] = str(error).removeprefix(f"{item.file}: ")
    return Outcome(step="check", recordings=len(task.items), problems=problems, changed=tuple(changed))


def _encode(task: Task) -> Outcome:
    target = Path(task.target)
    try:
        write_shard(target, task.split, task.settings, _records(task))
    except _Changed as error:
        return Outcome(step="encode", recordings=len(task.items), changed=(str(error),))
    point("encode.shard")
    return Outcome(step="encode", recordings=len(task.items), target=target.name, sha256=file_sha256(target))


class _Changed(Exception):
    """A file is not what it was when the run began."""


def _records(task: Task) -> Iterator[Record]:
    """Yield the records of a task in the order of its items. Raises _Changed naming a file."""
    taken = _taken(task)
    codec = _codec(task.config)
    for item in task.items:
        if item.sha256 in taken:
            yield taken[item.sha256]
            continue
        try:
            found = usable(task.config, task.split, Path(item.file))
        except DataError as error:  # it was usable when it was checked
            raise _Changed(item.file) from error
        if _changed(item):
            raise _Changed(item.file)
        yield record_of(task.config, codec, task.split, item.sha256, found)


def _taken(task: Task) -> dict[str, Record]:
    """Return the records that other shards hold already; views of mapped files. A donor may just have been deleted."""
    wanted = {item.sha256 for item in task.items}
    found: dict[str, Record] = {}
    for donor in task.donors:
        with contextlib.suppress(DataError):
            found |= {it["id"]: it for it in read_records(Path(donor), SCHEMAS[task.split]) if it["id"] in wanted}
    return found


def _changed(item: Item) -> bool:
    try:
        return file_sha256(Path(item.file)) != item.sha256
    except OSError:
        return True


def _codec(config: Config) -> Codec:
    """Return the codec of a configuration, one for all tasks of a process, on its GPU where weights are worth one."""
    files = [Path(getattr(config.codec, key)) for key in ("checkpoint", "config") if hasattr(config.codec, key)]
    states: list[object] = [file.stat().st_mtime_ns for file in files]
    if isinstance(config.codec, OwnCodec):
        states.append(identity("codec", config.codec.part))
    return _codec_of(config.codec, config.audio.channels, tuple(states))


@lru_cache(maxsize=1)
def _codec_of(codec: Any, channels: int, states: tuple[object, ...]) -> Codec:
    built = build_codec(codec, channels)
    return built.to("cuda") if codec.kind == "stable-audio" and torch.cuda.is_available() else built


# ------------------------------------------------------------------------------------------------------------ all tasks


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
        good = {split: [it for it in self.corpus.of(split) if it.sha256 not in bad] for split in SPLITS}
        left_out = [*self.corpus.unreadable]
        for split in SPLITS:
            rows = [it for it in self.corpus.of(split) if it.sha256 in bad]
            left_out += [Problem(split, it.row.path, str(it.row.file), bad[it.sha256]) for it in rows]
        if left_out and self.config.data.policy == "strict":
            raise DataError("\n".join(map(str, left_out)))
        for split, usable_ones in good.items():
            if not usable_ones:
                source = getattr(self.config.data, split)
                raise DataError(f"{source}: no {split} recording can be used; the first: {left_out[0]}")
        chosen = select_clips(good["val"], self.config.validation.clips)
        rows_of: dict[Split, list[Recording]] = {"train": good["train"], "val": chosen}
        shards = {split: self._shards(split, rows) for split, rows in rows_of.items()}
        self._encode(shards, rows_of, progress)

        name = names[-1] if left_out else names[0]
        folder = make_folder(self.root, f".{name}-")
        try:
            self._assemble(folder, Corpus(good["train"], chosen, left_out), shards, len(good["val"]))
            point("store.commit")
            _publish(folder, self.root / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)
        return self.root / name

    def _look_around(self) -> None:
        """Find the shards of these settings in all stores below the root, and in what killed runs left."""
        for folder in sorted(self.root.iterdir()):
            left = folder.name.endswith("-work")
            if not folder.is_dir() or not (left or (folder / "meta.json").is_file()):
                continue
            for split in SPLITS:
                for path in sorted(folder.glob(f"{split}-*.arrow")):
                    if ids := ids_in(path, self.settings[split]):
                        self.shards[path.name] = path
                        self.holders[split] |= dict.fromkeys(ids, path)
            if not left:
                known = read_json(folder / "meta.json").get("sha256", {})
                self.hashes |= {name: digest for name, digest in known.items() if name in self.shards}

    def _check(self, checking: Progress | None) -> dict[str, str]:
        """Return why recordings cannot be used, by content. Those that have records were looked at before."""
        tasks = []
        for split in SPLITS:
            new = {it.sha256: _item(it) for it in self.corpus.of(split) if it.sha256 not in self.holders[split]}
            items = tuple(new.values())
            for start in range(0, len(items), PER_SHARD):
                part = items[start : start + PER_SHARD]
                tasks.append(Task(step="check", split=split, config=self.config, items=part))
        count = _Count(sum(len(task.items) for task in tasks), checking)
        reasons: dict[str, str] = {}
        for outcome in self.runner(tasks):
            _refuse_changed(outcome)
            reasons |= outcome.problems
            count.add(outcome.recordings)
        return reasons

    def _shards(self, split: Split, rows: Sequence[Recording]) -> dict[str, list[str]]:
        """Return the ids of each shard by its name, in the order of the ids."""
        sizes = {it.sha256: it.row.file.stat().st_size for it in rows}
        groups = grouped(sizes)
        return {shard_name(split, self.settings[split], ids): ids for ids in groups}

    def _encode(
        self,
        shards: Mapping[Split, Mapping[str, list[str]]],
        rows: Mapping[Split, Sequence[Recording]],
        progress: Progress | None,
    ) -> None:
        """Bring every shard into the working folder."""
        self.work.mkdir(exist_ok=True)
        count = _Count(sum(len(ids) for named in shards.values() for ids in named.values()), progress)
        tasks = []
        for split, named in shards.items():
            items = {it.sha256: _item(it) for it in rows[split]}
            for name, ids in named.items():
                if name in self.shards and _share(self.shards[name], self.work / name):
                    count.add(len(ids))
                    continue
                holders = self.holders[split]
                donors = tuple(sorted({str(holders[it]) for it in ids if it in holders}))
                task = Task(
                    step="encode",
                    split=split,
                    config=self.config,
                    items=tuple(items[it] for it in ids),
                    settings=self.settings[split],
                    target=str(self.work / name),
                    donors=donors,
                )
                tasks.append(task)
        for outcome in self.runner(tasks):
            _refuse_changed(outcome)
            self.hashes[outcome.target] = outcome.sha256
            count.add(outcome.recordings)

    def _assemble(
        self, folder: Path, corpus: Corpus, shards: Mapping[Split, Mapping[str, list[str]]], available: int
    ) -> None:
        """Write recordings.arrow and meta.json beside links to all shards."""
        codec = _codec(self.config)
        summary = _Summary(codec.latent_channels)
        table: list[dict[str, Any]] = []
        notes: list[dict[str, str]] = []
        for split, named in shards.items():
            times = Counter(it.sha256 for it in corpus.of(split))
            places: dict[str, tuple[int, int]] = {}
            remarks: dict[str, list[str]] = {}
            for number, name in enumerate(named):
                link_or_copy(self.work / name, folder / name)
                for place, record in enumerate(read_records(folder / name, SCHEMAS[split])):
                    places[record["id"]], remarks[record["id"]] = (number, place), record["notes"]
                    for _ in range(times[record["id"]] if split == "train" else 0):
                        summary.take(record)
            for it, name in zip(corpus.of(split), clip_names(corpus.of(split)), strict=True):
                table.append(_row(split, it, name, *places[it.sha256]))
                notes += [{"split": split, "path": it.row.path, "note": note} for note in remarks[it.sha256]]
        write_arrow(folder / "recordings.arrow", ROWS, table)
        files = [folder / "recordings.arrow", *(folder / name for named in shards.values() for name in named)]
        hashes = {file.name: self.hashes.get(file.name) or file_sha256(file) for file in files}
        config, captions = self.config, (it.row.caption for it in corpus.train)
        meta = {
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
                "caption": vocabulary_of(captions),
                "transcript": vocabulary_of(it.row.transcript for it in corpus.train),
            },
            **summary.statistics(),
            "rolloff_regression": summary.regression(),
            "shards": {split: list(named) for split, named in shards.items()},
            "bytes": {file.name: file.stat().st_size for file in files},
            "sha256": hashes,
            "left_out": [{"split": it.split, "path": it.path, "reason": it.reason} for it in corpus.unreadable],
            "notes": sorted(notes, key=lambda it: (it["split"], it["path"], it["note"])),
        }
        write_json(folder / "meta.json", meta)


class _Count:
    """Progress, one call per recording."""

    def __init__(self, total: int, tell: Progress | None) -> None:
        self.total, self.done, self.tell = total, 0, tell

    def add(self, recordings: int) -> None:
        for _ in range(recordings):
            self.done += 1
            if self.tell:
                self.tell(self.done, self.total)


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


# ---------------------------------------------------------------------------------------------------------------- small


def _names(config: Config, corpus: Corpus) -> list[str]:
    """Return the names that the store may have: where nothing has to be left out, quarantine is the same as strict."""
    policies = ["strict"] if config.data.policy == "strict" else ["strict", "quarantine"]
    if corpus.unreadable:
        policies = policies[-1:]
    return [short(fingerprint(store_identity(config, corpus, policy))) for policy in policies]


def _item(recording: Recording) -> Item:
    return Item(sha256=recording.sha256, file=str(recording.row.file))


def _row(split: Split, recording: Recording, name: str, shard: int, place: int) -> dict[str, Any]:
    """Return a recording's row of recordings.arrow."""
    said = {key: getattr(recording.row, key) for key in ("path", "domain", "caption", "transcript")}
    return {"split": split, "id": recording.sha256, "name": name, **said, "shard": shard, "place": place}


def _refuse_changed(outcome: Outcome) -> None:
    if outcome.changed:
        remedy = "it changed while recordings were encoded; give the command again when nothing writes to it"
        raise DataError("\n".join(f"{file}: {remedy}" for file in outcome.changed))


def _share(source: Path, target: Path) -> bool:
    """Make a shard available in the working folder; return whether it is there, for its store may just have gone."""
    try:
        if not target.exists():
            link_or_copy(source, target)
    except FileNotFoundError:
        return False
    return True


def _make_root(root: Path, name: str) -> None:
    """Create the folder of stores and clear what killed processes left of this one, but for finished shards."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{root}: cannot be created ({error.strerror or error}); choose another folder") from error
    for folder in root.glob(f".{name}-*"):
        if not folder.name.endswith("-work") and time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, final: Path) -> None:
    """Flush all files to disk and rename the folder into place, unless another process was first."""
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
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
