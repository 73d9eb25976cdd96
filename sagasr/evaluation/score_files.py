"""Scores and predictions in a trial folder: what results tables and report are made of.

``scores/<variant>.parquet`` holds the trained model's rows, one per clip; ``scores/references-<variant>.parquet`` those
of the answers it must beat: the low input itself, low with shaped noise, and the same model untrained (its own row per
variant). ``scores/distances-<either name>.parquet`` holds their distribution distances, one row per metric and domain;
it is absent where none are taken.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from sagasr.audio.files import write_flac
from sagasr.constants import LISTENING_CLIPS
from sagasr.evaluation.validation_set import Prediction, Validation
from sagasr.io.files import write_whole
from sagasr.io.trial_folder import DISTANCES, SCORE_KEYS, TrialFolder, distances_of
from sagasr.metrics.distance import Distance
from sagasr.metrics.score import Scores
from sagasr.metrics.table import METRICS


def write_scores(trial: Path, variant: str, clips: Validation, prediction: Prediction) -> None:
    """Write the listening set and the scores of one variant, these last: scores that exist are complete."""
    _write_heard(TrialFolder(trial).audio(variant), clips, prediction.audio)
    _write_tables(TrialFolder(trial).scores(variant), clips, {"model": prediction})


def write_references(trial: Path, clips: Validation, untrained: Mapping[str, Prediction]) -> None:
    """Write, per variant, the scores of low, shaped noise and the untrained model, and the high and low audio."""
    trivial = {"low": clips.judge(clips.low), "shaped_noise": clips.judge(clips.shaped_noise())}
    for variant, prediction in untrained.items():
        _write_tables(TrialFolder(trial).references(variant), clips, {**trivial, "untrained": prediction})
    for kind, audio in (("high", clips.high), ("low", clips.low)):
        _write_heard(TrialFolder(trial).audio(kind), clips, audio)


def _write_heard(folder: Path, clips: Validation, audio: Tensor) -> None:
    """Write the first clip of each domain, the second, …; quieter by one factor where its high is too loud for FLAC."""
    by_domain: dict[str, list[int]] = {}
    for index, domain in enumerate(clips.domains):
        by_domain.setdefault(domain, []).append(index)
    turns = [index for turn in zip_longest(*by_domain.values()) for index in turn if index is not None]
    for index in turns[:LISTENING_CLIPS]:
        peak = max(1.0, float(clips.high[index].abs().max()), float(clips.low[index].abs().max()))
        write_flac(folder / f"{clips.names[index]}.flac", (audio[index] / peak).numpy())


def _write_tables(path: Path, clips: Validation, answers: Mapping[str, Prediction]) -> None:
    """Write the distances of answers to the clips, by subject, and last their scores (None where undefined)."""
    distances = [{"subject": name, **row._asdict()} for name, answer in answers.items() for row in answer.distances]
    if distances:
        _write_table(distances_of(path), distances, DISTANCES)
    rows = [
        dict(zip(SCORE_KEYS, (clip, domain, subject, remark), strict=True)) | scores
        for subject, answer in answers.items()
        for clip, domain, remark, scores in zip(
            clips.names, clips.domains, clips.remarks(answer.audio), answer.scores, strict=True
        )
    ]
    metrics = [name for name in dict.fromkeys([*METRICS, *chain(*rows)]) if name not in SCORE_KEYS]
    _write_table(path, rows, dict.fromkeys(SCORE_KEYS, "string") | dict.fromkeys(metrics, "double"))


def _write_table(path: Path, rows: list[dict[str, Any]], columns: Mapping[str, str]) -> None:
    table = pa.Table.from_pylist(rows, pa.schema(list(columns.items())))
    write_whole(path, lambda temporary: pq.write_table(table, temporary))


def read_distances(trial: Path, variant: str) -> dict[str, list[Distance]]:
    """Return the distribution distances of each subject, as ``read_scores``; nothing where none were taken."""
    by_subject: dict[str, list[Distance]] = defaultdict(list)
    for scores in (TrialFolder(trial).scores(variant), TrialFolder(trial).references(variant)):
        path = distances_of(scores)
        for row in pq.read_table(path).to_pylist() if path.exists() else []:
            by_subject[row.pop("subject")].append(Distance(**row))
    return by_subject


def read_scores(trial: Path, variant: str) -> dict[str, list[Scores]]:
    """Return the per-clip metrics of each subject: model, untrained, low and shaped_noise."""
    by_subject: dict[str, list[Scores]] = defaultdict(list)
    for scores in (TrialFolder(trial).scores(variant), TrialFolder(trial).references(variant)):
        for row in pq.read_table(scores).to_pylist():
            by_subject[row["subject"]].append({key: row[key] for key in row if key not in SCORE_KEYS})
    return by_subject
