"""A search space as cells: those of its design, each a full configuration, and each once.

Of cells whose results are equal, as a factor does nothing in them (``sagasr.config.stages``), one stays.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, product
from math import prod
from typing import NamedTuple

from orchestrator.grid.factors import Condition, holds
from orchestrator.grid.space import Cell, SearchSpace
from orchestrator.sweep_folder.design import Levels, cell_name
from sagasr.config.faults import Faults
from sagasr.config.parsing import parse
from sagasr.config.patching import nested
from sagasr.config.settings import Config
from sagasr.config.stages import IDLE, acting, scored_on
from sagasr.io.errors import ConfigError

MAX_PRODUCT = 1_000_000  # cells looked at before `where` leaves some out
MAX_CELLS = 10_000

Repeats = dict[str, list[Levels]]  # for each factor, the cells left out because it does nothing in them


class LeftOut(NamedTuple):
    """How many cells of a design a factor leaves out, and why: beside their other levels it does nothing.

    ``under``: the levels beside which it acts, where that is all there is to say. ``once``: what of the
    equal ones is done once; nothing where they are left out by declaration alone.
    """

    factor: str
    cells: int
    where: str
    under: Condition
    once: str

    def __str__(self) -> str:
        done = f", {self.once} once" if self.once else ""
        return f"{self.factor} {self.where}: {self.cells} cell{'s' * (self.cells > 1)} left out{done}"


class Design(NamedTuple):
    """The cells of a grid, and which others would be the same as one of them."""

    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]


def expand(space: SearchSpace) -> tuple[Cell, ...]:
    """Return the cells of a grid, each once: the design's, then the ladder's. Raises ConfigError naming the faulty."""
    return lay_out(space).cells


def lay_out(space: SearchSpace) -> Design:
    """Return the cells as ``expand``, and what was left out of them because it would be the same as one of them."""
    faults = Faults()
    with faults.collecting(f"{space.source}: "):
        chosen, repeats = _choose(space)
        cells = _configure(space, chosen)
        first = _first_of_equals(space, cells)
        for cell in cells:
            for name, level in cell.levels.items():
                if level != first[cell.name].levels[name]:
                    repeats.setdefault(name, []).append(cell.levels)
        wrong = (_questions(space, cells), _idle_levels(space, cells, first, repeats), _missed(space, cells, repeats))
        Faults(chain(*wrong)).stop()
    faults.stop()
    staying = tuple(cell for cell in cells if first[cell.name] is cell)
    levels = [cell.levels for cell in staying]
    return Design(staying, tuple(_explained(space, name, left, levels) for name, left in repeats.items()))


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


def _first_of_equals(space: SearchSpace, cells: Sequence[Cell]) -> dict[str, Cell]:
    """Return, by the name of each cell, which of those equal to it stays: that at most baselines."""
    rank = {name: sorted(factor.levels, key=factor.baseline.__ne__) for name, factor in space.factors.items()}

    def departure(cell: Cell) -> tuple[int, list[int]]:
        places = [rank[name].index(level) for name, level in cell.levels.items()]
        return sum(place > 0 for place in places), places

    groups: dict[Config, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(acting(cell.config), []).append(cell)
    return {cell.name: min(group, key=departure) for group in groups.values() for cell in group}


def _idle_levels(
    space: SearchSpace, cells: Sequence[Cell], first: Mapping[str, Cell], repeats: Repeats
) -> Iterator[str]:
    """Yield a fault for each level that is in no cell that stays."""
    for name, left in repeats.items():
        for level in dict.fromkeys(levels[name] for levels in left):
            here = [cell for cell in cells if cell.levels[name] == level]
            if not here:
                where = _words(space, space.factors[name].under)
                yield f"factors.{name}: no cell of the design is where {name} exists ({where})"
            elif all(first[cell.name].levels[name] != level for cell in here):
                others = sorted({first[cell.name].levels[name] for cell in here})
                yield (
                    f"factors.{name}: level {level!r} gives the same as {' and '.join(map(repr, others))} "
                    f"in every cell{_reason(space, name, here)}; change that, or remove the level"
                )


def _reason(space: SearchSpace, name: str, cells: Sequence[Cell]) -> str:
    """Return why a factor does nothing in any of these cells."""
    idle = [idle.when for idle in IDLE if _touches(space, name, idle.keys) and all(idle.holds(c.config) for c in cells)]
    return f", while {' and '.join(dict.fromkeys(idle))}" if idle else ""


def _touches(space: SearchSpace, name: str, keys: Sequence[str]) -> bool:
    return any(nested(key, path) for key in keys for path in space.factors[name].paths)


def _missed(space: SearchSpace, cells: Sequence[Cell], repeats: Repeats) -> Iterator[str]:
    """Yield a fault for what needs all its cells, or names a cell, where one of these is left out."""
    idle = [*repeats, *_idle_somewhere(space, cells)] if space.grid.design == "fractional" else []
    for name in idle[:1]:
        yield (
            f"factors.{name} does nothing in some cells, and a fraction needs them all: "
            "use 'design: full', or ask about it in a sweep of its own"
        )
    for step in space.ladder:
        moved = [f"{name}={step.levels[name]}" for name, left in repeats.items() if step.levels in left]
        if moved:
            yield f"ladder step {step.step}: {', '.join(moved)} does nothing beside its other levels; leave it out"


def _idle_somewhere(space: SearchSpace, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the factors that do nothing in one of these cells, whose equal need not be among them."""
    keys = [key for idle in IDLE for key in idle.keys]
    for name, factor in space.factors.items():
        moved = (cell for cell in cells if cell.levels[name] != factor.baseline)
        if _touches(space, name, keys) and any(_does_nothing(space, name, cell) for cell in moved):
            yield name


