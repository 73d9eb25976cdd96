"""The looks of `policy: blocks`, taken from the results themselves: one after each complete block from the second.

A look depends on nothing but the finished replicates of its blocks. Those taken are kept in looks.json and stand.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.analysis.contrasts import Comparison, change
from orchestrator.analysis.estimates import findings
from orchestrator.analysis.group_sequential import Contrast, Look, Outcome, Rule, decide, interval, spent
from orchestrator.analysis.load import Sweep, decisive, read_sweep, restricted
from orchestrator.analysis.metrics import Metric
from orchestrator.analysis.variance import Estimate
from orchestrator.sweep_folder.json_files import (
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

    def decides(self, comparison: Comparison) -> bool:
        """Return whether the looks, not a plain test, decide this comparison."""
        return comparison.family == "primary" and comparison.contrast in self.rule.names

    def judge(self, contrast: str, metric: Metric, plain: str, now: Estimate) -> tuple[float, float, str]:
        """Return the repeated 95 % interval around the estimate of ``now``, and the verdict of the looks.

        ``plain``, the verdict without looks, is used where the looks left it undecided. An effect that is there and too
        small to matter (its repeated 90 % interval lies within +-delta) is no relevant effect, as without looks.
        """
        decision = self.outcome.decisions[contrast]
        seen = f"after {self.looks[-1].seeds if self.looks else 0} of {self.rule.max_seeds} seeds"
        verdict = plain if plain.startswith(("undecided", "not estimable")) else f"undecided ({seen})"
        if decision.word == "nil":
            verdict = "no relevant effect"
        elif decision.word == "different":
            verdict = "improves" if decision.value * metric.sign > 0 else "harms"
        if not self.looks:
            return float("nan"), float("nan"), verdict
        last, fractions = len(self.looks) - 1, self.rule.fractions(self.looks)
        low, high = interval(now, fractions, last, 2 * self.rule.alpha, self.rule)
        if decision.word == "different" and self.rule.delta is not None and max(-low, high) < self.rule.delta:
            verdict = "no relevant effect"
        return *interval(now, fractions, last, self.rule.alpha, self.rule), verdict


def incomplete_blocks(sweep: Sweep) -> list[str]:
    """Return a sentence where seeds have begun that enter no effect under `blocks`.

    Their blocks are not complete, or they had begun when a look decided.
    """
    sweep = decisive(sweep)
    seeds, which = complete_seeds(sweep), "complete blocks"
    account = sweep.looks.of(sweep.plan_hash)
    if account and account.stop and account.basis == "spending":
        seeds, which = seeds[: account.seen], "blocks that decided"
    begun = set(sweep.runs["seed"]) - set(seeds)
    if sweep.early_stopping.get("policy") != "blocks" or len(seeds) < MIN_SEEDS or not begun:
        return []
    return [f"effects rest on the {which} alone: seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"]


def complete_seeds(sweep: Sweep) -> tuple[str, ...]:
    """Return the seeds, in plan order, whose blocks are complete; the first open block ends the list.

    A failed replicate is an outcome; one that is missing, still running or not needed leaves its block open.
    """
    unfinished = {lost.seed for lost in sweep.lost if lost.kind in ("missing", "stopped")}
    unfinished |= {lost.seed for lost in sweep.unneeded}
    started = set(sweep.runs["seed"]) | {lost.seed for lost in sweep.lost}
    return tuple(itertools.takewhile(lambda seed: seed in started - unfinished, sweep.seeds))


def first_blocks(sweep: Sweep, count: int) -> Sweep:
    """Return the sweep with its first ``count`` seed blocks; raises DataError when one of them is not complete."""
    complete = complete_seeds(sweep)
    if count > len(complete):
        raise DataError(f"{sweep.name}: a look at {count} seeds needs complete blocks; only {len(complete)} are")
    return in_seeds(sweep, sweep.seeds[:count])


def in_seeds(sweep: Sweep, seeds: tuple[str, ...]) -> Sweep:
    """Return the sweep with these seeds only; what was not needed keeps its names."""
    kept = sweep.runs["seed"].isin(seeds).to_numpy()
    part = restricted(sweep, kept, lambda lost: lost.seed in seeds)
    return replace(part, unneeded=sweep.unneeded)


def look_at(sweep: Sweep, count: int) -> Look:
    """Return what the first ``count`` blocks say of every primary contrast."""
    contrasts: dict[str, Contrast] = {}
    for finding in findings(first_blocks(sweep, count), primary_only=True):
        estimate = finding.estimate
        if estimate is not None and np.isfinite(estimate.p()) and finding.n_seeds >= MIN_SEEDS:
            contrast = Contrast(estimate.value, estimate.se, estimate.df, estimate.leverage)
            contrasts[finding.comparison.contrast] = contrast
    return Look(count, contrasts)


def interim_analysis(sweep: Sweep) -> InterimAnalysis | None:
    """Return the sweep read look by look; None for other policies or before the second complete block.

    Looks that looks.json holds are not taken again; a look at which nothing can be estimated is refused by name.
    """
    complete = len(complete_seeds(sweep))
    if sweep.early_stopping.get("policy") != "blocks" or complete < MIN_SEEDS:
        return None
    old, max_seeds = sweep.looks.of(sweep.plan_hash), len(sweep.seeds)
    taken, refused = (list(old.looks), list(old.refused)) if old else ([], [])
    basis, reason = (old.basis, old.reason) if old else sweep.looks.basis(sweep.plan_hash, max_seeds, _trials(sweep))
    names = tuple(change(factor, level) for factor in sweep.factors for level in factor.levels[1:])
    spending: Spending = sweep.early_stopping.get("spending", "pocock")
    rule = Rule(names, max_seeds, sweep.metric.delta, spending, basis=basis)
    for count in range(max(len(taken[-1].seeds) if taken else 0, MIN_SEEDS - 1) + 1, complete + 1):
        # What was trained beyond a stop has no part in the decision; e-values may go on as long as there are seeds.
        if basis == "spending" and decide(_looks(taken), rule).stop:
            complete = len(taken[-1].seeds)
            break
        look = look_at(sweep, count)
        if look.contrasts:
            taken.append(_taken(sweep, look, rule))
            continue
        refusal = f"no look after block {count}: no primary contrast can be estimated from {MIN_SEEDS} seeds"
        refused += [] if refusal in refused else [refusal]
    looks = _looks(taken)
    outcome = decide(looks, rule)
    account = Account(
        plan_hash=sweep.plan_hash,
        **{key: getattr(rule, key) for key in ("max_seeds", "delta", "alpha", "spending", "basis")},
        reason=reason,
        looks=tuple(taken),
        refused=tuple(refused),
        decisions={
            name: Decided(word=each.word, after=each.at_seeds, low=_finite(each.low), high=_finite(each.high))
            for name, each in outcome.decisions.items()
        },
        stop=outcome.stop,
    )
    return InterimAnalysis(first_blocks(sweep, complete), looks, rule, outcome, account)


def take_looks(folder: Path) -> Account | None:
    """Take every look that is due in a sweep folder, write looks.json, and return the account of its plan (or None).

    Taking the same look again changes nothing: the file is written only when a look was added.
    """
    sweep = read_sweep(folder)
    interim, old = interim_analysis(decisive(sweep)), sweep.looks.of(sweep.plan_hash)
    if interim is None or interim.account == old:
        return old
    write_looks(folder, read_looks(folder).put(interim.account))
    return interim.account


def _looks(taken: Sequence[Taken]) -> tuple[Look, ...]:
    return tuple(
        Look(len(look.seeds), {name: Contrast(**seen.model_dump()) for name, seen in look.contrasts.items()})
        for look in taken
    )


def _taken(sweep: Sweep, look: Look, rule: Rule) -> Taken:
    seen = first_blocks(sweep, look.seeds)
    (fraction,) = rule.fractions([look])
    return Taken(
        seeds=sweep.seeds[: look.seeds],
        trials=tuple(sorted(_trials(seen))),
        failed=tuple(f"{lost.cell} seed={lost.seed}" for lost in seen.lost if lost.kind == "failed"),
        spent=spent(fraction, rule.alpha, rule.spending) if rule.basis == "spending" else None,
        contrasts={name: Estimated(**contrast._asdict()) for name, contrast in look.contrasts.items()},
    )


def _trials(sweep: Sweep) -> frozenset[str]:
    """Return the trainings with results, by name."""
    return frozenset(map(str, sweep.runs["trial"])) if "trial" in sweep.runs else frozenset()


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
