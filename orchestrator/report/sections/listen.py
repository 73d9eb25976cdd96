"""Look and listen: which answers are played for which clips, and what stands beside each."""

import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from orchestrator.analysis.cells import baseline_cell
from orchestrator.report.listening import ListeningSet, Version, listening_set
from orchestrator.report.page_data import PageData, records
from orchestrator.report.wording import number
from orchestrator.sweep_folder.design import cell_name

PLAIN = re.compile(r"\w[\w-]*")  # names of folders: a plan cannot name a path outside audio/


def heard(data: PageData, clips: Sequence[pd.DataFrame], max_bytes: int) -> ListeningSet:
    """Return what can be heard, the clips whose means differ most first. ``clips``: the means behind each effect."""
    rank: list[str] = []
    if clips:
        gains = pd.concat([table.assign(size=table["gain"].abs()) for table in clips]).groupby("clip")["size"].max()
        rank = list(gains.sort_values(ascending=False).index)
    return listening_set(data.paths.audio, _versions(data), rank, max_bytes)


def _versions(data: PageData) -> list[Version]:
    """Return low, high, baseline, best cell, ladder, then the other cells, of the first seed."""
    first = [baseline_cell(data.sweep), data.best, *(step.levels for step in data.sweep.ladder)]
    cells = dict.fromkeys(map(cell_name, filter(None, first)), "")
    for row in data.replicates.to_dict("records"):
        replicate, name = str(row["replicate"]), data.name_of(row)
        if not cells.get(name) and PLAIN.fullmatch(replicate) and (data.paths.audio / replicate).is_dir():
            cells[name] = replicate
    versions = [Version("low input", "low", "low"), Version("high (target)", "high", "high")]
    return versions + [Version(name, "cell", replicate) for name, replicate in cells.items() if replicate]


def takes(data: PageData, played: ListeningSet) -> list[dict[str, Any]]:
    """Return for each clip and version what the page shows beside the sound, and the sound itself."""
    sweep, rows, scores = data.sweep, [], {}
    if sweep.clips is not None and "replicate" in sweep.runs:
        replicates = sweep.runs["replicate"].astype(str).to_numpy()[sweep.clips["row"]]
        clips = sweep.clips.assign(clip=sweep.clips["clip"].astype(str), replicate=replicates)
        rows = records(clips[clips["clip"].isin([clip.name for clip in played.clips])])
        scores = {(row["replicate"], row["clip"]): row for row in rows}
    if (references := sweep.references) is not None and {"subject", "clip"} <= set(references):
        inputs = references[references["subject"] == "low"].drop_duplicates("clip")
        scores |= {("low", str(row["clip"])): row for row in records(inputs)}
    domains = {row["clip"]: str(row.get("domain") or "") for row in rows}
    metrics = [metric for metric in sweep.metrics if metric.name in {sweep.metric.name, "seam"}]
    articles = []
    for clip in played.clips:
        shown = []
        for version, take in sorted(clip.takes.items()):
            score = scores.get((played.versions[version].folder, clip.name), {})
            values = [
                f"{metric.name} {number(score[metric.name])} {metric.unit}".strip()
                for metric in metrics
                if isinstance(score.get(metric.name), float) and math.isfinite(score[metric.name])
            ]
            gain = f"{take.gain_db:+.1f} dB"
            shown.append(
                {"version": version, "text": ", ".join(values), "gain": gain, "audio": take.audio, "image": take.image}
            )
        articles.append({"clip": clip, "domain": domains.get(clip.name, ""), "takes": shown})
    return articles
