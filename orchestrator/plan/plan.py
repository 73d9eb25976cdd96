"""What a sweep will do: cells x seeds folded into trials with their variants, as plan.json and as text.

A trial is identified by what decides its weights (configuration without the eval stage, contents of the training
recordings and of frozen weights, ``RESULT_VERSION``), a variant by the eval stage and the clips that are scored, a
replicate by both: other clips need no other training. Loads neither torch nor ray.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.grid.equal_cells import LeftOut
from orchestrator.grid.expand import lay_out
from orchestrator.grid.levels import holds
from orchestrator.grid.space import Cell, SearchSpace, own_metrics
from orchestrator.storage.remote import is_uri, local_folder
from orchestrator.sweep_folder.design import Levels
from orchestrator.sweep_folder.paths import SweepPaths, sqlite_uri
from orchestrator.sweep_folder.plan_file import (
    CellEntry,
    DesignEntry,
    FactorEntry,
    MetricEntry,
    PlanFile,
    ReplicateEntry,
    StepEntry,
    TrialEntry,
    VariantEntry,
)
from orchestrator.sweep_folder.redact import redact_tree
from sagasr.config.runtime import Runtime
from sagasr.config.settings import SIZES, Config, Data, Evaluation, Words
from sagasr.config.stages import score_stage, train_stage
from sagasr.config.strict import Strict
from sagasr.data.listing import Listing
from sagasr.data.rows import SPLITS, Row, Split
from sagasr.io.errors import ConfigError, DataError, SagasrError
from sagasr.io.files import dump_yaml, read_json, write_json, write_text
from sagasr.io.fingerprint import RESULT_VERSION, content_of, fingerprint, short
from sagasr.model.words import FEW, known_share, vocabulary_of

TRACKING_URI = "MLFLOW_TRACKING_URI"
WEIGHTS_REMEDY = (
    "get the frozen weights (hf download stabilityai/stable-audio-open-1.0 --local-dir weights/stable-audio-open-1.0, "
    "once its licence is accepted; "
    "hf download t5-base) and name their files in the configuration; search_spaces/paper.yaml shows how"
)


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


class Contents(NamedTuple):
    """What the manifests of a sweep hold: fingerprints and rows of each split, and the sha256 of every file by path.

    ``scored``: of the validation recordings and their domains alone; other texts make no other question.
    """

    train: Mapping[Data, str]
    val: Mapping[Data, str]
    scored: Mapping[Data, str]
    rows: Mapping[tuple[Data, Split], Sequence[Row]]
    files: Mapping[str, str]
    listings: Sequence[Listing]


@dataclass(frozen=True)
class Plan:
    """A sweep, resolved. ``trials`` is all of it in run order (seed by seed), ``selected`` what is asked for now."""

    space: SearchSpace
    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    selected: tuple[Trial, ...]
    folder: Path
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
    def uri(self) -> str:
        """What ``folder`` is a copy of, where the storage is a URI; else nothing."""
        return f"{self.space.grid.storage.rstrip('/')}/{self.name}" if is_uri(self.space.grid.storage) else ""

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
    def paths(self) -> SweepPaths:
        return SweepPaths(self.folder)

    @cached_property
    def replicates(self) -> tuple[Replicate, ...]:
        return tuple(replicate for trial in self.trials for replicate in trial.replicates)

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The content of plan.json."""
        return _tree(self)

    @property
    def hash(self) -> str:
        return str(self.tree["plan_hash"])


@dataclass(frozen=True)
class Options:
    """How to run a plan; changes nothing that is measured."""

    address: str | None = None
    max_concurrent: int | None = None
    quiet: bool = False


# --------------------------------------------------------------------------------------------------------------- making


def make_plan(space: SearchSpace, only: Sequence[Mapping[str, frozenset[str]]] = ()) -> Plan:
    """Return the plan of a grid; ``only`` selects the cells to run now (any of the conditions; none selects all).

    Reads the manifests and every recording. Raises SagasrError naming all faults found.
    """
    cells, left_out = lay_out(space)
    data = _read_data(cells)
    _check_scored(space, cells, data)
    trials = fold(space, cells, data)
    selected = tuple(kept for trial in trials if (kept := _select(trial, only)) is not None)
    if not selected:
        known = "\n".join([*(f"  {cell.name}" for cell in cells[:8]), *map(str, left_out)])
        raise ConfigError(f"--only: no cell of the grid is selected; its cells begin with\n{known}")
    folder = storage_path(space.grid.storage).resolve() / space.grid.name
    uri = space.grid.tracking.uri if space.grid.tracking else os.environ.get(TRACKING_URI)
    uri = uri or sqlite_uri(folder.parent / "mlflow.db")
    return Plan(
        space,
        cells,
        trials,
        selected,
        folder,
        uri,
        recordings=data.files,
        known_words=_known_words(cells, data),
        listings=data.listings,
        text_notes=_without_texts(cells, data),
        left_out=left_out,
    )


