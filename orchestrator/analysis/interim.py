"""The looks of `policy: blocks`, taken from the results themselves: one after each complete block from the second.

A look depends on nothing but the finished replicates of its blocks. Those taken are kept in looks.json and stand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.analysis.contrasts import Line
from orchestrator.analysis.estimates import findings
from orchestrator.analysis.group_sequential import Contrast, Look, Outcome, Rule, decide, interval, sequential_p, spent
from orchestrator.analysis.load import Sweep, decisive, read_sweep, restricted
from orchestrator.analysis.metrics import Metric
from orchestrator.analysis.variance import Estimate
from orchestrator.sweep_folder.looks_file import (
    MIN_SEEDS,
    Account,
    Decided,
    Estimated,
    Spending,
    Taken,
    read_looks,
    write_looks,
)
from sagasr.io.errors import DataError


@dataclass(frozen=True)
class InterimAnalysis:
    """A sweep read look by look. ``sweep`` holds the complete blocks only; ``account`` is what looks.json is to say."""

    sweep: Sweep
    looks: tuple[Look, ...]
    rule: Rule
    outcome: Outcome
    account: Account

    @property
    def seeds(self) -> tuple[str, ...]:
        """The complete blocks."""
        return complete_seeds(self.sweep)

    def decides(self, line: Line) -> bool:
        """Return whether the looks, not a plain test, decide this comparison."""
        return line.family == "primary" and line.contrast in self.rule.names

    def p(self, contrast: str) -> float:
        """Return the p value of a primary contrast that the looks taken leave valid."""
        return sequential_p(self.looks, contrast, self.rule)

    def judge(self, contrast: str, metric: Metric, plain: str, now: Estimate) -> tuple[float, float, str]:
        """Return the repeated 95 % interval around the estimate of ``now``, and the verdict of the looks.

        ``plain``, the verdict without looks, is used where the looks left it undecided. An effect that is there and too
        small to matter (its repeated 90 % interval lies within +-delta) is no relevant effect, as without looks.
        """
        decision = self.outcome.decisions[contrast]
        word = plain if plain.startswith(("undecided", "not estimable")) else "undecided (the looks have not decided)"
        if decision.word == "nil":
            word = "no relevant effect"
        elif decision.word == "different":
            word = "improves" if decision.value * metric.sign > 0 else "harms"
        if not self.looks:
            return float("nan"), float("nan"), word
        judged = Contrast(now.value, now.se, now.df, now.leverage)
        last, fractions = len(self.looks) - 1, fractions_of(self.looks, self.rule)
        low, high = interval(judged, fractions, last, 2 * self.rule.alpha, self.rule)
        if decision.word == "different" and self.rule.delta is not None and max(-low, high) < self.rule.delta:
            word = "no relevant effect"
        return *interval(judged, fractions, last, self.rule.alpha, self.rule), word


def incomplete_blocks(sweep: Sweep) -> list[str]:
    """Return a sentence where seeds have begun whose blocks are not complete: under `blocks` they enter no effect."""
    sweep = decisive(sweep)
    seeds = complete_seeds(sweep)
    begun = set(sweep.runs["seed"]) - set(seeds)
    if sweep.early_stopping.get("policy") != "blocks" or len(seeds) < MIN_SEEDS or not begun:
        return []
    return [f"effects rest on the complete blocks alone: seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"]


def complete_seeds(sweep: Sweep) -> tuple[str, ...]:
    """Return the seeds, in plan order, whose blocks are complete; the first open block ends the list.

    A failed replicate is an outcome; one that is missing, still running or not needed leaves its block open.
    """
    open_ = {one.seed for one in sweep.lost if one.kind in ("missing", "stopped")}
    open_ |= {one.seed for one in sweep.unneeded}
    started = set(sweep.runs["seed"]) | {one.seed for one in sweep.lost}
    found: list[str] = []
    for seed in sweep.seeds:
        if seed in open_ or seed not in started:
            break
        found.append(seed)
    return tuple(found)


def first_blocks(sweep: Sweep, count: int) -> Sweep:
    """Return the sweep with its first ``count`` seed blocks; raises DataError when one of them is not complete."""
    complete = complete_seeds(sweep)
    if count > len(complete):
        raise DataError(f"{sweep.name}: a look at {count} seeds needs complete blocks; only {len(complete)} are")
    return in_seeds(sweep, sweep.seeds[:count])


def in_seeds(sweep: Sweep, seeds: tuple[str, ...]) -> Sweep:
    """Return the sweep with these seeds only; what was not needed keeps its names."""
    kept = sweep.runs["seed"].isin(seeds).to_numpy()
    part = restricted(sweep, kept, lambda one: one.seed in seeds)
    return replace(part, unneeded=sweep.unneeded)


def look_at(sweep: Sweep, count: int) -> tuple[Look, tuple[Line, ...]]:
    """Return what the first ``count`` blocks say of every primary contrast, and all primary contrasts."""
    contrasts: dict[str, Contrast] = {}
    lines = []
    for one in findings(first_blocks(sweep, count), primary_only=True):
        if one.line.family == "primary":
            lines.append(one.line)
            if one.estimate is not None and np.isfinite(one.estimate.p()) and one.n_seeds >= MIN_SEEDS:
                contrasts[one.line.contrast] = Contrast(
                    one.estimate.value, one.estimate.se, one.estimate.df, one.estimate.leverage
                )
    return Look(count, contrasts), tuple(lines)


def rule_of(sweep: Sweep) -> Rule:
    """Return the plan's rule for all its primary contrasts, estimable or not."""
    names = tuple(
        f"{factor.name}: {level} - {factor.baseline}" for factor in sweep.factors for level in factor.levels[1:]
    )
    stopping: Mapping[str, object] = sweep.early_stopping
    spending: Spending = "obrien-fleming" if str(stopping.get("spending", "pocock")).startswith("o") else "pocock"
    account = sweep.looks.of(sweep.plan_hash)
    basis = account.basis if account else sweep.looks.basis(sweep.plan_hash, len(sweep.seeds), _trials(sweep))[0]
    return Rule(names, len(sweep.seeds), sweep.metric.delta, spending, basis=basis)


