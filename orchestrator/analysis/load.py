"""A sweep folder as the analysis sees it: plan.json and results/*.parquet, checked, with every level a word.

Only replicates that ran to their full budget carry values on; failed, stopped and missing ones keep their names.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.analysis.derived_metrics import Curves, middle_halves, shared_curves, speed
from orchestrator.analysis.metrics import Metric, knows_direction, metrics_of
from orchestrator.analysis.tables import (
    Factor,
    Lost,
    lacks_combinations,
    level_of,
    linked_clips,
    linked_distances,
    lost_replicates,
    metric_columns,
    one_row_each,
    status_words,
    unlike_devices,
    unneeded_replicates,
    with_levels,
    word_of,
)
from orchestrator.sweep_folder.looks_file import Looks, read_looks
from orchestrator.sweep_folder.plan_file import check_form
from sagasr.config.parsing import parse
from sagasr.config.settings import Config
from sagasr.config.stages import scored_on
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import read_json
from sagasr.io.fingerprint import fingerprint, short
from sagasr.model.words import said_of_known

QUESTION = "@scored on"  # column of runs: in words, what was scored, where that is not the same for all of them


@dataclass(frozen=True)
class Step:
    """One rung of the ladder: a level for every factor, and the step it is compared with (None for the first)."""

    step: str
    levels: Mapping[str, str]
    versus: str | None


@dataclass(frozen=True)
class Promote:
    """The part that decides (``source``: levels) and the costly part that runs for what mattered there (``target``)."""

    source: Mapping[str, str]
    target: Mapping[str, str]


@dataclass(frozen=True)
class Sweep:
    """Everything the analysis needs. ``runs`` holds finished replicates only, one row each, factor columns as words."""

    name: str
    question: str
    factors: tuple[Factor, ...]
    metrics: tuple[Metric, ...]  # the first is the metric of the verdicts
    ladder: tuple[Step, ...]
    seeds: tuple[str, ...]
    early_stopping: Mapping[str, Any]
    plan_hash: str
    expected: int
    runs: pd.DataFrame
    lost: tuple[Lost, ...]
    clips: pd.DataFrame | None = None  # column `row` points into `runs`
    references: pd.DataFrame | None = None
    notes: tuple[str, ...] = field(default=())
    unneeded: tuple[Lost, ...] = ()  # not run, because the looks had decided before
    looks: Looks = field(default=Looks())
    promote: Promote | None = None
    distances: pd.DataFrame | None = None  # of distributions, by domain; column `row` points into `runs`
    curves: Curves | None = None  # the metric of the verdicts on validation, a row per run
    known_words: Mapping[str, float] = field(default_factory=dict)  # by level of ``text``, where few are known
    by_pairs: bool = False  # the design lacks combinations of levels: only cells that differ in one factor compare

    @property
    def metric(self) -> Metric:
        return self.metrics[0]

    @property
    def valued(self) -> pd.DataFrame:
        """The finished replicates that have a value of the metric of the verdicts."""
        values = self.runs[self.metric.name].to_numpy(dtype=float, na_value=np.nan)
        return pd.DataFrame(self.runs[np.isfinite(values)])

    @property
    def nested(self) -> bool:
        """Whether some factor acts only beside some levels of others."""
        return any(one.under for one in self.factors)


def read_sweep(folder: Path) -> Sweep:
    """Return the sweep in ``folder``. Raises DataError naming the file and what it lacks."""
    plan = _plan(folder / "plan.json")
    path = folder / "results" / "replicates.parquet"
    table = _parquet(path)
    if table is None:
        raise DataError(f"{path}: no such file; run the sweep first, or name the sweep's own folder")
    factors = _factors(plan, folder / "plan.json")
    check_form(plan, folder / "plan.json")
    steps = _ladder(plan, factors)
    table, stale = with_levels(table, plan, factors, path)
    scored = _parquet(folder / "results" / "clips.parquet")
    columns = metric_columns(plan, table, scored, factors)
    undirected = [name for name in columns if not knows_direction(plan, name)]
    metrics = metrics_of(plan, [name for name in columns if name not in undirected])
    if metrics[0].name not in table:
        raise DataError(f"{path}: no column {metrics[0].name!r}, the metric that plan.json names")
    if not knows_direction(plan, metrics[0].name):
        raise DataError(
            f"{folder / 'plan.json'}: metric {metrics[0].name!r} does not say which way is good; "
            "add 'better': 'higher' or 'lower' to it"
        )
    try:
        table[metrics[0].name] = pd.to_numeric(table[metrics[0].name])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: column {metrics[0].name!r} holds something other than numbers ({error})") from error
    table["status"] = status_words(table, [factor.name for factor in factors])
    table, twice = one_row_each(table, factors)
    if (questions := _questions(plan)) and "trial" in table:
        table[QUESTION] = table["trial"].astype(str).map(questions).fillna("")
    runs = table[table["status"] == "done"].reset_index(drop=True)
    lost = lost_replicates(table, plan, factors, metrics[0].name)
    expected = int(plan.get("expected_replicates") or len(table) + sum(one.kind == "missing" for one in lost))
    distances, unfair, dropped = linked_distances(_parquet(folder / "results" / "distances.parquet"), runs)
    metrics = tuple(one for one in metrics if one.name not in dropped)
    clips = linked_clips(scored, runs, factors, metrics)
    untied: tuple[str, ...] = ()
    if clips is None and scored is not None and len(scored) and len(runs):
        untied = ("clips.parquet is not used: no columns tie its rows to the finished replicates",)
    curves = shared_curves(_curves(folder, metrics[0].name), runs, metrics[0].name)
    runs, metrics = _with_derived(runs, metrics, factors, clips, curves)
    runs = runs.replace([np.inf, -np.inf], np.nan)  # else such a value makes its cell the best, and its means nothing
    known_words = plan.get("known_words") or {}
    plan_hash = str(plan.get("plan_hash") or short(fingerprint(plan)))
    looks = read_looks(folder)
    account = looks.of(plan_hash)
    return Sweep(
        name=str(plan.get("name") or folder.name),
        question=str(plan.get("question") or ""),
        factors=factors,
        metrics=metrics,
        ladder=steps,
        seeds=tuple(map(word_of, plan.get("seeds") or sorted(table["seed"].unique()))),
        early_stopping=plan.get("early_stopping") or {},
        plan_hash=plan_hash,
        expected=expected,
        runs=runs,
        lost=lost,
        clips=clips,
        references=_parquet(folder / "results" / "references.parquet"),
        notes=(
            *(f"{one.name} acts only where {one.where}, and is compared there" for one in factors if one.under),
            *stale,
            *twice,
            *unlike_devices(runs),
            *unfair,
            *untied,
            *(f"{name} is not judged: 'metrics' of plan.json does not say which way is good" for name in undirected),
            *(account.notes() if account else ()),
            *(said_of_known(source, share) for source, share in known_words.items()),
        ),
        unneeded=unneeded_replicates(table, factors),
        looks=looks,
        promote=_promote(plan, factors, folder / "plan.json"),
        distances=distances,
        curves=curves,
        known_words=known_words,
        by_pairs=lacks_combinations(plan, table, factors),
    )


def _curves(folder: Path, metric: str) -> pd.DataFrame | None:
    """Return the validation curves of one metric."""
    path = folder / "results" / "curves.parquet"
    return _parquet(path, [("metric", "=", f"val/{metric}")]) if path.exists() else None


def _with_derived(
    runs: pd.DataFrame,
    metrics: tuple[Metric, ...],
    factors: tuple[Factor, ...],
    clips: pd.DataFrame | None,
    curves: Curves | None,
) -> tuple[pd.DataFrame, tuple[Metric, ...]]:
    """Return runs and metrics with what derived.py makes of them."""
    made: dict[Metric, NDArray[np.float64]] = {}
    if curves is not None:
        baseline = np.ones(len(runs), dtype=bool)
        for factor in factors:
            baseline &= runs["@" + factor.name].to_numpy() == factor.baseline
        made |= speed(curves, baseline, metrics[0])
    if clips is not None:
        made |= middle_halves(clips, len(runs), {one.name: one for one in metrics})
    made = {metric: values for metric, values in made.items() if metric.name not in runs}
    return runs.assign(**{metric.name: values for metric, values in made.items()}), (*metrics, *made)


def restricted(sweep: Sweep, kept: NDArray[np.bool_], wanted: Callable[[Lost], bool]) -> Sweep:
    """Return the sweep with the finished replicates marked in ``kept`` and the others that are ``wanted``."""
    return replace(
        sweep,
        runs=sweep.runs[kept].reset_index(drop=True),
        clips=_rows_of(sweep.clips, kept),
        distances=_rows_of(sweep.distances, kept),
        curves=replace(sweep.curves, values=sweep.curves.values[kept]) if sweep.curves is not None else None,
        lost=tuple(one for one in sweep.lost if wanted(one)),
        unneeded=tuple(one for one in sweep.unneeded if wanted(one)),
    )


def _rows_of(table: pd.DataFrame | None, kept: NDArray[np.bool_]) -> pd.DataFrame | None:
    """Return the rows of a table whose ``row`` points to a run that is ``kept``, pointing to its new place."""
    if table is None:
        return None
    row = table["row"].to_numpy()
    inside = kept[row]
    return pd.DataFrame(table[inside]).assign(row=(np.cumsum(kept) - 1)[row[inside]]).reset_index(drop=True)


def decisive(sweep: Sweep) -> Sweep:
    """Return the part of a sweep that its main effects rest on: all of it, or with ``promote`` the part at ``from``.

    The promoted runs were chosen by what that part said; pooled with it they would make its effects look larger.
    """
    if sweep.promote is None:
        return sweep
    source = sweep.promote.source
    kept = np.ones(len(sweep.runs), dtype=bool)
    for name, level in source.items():
        kept &= sweep.runs["@" + name].to_numpy() == level
    part = restricted(sweep, kept, lambda one: all(one.levels.get(name) == level for name, level in source.items()))
    return replace(part, factors=tuple(one for one in sweep.factors if one.name not in source), promote=None)


def _plan(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path}: no such file; a sweep folder holds plan.json and results/")
    plan = read_json(path)
    for key in ("metric", "factors"):
        if not isinstance(plan, dict) or not plan.get(key):
            raise DataError(f"{path}: key {key!r} is missing; write the plan again with sagasr-sweep")
    return dict(plan)


def _parquet(path: Path, filters: list[tuple[str, str, str]] | None = None) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pd.DataFrame(pq.read_table(path, filters=filters).to_pandas())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from error


def _factors(plan: Mapping[str, Any], path: Path) -> tuple[Factor, ...]:
    factors = []
    if not isinstance(plan["factors"], Mapping):
        raise DataError(f"{path}: factors: expected a mapping from names to levels, found {plan['factors']!r:.80}")
    for name, spec in plan["factors"].items():
        if name in ("seed", "status"):
            raise DataError(f"{path}: factor {name!r}: a column of the results has that name; rename the factor")
        if not isinstance(spec, Mapping) or not isinstance(spec.get("levels"), list) or not spec["levels"]:
            raise DataError(f"{path}: factor {name!r}: expected a baseline, levels and a stage, found {spec!r}")
        levels = [word_of(level) for level in spec["levels"]]
        baseline = word_of(spec.get("baseline", levels[0] if levels else ""))
        if baseline not in levels:
            raise DataError(f"{path}: factor {name!r}: baseline {baseline!r} is none of its levels {levels}")
        ordered = (baseline, *(level for level in levels if level != baseline))
        under = {str(other): tuple(map(word_of, at)) for other, at in (spec.get("under") or {}).items()}
        factors.append(Factor(str(name), ordered, str(spec.get("stage") or "train"), under))
    return tuple(factors)


def _questions(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return, by trial, what of its configuration decides what was scored; nothing where that is the same for all."""
    found: dict[str, dict[str, Any]] = {}
    trials = plan.get("trials")
    for trial in trials if isinstance(trials, list) else ():
        with contextlib.suppress(ConfigError, KeyError, TypeError):  # a plan of others, or of an older version
            found[str(trial["trial"])] = scored_on(parse(Config, trial["config"], ""))
    keys = dict.fromkeys(key for one in found.values() for key in one)
    differing = [key for key in keys if len({str(one.get(key)) for one in found.values()}) > 1]
    words = {trial: ", ".join(f"{key} {one.get(key)}" for key in differing) for trial, one in found.items()}
    return words if differing else {}


def _promote(plan: Mapping[str, Any], factors: tuple[Factor, ...], path: Path) -> Promote | None:
    spec = plan.get("promote")
    if not spec:
        return None
    known = {one.name: one.levels for one in factors}
    try:
        ends = [
            {str(name): level_of(level, known[name]) for name, level in spec[key].items()} for key in ("from", "to")
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: promote: expected from and to, each with levels of factors, found {spec!r}"
        ) from error
    return Promote(*ends)


def _ladder(plan: Mapping[str, Any], factors: tuple[Factor, ...]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for spec in plan.get("ladder") or []:
        named = spec.get("levels")
        named = (
            named if named is not None else {key: value for key, value in spec.items() if key not in ("step", "versus")}
        )
        levels = {one.name: level_of(named.get(one.name, one.baseline), one.levels) for one in factors}
        before = steps[-1].step if steps else None
        versus = spec.get("versus")
        steps.append(Step(word_of(spec["step"]), levels, before if versus is None else word_of(versus)))
    return tuple(steps)
