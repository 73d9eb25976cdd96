"""The content of plan.json: what a plan is, in the entries of ``sweep_folder.plan_file``."""

from typing import TYPE_CHECKING, Any

from orchestrator.grid.space import SearchSpace, own_metrics
from orchestrator.plan.identity import identity
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
from sagasr.io.fingerprint import fingerprint

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan, Trial


def tree_of(plan: "Plan") -> dict[str, Any]:
    """Return the content of plan.json. The hash is of all that decides the results, not of how it is described."""
    file = _plan_file(plan)
    trainings = {trial.fingerprint: sorted(row.fingerprint for row in trial.replicates) for trial in plan.trials}
    later: dict[str, Any] = {"plan_hash": fingerprint({**file.tree("question", "trials"), "trials": trainings})}
    if plan.known_words:
        later["known_words"] = dict(plan.known_words)
    return {**file.tree(), **later, "files": [listing.tree() for listing in plan.listings]}


def _plan_file(plan: "Plan") -> PlanFile:
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


def _factor_entries(plan: "Plan") -> dict[str, FactorEntry]:
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


def _cell_entries(plan: "Plan") -> list[CellEntry]:
    rows: dict[str, list[ReplicateEntry]] = {cell.name: [] for cell in plan.cells}
    for row in plan.replicates:
        entry = ReplicateEntry(seed=row.seed, replicate=row.id, trial=row.trial, variant=row.variant)
        rows[row.cell].append(entry)
    return [CellEntry(cell=cell.name, levels=cell.levels, replicates=rows[cell.name]) for cell in plan.cells]


def _trial_entry(trial: "Trial") -> TrialEntry:
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
