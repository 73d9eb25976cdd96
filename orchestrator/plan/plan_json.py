"""The content of plan.json, in the form of ``sweep_folder.plan_file.PlanRead``, and what identifies a training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.grid.space import SearchSpace, own_metrics
from sagasr.config.settings import Config
from sagasr.config.stages import train_stage
from sagasr.io.errors import DataError
from sagasr.io.fingerprint import content_of, fingerprint

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan, Trial

Tree = dict[str, Any]

WEIGHTS_REMEDY = (
    "get the frozen weights (hf download stabilityai/stable-audio-open-1.0 --local-dir weights/stable-audio-open-1.0, "
    "once its licence is accepted; "
    "hf download t5-base) and name their files in the configuration; search_spaces/paper.yaml shows how"
)


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
    scored = [(variant.id, variant.fingerprint, variant.levels) for variant in trial.variants]
    return {
        "trial": trial.id,
        **entry,
        "config_fingerprint": fingerprint(identity(trial.config)),
        "data_fingerprint": trial.data,
        "version": trial.version,
        "resources": trial.resources.model_dump(mode="json"),
        "variants": [dict(zip(("variant", "fingerprint", "levels"), entry, strict=True)) for entry in scored],
        "config": trial.config.model_dump(mode="json"),
    }


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