def _known_words(cells: Sequence[Cell], contents: Contents) -> dict[str, float]:
    """Return by source which share of the words of the validation texts a learned encoder knows, where it knows few."""
    shares: dict[str, float] = {}
    for data, text in dict.fromkeys((cell.config.data, cell.config.conditions.text) for cell in cells):
        if text.source != "off" and isinstance(text.encoder, Words):
            train, val = ([row.text(text.source) for row in contents.rows[data, split]] for split in SPLITS)
            share = known_share(val, vocabulary_of(train), text.encoder.max_tokens)
            shares[text.source] = min(share, shares.get(text.source, 1.0))
    return {source: share for source, share in shares.items() if share < FEW}


def _without_texts(cells: Sequence[Cell], contents: Contents) -> tuple[str, ...]:
    """Return a line for each source of texts and split where some recordings have none, which are then without text."""
    notes = []
    for data, source in dict.fromkeys((cell.config.data, cell.config.conditions.text.source) for cell in cells):
        for split in SPLITS if source != "off" else ():
            rows = contents.rows[data, split]
            if missing := sum(not row.text(source) for row in rows):
                notes.append(f"{missing:,} of {len(rows):,} {split} recordings have no {source}: they go without text")
    return tuple(notes)


def _check_scored(space: SearchSpace, cells: Sequence[Cell], data: Contents) -> None:
    """Raise ConfigError where cells are scored on other recordings than the first."""
    names = {cell.config.data.val: cell.name for cell in reversed(cells)}
    if len({data.scored[cell.config.data] for cell in cells}) > 1:
        told = "; ".join(f"{path} ('{name}')" for path, name in names.items())
        raise ConfigError(
            f"{space.source}: data.val: cells are scored on different recordings, so they are not comparable: {told}; "
            "give all of them the same data.val, or make a sweep of each"
        )


def fold(space: SearchSpace, cells: Sequence[Cell], data: Contents) -> tuple[Trial, ...]:
    """Return the trainings of cells x seeds: cells that differ only in the eval stage share one. Raises ConfigError."""
    stages = {name: factor.stage for name, factor in space.factors.items()}
    identities = [identity(cell.config) for cell in cells]
    evaluations = [_variant(cell, stages, data) for cell in cells]
    trials: dict[str, Trial] = {}
    taken: dict[str, str] = {}
    for seed in space.grid.seeds:
        for cell, train, variant in zip(cells, identities, evaluations, strict=True):
            content = {
                "config": {**train, "seed": seed},
                "data": data.train[cell.config.data],
                "version": RESULT_VERSION,
            }
            digest = fingerprint(content)
            both = fingerprint([digest, variant.fingerprint])
            if both in taken:
                raise ConfigError(
                    f"{space.source}: cells '{taken[both]}' and '{cell.name}' are the same training and evaluation; "
                    "remove one of the two levels"
                )
            if seed == space.grid.seeds[0]:
                taken[both] = cell.name
            row = Replicate(
                id=short(both), fingerprint=both, cell=cell.name, levels=cell.levels, seed=seed, trial=short(digest),
                variant=variant.id,
            )  # fmt: skip
            if digest in trials:
                trial = trials[digest]
                if variant.data != trial.variants[0].data:
                    raise ConfigError(
                        f"{space.source}: cells '{trial.replicates[0].cell}' and '{cell.name}' are one training scored "
                        "with different texts of the clips; let all cells of a sweep have the same"
                    )
                update = {"variants": (*trial.variants, variant), "replicates": (*trial.replicates, row)}
                trials[digest] = trial.model_copy(update=update)
                continue
            size = size_of(cell)
            trials[digest] = Trial(
                id=short(digest),
                fingerprint=digest,
                seed=seed,
                levels={name: level for name, level in cell.levels.items() if stages[name] == "train"},
                size=size,
                resources=space.grid.resources.get(size) or space.grid.resources.get("default") or Runtime(),
                config=cell.config.model_copy(update={"seed": seed}),
                data=data.train[cell.config.data],
                variants=(variant,),
                replicates=(row,),
            )
    return tuple(trials.values())


def _variant(cell: Cell, stages: Mapping[str, str], data: Contents) -> Variant:
    clips = data.val[cell.config.data]
    digest = fingerprint({**score_stage(cell.config), "data": clips})
    levels = {name: level for name, level in cell.levels.items() if stages[name] == "eval"}
    return Variant(id=short(digest), fingerprint=digest, levels=levels, evaluation=cell.config.evaluation, data=clips)


