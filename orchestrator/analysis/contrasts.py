"""What is compared: a line for every level of every factor, every pair of factors, every context, every ladder step.

Each line carries its weights (or the reason why there are none), independent of the metric.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.analysis.design_matrix import Array, Term, aliases, columns, difference
from orchestrator.analysis.load import Sweep
from orchestrator.analysis.split_plot import Layout, Weights, contrast, matched, members, refit
from orchestrator.analysis.tables import Lost
from orchestrator.sweep_folder.design import Factor, Step
from orchestrator.sweep_folder.names import cell_name

MAX_ALIASES = 8


@dataclass(frozen=True)
class Line:
    """One comparison. ``term`` is its ANOVA line (None for ladder steps); ``involved`` the cells it is about."""

    family: str
    contrast: str
    factor: str
    level: str
    baseline: str
    context: str | None
    term: Term | None
    involved: tuple[dict[str, tuple[str, ...]], ...]
    weights: Weights | None
    reason: str = ""
    confounded: str = ""

    def concerns(self, lost: Lost) -> bool:
        """Return whether a replicate without a value would have entered this comparison."""
        return any(all(lost.levels.get(name) in levels for name, levels in cell.items()) for cell in self.involved)


def lines(sweep: Sweep, plan: Layout, primary_only: bool = False) -> list[Line]:
    """Return every comparison of the sweep, primary ones first."""
    if primary_only:
        return list(_mains(sweep, plan))
    found = [*_mains(sweep, plan), *_ladder(sweep, plan)]
    for second in range(len(sweep.factors)):
        for first in range(second):
            found += _interactions(sweep, plan, first, second)
    for factor in range(len(sweep.factors)):
        for other in range(len(sweep.factors)):
            if other != factor:
                found += _simples(sweep, plan, factor, other)
    return found


def _ends(factor: Factor, level: int) -> Array:
    weights = np.zeros(len(factor.levels))
    weights[level], weights[0] = 1.0, -1.0
    return weights


def _mains(sweep: Sweep, plan: Layout) -> Iterator[Line]:
    for index, factor in enumerate(sweep.factors):
        for level in range(1, len(factor.levels)):
            coefficients: dict[Term, Array] = {(index,): difference((index,), plan.sizes, [_ends(factor, level)])}
            line = Line(
                "primary",
                f"{factor.name}: {factor.levels[level]} - {factor.baseline}",
                factor.name,
                factor.levels[level],
                factor.baseline,
                None,
                (index,),
                ({factor.name: (factor.baseline, factor.levels[level])},),
                _weights(sweep, plan, [(index, level)], coefficients),
            )
            yield _explained(sweep, plan, line, [(index,)])


def _interactions(sweep: Sweep, plan: Layout, first: int, second: int) -> Iterator[Line]:
    one, two = sweep.factors[first], sweep.factors[second]
    term: Term = (first, second)
    for low in range(1, len(one.levels)):
        for high in range(1, len(two.levels)):
            coefficients: dict[Term, Array] = {term: difference(term, plan.sizes, [_ends(one, low), _ends(two, high)])}
            weights = _weights(sweep, plan, [(first, low), (second, high)], coefficients)
            if weights is None and not sweep.nested:
                weights = _after_alias(plan, term, coefficients)
            line = Line(
                "interaction",
                f"({one.name}: {one.levels[low]} - {one.baseline}) at {two.name}={two.levels[high]} "
                f"minus at {two.name}={two.baseline}",
                one.name,
                f"{one.levels[low]}:{two.levels[high]}",
                f"{one.baseline}:{two.baseline}",
                two.name,
                term,
                ({one.name: (one.baseline, one.levels[low]), two.name: (two.baseline, two.levels[high])},),
                weights,
            )
            yield _explained(sweep, plan, line, [term])


def _simples(sweep: Sweep, plan: Layout, factor: int, other: int) -> Iterator[Line]:
    one, two = sweep.factors[factor], sweep.factors[other]
    term = (min(factor, other), max(factor, other))
    for level in range(1, len(one.levels)):
        main: dict[Term, Array] = {(factor,): difference((factor,), plan.sizes, [_ends(one, level)])}
        for at in range(len(two.levels)):
            ends = {factor: _ends(one, level), other: np.eye(len(two.levels))[at]}
            both: dict[Term, Array] = main | {term: difference(term, plan.sizes, [ends[term[0]], ends[term[1]]])}
            weights = _weights(sweep, plan, [(factor, level)], both, [(other, at)])
            if weights is None:
                continue  # the interaction's own line says why
            context = f"{two.name}={two.levels[at]}"
            line = Line(
                "simple",
                f"{one.name}: {one.levels[level]} - {one.baseline} at {context}",
                one.name,
                one.levels[level],
                one.baseline,
                context,
                None,
                ({one.name: (one.baseline, one.levels[level]), two.name: (two.levels[at],)},),
                weights,
            )
            yield _explained(sweep, plan, line, [(factor,), term, (other,)])


def _weights(
    sweep: Sweep,
    plan: Layout,
    ends: list[tuple[int, int]],
    coefficients: dict[Term, Array],
    fixed: Sequence[tuple[int, int]] = (),
) -> Weights | None:
    """Return the weights of a contrast by least squares, or where the design lacks cells from those that pair up.

    Of a factor that acts only beside some levels, and of what it lies under, no model says what is not there.
    """
    found = matched(plan, ends, fixed) if sweep.by_pairs else None
    return found if found or sweep.nested else contrast(plan, coefficients)


def _ladder(sweep: Sweep, plan: Layout) -> Iterator[Line]:
    """Yield each step against the one it names: the mean difference of the two cells over the seeds that both have."""
    steps = {step.step: step for step in sweep.ladder}
    for step in sweep.ladder:
        if step.versus is None:
            continue
        before = steps.get(step.versus)
        title = f"step {step.step} - step {step.versus}"
        if before is None:
            yield Line(
                "ladder",
                title,
                "ladder",
                step.step,
                step.versus,
                None,
                None,
                (),
                None,
                f"the ladder has no step {step.versus}",
            )
            continue
        changed = [name for name, level in step.levels.items() if before.levels[name] != level]
        what = ", ".join(f"{name}: {step.levels[name]} - {before.levels[name]}" for name in changed)
        weights, reason = _matched(sweep, plan, step, before)
        cells: tuple[dict[str, tuple[str, ...]], ...] = tuple(
            {name: (level,) for name, level in one.levels.items()} for one in (step, before)
        )
        yield Line(
            "ladder",
            f"{title} ({what})",
            "ladder",
            step.step,
            step.versus,
            None,
            None,
            cells,
            weights,
            reason,
            f"{' + '.join(changed)} together" if len(changed) > 1 else "",
        )


def _matched(sweep: Sweep, plan: Layout, step: Step, before: Step) -> tuple[Weights | None, str]:
    rows, seeds = [], []
    for one in (step, before):
        names = [(index, factor, one.levels[factor.name]) for index, factor in enumerate(sweep.factors)]
        levels = [(index, factor.levels.index(name) if name in factor.levels else -1) for index, factor, name in names]
        rows.append(members(plan.codes, levels))
        seeds.append(set(plan.seed[rows[-1]]))
        if not seeds[-1]:
            return None, f"no finished run of step {one.step} ({cell_name(one.levels)})"
    if plan.blocked:
        shared = seeds[0] & seeds[1]
        if not shared:
            return None, f"steps {step.step} and {before.step} share no finished seed"
        rows = [mask & np.isin(plan.seed, list(shared)) for mask in rows]
    split = plan.split(rows[0] / rows[0].sum() - rows[1] / rows[1].sum())
    return split, "" if split else "a training of these steps lacks scored variants that the others have"


def _after_alias(plan: Layout, term: Term, coefficients: dict[Term, Array]) -> Weights | None:
    """Return the weights of an interaction that shares its columns with another one, were that other absent."""
    if set(term) & set(plan.within_factors):
        return contrast(plan, coefficients, (plan.between, refit(plan, term, "within"))) if plan.within else None
    return contrast(plan, coefficients, (refit(plan, term, "between"), plan.within))


def _explained(sweep: Sweep, plan: Layout, line: Line, own: list[Term]) -> Line:
    """Return the line with its aliases, or with the reason why it cannot be estimated."""
    if line.weights is None:
        return replace(line, reason=_why_not(sweep, plan, line))
    nested = {index for index, factor in enumerate(sweep.factors) if factor.under or _is_parent(sweep, factor)}
    found = [
        ":".join(sweep.factors[index].name for index in term)
        for term in aliases(line.weights.rows, plan.codes, plan.sizes, own)
        if not nested & set(term)  # where a factor does nothing there is no other effect to be taken for it
    ]
    shown = found[:MAX_ALIASES] + ([f"{len(found) - MAX_ALIASES} more"] if len(found) > MAX_ALIASES else [])
    return replace(line, confounded=", ".join(shown))


def _is_parent(sweep: Sweep, factor: Factor) -> bool:
    return any(factor.name in one.under for one in sweep.factors)


def _why_not(sweep: Sweep, plan: Layout, line: Line) -> str:
    names = [factor.name for factor in sweep.factors]
    assert line.term is not None
    for index in line.term:
        factor = sweep.factors[index]
        for level in line.involved[0][factor.name]:
            if not (plan.codes[:, index] == factor.levels.index(level)).any():
                return f"no finished run with {factor.name}={level}"
    if len(line.term) == 2:
        for one, other in itertools.permutations(sweep.factors[index] for index in line.term):
            if other.name in one.under and not set(line.involved[0][other.name]) <= set(one.under[other.name]):
                return f"{one.name} acts only where {one.where}"
        at = [[sweep.factors[i].levels.index(level) for level in line.involved[0][names[i]]] for i in line.term]
        for pair in itertools.product(*at):
            cell = list(zip(line.term, pair, strict=True))
            if not members(plan.codes, cell).any():
                return "no finished run with " + cell_name(
                    {names[index]: sweep.factors[index].levels[level] for index, level in cell}
                )
    return "it changes only together with " + _companion(sweep, plan, line.term)


def _companion(sweep: Sweep, plan: Layout, term: Term) -> str:
    """Return what the term cannot be told from: another effect whose columns span its own, or the seeds."""
    own = columns(term, plan.codes, plan.sizes)
    for other in [*((i,) for i in range(len(plan.sizes))), *(t for t in plan.between.places if len(t) == 2)]:
        if other == term:
            continue
        theirs = columns(other, plan.codes, plan.sizes)
        theirs = np.column_stack([theirs, np.ones(len(theirs))])
        left = own - theirs @ np.linalg.lstsq(theirs, own, rcond=None)[0]
        if np.abs(left).max() < 1e-8:
            return ":".join(sweep.factors[index].name for index in other)
    return "the seeds or other factors" if plan.blocked else "other factors"
