"""Rows of results/*.parquet made comparable: levels as words, one row per replicate, clips tied to theirs."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.metrics import Metric
from orchestrator.formats import count as count_of
from orchestrator.sweep_folder.columns import NO_METRIC, steps_column
from orchestrator.sweep_folder.design import Factor, cell_name, levels_of, word_of
from orchestrator.sweep_folder.plan_file import PlanRead, levels_of_cell
from sagasr.io.errors import DataError
from sagasr.io.states import State
from sagasr.metrics.table import find_metric

ENDS = {
    **{state.value: state for state in (State.DONE, State.FAILED, State.STOPPED, State.NOT_NEEDED, State.HELD)},
    # the words of others; "terminated" is Ray Tune's
    **dict.fromkeys(("finished", "completed", "complete", "ok", "success", "terminated"), State.DONE),
    **dict.fromkeys(("fail", "error", "diverged", "crashed", "killed", "nan"), State.FAILED),
    **dict.fromkeys(("pruned", "truncated", "early_stopped"), State.STOPPED),
}
NO_VALUE = "no value"  # what is said of a finished run without one


@dataclass(frozen=True)
class Lost:
    """A replicate that has no final value: ``kind`` is failed, stopped, no value (finished without one) or missing."""

    cell: str
    levels: Mapping[str, str]
    seed: str
    kind: str
    reason: str


def has_levels(table: pd.DataFrame, levels: Mapping[str, str]) -> NDArray[np.bool_]:
    """Return which rows of a table ``with_levels`` have these."""
    mask = np.ones(len(table), dtype=bool)
    for name, level in levels.items():
        mask &= (table["@" + name] == level).to_numpy(dtype=bool)
    return mask


def with_levels(
    table: pd.DataFrame, plan: PlanRead, factors: tuple[Factor, ...], path: Path, notes: list[str]
) -> pd.DataFrame:
    """Return the table with a word column ``@factor`` for each factor and a seed word, without rows of other plans.

    What the reader must know of the rows is added to ``notes``, as by the functions below.
    """
    table = table.copy()
    if "seed" not in table:
        raise DataError(f"{path}: no column 'seed'; every replicate is a cell with a seed")
    table["seed"] = [word_of(seed) for seed in table["seed"]]
    planned = {str(cell.cell): cell.levels for cell in plan.cells if cell.cell is not None}
    by_cell = planned if "cell" in table and set(map(str, table["cell"])) <= set(planned) else {}
    for factor in factors:
        if by_cell:  # a factor may share its name with a results column (`steps`); the cell is never ambiguous
            values = [by_cell[str(cell)].get(factor.name, factor.baseline) for cell in table["cell"]]
        elif factor.name in table:
            values = list(table[factor.name])
        else:
            raise DataError(f"{path}: no column {factor.name!r} for the factor of that name in plan.json")
        table["@" + factor.name] = levels_of(values, factor.levels)
    kept = np.logical_and.reduce([table["@" + factor.name].isin(factor.levels) for factor in factors])
    if left := int((~kept).sum()):
        cells = f"{count_of(left, 'replicate')} of cells that the plan does not have"
        notes.append(f"{cells} {'is' if left == 1 else 'are'} left out")
    return table[kept].reset_index(drop=True)


def numbers(table: pd.DataFrame, name: str) -> "pd.Series[float]":
    """Return a column of numbers; NaN where it says none, or is not there."""
    return pd.to_numeric(table.get(name, pd.Series(np.nan, index=table.index)), errors="coerce")


def training_steps(table: pd.DataFrame, factors: Iterable[str]) -> "pd.Series[float]":
    """Return the steps that each training was to take; NaN where the table does not say."""
    return numbers(table, steps_column(factors))


def status_words(table: pd.DataFrame, factors: Iterable[str]) -> list[State]:
    """Return done, failed, stopped, not needed or held for every row; missing for any other word.

    One stopped before its budget is stopped, whatever it says.
    """
    words = table["status"].astype(str).str.lower() if "status" in table else pd.Series("done", index=table.index)
    stopped_at = numbers(table, "stopped_at_step")
    cut = stopped_at.notna() & ~(stopped_at >= training_steps(table, factors))
    states = [ENDS.get(word, State.MISSING) for word in words]
    return [
        State.STOPPED if is_cut and state is State.DONE else state for state, is_cut in zip(states, cut, strict=True)
    ]


def one_row_each(table: pd.DataFrame, factors: tuple[Factor, ...], notes: list[str]) -> pd.DataFrame:
    """Return the table where a replicate that was retried, or is written twice, counts once.

    A row is a copy when it names its run and equals another in that and in every number. Finished rows of one cell and
    seed that differ are runs of their own.
    """
    keys = ["seed", *("@" + factor.name for factor in factors)]
    names = [name for name in ("replicate", "trial", "mlflow_run_id") if name in table]
    copies = table.duplicated([*keys, "status", *names, *table.select_dtypes("number")]) & bool(names)
    table = table[~copies]
    if count := int(copies.sum()):
        rows = f"{count_of(count, 'row')} of replicates.parquet"
        notes.append(f"{rows} {'is' if count == 1 else 'are'} written twice and count once")
    done = table["status"] == State.DONE
    finished = pd.MultiIndex.from_frame(table.loc[done, keys])
    again = ~done & pd.MultiIndex.from_frame(table[keys]).isin(finished)
    twice = ~done & table.duplicated(keys, keep="last")
    if count := int(table[done].duplicated(keys).sum()):
        notes.append(f"{count_of(count, 'finished row')} more for a cell and seed that have one: each counts as a run")
    return table[~again & ~twice].reset_index(drop=True)


def devices_of(table: pd.DataFrame) -> dict[str, int]:
    """Return how many trainings ran on which device, the most first; replicates of one training count once."""
    if "device" not in table:
        return {}
    trained = table.drop_duplicates("trial") if "trial" in table else table
    return {str(name): int(count) for name, count in trained["device"].dropna().value_counts().items()}


def unlike_devices(table: pd.DataFrame) -> list[str]:
    """Return a note if the trainings that are compared ran on unlike devices, which may compute other numbers."""
    devices = devices_of(table)
    if len(devices) < 2:
        return []
    listed = ", ".join(f"{count} on {name}" for name, count in devices.items())
    return [f"trainings ran on unlike devices ({listed}): what they differ by is not told apart from the seeds"]


def lost_replicates(table: pd.DataFrame, plan: PlanRead, factors: tuple[Factor, ...], metric: str) -> tuple[Lost, ...]:
    """Return every replicate without a final value, by name where the plan lets one name it."""
    rows = _outcomes(table, factors)
    lost = [row for row in rows if not (row.kind is State.DONE or State(row.kind).unneeded)]
    empty = (table["status"] == State.DONE) & ~np.isfinite(table[metric].to_numpy(dtype=float, na_value=np.nan))
    why = f"{metric} is empty or not finite"
    lost += [replace(row, kind=NO_VALUE, reason=why) for row, is_empty in zip(rows, empty, strict=True) if is_empty]
    seen = {(tuple(row.levels.values()), row.seed) for row in rows}
    blocks = (plan.early_stopping or {}).get("policy") == "blocks"
    started = set(table["seed"])
    for name, levels, seed in _planned(plan, factors):
        unlaunched = blocks and seed not in started  # `blocks` stops launching seeds once the answer is in
        if (tuple(levels.values()), seed) not in seen and not unlaunched:
            lost.append(Lost(name, levels, seed, State.MISSING, "no result yet"))
    return tuple(lost)


def unneeded_replicates(table: pd.DataFrame, factors: tuple[Factor, ...]) -> tuple[Lost, ...]:
    """Return every replicate that was not run because the answer was in, or that waits for one."""
    return tuple(_outcomes(table[table["status"].isin((State.NOT_NEEDED, State.HELD))], factors))


def _outcomes(table: pd.DataFrame, factors: tuple[Factor, ...]) -> list[Lost]:
    """Return every row by name, with how it ended."""
    outcomes = []
    for row in table.to_dict("records"):
        levels = {factor.name: str(row["@" + factor.name]) for factor in factors}
        cell, reason = (None if pd.isna(row.get(key)) else str(row[key]) for key in ("cell", "reason"))
        end = State(str(row["status"]))
        outcomes.append(Lost(cell or cell_name(levels), levels, str(row["seed"]), end, reason or ""))
    return outcomes


def _planned(plan: PlanRead, factors: tuple[Factor, ...]) -> list[tuple[str, dict[str, str], str]]:
    """Return (cell, levels, seed) of every planned replicate that can be named; [] when only the number is known."""
    all_seeds = [word_of(seed) for seed in plan.seeds or ()]
    planned = []
    for cell in plan.cells:
        levels = levels_of_cell(cell.levels, factors)
        seeds = [word_of(replicate.seed) for replicate in cell.replicates or ()] or all_seeds
        planned += [(str(cell.cell or cell_name(levels)), levels, seed) for seed in seeds]
    if not planned:
        for combination in itertools.product(*(factor.levels for factor in factors)):
            levels = {factor.name: level for factor, level in zip(factors, combination, strict=True)}
            planned += [(cell_name(levels), levels, seed) for seed in all_seeds]
        planned = planned if len(planned) == plan.expected_replicates else []
    return planned


def lacks_combinations(plan: PlanRead, table: pd.DataFrame, factors: tuple[Factor, ...]) -> bool:
    """Return whether two levels of two factors stand together in no cell of the design, though each is somewhere."""
    planned = [[levels[factor.name] for factor in factors] for _, levels, _ in _planned(plan, factors)]
    cells = planned or table[["@" + factor.name for factor in factors]].to_numpy().tolist()
    for first, second in itertools.combinations(range(len(factors)), 2):
        pairs = {(cell[first], cell[second]) for cell in cells}
        if len(pairs) < len({low for low, _ in pairs}) * len({high for _, high in pairs}):
            return True
    return False


def metric_columns(
    plan: PlanRead, table: pd.DataFrame, clips: pd.DataFrame | None, factors: tuple[Factor, ...]
) -> list[str]:
    """Return the metric columns of the results: known by name, or numbers that both tables hold."""
    known = plan.metric_columns() | (set(clips.select_dtypes("number")) if clips is not None else set())
    taken = NO_METRIC | {factor.name for factor in factors}
    return [
        name
        for name in map(str, table.select_dtypes("number"))
        if not name.startswith("@") and name not in taken and (name in known or find_metric(name))
    ]


def linked_clips(
    clips: pd.DataFrame | None, runs: pd.DataFrame, factors: tuple[Factor, ...], metrics: tuple[Metric, ...]
) -> pd.DataFrame | None:
    """Return the clip rows of finished replicates with their ``row`` in ``runs``; None if they cannot be tied."""
    if clips is None or clips.empty or "clip" not in clips or runs.empty:
        return None
    named = {"@" + each.name: levels_of(clips[each.name], each.levels) for each in factors if each.name in clips}
    clips = clips.assign(**named)
    for keys in (
        ["replicate"],
        ["cell", "seed"],
        ["trial", "variant"],
        [*("@" + each.name for each in factors), "seed"],
    ):
        if set(keys) <= set(clips) and set(keys) <= set(runs) and not runs.duplicated(keys).any():
            break
    else:
        return None
    index = pd.MultiIndex.from_frame(runs[keys].astype(object).map(word_of))
    row = index.get_indexer(pd.MultiIndex.from_frame(clips[keys].astype(object).map(word_of)))
    columns = ["clip", *(["domain"] if "domain" in clips else []), *(m.name for m in metrics if m.name in clips)]
    linked = clips[columns].assign(row=row)[row >= 0]
    return linked.reset_index(drop=True) if len(linked) else None


def linked_distances(
    table: pd.DataFrame | None, runs: pd.DataFrame, notes: list[str]
) -> tuple[pd.DataFrame | None, set[str]]:
    """Return distances between distributions of the finished runs: columns row, metric, domain, value.

    Also the metrics that are left out for all clips. A distance grows with fewer windows, so where runs were not
    measured on equally many, it is no comparison.
    """
    wanted = {"replicate", "metric", "domain", "value", "n"}
    if table is None or not wanted <= set(table) or "replicate" not in runs:
        return None, set()
    table = table[table["subject"] == "model"] if "subject" in table else table
    names = pd.Index(runs["replicate"].astype(str))
    if not names.is_unique:
        notes.append(f"distances.parquet is not used: several rows have the replicate {names[names.duplicated()][0]}")
        return None, set()
    row = names.get_indexer(pd.Index(table["replicate"].astype(str)))
    table = table.assign(row=row)[row >= 0]
    table = table[table["value"].notna()]
    counts = table.groupby(["metric", "domain"], sort=False)["n"].agg(["min", "max"])
    unequal = counts[counts["min"] < counts["max"]]
    notes += [
        f"{metric}{'' if domain == 'all' else f' on {domain}'} is left out: it was measured on {low} to {high} windows"
        for metric, domain, low, high in unequal.reset_index().to_numpy().tolist()
    ]
    table = table[~pd.MultiIndex.from_frame(table[["metric", "domain"]]).isin(unequal.index)]
    table = table[["row", "metric", "domain", "value"]].reset_index(drop=True)
    return table if len(table) else None, {metric for metric, domain in unequal.index if domain == "all"}