def identity(config: Config) -> dict[str, Any]:
    """Return what decides the trained weights: the train stage, with files of frozen weights by their content."""
    tree = train_stage(config)
    model, text = tree.get("model", {}), tree.get("conditions", {}).get("text", {})
    if config.model.init == "scratch":
        model.pop("checkpoint", None)  # named, but not used
    for section, key in (
        (model, "checkpoint"),
        (tree["codec"], "checkpoint"),
        (tree["codec"], "config"),
        (text.get("encoder", {}), "model"),
    ):
        if section.get(key):
            section[key] = _content(section[key])
    return {section: keys for section, keys in tree.items() if keys != {}}


def _content(name: str) -> str:
    """Return the sha256 of a file, or of a folder's files; the name itself for a model that is neither."""
    path = Path(name)
    if path.is_file():
        return content_of(path)
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        return fingerprint({str(file.relative_to(path)): _content(str(file)) for file in files})
    if path.is_absolute():
        raise DataError(f"{path}: no such file; {WEIGHTS_REMEDY}")
    return name


def size_of(cell: Cell) -> str:
    """Return the cell's level of ``size``, or the standard size its model has, or ``custom``."""
    if "size" in cell.levels:
        return cell.levels["size"]
    model = cell.config.model.model_dump()
    return next((size for size, widths in SIZES.items() if widths.items() <= model.items()), "custom")


def storage_path(storage: str) -> Path:
    """Return the local folder a storage names; of a URI, the one in which this machine keeps its copy."""
    if is_uri(storage):
        return local_folder(storage.rstrip("/"), "sweeps")
    return Path(storage.removeprefix("file://")).expanduser()


def _select(trial: Trial, only: Sequence[Mapping[str, frozenset[str]]]) -> Trial | None:
    kept = tuple(row for row in trial.replicates if not only or any(holds(condition, row.levels) for condition in only))
    if not kept:
        return None
    used = {row.variant for row in kept}
    variants = tuple(variant for variant in trial.variants if variant.id in used)
    return trial.model_copy(update={"replicates": kept, "variants": variants})


def _remedy_for_texts(manifest: str, source: str) -> str:
    """Return how the recordings of a manifest or folder get texts."""
    if Path(manifest).is_dir():
        return "write what is heard in NAME.wav into NAME.txt beside it"
    return f"add the column {source!r}"


def _read_data(cells: Sequence[Cell]) -> Contents:
    """Return the contents of each pair of manifests. Raises DataError naming every fault of all of them."""
    from sagasr.data.contents import content_hashes, manifest_fingerprint
    from sagasr.data.listing import list_data
    from sagasr.data.splits import checked_rows, shared_problems

    faults: list[str] = []
    train: dict[Data, str] = {}
    val: dict[Data, str] = {}
    scored: dict[Data, str] = {}
    every_row: dict[tuple[Data, Split], Sequence[Row]] = {}
    files: dict[str, str] = {}
    left_out: dict[Data, dict[tuple[str, str], str]] = {}
    for data in dict.fromkeys(cell.config.data for cell in cells):
        left_out[data] = {}
        digests: dict[str, str] = {}
        found: dict[str, dict[str, Row]] = {"train": {}, "val": {}}
        for split, manifest in zip(SPLITS, (data.train, data.val), strict=True):
            try:
                rows, problems, reasons = checked_rows(data, split)
                every_row[data, split] = rows
                left_out[data] |= reasons
                faults.extend(problems)
                if not problems:
                    digests[split] = manifest_fingerprint(rows)
                    hashes = content_hashes(rows)
                    found[split] = dict(zip(hashes, rows, strict=True))
                    if split == "val":
                        scored[data] = fingerprint(
                            sorted([digest, row.domain] for row, digest in zip(rows, hashes, strict=True))
                        )
                    files |= {str(row.file): digest for row, digest in zip(rows, hashes, strict=True)}
            except SagasrError as error:
                faults.extend(str(error).splitlines())
                continue
            sources = {cell.config.conditions.text.source for cell in cells if cell.config.data == data}
            for source in sorted(sources - {"off"}):
                if not any(row.text(source) for row in rows):
                    faults.append(
                        f"{manifest}: no {split} recording has a {source}; "
                        f"{_remedy_for_texts(manifest, source)}, or leave text={source} out "
                        "(without a factor text: --set conditions.text.source=off)"
                    )
        faults.extend(shared_problems(data, found["train"], found["val"]))
        train[data], val[data] = digests.get("train", ""), digests.get("val", "")
    if faults:
        raise DataError("\n".join(dict.fromkeys(faults)))
    clips = {cell.config.data: cell.config.validation.clips for cell in cells}
    listings = [list_data(data, left_out[data], most) for data, most in clips.items()]
    return Contents(train, val, scored, every_row, files, listings)


# -------------------------------------------------------------------------------------------------------------- writing


