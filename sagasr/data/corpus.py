"""Which recordings a configuration names, by content; which of them are scored; and what identifies their encoding.

A record is what is computed of one recording (latents, roll-offs, levels). Its identity is the recording's content,
the settings that enter the computation, the codec's weights and the code; texts, names and other recordings are not
part of it, so that a change of one recording leaves the records of all others valid.
"""

import ast
import hashlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from sagasr.audio.files import problem_of
from sagasr.config import settings
from sagasr.config.settings import Config
from sagasr.data.rows import SPLITS, Row, Split
from sagasr.data.splits import hash_or_problem, rows_of, shared_problems
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import same_name
from sagasr.io.fingerprint import RESULT_VERSION, content_of, fingerprint
from sagasr.plugins.parts import sources

# Where the numbers of a record come from. Imports, comments and docstrings of these do not count.
COMPUTING = (
    "sagasr.audio.containers",
    "sagasr.audio.decoders",
    "sagasr.audio.degrade",
    "sagasr.audio.files",
    "sagasr.audio.spectrum",
    "sagasr.codec.codec",
    "sagasr.data.encoded_record",
    "sagasr.data.measures",
    "sagasr.codec.precision",
    "sagasr.codec.stable_audio_codecs",
    "sagasr.constants",
)


class Recording(NamedTuple):
    """A row with the hash of its file."""

    sha256: str
    row: Row


class Problem(NamedTuple):
    """A recording that cannot be used, and why."""

    split: Split
    row: Row
    reason: str

    def __str__(self) -> str:
        return f"{self.row.file}: {self.reason}"


class Corpus(NamedTuple):
    """What trains and what may be scored, each in the order of the hashes, and what has no readable content."""

    train: list[Recording]
    val: list[Recording]
    unreadable: list[Problem]

    def of(self, split: Split) -> list[Recording]:
        """Return the recordings of one split."""
        return self.train if split == "train" else self.val


def recordings(config: Config) -> Corpus:
    """Return the recordings of a configuration; with ``data.policy: quarantine``, those that can be read.

    Raises ConfigError for the manifests, and DataError naming every file that is missing, broken or not the one meant.
    """
    splits, faults = {}, []
    for split in SPLITS:
        try:
            splits[split] = rows_of(config.data, split)
        except ConfigError as error:
            faults += str(error).splitlines()
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    by_split: dict[Split, list[Recording]] = {"train": [], "val": []}
    unreadable = []
    with ThreadPoolExecutor() as pool:
        for split, rows in splits.items():
            for row, (digest, problem) in zip(rows, pool.map(hash_or_problem, rows), strict=True):
                if problem:
                    unreadable.append(Problem(split, row, problem.removeprefix(f"{row.file}: ")))
                else:
                    by_split[split].append(Recording(digest, row))
    if unreadable and config.data.policy == "strict":
        raise DataError("\n".join(map(str, unreadable + _broken(by_split))))
    for split, part in by_split.items():
        if not part:
            raise DataError(f"{getattr(config.data, split)}: no {split} recording can be read; {unreadable[0]}")
    if shared := shared_problems(config.data, *(dict(part) for part in by_split.values())):
        raise DataError("\n".join(shared))
    return Corpus(_in_content_order(by_split["train"]), _in_content_order(by_split["val"]), unreadable)


def store_identity(config: Config, corpus: Corpus, policy: str = "strict") -> dict[str, Any]:
    """Return all that decides the content of a store."""
    return {
        "version": RESULT_VERSION,
        "train_records": record_settings(config, "train"),
        "val_records": record_settings(config, "val"),
        "clips": config.validation.clips,
        **({} if policy == "strict" else {"policy": policy}),
        **{split: [[digest, *row.meaning] for digest, row in corpus.of(split)] for split in SPLITS},
    }


def record_settings(config: Config, split: Split) -> dict[str, Any]:
    """Return what, beside the recording's content, decides a record of a split."""
    codec = config.codec.model_dump(mode="json")
    if isinstance(config.codec, settings.StableAudio):
        try:
            codec |= {key: content_of(Path(codec[key])) for key in ("checkpoint", "config")}
        except OSError as error:
            why = f"the codec's weights cannot be read ({error.strerror or error})"
            raise DataError(f"{error.filename}: {why}") from error
    if isinstance(config.codec, settings.OwnCodec):
        codec["part"] = sources([("codec", config.codec.part)])
    audio = config.audio.model_dump(mode="json")
    validation = config.validation.model_dump(mode="json", exclude={"every", "clips"})
    return {
        "version": RESULT_VERSION,
        "code": code_identity(),
        "codec": codec,
        "degradation": config.degradation.model_dump(mode="json"),
        **({"audio": audio} if split == "train" else {"channels": config.audio.channels, "validation": validation}),
    }


@cache
def code_identity(modules: tuple[str, ...] = COMPUTING) -> str:
    """Return a hash of what these modules do: their code without imports, comments and docstrings.

    So a module that only moves, or that imports another that did, gives no new stores.
    """
    digest = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(f"{name} has no source")
        tree = ast.parse(Path(spec.origin).read_bytes())
        for node in ast.walk(tree):
            if isinstance(body := getattr(node, "body", None), list):
                body[:] = [part for part in body if not _is_text_or_import(part)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def select_clips(val: Sequence[Recording], at_most: int) -> list[Recording]:
    """Return the recordings to score: one of each domain in turn, each domain in the order of its hashes."""
    domains: dict[str, list[Recording]] = {}
    for recording in val:
        domains.setdefault(recording.row.domain, []).append(recording)
    turns = zip_longest(*(part for _, part in sorted(domains.items())))
    chosen = [recording for turn in turns for recording in turn if recording is not None][:at_most]
    return sorted(chosen, key=lambda recording: (recording.row.domain, recording.sha256))


def clip_names(chosen: Sequence[Recording]) -> list[str]:
    """Return a readable name for each clip that is safe as a file name and stands for one clip only."""
    paths = [re.sub(r"\.\w+$", "", same_name(recording.row.path)) for recording in chosen]
    names = [re.sub(r"[^\w.-]+", "-", path).strip("-.")[-80:] for path in paths]
    times = Counter(names)
    return [
        name if name and times[name] == 1 else f"{name}-{recording.sha256[:8]}-{position}"
        for position, (name, recording) in enumerate(zip(names, chosen, strict=True))
    ]


def settings_key(config: Config, split: Split) -> str:
    """Return the identity of ``record_settings``."""
    return fingerprint(record_settings(config, split))


def _is_text_or_import(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return is_text or isinstance(statement, (ast.Import, ast.ImportFrom))


def _broken(by_split: Mapping[Split, Sequence[Recording]]) -> list[Problem]:
    """Return the problems of the files that could be read but hold no usable audio."""
    rows = [(split, row) for split, part in by_split.items() for _, row in part]
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(problem_of, (row.file for _, row in rows))
        return [Problem(split, row, reason) for (split, row), reason in zip(rows, reasons, strict=True) if reason]


def _in_content_order(recordings: Iterable[Recording]) -> list[Recording]:
    return sorted(recordings, key=lambda recording: (recording.sha256, *recording.row.meaning, recording.row.path))
