"""Why a cell is done, new, stale, failed or gone: ``sagasr-sweep GRID --why CELL``."""

from orchestrator.grid.levels import find_level, pairs
from orchestrator.plan.ledger import Entry, Ledger, Left
from orchestrator.plan.plan import Plan, Replicate
from orchestrator.sweep_folder.design import cell_name
from sagasr.io.errors import ConfigError, did_you_mean
from sagasr.io.states import State

GONE = "-"


def word_of(entry: Entry) -> str:
    """Return the state as a person says it: what is missing and was never begun is new."""
    return "new" if entry == Entry(State.MISSING) else entry.state


def explain(plan: Plan, ledger: Ledger, asked: str) -> list[str]:
    """Return a line for each replicate that is asked for: by levels, such as ``text=off seed=0``, or by an id.

    Raises ConfigError when nothing is meant.
    """
    lines = [_line(row, ledger.entries[row.id]) for row in plan.replicates if _is_meant(row, asked)]
    lines += [_gone(left) for left in ledger.left if _was_meant(left, asked)]
    if not lines:
        raise ConfigError(f"--why {asked or repr(asked)}: {_unmeant(plan, ledger, asked)}")
    return lines


def _unmeant(plan: Plan, ledger: Ledger, asked: str) -> str:
    """Return what is wrong with levels or an id that nothing has."""
    known: dict[str, set[str]] = {"seed": {str(row.seed) for row in plan.replicates}}
    for levels in (*(cell.levels for cell in plan.cells), *(left.levels for left in ledger.left)):
        for name, level in levels.items():
            known.setdefault(name, set()).add(level)
    known["seed"] |= {str(left.seed) for left in ledger.left}
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
    where = f"(replicate {row.id}, trial {row.trial})"
    return f"{entry.state.mark} {row.cell} seed={row.seed} {where}  {word_of(entry)}{reason}"


def _gone(left: Left) -> str:
    return f"{GONE} {cell_name(left.levels)} seed={left.seed} (trial {left.trial})  no longer in the grid: kept"


def _is_meant(row: Replicate, asked: str) -> bool:
    wanted = _levels(asked)
    if not wanted:
        return _starts(asked, row.id, row.trial)
    levels = {**row.levels, "seed": str(row.seed)}
    return wanted.keys() <= levels.keys() and all(find_level(wanted[name], [levels[name]]) for name in wanted)


def _was_meant(left: Left, asked: str) -> bool:
    wanted = _levels(asked)
    if not wanted:
        return _starts(asked, left.trial)
    levels = {**left.levels, "seed": str(left.seed)}
    return any(name in levels for name in wanted) and all(
        find_level(level, [levels.get(name, level)]) for name, level in wanted.items()
    )


def _levels(asked: str) -> dict[str, str]:
    return {name: level for name, equals, level in pairs(asked) if equals}


def _starts(asked: str, *ids: str) -> bool:
    return len(asked.strip()) >= 4 and any(one.startswith(asked.strip()) for one in ids)
