"""The content of plan.json: what a plan is, in the form of ``sweep_folder.plan_file.PlanRead``."""

from typing import TYPE_CHECKING, Any

from orchestrator.grid.space import SearchSpace, own_metrics
from orchestrator.plan.identity import identity
from sagasr.io.fingerprint import fingerprint

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan, Trial

Tree = dict[str, Any]


def tree_of(plan: "Plan") -> Tree:
    """Return the content of plan.json. The hash is of all that decides the results, not of how it is described."""
    space, stopping = plan.space, plan.space.grid.early_stopping
    fraction, own = space.fraction, own_metrics(space.base)
    tree: Tree = {
        "name": plan.name,
        "question": plan.question,
        "metric": {"name": plan.metric, "better": space.metrics[plan.metric], "delta": stopping.delta},
        "factors": _factors(plan),
        "design": _design(space),
        "ladder": [step._asdict() for step in space.ladder],
        "seeds": list(plan.seeds),
        "early_stopping": stopping.model_dump(mode="json"),
        "expected_replicates": len(plan.replicates),
    }
    if plan.left_out:
        tree["left_out"] = list(map(str, plan.left_out))
    if fraction:
        tree["confounded_with"] = {name: list(others) for name, others in fraction.confounded_with().items()}
    if own:
        tree["metrics"] = [{"name": metric.name, "better": metric.better, "unit": metric.unit} for metric in own]
    if space.promote:
        tree["promote"] = {"when": space.promote.when, "from": space.promote.source, "to": space.promote.target}
    tree["cells"] = _cells(plan)
    trainings = {trial.fingerprint: sorted(row.fingerprint for row in trial.replicates) for trial in plan.trials}
    decisive = {key: value for key, value in tree.items() if key != "question"}
    tree["trials"] = list(map(_trial, plan.trials))
    tree["plan_hash"] = fingerprint({**decisive, "trials": trainings})
    if plan.known_words:
        tree["known_words"] = dict(plan.known_words)
    return {**tree, "files": [listing.tree() for listing in plan.listings]}


def _factors(plan: "Plan") -> Tree:
    under = {name: factor.under for name, factor in plan.space.factors.items()}
    under |= {cells.factor: cells.under for cells in plan.left_out}
    entries: Tree = {}
    for name, factor in plan.space.factors.items():
        entries[name] = {"baseline": factor.baseline, "levels": list(factor.levels), "stage": factor.stage}
        if under[name]:
            entries[name]["under"] = {other: sorted(levels) for other, levels in under[name].items()}
    return entries


def _design(space: SearchSpace) -> Tree:
    if not space.fraction:
        return {"kind": space.grid.design}
    return {
        "kind": space.grid.design,
        "resolution": space.grid.resolution or 4,
        "generators": {name: list(parents) for name, parents in space.fraction.generators.items()},
        "relation": list(space.fraction.relation()),
    }


def _cells(plan: "Plan") -> list[Tree]:
    rows: dict[str, list[Tree]] = {cell.name: [] for cell in plan.cells}
    for row in plan.replicates:
        rows[row.cell].append({"seed": row.seed, "replicate": row.id, "trial": row.trial, "variant": row.variant})
    return [{"cell": cell.name, "levels": cell.levels, "replicates": rows[cell.name]} for cell in plan.cells]


def _trial(trial: "Trial") -> Tree:
    entry = trial.model_dump(mode="json", include={"fingerprint", "seed", "levels", "size"})
    variants = [
        {"variant": variant.id, "fingerprint": variant.fingerprint, "levels": variant.levels}
        for variant in trial.variants
    ]
    return {
        "trial": trial.id,
        **entry,
        "config_fingerprint": fingerprint(identity(trial.config)),
        "data_fingerprint": trial.data,
        "version": trial.version,
        "resources": trial.resources.model_dump(mode="json"),
        "variants": variants,
        "config": trial.config.model_dump(mode="json"),
    }
