"""One task of encoding: a few recordings checked, or encoded into a shard. It reads and writes files alone."""

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from sagasr.codec.codec import Codec, build_codec
from sagasr.config.settings import Config, OwnCodec
from sagasr.config.strict import Strict
from sagasr.data.encoded_record import record_of, usable
from sagasr.data.rows import Split
from sagasr.data.store import SCHEMAS, Record, read_records, write_arrow
from sagasr.io.errors import DataError
from sagasr.io.failpoints import point
from sagasr.io.fingerprint import file_sha256
from sagasr.plugins.parts import identity


class Task(Strict):
    """A few recordings to be checked, or encoded into the shard ``target``, taking records over from ``donors``.

    ``files``: where each lies, by its content.
    """

    step: Literal["check", "encode"]
    split: Split
    config: Config
    files: dict[str, str]
    settings: str = ""
    target: str = ""
    donors: tuple[str, ...] = ()


class Outcome(Strict):
    """What became of a task.

    ``problems``: why recordings cannot be used, by content. ``changed``: files that are no longer what they were.
    """

    recordings: int
    problems: dict[str, str] = Field(default_factory=dict)
    changed: tuple[str, ...] = ()
    target: str = ""
    sha256: str = ""


class _Changed(Exception):
    """A file is not what it was when the run began."""


def perform(task: Task) -> Outcome:
    """Do a task and say what became of it; the same task done twice, even at once, gives the same file."""
    return _check(task) if task.step == "check" else _encode(task)


def _check(task: Task) -> Outcome:
    problems, changed = {}, []
    for digest, file in task.files.items():
        try:
            usable(task.config, task.split, Path(file))
        except DataError as error:
            if _holds(file, digest):
                problems[digest] = str(error).removeprefix(f"{file}: ")
            else:
                changed.append(file)
    return Outcome(recordings=len(task.files), problems=problems, changed=tuple(changed))


def _encode(task: Task) -> Outcome:
    target = Path(task.target)
    try:
        write_arrow(target, SCHEMAS[task.split].with_metadata({"settings": task.settings}), _records(task))
    except _Changed as error:
        return Outcome(recordings=len(task.files), changed=(str(error),))
    point("encode.shard")
    return Outcome(recordings=len(task.files), target=target.name, sha256=file_sha256(target))


def _records(task: Task) -> Iterator[Record]:
    """Yield the records of a task in the order of its files, those of donors as they are. Raises _Changed."""
    taken: dict[str, Record] = {}
    for donor in task.donors:
        with contextlib.suppress(DataError):  # it may just have been deleted
            records = read_records(Path(donor), SCHEMAS[task.split])
            taken |= {record["id"]: record for record in records if record["id"] in task.files}
    codec = codec_of(task.config)
    for digest, file in task.files.items():
        if digest in taken:
            yield taken[digest]
            continue
        try:
            recording = usable(task.config, task.split, Path(file))
        except DataError as error:  # it was usable when it was checked
            raise _Changed(file) from error
        if not _holds(file, digest):
            raise _Changed(file)
        yield record_of(task.config, codec, task.split, digest, recording)


def _holds(file: str, digest: str) -> bool:
    try:
        return file_sha256(Path(file)) == digest
    except OSError:
        return False


def codec_of(config: Config) -> Codec:
    """Return the codec of a configuration, one for all tasks of a process, on its GPU where weights are worth one."""
    files = [Path(getattr(config.codec, key)) for key in ("checkpoint", "config") if hasattr(config.codec, key)]
    states: list[object] = [file.stat().st_mtime_ns for file in files]
    if isinstance(config.codec, OwnCodec):
        states.append(identity("codec", config.codec.part))
    return _built(config.codec, config.audio.channels, tuple(states))


@lru_cache(maxsize=1)
def _built(codec: Any, channels: int, states: tuple[object, ...]) -> Codec:
    built = build_codec(codec, channels)
    return built.to("cuda") if codec.kind == "stable-audio" and torch.cuda.is_available() else built


def forget_codec() -> None:
    """Let go of the codec that ``codec_of`` keeps."""
    _built.cache_clear()
