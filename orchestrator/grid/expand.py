"""A search space as cells: those of its design, each a full configuration, and each once."""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain, product
from math import prod

from orchestrator.grid.equal_cells import LeftOut, Repeats, explained, first_of_equals, idle_levels, missed
from orchestrator.grid.space import Cell, SearchSpace
from orchestrator.sweep_folder.design import Levels, cell_name
from sagasr.config.faults import Faults
from sagasr.config.idle import acting
from sagasr.config.parsing import parse
from sagasr.config.patching import nested
from sagasr.config.settings import Config
from sagasr.config.stages import scored_on
from sagasr.io.errors import ConfigError

MAX_PRODUCT = 1_000_000  # cells looked at before `where` leaves some out
MAX_CELLS = 10_000


def expand(space: SearchSpace) -> tuple[Cell, ...]:
    """Return the cells of a grid, each once: the design's, then the ladder's. Raises ConfigError naming the faulty."""
    return lay_out(space)[0]


def lay_out(space: SearchSpace) -> tuple[tuple[Cell, ...], tuple[LeftOut, ...]]:
    """Return the cells as ``expand``, and what was left out of them because it would be the same as one of them."""
    faults = Faults()
    with faults.collecting(f"{space.source}: "):
        chosen, repeats = _choose(space)
        cells = _configure(space, chosen)
        first = first_of_equals(space, cells)
        for cell in cells:
            for name, level in cell.levels.items():
                if level != first[cell.name].levels[name]:
                    repeats.setdefault(name, []).append(cell.levels)
        wrong = (_questions(space, cells), idle_levels(space, cells, first, repeats), missed(space, cells, repeats))
        Faults(chain(*wrong)).stop()
    faults.stop()
    kept = tuple(cell for cell in cells if first[cell.name] is cell)
    levels = [cell.levels for cell in kept]
    return kept, tuple(explained(space, name, left, levels) for name, left in repeats.items())


def _choose(space: SearchSpace) -> tuple[list[Levels], Repeats]:
    """Return the cells, and by factor those in which it leaves its baseline where it does not exist."""
    faults = Faults(_levels_without_effect(space))
    chosen: dict[str, Levels] = {}
    with faults.collecting():
        chosen |= {cell_name(levels): levels for levels in _design(space)}
    chosen |= {cell_name(step.levels): step.levels for step in space.ladder}
    if not chosen:
        faults.append("where leaves no cell; relax one of its rules")
    outside: Repeats = {}
    for cell, levels in list(chosen.items()):
        for name, factor in space.factors.items():
            if levels[name] != factor.baseline and not space.exists(name, levels):
                outside.setdefault(name, []).append(levels)
                chosen.pop(cell, None)
    if space.promote is not None:  # each cell that decides, as it would be where it is promoted to
        moved = [levels | space.promote.target for levels in chosen.values() if space.promote.decides(levels)]
        chosen |= {cell_name(levels): levels for levels in filter(space.allows, moved)}
    if len(chosen) > MAX_CELLS:
        faults.append(f"{len(chosen)} cells are more than {MAX_CELLS}; use fewer levels, 'where', or another design")
    faults.stop()
    return list(chosen.values()), outside


def _levels_without_effect(space: SearchSpace) -> Iterator[str]:
    """A level that resolves to the configuration of another of its factor would be a question without an answer."""
    for name, factor in space.factors.items():
        seen: dict[Config, str] = {}
        for level in (factor.baseline, *(level for level in factor.levels if level != factor.baseline)):
            try:
                config = parse(Config, space.resolve(_beside(space, name) | {name: level}), "")
            except ConfigError:
                continue  # the cells that have it will say so
            other = seen.setdefault(config, level)
            if other != level:
                role = f"baseline {other!r}" if other == factor.baseline else f"level {other!r}"
                yield f"factors.{name}: level {level!r} changes nothing against {role}; remove it or give it a patch"


