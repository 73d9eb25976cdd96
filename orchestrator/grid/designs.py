"""Which cells a design has, as levels: full, one factor at a time, a fraction, and what promotion adds."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from orchestrator.grid.space import SearchSpace
from orchestrator.sweep_folder.design import Levels
from sagasr.config.parsing import parse
from sagasr.config.settings import Config
from sagasr.config.stages import acting
from sagasr.io.errors import ConfigError

MAX_PRODUCT = 1_000_000  # cells looked at before `where` leaves some out


def design(space: SearchSpace) -> Iterator[Levels]:
    """Yield the cells of the design that ``where`` allows; the first factor changes slowest. Raises ConfigError."""
    cells: Iterator[Levels] = iter(())
    match space.grid.design:
        case "full":
            count = prod(len(factor.levels) for factor in space.factors.values())
            if count > MAX_PRODUCT:
                raise ConfigError(f"the full design has {count} cells; use fewer levels or 'design: one-at-a-time'")
            each = product(*(factor.levels for factor in space.factors.values()))
            cells = (dict(zip(space.factors, levels, strict=True)) for levels in each)
        case "one-at-a-time":
            cells = _one_at_a_time(space)
        case "fractional":
            cells = _fraction(space)
    return filter(space.allows, cells)


def promotable(space: SearchSpace, cells: Sequence[Levels]) -> Iterator[Levels]:
    """Yield each cell that decides a promotion as it would be where it is promoted to, if ``where`` allows that."""
    if space.promote is not None:
        for levels in filter(space.promote.decides, cells):
            moved = {**levels, **space.promote.target}
            if space.allows(moved):
                yield moved


def beside(space: SearchSpace, name: str) -> Levels:
    """Return the baseline, moved to where a factor exists."""
    levels = space.baseline
    for parent, at in space.factors[name].under.items():
        levels |= {other: level for other, level in beside(space, parent).items() if level != space.baseline[other]}
        if levels[parent] not in at:
            levels[parent] = next(level for level in space.factors[parent].levels if level in at)
    return levels


def _fraction(space: SearchSpace) -> Iterator[Levels]:
    assert space.fraction is not None
    two = [sorted(factor.levels, key=factor.baseline.__ne__) for factor in space.factors.values()]
    for bits in space.fraction.cells():
        yield {name: levels[bit] for name, levels, bit in zip(space.factors, two, bits, strict=True)}


def _one_at_a_time(space: SearchSpace) -> Iterator[Levels]:
    """Yield the baseline, and every level of every factor beside the baselines of the others, or where it acts."""
    yield space.baseline
    for name, factor in space.factors.items():
        levels = _where_it_acts(space, name)
        yield levels
        yield from (levels | {name: level} for level in factor.levels)


def _where_it_acts(space: SearchSpace, name: str) -> Levels:
    """Return the baseline with as few other levels as make all levels of a factor differ, if at most one more does."""
    first = beside(space, name)
    moves = [{other: level} for other in space.factors if other != name for level in space.factors[other].levels]
    for levels in (first, *(first | move for move in moves)):
        if not space.exists(name, levels) or not space.allows(levels):
            continue
        cells = [levels | {name: level} for level in space.factors[name].levels]
        try:
            distinct = {acting(parse(Config, space.resolve(cell), "")) for cell in cells}
        except ConfigError:
            continue  # the cells that have it will say so
        if len(distinct) == len(cells):
            return levels
    return first
