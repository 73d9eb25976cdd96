"""Per-clip scores and predictions in a trial folder: what results tables and report are made of.

``scores/<variant>.parquet`` holds the trained model's rows; ``scores/references-<variant>.parquet`` the answers it must
beat: the low input itself, low with shaped noise, and the same model untrained (its own row per variant).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sagasr.audio.files import write_flac
from sagasr.data.draws import Validation
from sagasr.evaluate import Prediction
from sagasr.files import write_whole
from sagasr.metrics import METRICS, Scores

LISTENING_CLIPS = 8


class ScoreFile:
    """Scores and listening set of one variant in a trial folder; there once complete."""

    def __init__(self, trial: Path, variant: str) -> None:
        self.path = trial / "scores" / f"{variant}.parquet"
        self.audio = trial / "audio" / variant

    def exists(self) -> bool:
        return self.path.exists()

    def write(self, clips: Validation, prediction: Prediction) -> None:
        """Write audio first, scores last: scores that exist are complete."""
        for index in listening_set(clips):
            write_flac(self.audio / f"{clips.names[index]}.flac", prediction.audio[index].numpy())
        write_rows(self.path, score_rows(clips, prediction.scores, "model"))


def write_references(trial: Path, clips: Validation, untrained: Mapping[str, Prediction]) -> None:
    """Write, per variant, the scores of low, shaped noise and the untrained model, and the high and low audio."""
    low = score_rows(clips, clips.score(clips.low), "low")
    noise = score_rows(clips, clips.score(clips.shaped_noise()), "shaped_noise")
    for variant, prediction in untrained.items():
        rows = low + noise + score_rows(clips, prediction.scores, "untrained")
        write_rows(trial / "scores" / f"references-{variant}.parquet", rows)
    for index in listening_set(clips):
        for kind, audio in (("high", clips.high), ("low", clips.low)):
            write_flac(trial / "audio" / kind / f"{clips.names[index]}.flac", audio[index].numpy())


def listening_set(clips: Validation) -> list[int]:
    """Return the indices of the clips that are kept as audio: the first of each domain in turn."""
    by_domain: dict[str, list[int]] = {}
    for index, domain in enumerate(clips.domains):
        by_domain.setdefault(domain, []).append(index)
    turns = [indices[turn] for turn in range(len(clips.names)) for indices in by_domain.values() if turn < len(indices)]
    return turns[:LISTENING_CLIPS]


def score_rows(clips: Validation, scores: list[Scores], subject: str) -> list[dict[str, Any]]:
    """Return one row per clip: clip, domain, subject and every metric (None where undefined)."""
    return [
        {"clip": name, "domain": domain, "subject": subject, **row}
        for name, domain, row in zip(clips.names, clips.domains, scores, strict=True)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write score rows as Parquet, whole."""
    texts = [(name, pa.string()) for name in ("clip", "domain", "subject")]
    schema = pa.schema(texts + [(name, pa.float64()) for name in METRICS])
    write_whole(path, lambda temporary: pq.write_table(pa.Table.from_pylist(rows, schema), temporary))


def read_scores(trial: Path, variant: str) -> dict[str, list[Scores]]:
    """Return the per-clip metrics of each subject: model, untrained, low and shaped_noise."""
    found: dict[str, list[Scores]] = {}
    for name in (variant, f"references-{variant}"):
        for row in pq.read_table(trial / "scores" / f"{name}.parquet").to_pylist():
            found.setdefault(row["subject"], []).append({metric: row[metric] for metric in METRICS})
    return found
