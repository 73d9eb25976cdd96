"""The looks of `policy: blocks`, taken from the results themselves: one after each complete block from the second.

A look depends on nothing but the finished replicates of its blocks, so a restart repeats it, spending nothing anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.analysis.contrasts import Line
from orchestrator.analysis.findings import findings
from orchestrator.analysis.metrics import Metric
from orchestrator.analysis.sequential import MIN_SEEDS, Contrast, Look, Outcome, Rule, Spending, decide, sequential_p
from orchestrator.analysis.sweep import Sweep
from sagasr.errors import DataError


@dataclass(frozen=True)
class Sequence:
    """A sweep read look by look. ``sweep`` holds the complete blocks only."""

    sweep: Sweep
    looks: tuple[Look, ...]
    rule: Rule
    outcome: Outcome

    def p(self, contrast: str) -> float:
        """Return the p value of a primary contrast that the looks taken leave valid."""
        return sequential_p(self.looks, contrast, self.rule)

    def said(self, contrast: str, metric: Metric, plain: str) -> tuple[float, float, str]:
        """Return the repeated 95 % interval and the verdict; ``plain`` is used where the looks left it undecided."""
        decision = self.outcome.decisions[contrast]
        word = plain if plain.startswith(("undecided", "not estimable")) else "undecided (the looks have not decided)"
        if decision.word == "nil":
            word = "no relevant effect"
        elif decision.word == "different":
            word = "improves" if decision.value * metric.sign > 0 else "harms"
        return decision.low, decision.high, word


def complete_seeds(sweep: Sweep) -> tuple[str, ...]:
    """Return the seeds, in plan order, whose blocks are complete; the first open block ends the list.

    A failed replicate is an outcome; one that is missing or still running leaves its block open.
    """
    open_ = {one.seed for one in sweep.lost if one.kind in ("missing", "stopped")}
    started = set(sweep.runs["seed"])
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
    seeds = sweep.seeds[:count]
    kept = sweep.runs["seed"].isin(seeds).to_numpy()
    clips = sweep.clips
    if clips is not None:
        place = np.cumsum(kept) - 1
        inside = kept[clips["row"].to_numpy()]
        clips = clips[inside].assign(row=place[clips["row"].to_numpy()[inside]]).reset_index(drop=True)
    lost = tuple(one for one in sweep.lost if one.seed in seeds)
    return replace(sweep, runs=sweep.runs[kept].reset_index(drop=True), clips=clips, lost=lost)


def look_at(sweep: Sweep, count: int) -> tuple[Look, tuple[Line, ...]]:
    """Return what the first ``count`` blocks say of every primary contrast, and all primary contrasts."""
    contrasts: dict[str, Contrast] = {}
    lines = []
    for one in findings(first_blocks(sweep, count), primary_only=True):
        if one.line.family == "primary":
            lines.append(one.line)
            if one.estimate is not None and np.isfinite(one.estimate.p()):
                contrasts[one.line.contrast] = Contrast(one.estimate.value, one.estimate.se, one.estimate.df)
    return Look(count, contrasts), tuple(lines)


def rule_of(sweep: Sweep, names: tuple[str, ...]) -> Rule:
    """Return the plan's rule for these primary contrasts."""
    stopping: Mapping[str, object] = sweep.early_stopping
    spending: Spending = "obrien-fleming" if str(stopping.get("spending", "pocock")).startswith("o") else "pocock"
    return Rule(names, len(sweep.seeds), sweep.metric.delta, spending)


def sequence_of(sweep: Sweep) -> Sequence | None:
    """Return the sweep read look by look; None for other policies or before the second complete block."""
    complete = len(complete_seeds(sweep))
    if sweep.early_stopping.get("policy") != "blocks" or complete < MIN_SEEDS:
        return None
    taken = [look_at(sweep, count) for count in range(MIN_SEEDS, complete + 1)]
    looks = tuple(look for look, _ in taken)
    rule = rule_of(sweep, tuple(line.contrast for line in taken[-1][1]))
    return Sequence(first_blocks(sweep, complete), looks, rule, decide(looks, rule))
