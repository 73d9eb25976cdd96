"""Cells whose results are equal, as a factor does nothing in them (``sagasr.config.stages``): one stays."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import NamedTuple

from orchestrator.grid.levels import Condition, holds
from orchestrator.grid.space import Cell, SearchSpace
from orchestrator.sweep_folder.design import Levels, cell_name
from sagasr.config.parsing import parse
from sagasr.config.patching import nested
from sagasr.config.settings import Config
from sagasr.config.stages import IDLE, acting
from sagasr.io.errors import ConfigError

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


def first_of_equals(space: SearchSpace, cells: Sequence[Cell]) -> dict[str, Cell]:
    """Return, by the name of each cell, which of those equal to it stays: that at most baselines."""
    rank = {name: sorted(factor.levels, key=factor.baseline.__ne__) for name, factor in space.factors.items()}

    def departure(cell: Cell) -> tuple[int, list[int]]:
        places = [rank[name].index(level) for name, level in cell.levels.items()]
        return sum(place > 0 for place in places), places

    groups: dict[Config, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(acting(cell.config), []).append(cell)
    return {cell.name: min(group, key=departure) for group in groups.values() for cell in group}


def idle_levels(
    space: SearchSpace, cells: Sequence[Cell], first: Mapping[str, Cell], repeats: Repeats
) -> Iterator[str]:
    """Yield a fault for each level that is in no cell that stays."""
    for name, left in repeats.items():
        for level in dict.fromkeys(levels[name] for levels in left):
            here = [cell for cell in cells if cell.levels[name] == level]
            if not here:
                where = words(space, space.factors[name].under)
                yield f"factors.{name}: no cell of the design is where {name} exists ({where})"
            elif all(first[cell.name].levels[name] != level for cell in here):
                others = sorted({first[cell.name].levels[name] for cell in here})
                yield (
                    f"factors.{name}: level {level!r} gives the same as {' and '.join(map(repr, others))} "
                    f"in every cell{_reason(space, name, here)}; change that, or remove the level"
                )


def _reason(space: SearchSpace, name: str, cells: Sequence[Cell]) -> str:
    """Return why a factor does nothing in any of these cells."""
    touched = [idle for idle in IDLE if _touches(space, name, idle.keys)]
    reasons = dict.fromkeys(idle.when for idle in touched if all(idle.holds(cell.config) for cell in cells))
    return f", while {' and '.join(reasons)}" if reasons else ""


def _touches(space: SearchSpace, name: str, keys: Sequence[str]) -> bool:
    return any(nested(key, path) for key in keys for path in space.factors[name].paths)


def missed(space: SearchSpace, cells: Sequence[Cell], repeats: Repeats) -> Iterator[str]:
    """Yield a fault for what needs all its cells, or names a cell, where one of these is left out."""
    idle = chain(repeats, _idle_somewhere(space, cells)) if space.grid.design == "fractional" else iter(())
    for name in islice(idle, 1):
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
        moved = [cell for cell in cells if cell.levels[name] != factor.baseline]
        if _touches(space, name, keys) and any(_does_nothing(space, name, cell) for cell in moved):
            yield name


def _does_nothing(space: SearchSpace, name: str, cell: Cell) -> bool:
    """Return whether a cell gives the same with a factor at its baseline."""
    tree = space.resolve(cell.levels | {name: space.factors[name].baseline}) | {"seed": cell.config.seed}
    with suppress(ConfigError):
        return acting(parse(Config, tree, "")) == acting(cell.config)
    return False


def explained(space: SearchSpace, name: str, left: Sequence[Levels], kept: Sequence[Levels]) -> LeftOut:
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
        return LeftOut(label, len(left), f"acts only where {words(space, acts)}", acts if whole else {}, once)
    where = f"where {words(space, idle)}" if apart(idle, there) else "beside some of the other levels"
    return LeftOut(label, len(left), f"does nothing {where}", {}, once)


def words(space: SearchSpace, condition: Condition) -> str:
    """Return a condition in words: ``lfr=hard|crossfade size=full``."""
    return cell_name(
        {name: "|".join(level for level in space.factors[name].levels if level in at) for name, at in condition.items()}
    )
