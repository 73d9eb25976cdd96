"""What is compared: every level of every factor, every pair of factors, every context, every ladder step.

Each comparison carries its weights (or the reason why there are none), independent of the metric.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.analysis.design_matrix import Array, Term, aliases, columns, difference
from orchestrator.analysis.load import Sweep
from orchestrator.analysis.split_plot import Layout, Weights, contrast, matched, members, refit
from orchestrator.analysis.tables import Lost, has_levels
from orchestrator.sweep_folder.design import Factor, Step, cell_name

MAX_ALIASES = 8


@dataclass(frozen=True)
class Comparison:
    """What is compared. ``term`` is its ANOVA line (None for ladder steps); ``cells`` are those it is about."""

    family: str
    contrast: str
    factor: str
    level: str
    baseline: str
    cells: tuple[dict[str, tuple[str, ...]], ...]
    weights: Weights | None
    context: str | None = None
    term: Term | None = None
    reason: str = ""
    confounded: str = ""

    def concerns(self, lost: Lost) -> bool:
        """Return whether a replicate without a value would have entered this comparison."""
        return any(all(lost.levels.get(name) in levels for name, levels in cell.items()) for cell in self.cells)


def comparisons(sweep: Sweep, layout: Layout, primary_only: bool = False) -> list[Comparison]:
    """Return every comparison of the sweep, primary ones first."""
    factors = range(len(sweep.factors))
    table = [comparison for factor in factors for comparison in _effects(sweep, layout, (factor,))]
    if primary_only:
        return table
    table += _ladder(sweep, layout)
    for second in factors:
        for first in range(second):
            table += _effects(sweep, layout, (first, second))
    for factor, other in itertools.permutations(factors, 2):
        table += _simples(sweep, layout, factor, other)
    return table


def _ends(factor: Factor, level: int) -> Array:
    weights = np.zeros(len(factor.levels))
    weights[level], weights[0] = 1.0, -1.0
    return weights


def change(factor: Factor, level: str) -> str:
    """Return the name of a main effect."""
    return f"{factor.name}: {level} - {factor.baseline}"


def _effects(sweep: Sweep, layout: Layout, term: Term) -> Iterator[Comparison]:
    """Yield the effects of every level of a factor, or the interactions of the levels of two."""
    factors = [sweep.factors[index] for index in term]
    for places in itertools.product(*(range(1, len(factor.levels)) for factor in factors)):
        levels = [factor.levels[place] for factor, place in zip(factors, places, strict=True)]
        coefficients = {term: difference(term, layout.sizes, list(map(_ends, factors, places)))}
        weights = _weights(sweep, layout, list(zip(term, places, strict=True)), coefficients)
        family, context, title = "primary", None, change(factors[0], levels[0])
        if len(term) == 2:
            other, at = factors[1], levels[1]
            family, context = "interaction", other.name
            title = f"({title}) at {other.name}={at} minus at {other.name}={other.baseline}"
            if weights is None and not sweep.nested:  # an alias has its columns: what they were, were that absent
                weights = contrast(layout, coefficients, refit(layout, term))
        comparison = Comparison(
            family,
            title,
            factors[0].name,
            ":".join(levels),
            ":".join(factor.baseline for factor in factors),
            ({factor.name: (factor.baseline, level) for factor, level in zip(factors, levels, strict=True)},),
            weights,
            context,
            term,
        )
        yield _explained(sweep, layout, comparison, [term])


def _simples(sweep: Sweep, layout: Layout, index: int, other_index: int) -> Iterator[Comparison]:
    """Yield the effects of a factor at each level of another one."""
    factor, other = sweep.factors[index], sweep.factors[other_index]
    term = (min(index, other_index), max(index, other_index))
    for (low, level), (place, at) in itertools.product(enumerate(factor.levels), enumerate(other.levels)):
        ends = {index: _ends(factor, low), other_index: np.eye(len(other.levels))[place]}
        coefficients = {
            (index,): difference((index,), layout.sizes, [ends[index]]),
            term: difference(term, layout.sizes, [ends[term[0]], ends[term[1]]]),
        }
        weights = _weights(sweep, layout, [(index, low)], coefficients, [(other_index, place)]) if low else None
        if weights is None:
            continue  # the baseline itself; of others the interaction says why
        context = f"{other.name}={at}"
        comparison = Comparison(
            "simple",
            f"{change(factor, level)} at {context}",
            factor.name,
            level,
            factor.baseline,
            ({factor.name: (factor.baseline, level), other.name: (at,)},),
            weights,
            context,
        )
        yield _explained(sweep, layout, comparison, [(index,), term, (other_index,)])


def _weights(
    sweep: Sweep,
    layout: Layout,
    ends: list[tuple[int, int]],
    coefficients: dict[Term, Array],
    fixed: Sequence[tuple[int, int]] = (),
) -> Weights | None:
    """Return the weights of a contrast by least squares, or where the design lacks cells from those that pair up.

    Of a factor that acts only beside some levels, and of what it lies under, no model says what is not there.
    """
    weights = matched(layout, ends, fixed) if sweep.by_pairs else None
    return weights if weights or sweep.nested else contrast(layout, coefficients)


def _ladder(sweep: Sweep, layout: Layout) -> Iterator[Comparison]:
    """Yield each step against the one it names: the mean difference of the two cells over the seeds that both have."""
    for step in sweep.ladder:
        if step.versus is None:
            continue
        before, changed = step_change(sweep, step)
        contrast = f"step {step.step} - step {step.versus}"
        if before is None:
            reason = f"the ladder has no step {step.versus}"
            yield Comparison("ladder", contrast, "ladder", step.step, step.versus, (), None, reason=reason)
            continue
        changes = ", ".join(f"{name}: {level} - {before.levels[name]}" for name, level in changed.items())
        weights, reason = _matched_steps(sweep, layout, step, before)
        yield Comparison(
            "ladder",
            f"{contrast} ({changes})",
            "ladder",
            step.step,
            step.versus,
            tuple({name: (level,) for name, level in cell.levels.items()} for cell in (step, before)),
            weights,
            reason=reason,
            confounded=f"{' + '.join(changed)} together" if len(changed) > 1 else "",
        )


def step_change(sweep: Sweep, step: Step) -> tuple[Step | None, dict[str, str]]:
    """Return the step that a ladder step is compared with, and the levels that differ; without one, all levels."""
    before = {other.step: other for other in sweep.ladder}.get(step.versus or "")
    return before, {
        name: level for name, level in step.levels.items() if before is None or before.levels[name] != level
    }


def _matched_steps(sweep: Sweep, layout: Layout, step: Step, before: Step) -> tuple[Weights | None, str]:
    runs = sweep.runs[layout.kept]
    rows = [has_levels(runs, cell.levels) for cell in (step, before)]
    for cell, mask in zip((step, before), rows, strict=True):
        if not mask.any():
            return None, f"no finished run of step {cell.step} ({cell_name(cell.levels)})"
    if layout.blocked:
        shared = np.intersect1d(layout.seed[rows[0]], layout.seed[rows[1]])
        if not len(shared):
            return None, f"steps {step.step} and {before.step} share no finished seed"
        rows = [mask & np.isin(layout.seed, shared) for mask in rows]
    split = layout.split(rows[0] / rows[0].sum() - rows[1] / rows[1].sum())
    return split, "" if split else "a training of these steps lacks scored variants that the others have"


def _explained(sweep: Sweep, layout: Layout, comparison: Comparison, own: list[Term]) -> Comparison:
    """Return the comparison with its aliases, or with the reason why it cannot be estimated."""
    if comparison.weights is None:
        return replace(comparison, reason=_why_not(sweep, layout, comparison))
    parents = {name for factor in sweep.factors for name in factor.under}
    nested = {index for index, factor in enumerate(sweep.factors) if factor.under or factor.name in parents}
    names = [
        ":".join(sweep.factors[index].name for index in term)
        for term in aliases(comparison.weights.rows, layout.codes, layout.sizes, own)
        if not nested & set(term)  # where a factor does nothing there is no other effect to be taken for it
    ]
    shown = names[:MAX_ALIASES] + ([f"{len(names) - MAX_ALIASES} more"] if len(names) > MAX_ALIASES else [])
    return replace(comparison, confounded=", ".join(shown))


def _why_not(sweep: Sweep, layout: Layout, comparison: Comparison) -> str:
    assert comparison.term is not None
    (levels,) = comparison.cells
    factors = [sweep.factors[index] for index in comparison.term]
    for index, factor in zip(comparison.term, factors, strict=True):
        for level in levels[factor.name]:
            if not members(layout.codes, [(index, factor.levels.index(level))]).any():
                return f"no finished run with {factor.name}={level}"
    for factor, other in itertools.permutations(factors, 2):
        if other.name in factor.under and not set(levels[other.name]) <= set(factor.under[other.name]):
            return f"{factor.name} acts only where {factor.where}"
    for cell in itertools.product(*(levels[factor.name] for factor in factors)):
        places = [factor.levels.index(level) for factor, level in zip(factors, cell, strict=True)]
        if not members(layout.codes, list(zip(comparison.term, places, strict=True))).any():
            return "no finished run with " + cell_name(dict(zip(levels, cell, strict=True)))
    return "it changes only together with " + _companion(sweep, layout, comparison.term)


def _companion(sweep: Sweep, layout: Layout, term: Term) -> str:
    """Return what the term cannot be told from: another effect whose columns span its own, or the seeds."""
    own = columns(term, layout.codes, layout.sizes)
    for other in [*((i,) for i in range(len(layout.sizes))), *(t for t in layout.between.places if len(t) == 2)]:
        if other == term:
            continue
        theirs = np.column_stack([columns(other, layout.codes, layout.sizes), np.ones(len(own))])
        if np.abs(own - theirs @ np.linalg.lstsq(theirs, own, rcond=None)[0]).max() < 1e-8:
            return ":".join(sweep.factors[index].name for index in other)
    return "the seeds or other factors" if layout.blocked else "other factors"
