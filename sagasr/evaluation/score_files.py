"""Scores and predictions in a trial folder: what results tables and report are made of.

``scores/<variant>.parquet`` holds the trained model's rows, one per clip; ``scores/references-<variant>.parquet`` those
of the answers it must beat: the low input itself, low with shaped noise, and the same model untrained (its own row per
variant). ``scores/distances-<either name>.parquet`` holds their distribution distances, one row per metric and domain;
it is absent where none are taken.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from sagasr.audio.files import write_flac
from sagasr.constants import LISTENING_CLIPS as LISTENING_CLIPS
from sagasr.evaluation.prediction import Prediction
from sagasr.evaluation.validation_set import Validation
from sagasr.io.files import write_whole
from sagasr.io.trial_folder import DISTANCES, SCORE_KEYS, TrialFolder, distances_of
from sagasr.metrics.distance import Distance
from sagasr.metrics.registry import Scores
from sagasr.metrics.table import METRICS


class ScoreFile:
    """Scores and listening set of one variant in a trial folder; there once complete."""

    def __init__(self, trial: Path, variant: str) -> None:
        self.path = TrialFolder(trial).scores(variant)
        self.audio = TrialFolder(trial).audio(variant)

    def exists(self) -> bool:
        return self.path.exists()

    def write(self, clips: Validation, prediction: Prediction) -> None:
        """Write audio first, scores last: scores that exist are complete."""
        for index in listening_set(clips):
            _write_heard(self.audio, clips, index, prediction.audio)
        _write_distances(distances_of(self.path), distance_rows(prediction.distances, "model"))
        write_rows(self.path, score_rows(clips, prediction, "model"))


def write_references(trial: Path, clips: Validation, untrained: Mapping[str, Prediction]) -> None:
    """Write, per variant, the scores of low, shaped noise and the untrained model, and the high and low audio."""
    trivial = {"low": clips.judge(clips.low), "shaped_noise": clips.judge(clips.shaped_noise())}
    for variant, prediction in untrained.items():
        path = TrialFolder(trial).references(variant)
        answers = {**trivial, "untrained": prediction}.items()
        distances = [row for subject, answer in answers for row in distance_rows(answer.distances, subject)]
        _write_distances(distances_of(path), distances)
        write_rows(path, [row for subject, answer in answers for row in score_rows(clips, answer, subject)])
    for index in listening_set(clips):
        for kind, audio in (("high", clips.high), ("low", clips.low)):
            _write_heard(TrialFolder(trial).audio(kind), clips, index, audio)


def _write_heard(folder: Path, clips: Validation, index: int, audio: Tensor) -> None:
    """Write one clip of audio [n, C, T]. All versions of one whose high passes full scale, where FLAC ends, are quieter
    by the same factor, so that they can still be compared.
    """
    peak = max(1.0, float(clips.high[index].abs().max()), float(clips.low[index].abs().max()))
    write_flac(folder / f"{clips.names[index]}.flac", (audio[index] / peak).numpy())


def listening_set(clips: Validation) -> list[int]:
    """Return the indices of the clips that are kept as audio: the first of each domain in turn."""
    by_domain: dict[str, list[int]] = {}
    for index, domain in enumerate(clips.domains):
        by_domain.setdefault(domain, []).append(index)
    turns = [indices[turn] for turn in range(len(clips.names)) for indices in by_domain.values() if turn < len(indices)]
    return turns[:LISTENING_CLIPS]


def score_rows(clips: Validation, prediction: Prediction, subject: str) -> list[dict[str, Any]]:
    """Return one row per clip: clip, domain, subject, what is odd about it, and every metric (None where undefined)."""
    rows = zip(clips.names, clips.domains, clips.remarks(prediction.audio), prediction.scores, strict=True)
    return [
        {"clip": name, "domain": domain, "subject": subject, "remark": remark, **scores}
        for name, domain, remark, scores in rows
    ]


def distance_rows(distances: Iterable[Distance], subject: str) -> list[dict[str, Any]]:
    """Return one row per metric and domain."""
    return [{"subject": subject, **distance._asdict()} for distance in distances]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write score rows as Parquet, whole."""
    texts = [(name, pa.string()) for name in SCORE_KEYS]
    own = dict.fromkeys(name for row in rows for name in row if name not in (*SCORE_KEYS, *METRICS))
    schema = pa.schema(texts + [(name, pa.float64()) for name in (*METRICS, *own)])
    write_whole(path, lambda temporary: pq.write_table(pa.Table.from_pylist(rows, schema), temporary))


def _write_distances(path: Path, rows: list[dict[str, Any]]) -> None:
    if rows:
        table = pa.Table.from_pylist(rows, pa.schema(list(DISTANCES.items())))
        write_whole(path, lambda temporary: pq.write_table(table, temporary))


def read_distances(trial: Path, variant: str) -> dict[str, list[Distance]]:
    """Return the distribution distances of each subject, as ``read_scores``; nothing where none were taken."""
    by_subject: dict[str, list[Distance]] = {}
    files = TrialFolder(trial)
    for scores in (files.scores(variant), files.references(variant)):
        path = distances_of(scores)
        for row in pq.read_table(path).to_pylist() if path.exists() else []:
            by_subject.setdefault(row.pop("subject"), []).append(Distance(**row))
    return by_subject


def read_scores(trial: Path, variant: str) -> dict[str, list[Scores]]:
    """Return the per-clip metrics of each subject: model, untrained, low and shaped_noise."""
    by_subject: dict[str, list[Scores]] = {}
    files = TrialFolder(trial)
    for scores in (files.scores(variant), files.references(variant)):
        for row in pq.read_table(scores).to_pylist():
            by_subject.setdefault(row["subject"], []).append({key: row[key] for key in row if key not in SCORE_KEYS})
    return by_subject