def _configure(space: SearchSpace, chosen: Sequence[Levels]) -> list[Cell]:
    """Return the cells with their configurations. Raises ConfigError: a fault of several cells is one line."""
    cells = []
    failed: dict[str, list[Levels]] = {}
    for levels in chosen:
        try:
            cells.append(Cell(levels, parse(Config, space.resolve(levels) | {"seed": space.grid.seeds[0]}, "")))
        except ConfigError as error:
            for line in str(error).splitlines():
                failed.setdefault(line.removeprefix(": "), []).append(levels)
    Faults(f"{_blame(space, chosen, where)}: {fault}" for fault, where in failed.items()).stop()
    return cells


def _blame(space: SearchSpace, cells: Collection[Levels], failed: Sequence[Levels]) -> str:
    """Return what to name for a fault of several cells: the one level they share and others lack, or the cells."""
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    shown = f"cell '{cell_name(failed[0])}'{more}"
    for name, factor in space.factors.items():
        for level in factor.levels:
            if len(factor.levels) > 1 and failed == [levels for levels in cells if levels[name] == level]:
                return f"factors.{name}.levels.{level} ({shown})"
    return shown


def _questions(space: SearchSpace, cells: Sequence[Cell]) -> Iterator[str]:
    """Scores of different things do not compare: what decides the question may not differ between cells."""
    questions = [scored_on(cell.config) for cell in cells]
    for key in dict.fromkeys(key for question in questions for key in question):
        values = list(dict.fromkeys(str(question.get(key)) for question in questions))
        if len(values) > 1:
            names = [name for name, factor in space.factors.items() if any(nested(key, path) for path in factor.paths)]
            yield (
                f"{', '.join(f'factors.{name}' for name in names) or 'factors'}: {key} ({', '.join(values)}) "
                "decides what is scored, so these cells are not comparable; "
                "set it alike for all of them, or make a sweep of each"
            )


def _design(space: SearchSpace) -> Iterator[Levels]:
    """Yield the cells of the design that ``where`` allows; the first factor changes slowest. Raises ConfigError."""
    factors = space.factors
    cells: Iterator[Levels] = iter(())
    match space.grid.design:
        case "full":
            count = prod(len(factor.levels) for factor in factors.values())
            if count > MAX_PRODUCT:
                raise ConfigError(f"the full design has {count} cells; use fewer levels or 'design: one-at-a-time'")
            chosen = product(*(factor.levels for factor in factors.values()))
            cells = (dict(zip(factors, levels, strict=True)) for levels in chosen)
        case "one-at-a-time":
            cells = _one_at_a_time(space)
        case "fractional":
            assert space.fraction is not None
            two = {name: sorted(factor.levels, key=factor.baseline.__ne__) for name, factor in factors.items()}
            rows = space.fraction.cells()
            cells = ({name: two[name][bit] for name, bit in zip(two, bits, strict=True)} for bits in rows)
    return filter(space.allows, cells)


def _beside(space: SearchSpace, name: str) -> Levels:
    """Return the baseline, moved to where a factor exists."""
    levels = space.baseline
    for parent, at in space.factors[name].under.items():
        levels |= {other: level for other, level in _beside(space, parent).items() if level != space.baseline[other]}
        if levels[parent] not in at:
            levels[parent] = next(level for level in space.factors[parent].levels if level in at)
    return levels


def _one_at_a_time(space: SearchSpace) -> Iterator[Levels]:
    """Yield the baseline, and every level of every factor beside the baselines of the others, or where it acts."""
    yield space.baseline
    for name, factor in space.factors.items():
        levels = _where_it_acts(space, name)
        yield levels
        yield from (levels | {name: level} for level in factor.levels)


def _where_it_acts(space: SearchSpace, name: str) -> Levels:
    """Return the baseline with as few other levels as make all levels of a factor differ, if at most one more does."""
    first = _beside(space, name)
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
