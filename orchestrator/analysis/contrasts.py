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
from orchestrator.analysis.tables import Lost
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
    if primary_only:
        return list(_mains(sweep, layout))
    table = [*_mains(sweep, layout), *_ladder(sweep, layout)]
    for second in range(len(sweep.factors)):
        for first in range(second):
            table += _interactions(sweep, layout, first, second)
    for factor, other in itertools.permutations(range(len(sweep.factors)), 2):
        table += _simples(sweep, layout, factor, other)
    return table


def _ends(factor: Factor, level: int) -> Array:
    weights = np.zeros(len(factor.levels))
    weights[level], weights[0] = 1.0, -1.0
    return weights


def _change(factor: Factor, level: str) -> str:
    return f"{factor.name}: {level} - {factor.baseline}"


def _mains(sweep: Sweep, layout: Layout) -> Iterator[Comparison]:
    for index, factor in enumerate(sweep.factors):
        for place, level in enumerate(factor.levels[1:], 1):
            term: Term = (index,)
            coefficients = {term: difference(term, layout.sizes, [_ends(factor, place)])}
            weights = _weights(sweep, layout, [(index, place)], coefficients)
            cells: tuple[dict[str, tuple[str, ...]], ...] = ({factor.name: (factor.baseline, level)},)
            comparison = Comparison(
                "primary", _change(factor, level), factor.name, level, factor.baseline, cells, weights, term=term
            )
            yield _explained(sweep, layout, comparison, [term])


def _interactions(sweep: Sweep, layout: Layout, first: int, second: int) -> Iterator[Comparison]:
    factor, other = sweep.factors[first], sweep.factors[second]
    term: Term = (first, second)
    for low, high in itertools.product(range(1, len(factor.levels)), range(1, len(other.levels))):
        level, at = factor.levels[low], other.levels[high]
        coefficients = {term: difference(term, layout.sizes, [_ends(factor, low), _ends(other, high)])}
        weights = _weights(sweep, layout, [(first, low), (second, high)], coefficients)
        if weights is None and not sweep.nested:
            weights = _after_alias(layout, term, coefficients)
        comparison = Comparison(
            "interaction",
            f"({_change(factor, level)}) at {other.name}={at} minus at {other.name}={other.baseline}",
            factor.name,
            f"{level}:{at}",
            f"{factor.baseline}:{other.baseline}",
            ({factor.name: (factor.baseline, level), other.name: (other.baseline, at)},),
            weights,
            context=other.name,
            term=term,
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
        cells = ({factor.name: (factor.baseline, level), other.name: (at,)},)
        contrast = f"{_change(factor, level)} at {context}"
        comparison = Comparison(
            "simple", contrast, factor.name, level, factor.baseline, cells, weights, context=context
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
    steps = {step.step: step for step in sweep.ladder}
    for step in sweep.ladder:
        if step.versus is None:
            continue
        title = f"step {step.step} - step {step.versus}"
        before = steps.get(step.versus)
        if before is None:
            reason = f"the ladder has no step {step.versus}"
            yield Comparison("ladder", title, "ladder", step.step, step.versus, (), None, reason=reason)
            continue
        changed = [name for name, level in step.levels.items() if before.levels[name] != level]
        changes = ", ".join(f"{name}: {step.levels[name]} - {before.levels[name]}" for name in changed)
        weights, reason = _matched_steps(sweep, layout, step, before)
        yield Comparison(
            "ladder",
            f"{title} ({changes})",
            "ladder",
            step.step,
            step.versus,
            tuple({name: (level,) for name, level in cell.levels.items()} for cell in (step, before)),
            weights,
            reason=reason,
            confounded=f"{' + '.join(changed)} together" if len(changed) > 1 else "",
        )


def _matched_steps(sweep: Sweep, layout: Layout, step: Step, before: Step) -> tuple[Weights | None, str]:
    rows, seeds = [], []
    for cell in (step, before):
        places = [
            (index, factor.levels.index(level) if (level := cell.levels[factor.name]) in factor.levels else -1)
            for index, factor in enumerate(sweep.factors)
        ]
        rows.append(members(layout.codes, places))
        seeds.append(set(layout.seed[rows[-1]]))
        if not seeds[-1]:
            return None, f"no finished run of step {cell.step} ({cell_name(cell.levels)})"
    if layout.blocked:
        shared = seeds[0] & seeds[1]
        if not shared:
            return None, f"steps {step.step} and {before.step} share no finished seed"
        rows = [mask & np.isin(layout.seed, list(shared)) for mask in rows]
    split = layout.split(rows[0] / rows[0].sum() - rows[1] / rows[1].sum())
    return split, "" if split else "a training of these steps lacks scored variants that the others have"


def _after_alias(layout: Layout, term: Term, coefficients: dict[Term, Array]) -> Weights | None:
    """Return the weights of an interaction that shares its columns with another one, were that other absent."""
    between, within = layout.between, layout.within
    if not set(term) & set(layout.within_factors):
        between = refit(layout, term, "between")
    elif within:
        within = refit(layout, term, "within")
    return contrast(layout, coefficients, (between, within))


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
            if not (layout.codes[:, index] == factor.levels.index(level)).any():
                return f"no finished run with {factor.name}={level}"
    for factor, other in itertools.permutations(factors, 2):
        if other.name in factor.under and not set(levels[other.name]) <= set(factor.under[other.name]):
            return f"{factor.name} acts only where {factor.where}"
    for cell in itertools.product(*(levels[factor.name] for factor in factors)) if len(factors) == 2 else ():
        places = [factor.levels.index(level) for factor, level in zip(factors, cell, strict=True)]
        if not members(layout.codes, list(zip(comparison.term, places, strict=True))).any():
            names = {factor.name: level for factor, level in zip(factors, cell, strict=True)}
            return "no finished run with " + cell_name(names)
    return "it changes only together with " + _companion(sweep, layout, comparison.term)


def _companion(sweep: Sweep, layout: Layout, term: Term) -> str:
    """Return what the term cannot be told from: another effect whose columns span its own, or the seeds."""
    own = columns(term, layout.codes, layout.sizes)
    for other in [*((i,) for i in range(len(layout.sizes))), *(t for t in layout.between.places if len(t) == 2)]:
        if other == term:
            continue
        theirs = columns(other, layout.codes, layout.sizes)
        theirs = np.column_stack([theirs, np.ones(len(theirs))])
        left = own - theirs @ np.linalg.lstsq(theirs, own, rcond=None)[0]
        if np.abs(left).max() < 1e-8:
            return ":".join(sweep.factors[index].name for index in other)
    return "the seeds or other factors" if layout.blocked else "other factors"
