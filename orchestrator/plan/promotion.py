"""Promotion: the costly cells run only for the factors that mattered at the cheap ones, and only within the budget.

Once the part at ``from`` is decided, ``decide`` names the waiting cells to run: the factors that improve there at their
baseline and improving levels, all others at their baseline. promotion.json keeps that, so that a restart decides the
same. Loads neither torch nor Ray.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from orchestrator.plan.plan import Plan, Replicate, Trial
from orchestrator.sweep_folder.design import Promote, cell_name
from orchestrator.sweep_folder.json_files import (
    MIN_SEEDS,
    Decision,
    Decisions,
    Judged,
    read_decisions,
    read_looks,
    read_prediction,
    write_decisions,
)
from sagasr.io.states import State
from sagasr.training.trial_log import read_status


class Effect(NamedTuple):
    """What the deciding part says of one level of one factor."""

    factor: str
    level: str
    verdict: str
    estimate: float | None


def decide(
    rule: Promote,
    baseline: Mapping[str, str],
    effects: Sequence[Effect],
    waiting: Sequence[Replicate],
    seeds: Sequence[int],
    gpu_hours: Mapping[str, float],
    left: float | None = None,
    budget: float | None = None,
    plan_hash: str = "",
    under: Mapping[str, Mapping[str, Iterable[str]]] | None = None,
) -> Decision:
    """Return which waiting cells run, for which seeds, and why; the same arguments give the same answer.

    ``seeds``: the blocks that decided, in order; where not all of them fit into ``left`` GPU-hours, the first ones that
    do are promoted, and none where fewer than two do. ``gpu_hours``: by trial; one that is not named costs nothing.
    ``under``: the levels of others beside which alone a factor acts; with it they go on.
    """
    judged = [Judged(**effect._asdict(), promoted=effect.verdict.startswith(rule.when)) for effect in effects]
    going: dict[str, set[str]] = {name: {level} for name, level in baseline.items()}
    names: dict[str, None] = {}
    for effect in (effect for effect in judged if effect.promoted):
        names[effect.factor] = None
        going[effect.factor].add(effect.level)
        for parent, levels in ((under or {}).get(effect.factor) or {}).items():
            going[parent].update(levels)
    chosen = [row for row in waiting if names and row.seed in seeds and _wanted(row.levels, going, rule)]
    paid = affordable(chosen, seeds, gpu_hours, left)
    rows = [row for row in chosen if row.seed in paid]
    cells = {cell_name(row.levels): row.levels for row in rows}
    return Decision(
        plan_hash=plan_hash,
        source=dict(rule.source),
        target=dict(rule.target),
        judged=tuple(judged),
        cells=tuple(cells.values()),
        seeds=paid,
        replicates=tuple(row.id for row in rows),
        gpu_hours=_hours(rows, gpu_hours),
        budget=budget,
        left=left,
        reason=_reason(rule, list(names), bool(chosen), len(paid), len(seeds), left or 0),
    )


def affordable(
    rows: Sequence[Replicate], seeds: Sequence[int], gpu_hours: Mapping[str, float], left: float | None
) -> tuple[int, ...]:
    """Return the first ``seeds`` whose blocks fit into ``left`` GPU-hours together; none where not even two do."""
    count = len(seeds)
    while left is not None and count and _hours((row for row in rows if row.seed in seeds[:count]), gpu_hours) > left:
        count -= 1
    return tuple(seeds[:count]) if rows and count >= min(MIN_SEEDS, len(seeds)) else ()


def _wanted(levels: Mapping[str, str], going: Mapping[str, set[str]], rule: Promote) -> bool:
    return rule.waits(levels) and all(level in going[name] or name in rule.target for name, level in levels.items())


def _hours(rows: Iterable[Replicate], gpu_hours: Mapping[str, float]) -> float:
    return sum(gpu_hours.get(trial, 0.0) for trial in {row.trial for row in rows})


def _reason(rule: Promote, names: Sequence[str], exist: bool, paid: int, decided: int, left: float) -> str:
    at, to = cell_name(rule.source), cell_name(rule.target)
    if not names:
        return f"no factor {rule.when} at {at}, so nothing runs at {to}"
    improving = f"{', '.join(names)} {rule.when if len(names) == 1 else 'improve'} at {at}"
    if not exist:
        return f"{improving}, but the design has no such cell at {to}"
    if not paid:
        return f"{improving}, but the {left:.3g} GPU-hours left in the budget do not pay for {MIN_SEEDS} seeds at {to}"
    short = f" ({decided} decided; the budget's {left:.3g} GPU-hours pay for no more)" if paid < decided else ""
    return f"{improving}: run at {to} with {paid} seeds{short}"


def candidates(plan: Plan) -> list[Replicate]:
    """Return every replicate of a plan that runs only when promoted."""
    rule = plan.space.promote
    return [row for row in plan.replicates if rule and rule.waits(row.levels)]


def standing(plan: Plan) -> dict[str, tuple[State, str]]:
    """Return (state, reason) of the candidates that are not to run, by replicate: held, or not needed."""
    rule, waiting = plan.space.promote, candidates(plan)
    if not waiting or rule is None:
        return {}
    decision = _standing(read_decisions(plan.folder), plan)
    if decision is None:
        state, reason = State.HELD, f"runs if a factor {rule.when} at {cell_name(rule.source)}"
    else:
        state, reason = State.NOT_NEEDED, f"not promoted: {decision.reason}"
    going = set(decision.replicates if decision else ())
    return {row.id: (state, reason) for row in waiting if row.id not in going}


def _budget(plan: Plan) -> float | None:
    return plan.space.grid.budget.max_gpu_hours if plan.space.grid.budget else None


def _standing(decisions: Decisions, plan: Plan) -> Decision | None:
    """Return the plan's decision, unless the budget was changed since: what it pays for is then decided anew."""
    decision = decisions.of(plan.hash)
    return decision if decision is not None and decision.budget == _budget(plan) else None