def interim_analysis(sweep: Sweep) -> InterimAnalysis | None:
    """Return the sweep read look by look; None for other policies or before the second complete block.

    Looks that looks.json holds are not taken again; a look at which nothing can be estimated is refused by name.
    """
    complete = len(complete_seeds(sweep))
    if sweep.early_stopping.get("policy") != "blocks" or complete < MIN_SEEDS:
        return None
    rule, old = rule_of(sweep), sweep.looks.of(sweep.plan_hash)
    taken = list(old.looks) if old else []
    refused = list(old.refused) if old else []
    for count in range(max(len(taken[-1].seeds) if taken else 0, MIN_SEEDS - 1) + 1, complete + 1):
        look, _ = look_at(sweep, count)
        if look.contrasts:
            taken.append(_taken(sweep, look, rule))
            continue
        line = f"no look after block {count}: no primary contrast can be estimated from {MIN_SEEDS} seeds"
        refused += [] if line in refused else [line]
    looks = tuple(
        Look(len(one.seeds), {name: _contrast(estimated) for name, estimated in one.contrasts.items()}) for one in taken
    )
    outcome = decide(looks, rule)
    account = Account(
        plan_hash=sweep.plan_hash,
        max_seeds=rule.max_seeds,
        delta=rule.delta,
        alpha=rule.alpha,
        spending=rule.spending,
        basis=rule.basis,
        reason=old.reason if old else sweep.looks.basis(sweep.plan_hash, rule.max_seeds, _trials(sweep))[1],
        looks=tuple(taken),
        refused=tuple(refused),
        decisions={
            name: Decided(word=one.word, after=one.at_seeds, low=_finite(one.low), high=_finite(one.high))
            for name, one in outcome.decisions.items()
        },
        stop=outcome.stop,
    )
    return InterimAnalysis(first_blocks(sweep, complete), looks, rule, outcome, account)


def take_looks(folder: Path) -> Account | None:
    """Take every look that is due in a sweep folder, write looks.json, and return the account of its plan (or None).

    Taking the same look again changes nothing: the file is written only when a look was added.
    """
    sweep = read_sweep(folder)
    sequence, old = interim_analysis(decisive(sweep)), sweep.looks.of(sweep.plan_hash)
    if sequence is None or sequence.account == old:
        return old
    write_looks(folder, read_looks(folder).put(sequence.account))
    return sequence.account


def fractions_of(looks: tuple[Look, ...], rule: Rule) -> tuple[float, ...]:
    """Return the share of all planned seeds at each look."""
    return tuple(look.seeds / rule.max_seeds for look in looks)


def _taken(sweep: Sweep, look: Look, rule: Rule) -> Taken:
    seen = first_blocks(sweep, look.seeds)
    fraction = look.seeds / rule.max_seeds
    return Taken(
        seeds=sweep.seeds[: look.seeds],
        trials=tuple(sorted(_trials(seen))),
        failed=tuple(f"{one.cell} seed={one.seed}" for one in seen.lost if one.kind == "failed"),
        spent=spent(fraction, rule.alpha, rule.spending) if rule.basis == "spending" else None,
        contrasts={
            name: Estimated(value=one.value, se=one.se, df=one.df, leverage=_finite(one.leverage))
            for name, one in look.contrasts.items()
        },
    )


def _contrast(one: Estimated) -> Contrast:
    return Contrast(one.value, one.se, one.df, float("nan") if one.leverage is None else one.leverage)


def _trials(sweep: Sweep) -> frozenset[str]:
    """Return the trainings with results, by name."""
    return frozenset(map(str, sweep.runs["trial"])) if "trial" in sweep.runs else frozenset()


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