def write_plan(plan: Plan) -> None:
    """Write the grid as resolved (grid.yaml, base.yaml) and plan.json into the sweep folder."""
    write_text(plan.paths.base, dump_yaml(redact_tree(plan.space.base)))
    write_text(plan.paths.grid, dump_yaml(redact_tree(plan.space.tree, keys=False)))
    before = read_json(plan.paths.recordings) if plan.paths.recordings.exists() else {}
    write_json(plan.paths.recordings, before | dict(plan.recordings))
    allowed = {"allowed": _allowed(plan)} if _allowed(plan) else {}
    write_json(plan.paths.plan, redact_tree(plan.tree, keys=False) | allowed)


def _allowed(plan: Plan) -> list[str]:
    """Return what was let through, now and in earlier runs of this folder."""
    before: list[str] = []
    with contextlib.suppress(SagasrError, AttributeError):
        before = read_json(plan.paths.plan).get("allowed", []) if plan.paths.plan.exists() else []
    return list(dict.fromkeys([*before, *plan.allowed]))


def _tree(plan: Plan) -> dict[str, Any]:
    """Return the content of plan.json. The hash is of all that decides the results, not of how it is described."""
    file = _plan_file(plan)
    trainings = {trial.fingerprint: sorted(row.fingerprint for row in trial.replicates) for trial in plan.trials}
    later: dict[str, Any] = {"plan_hash": fingerprint({**file.tree("question", "trials"), "trials": trainings})}
    if plan.known_words:
        later["known_words"] = dict(plan.known_words)
    return {**file.tree(), **later, "files": [listing.tree() for listing in plan.listings]}


def _plan_file(plan: Plan) -> PlanFile:
    """Return plan.json without its hash and without what the recordings hold."""
    space = plan.space
    some: dict[str, Any] = {}  # keys that stand only in some plans
    if plan.left_out:
        some["left_out"] = [str(cells) for cells in plan.left_out]
    if space.fraction:
        some["confounded_with"] = {name: list(others) for name, others in space.fraction.confounded_with().items()}
    if own := own_metrics(space.base):
        some["metrics"] = [MetricEntry(name=metric.name, better=metric.better, unit=metric.unit) for metric in own]
    if space.promote:
        some["promote"] = {"when": space.promote.when, "from": space.promote.source, "to": space.promote.target}
    return PlanFile(
        name=space.grid.name,
        question=space.grid.question,
        metric=MetricEntry(name=plan.metric, better=space.metrics[plan.metric], delta=space.grid.early_stopping.delta),
        factors=_factor_entries(plan),
        design=_design_entry(space),
        ladder=[StepEntry(**step._asdict()) for step in space.ladder],
        seeds=list(space.grid.seeds),
        early_stopping=space.grid.early_stopping.model_dump(mode="json"),
        expected_replicates=len(plan.replicates),
        cells=_cell_entries(plan),
        trials=[_trial_entry(trial) for trial in plan.trials],
        **some,
    )


def _factor_entries(plan: Plan) -> dict[str, FactorEntry]:
    under = {name: factor.under for name, factor in plan.space.factors.items()}
    under |= {cells.factor: cells.under for cells in plan.left_out}
    entries = {}
    for name, factor in plan.space.factors.items():
        acts = {other: sorted(levels) for other, levels in under[name].items()}
        nested = {"under": acts} if acts else {}
        entries[name] = FactorEntry(baseline=factor.baseline, levels=list(factor.levels), stage=factor.stage, **nested)
    return entries


def _design_entry(space: SearchSpace) -> DesignEntry:
    if not space.fraction:
        return DesignEntry(kind=space.grid.design)
    return DesignEntry(
        kind=space.grid.design,
        resolution=space.grid.resolution or 4,
        generators={name: list(parents) for name, parents in space.fraction.generators.items()},
        relation=list(space.fraction.relation()),
    )


def _cell_entries(plan: Plan) -> list[CellEntry]:
    rows: dict[str, list[ReplicateEntry]] = {cell.name: [] for cell in plan.cells}
    for row in plan.replicates:
        entry = ReplicateEntry(seed=row.seed, replicate=row.id, trial=row.trial, variant=row.variant)
        rows[row.cell].append(entry)
    return [CellEntry(cell=cell.name, levels=cell.levels, replicates=rows[cell.name]) for cell in plan.cells]


def _trial_entry(trial: Trial) -> TrialEntry:
    return TrialEntry(
        trial=trial.id,
        fingerprint=trial.fingerprint,
        seed=trial.seed,
        levels=trial.levels,
        size=trial.size,
        config_fingerprint=fingerprint(identity(trial.config)),
        data_fingerprint=trial.data,
        version=trial.version,
        resources=trial.resources.model_dump(mode="json"),
        variants=[
            VariantEntry(variant=variant.id, fingerprint=variant.fingerprint, levels=variant.levels)
            for variant in trial.variants
        ],
        config=trial.config.model_dump(mode="json"),
    )