def first_stage(plan: Plan, trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that run whatever is promoted."""
    rule = plan.space.promote
    return [trial for trial in trials if not (rule and rule.waits(trial.levels))]


def promoted(plan: Plan, trials: Iterable[Trial]) -> list[Trial]:
    """Decide by the results as collected, if that can be done now, and return the trials to run because of it."""
    decision = settle(plan)
    going = set(decision.replicates) if decision else set()
    return list(filter(None, (trial.keeping(lambda row: row.id in going) for trial in trials)))


def settle(plan: Plan) -> Decision | None:
    """Return the plan's decision, made now if the deciding part allows it; None while that part is not decided."""
    rule = plan.space.promote
    if rule is None:
        return None
    before = read_decisions(plan.folder)
    old = _standing(before, plan)
    if old is not None:
        return old
    from orchestrator.analysis.effects import effects
    from orchestrator.analysis.load import read_sweep

    seeds = plan.seeds
    if plan.space.grid.early_stopping.policy == "blocks" and len(plan.seeds) >= MIN_SEEDS:
        account = read_looks(plan.folder).of(plan.hash)
        if account is None or not account.stop:
            return None
        seeds = plan.seeds[: account.seen]
    else:
        deciding = {row.trial for row in plan.replicates if not rule.waits(row.levels)}
        ended = [read_status(plan.paths.trial(trial)) for trial in deciding]
        if not all(status and status.state.final for status in ended):
            return None
    table = effects(read_sweep(plan.folder))
    table = table[(table["family"] == "primary") & ~table["factor"].isin(list(rule.target))]
    judged = [
        Effect(str(factor), str(level), str(word), float(value) if math.isfinite(value) else None)
        for factor, level, word, value in table[["factor", "level", "verdict", "estimate"]].to_numpy().tolist()
    ]
    hours = {trial: predicted.gpu_hours for trial, predicted in read_prediction(plan.folder).trials.items()}
    spent, ratio = _spent(plan, hours)
    budget = _budget(plan)
    left = None if budget is None else max(budget - spent, 0.0)
    costs = {trial: value * ratio for trial, value in hours.items()}
    under = {name: spec.get("under", {}) for name, spec in plan.tree["factors"].items()}
    decision = decide(rule, plan.space.baseline, judged, candidates(plan), seeds, costs, left, budget, plan.hash, under)
    write_decisions(plan.folder, before.put(decision))
    return decision


def _spent(plan: Plan, hours: Mapping[str, float]) -> tuple[float, float]:
    """Return the GPU-hours used so far, and how many were used per estimated one (1 where that is not known)."""
    used = expected = 0.0
    for trial in plan.trials:
        status = read_status(plan.paths.trial(trial.id))
        if status is not None:
            used += status.gpu_seconds / 3_600
            expected += hours.get(trial.id, 0.0) if status.state is State.DONE else 0.0
    return used, used / expected if used > 0 and expected > 0 else 1.0