def _does_nothing(space: SearchSpace, name: str, cell: Cell) -> bool:
    """Return whether a cell gives the same with a factor at its baseline."""
    tree = space.resolve(cell.levels | {name: space.factors[name].baseline}) | {"seed": cell.config.seed}
    with suppress(ConfigError):
        return acting(parse(Config, tree, "")) == acting(cell.config)
    return False


def _explained(space: SearchSpace, name: str, left: Sequence[Levels], kept: Sequence[Levels]) -> LeftOut:
    """Return where a factor acts, or where it does nothing, as briefly as that can be said."""
    factor = space.factors[name]
    lost = {levels[name] for levels in left}
    there = [levels for levels in kept if levels[name] in lost]

    def spans(cells: Sequence[Levels]) -> dict[str, frozenset[str]]:
        """Return the levels of each other factor that does not stand at all of them in these cells."""
        seen = {other: frozenset(levels[other] for levels in cells) for other in space.factors if other != name}
        return {other: at for other, at in seen.items() if at < {levels[other] for levels in (*left, *kept)}}

    def apart(limits: Condition, cells: Sequence[Levels]) -> bool:
        return bool(limits) and not any(holds(limits, levels) for levels in cells)

    acts, idle = spans(there), spans(left)
    acts = next(({other: at} for other, at in acts.items() if apart({other: at}, left)), acts)
    once = {"train": "trained", "eval": "scored"}[factor.stage]
    once = once if any(space.exists(name, levels) for levels in left) else ""
    whole = lost == factor.levels.keys() - {factor.baseline}
    label = name if whole else f"{name}={'|'.join(level for level in factor.levels if level in lost)}"
    if apart(acts, left):
        return LeftOut(label, len(left), f"acts only where {_words(space, acts)}", acts if whole else {}, once)
    where = f"where {_words(space, idle)}" if apart(idle, there) else "beside some of the other levels"
    return LeftOut(label, len(left), f"does nothing {where}", {}, once)


def _words(space: SearchSpace, condition: Condition) -> str:
    """Return a condition in words: ``lfr=hard|crossfade size=full``."""
    levels = {name: space.factors[name].levels for name in condition}
    return cell_name({name: "|".join(level for level in levels[name] if level in at) for name, at in condition.items()})
