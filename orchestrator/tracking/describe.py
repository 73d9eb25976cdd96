"""What a run says beside its curves: hyperparameters, recordings, where its training lies and what asked for it."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import Plan, Replicate, Trial
from orchestrator.sweep_folder.redact import plain
from sagasr.config.patching import DATA_KEYS, FILE_KEYS, MODEL_KEYS, PART_KEYS, leaves
from sagasr.config.settings import Data
from sagasr.io.fingerprint import fingerprint, short

NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6_000, 8_000  # characters, MLflow's limits
MAX_PARAMS = 30  # more make MLflow's tables and comparisons unreadable
MAX_TIMED = 5_000  # recordings whose lengths are read
NO_PARAMS = {*DATA_KEYS, *FILE_KEYS, *MODEL_KEYS, *PART_KEYS, "seed"}  # files move, and a seed is named as it is
MAIN = (
    *("training.steps", "training.batch_size", "training.learning_rate", "training.weight_decay", "training.ema.beta"),
    *("training.time_sampler", "training.precision", "model.embed_dim", "model.depth", "model.num_heads"),
    *("model.cond_dim", "model.init", "codec.kind", "audio.segment", "audio.channels", "conditions.text.source"),
    *("conditions.text.dropout", "conditions.low.dropout", "conditions.rolloff", "conditions.rolloff_route"),
    *("evaluation.sampler.steps", "evaluation.sampler.schedule", "evaluation.sampler.guidance.audio"),
    *("evaluation.sampler.guidance.text", "evaluation.weights", "evaluation.lfr", "validation.every"),
)


@dataclass(frozen=True)
class About:
    """What a run says of a replicate. ``levels``: factors and seed; ``settings``: what else is a param."""

    name: str
    levels: Mapping[str, str]
    settings: Mapping[str, str]
    tags: Mapping[str, str]
    recordings: Sequence[tuple[str, str, str]]  # context, manifest, digest

    @cached_property
    def digest(self) -> str:
        """Identify all of it."""
        return short(fingerprint([self.name, self.levels, self.settings, self.tags, self.recordings]))

    def is_renamed(self, run: Any) -> bool:
        """Return whether a run has the replicate's levels under other names, as params that MLflow never changes."""
        known = run.data.params
        is_other = run.data.tags.get("sagasr.cell", self.tags["sagasr.cell"]) != self.tags["sagasr.cell"]
        return is_other and any(known.get(name, level) != level for name, level in self.levels.items())


class Descriptions:
    """What is said of each replicate of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._settings = {cell.name: leaves(cell.config.model_dump(mode="json")) for cell in plan.cells}
        self._listings = dict(zip(dict.fromkeys(cell.config.data for cell in plan.cells), plan.listings, strict=False))
        self._profiles: dict[tuple[Data, str], str] = {}

    def of(self, trial: Trial, row: Replicate) -> About:
        """Return what the run of a replicate says."""
        levels = texts({**row.levels, "seed": row.seed}, PARAM_LENGTH)
        settings = texts({key: self._settings[row.cell][key] for key in self._keys}, PARAM_LENGTH)
        variant = next(variant for variant in trial.variants if variant.id == row.variant)
        sweep = self.plan.storage.uri or str(self.plan.folder.resolve())
        tags = {"sagasr.cell": row.cell, "sagasr.folder": f"{sweep}/trials/{trial.id}", **source_tags(self.plan)}
        data = trial.config.data
        recordings = [("training", data.train, short(trial.data)), ("validation", data.val, short(variant.data))]
        room = max(0, MAX_PARAMS - len(levels))
        settings = dict([item for item in settings.items() if item[0] not in levels][:room])
        name = plain(f"{row.cell} seed={row.seed}", NAME_LENGTH)
        return About(name, levels, settings, texts(tags, TAG_LENGTH), recordings)

    def inputs(self, trial: Trial, about: About) -> list[Any]:
        """Return the recordings as MLflow's datasets."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        return [
            DatasetInput(
                Dataset(
                    name=plain(Path(manifest).name, NAME_LENGTH),
                    digest=digest,
                    source_type="local",
                    source=json.dumps({"uri": plain(manifest, TAG_LENGTH)}),
                    profile=self._profile(trial.config.data, context),
                ),
                [InputTag("mlflow.data.context", context)],
            )
            for context, manifest, digest in about.recordings
        ]

    @cached_property
    def _keys(self) -> list[str]:
        """Return which settings are params: first those in which cells differ, of factors of a user's own too.

        Not one that is in every cell called as a factor's level is.
        """
        cells = list(self._settings.values())
        told = {tuple(cell.levels[name] for cell in self.plan.cells) for name in self.plan.space.factors}
        columns = {key: tuple(str(cell.get(key)) for cell in cells) for cell in cells for key in cell}
        common = [key for key in columns if all(key in cell for cell in cells) and key not in NO_PARAMS]
        differ = [key for key in common if len(set(columns[key])) > 1 and columns[key] not in told]
        return differ + [key for key in MAIN if key in common and len(set(columns[key])) == 1]

    def _profile(self, data: Data, context: str) -> str:
        """Return the number of recordings, and their length together where that is soon known."""
        if (data, context) not in self._profiles:
            used = self._listings[data].used if data in self._listings else {}
            files = used.get("train" if context == "training" else "validate", ())
            profile: dict[str, float] = {"files": len(files)}
            with contextlib.suppress(Exception):  # of a kind that only a decoder can tell the length of
                if len(files) <= MAX_TIMED:
                    profile["seconds"] = round(sum(map(_seconds, files)), 1)
            self._profiles[data, context] = json.dumps(profile)
        return self._profiles[data, context]


def of_sweep(plan: Plan) -> dict[str, str]:
    """Return what decides a sweep, as the params of its own run."""
    grid, stopping = plan.space.grid, plan.space.grid.early_stopping
    values = {
        "sweep": plan.name,
        "design": grid.design,
        "metric": plan.metric,
        "delta": stopping.delta,
        "policy": stopping.policy,
        "spending": stopping.spending,
        "seeds": ", ".join(map(str, plan.seeds)),
        "cells": len(plan.cells),
        "trainings": len(plan.trials),
        "base": Path(grid.base).name,
        **{f"factor.{name}": " | ".join(factor.levels) for name, factor in plan.space.factors.items()},
    }
    return texts(dict([*values.items()][:MAX_PARAMS]), PARAM_LENGTH)


def source_tags(plan: Plan) -> dict[str, str]:
    """Return what MLflow shows as the source of a run: the grid file."""
    return {"mlflow.source.name": str(plan.space.source), "mlflow.source.type": "LOCAL"}


def texts(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    """Return names and values as MLflow takes them."""
    return {plain(name, NAME_LENGTH): plain(str(value), limit) for name, value in values.items()}


def _seconds(file: Path) -> float:
    import soundfile

    return float(soundfile.info(str(file)).duration)
