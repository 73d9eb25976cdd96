"""What a sweep will do: cells x seeds folded into trials with their variants, as plan.json and as text.

A trial is identified by what decides its weights (configuration without the eval stage, contents of the training
recordings and of frozen weights, ``RESULT_VERSION``), a variant by the eval stage and the clips that are scored, a
replicate by both: other clips need no other training. Loads neither torch nor ray.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.grid.expand import LeftOut, lay_out
from orchestrator.grid.factors import holds
from orchestrator.grid.space import Cell, SearchSpace
from orchestrator.plan.contents import Contents, check_scored, known_words, list_files, read_contents, without_texts
from orchestrator.plan.plan_json import identity, tree_of
from orchestrator.storage.folder import SweepFolder
from orchestrator.sweep_folder.design import Levels
from orchestrator.sweep_folder.paths import SweepPaths, sqlite_uri
from orchestrator.sweep_folder.redact import redact_tree
from sagasr.config.runtime import Runtime
from sagasr.config.settings import SIZES, Config, Evaluation
from sagasr.config.stages import score_stage
from sagasr.config.strict import Strict
from sagasr.data.listing import Listing
from sagasr.io.errors import ConfigError, SagasrError
from sagasr.io.files import dump_yaml, read_json, write_json, write_text
from sagasr.io.fingerprint import RESULT_VERSION, fingerprint, short

TRACKING_URI = "MLFLOW_TRACKING_URI"


class Variant(Strict):
    """One eval-stage combination scored inside a trial. ``levels``: the eval-stage factors."""

    id: str
    fingerprint: str
    levels: Levels
    evaluation: Evaluation
    data: str = ""  # fingerprint of the validation recordings


class Replicate(Strict):
    """A cell with a seed: one row of the results, one MLflow run. ``levels``: every factor."""

    id: str
    fingerprint: str
    cell: str
    levels: Levels
    seed: int
    trial: str
    variant: str


class Trial(Strict):
    """One training. ``levels``: the train-stage factors; ``config.evaluation`` is that of the first variant."""

    id: str
    fingerprint: str
    seed: int
    levels: Levels
    size: str
    resources: Runtime
    config: Config
    data: str  # fingerprint of the training recordings
    version: int = RESULT_VERSION
    variants: tuple[Variant, ...]
    replicates: tuple[Replicate, ...]

    def keeping(self, wanted: Callable[[Replicate], bool]) -> "Trial | None":
        """Return the trial with the replicates that are wanted, and their variants; None where no replicate is."""
        replicates = tuple(filter(wanted, self.replicates))
        used = {row.variant for row in replicates}
        variants = tuple(variant for variant in self.variants if variant.id in used)
        return self.model_copy(update={"replicates": replicates, "variants": variants}) if replicates else None


@dataclass(frozen=True)
class Plan:
    """A sweep, resolved. ``trials`` is all of it in run order (seed by seed), ``selected`` what is asked for now."""

    space: SearchSpace
    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    selected: tuple[Trial, ...]
    storage: SweepFolder
    tracking_uri: str
    recordings: Mapping[str, str] = field(default_factory=dict)  # sha256 by path
    known_words: Mapping[str, float] = field(default_factory=dict)  # share by source of texts, where it is small
    listings: Sequence[Listing] = ()  # what lies where the recordings are named, and what becomes of it
    text_notes: tuple[str, ...] = ()  # how many recordings lack the texts that are asked for
    allowed: tuple[str, ...] = ()  # changes that were let through by --allow
    left_out: tuple[LeftOut, ...] = ()  # cells that would be the same as one that is there

    @property
    def name(self) -> str:
        return self.space.grid.name

    @property
    def question(self) -> str:
        return self.space.grid.question

    @property
    def tracking_named(self) -> str:
        """What names the tracking URI: grid or option, else a variable of MLflow's; nothing for the default."""
        return "tracking.uri" if self.space.grid.tracking else TRACKING_URI if os.environ.get(TRACKING_URI) else ""

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.space.grid.seeds

    @property
    def metric(self) -> str:
        """The metric that decides, as results columns call it."""
        return self.space.grid.early_stopping.metric.removeprefix("val/")

    @property
    def folder(self) -> Path:
        """The folder of the sweep on this machine."""
        return self.storage.path

    @property
    def paths(self) -> SweepPaths:
        return self.storage.paths

    @cached_property
    def replicates(self) -> tuple[Replicate, ...]:
        return tuple(replicate for trial in self.trials for replicate in trial.replicates)

    @property
    def is_narrowed(self) -> bool:
        """Whether ``--only`` left some replicates out."""
        return sum(len(trial.replicates) for trial in self.selected) < len(self.replicates)

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The content of plan.json."""
        return tree_of(self)

    @property
    def hash(self) -> str:
        return str(self.tree["plan_hash"])


@dataclass(frozen=True)
class Options:
    """How to run a plan; changes nothing that is measured."""

    address: str | None = None
    max_concurrent: int | None = None
    quiet: bool = False


def make_plan(space: SearchSpace, only: Sequence[Mapping[str, frozenset[str]]] = ()) -> Plan:
    """Return the plan of a grid; ``only`` selects the cells to run now (any of the conditions; none selects all).

    Reads the manifests and every recording. Raises SagasrError naming all faults found.
    """
    cells, left_out = lay_out(space)
    contents = read_contents(cells)
    check_scored(space, cells, contents)
    trials = fold(space, cells, contents)

    def is_asked_for(row: Replicate) -> bool:
        return not only or any(holds(condition, row.levels) for condition in only)

    selected = tuple(filter(None, (trial.keeping(is_asked_for) for trial in trials)))
    if not selected:
        known = "\n".join([*(f"  {cell.name}" for cell in cells[:8]), *map(str, left_out)])
        raise ConfigError(f"--only: no cell of the grid is selected; its cells begin with\n{known}")
    storage = SweepFolder.of(space.grid.storage, space.grid.name)
    return Plan(
        space,
        cells,
        trials,
        selected,
        storage,
        tracking_uri(space, storage),
        recordings={str(row.file): digest for content in contents.values() for digest, row in content.pairs},
        known_words=known_words(cells, contents),
        listings=list_files(cells, contents),
        text_notes=without_texts(cells, contents),
        left_out=left_out,
    )


def tracking_uri(space: SearchSpace, storage: SweepFolder) -> str:
    """Return where MLflow keeps the runs of a sweep: as grid or environment say, else in a file beside the sweep."""
    named = space.grid.tracking.uri if space.grid.tracking else os.environ.get(TRACKING_URI)
    return named or sqlite_uri(storage.path.parent / "mlflow.db")


def fold(space: SearchSpace, cells: Sequence[Cell], contents: Contents) -> tuple[Trial, ...]:
    """Return the trainings of cells x seeds: cells that differ only in the eval stage share one. Raises ConfigError."""
    identities = [identity(cell.config) for cell in cells]
    variants = [_variant(space, cell, contents[cell.config.data, "val"].fingerprint) for cell in cells]
    trials: dict[str, Trial] = {}
    cell_of: dict[str, str] = {}  # by the fingerprint of a replicate
    for seed in space.grid.seeds:
        for cell, train, variant in zip(cells, identities, variants, strict=True):
            trained_on = contents[cell.config.data, "train"].fingerprint
            digest = fingerprint({"config": {**train, "seed": seed}, "data": trained_on, "version": RESULT_VERSION})
            whole = fingerprint([digest, variant.fingerprint])
            if (other := cell_of.setdefault(whole, cell.name)) != cell.name:
                raise ConfigError(
                    f"{space.source}: cells '{other}' and '{cell.name}' are the same training and evaluation; "
                    "remove one of the two levels"
                )
            row = _replicate(cell, seed, whole, digest, variant)
            trial = trials.get(digest) or _trial(space, cell, seed, trained_on, digest)
            if trial.variants and variant.data != trial.variants[0].data:
                raise ConfigError(
                    f"{space.source}: cells '{trial.replicates[0].cell}' and '{row.cell}' are one training scored "
                    "with different texts of the clips; let all cells of a sweep have the same"
                )
            scored = {"variants": (*trial.variants, variant), "replicates": (*trial.replicates, row)}
            trials[digest] = trial.model_copy(update=scored)
    return tuple(trials.values())


def _replicate(cell: Cell, seed: int, digest: str, trial: str, variant: Variant) -> Replicate:
    return Replicate(
        id=short(digest),
        fingerprint=digest,
        cell=cell.name,
        levels=cell.levels,
        seed=seed,
        trial=short(trial),
        variant=variant.id,
    )


def _trial(space: SearchSpace, cell: Cell, seed: int, data: str, digest: str) -> Trial:
    """Return a training of which nothing is scored yet."""
    size = size_of(cell)
    return Trial(
        id=short(digest),
        fingerprint=digest,
        seed=seed,
        levels=_levels(space, cell, "train"),
        size=size,
        resources=space.grid.resources.get(size) or space.grid.resources.get("default") or Runtime(),
        config=cell.config.model_copy(update={"seed": seed}),
        data=data,
        variants=(),
        replicates=(),
    )


def _variant(space: SearchSpace, cell: Cell, clips: str) -> Variant:
    digest, levels = fingerprint({**score_stage(cell.config), "data": clips}), _levels(space, cell, "eval")
    return Variant(id=short(digest), fingerprint=digest, levels=levels, evaluation=cell.config.evaluation, data=clips)


def _levels(space: SearchSpace, cell: Cell, stage: str) -> Levels:
    return {name: level for name, level in cell.levels.items() if space.factors[name].stage == stage}


def size_of(cell: Cell) -> str:
    """Return the cell's level of ``size``, or the standard size its model has, or ``custom``."""
    if "size" in cell.levels:
        return cell.levels["size"]
    model = cell.config.model.model_dump()
    return next((size for size, widths in SIZES.items() if widths.items() <= model.items()), "custom")


def write_plan(plan: Plan) -> None:
    """Write the grid as resolved (grid.yaml, base.yaml) and plan.json into the sweep folder."""
    write_text(plan.paths.base, dump_yaml(redact_tree(plan.space.base)))
    write_text(plan.paths.grid, dump_yaml(redact_tree(plan.space.tree, keys=False)))
    before = read_json(plan.paths.recordings) if plan.paths.recordings.exists() else {}
    write_json(plan.paths.recordings, before | dict(plan.recordings))
    allowed: list[str] = []  # what was let through, in earlier runs of this folder and now
    with contextlib.suppress(SagasrError, AttributeError):
        allowed = read_json(plan.paths.plan).get("allowed", [])
    allowed = list(dict.fromkeys([*allowed, *plan.allowed]))
    write_json(plan.paths.plan, redact_tree(plan.tree, keys=False) | ({"allowed": allowed} if allowed else {}))
