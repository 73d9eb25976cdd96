"""Why a cell is done, new, stale, failed or gone: ``sagasr-sweep GRID --why CELL``."""

from collections.abc import Iterable, Mapping

from orchestrator.grid.levels import find_level, pairs
from orchestrator.plan.ledger import Entry, Ledger
from orchestrator.plan.plan import Plan, Replicate
from orchestrator.sweep_folder.design import cell_name
from sagasr.io.errors import ConfigError, did_you_mean
from sagasr.io.states import State

GONE = "-"


def explain(plan: Plan, ledger: Ledger, asked: str) -> list[str]:
    """Return a line for each replicate that is asked for: by levels, such as ``text=off seed=0``, or by an id.

    Raises ConfigError when nothing is meant.
    """
    lines = [
        _line(row, ledger.entries[row.id])
        for row in plan.replicates
        if _is_meant(asked, row.levels, row.seed, (row.id, row.trial))
    ]
    lines += [
        f"{GONE} {cell_name(left.levels)} seed={left.seed} (trial {left.trial})  no longer in the grid: kept"
        for left in ledger.left
        if _is_meant(asked, left.levels, left.seed, (left.trial,), whole=False)
    ]
    if not lines:
        raise ConfigError(f"--why {asked or repr(asked)}: {_unmeant(plan, ledger, asked)}")
    return lines


def _unmeant(plan: Plan, ledger: Ledger, asked: str) -> str:
    """Return what is wrong with levels or an id that nothing has."""
    known: dict[str, set[str]] = {}
    for place in (*plan.replicates, *ledger.left):
        for name, level in {**place.levels, "seed": str(place.seed)}.items():
            known.setdefault(name, set()).add(level)
    wanted = _levels(asked)
    for name, level in wanted.items():
        if name not in known:
            return f"unknown factor {name!r}{did_you_mean(name, known)}"
        if find_level(level, known[name]) is None:
            return f"factor {name!r} has no level {level!r}{did_you_mean(level, known[name])}"
    if wanted:
        return "no cell has all these levels; name fewer of them"
    near = did_you_mean(asked, known) if asked.strip() else ""
    return f"no id begins so; name levels, such as {plan.cells[0].name!r}, or 4 characters or more of an id{near}"


def _line(row: Replicate, entry: Entry) -> str:
    reason = f": {entry.reason}" if entry.reason else ""
    word = "new" if entry == Entry(State.MISSING) else entry.state
    where = f"(replicate {row.id}, trial {row.trial})"
    return f"{entry.state.mark} {row.cell} seed={row.seed} {where}  {word}{reason}"


def _is_meant(asked: str, levels: Mapping[str, str], seed: int, ids: Iterable[str], *, whole: bool = True) -> bool:
    """Return whether levels or a beginning of an id are meant; a trial's folder does not know all factors (whole)."""
    wanted, named = _levels(asked), {**levels, "seed": str(seed)}
    if not wanted:
        return len(asked.strip()) >= 4 and any(name.startswith(asked.strip()) for name in ids)
    shared = wanted.keys() & named.keys()
    return (shared == wanted.keys() if whole else bool(shared)) and all(
        find_level(wanted[name], [named[name]]) for name in shared
    )


def _levels(asked: str) -> dict[str, str]:
    return {name: level for name, equals, level in pairs(asked) if equals}
