"""The answer in 80 columns: verdicts per factor, the ladder, what the numbers mean beside trivial answers, failures."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.failure_rates import failure_rates
from orchestrator.analysis.load import Sweep
from orchestrator.analysis.preferences import Preference
from orchestrator.analysis.verdict import ALPHA
from orchestrator.grid.factors import PAPER
from orchestrator.report.summary import answer, beside_text, dependences, spared, word_of
from orchestrator.sweep_folder.names import cell_name
from sagasr.metrics.table import is_distance

WIDTH = 80
STYLES = {
    "improves": "green",
    "harms": "red",
    "no relevant effect": "cyan",
    "undecided": "yellow",
    "not estimable": "magenta",
}
LOST_SHOWN = 20
FACTOR, VERDICT = 18, 21  # the widest of both columns: "(about 12 more seeds)" stands on one line
SAGA = ("text", "rolloff")
REFERENCES = (("low", "low input"), ("shaped_noise", "low + shaped noise"), ("untrained", "untrained, best cell"))


def print_report(
    sweep: Sweep,
    effects: pd.DataFrame,
    console: Console | None = None,
    notes: Sequence[str] = (),
    preferences: Sequence[Preference] = (),
) -> None:
    """Print every table of the sweep."""
    (console or Console(width=WIDTH, highlight=False, emoji=False)).print(render(sweep, effects, notes, preferences))


def render(
    sweep: Sweep, effects: pd.DataFrame, notes: Sequence[str] = (), preferences: Sequence[Preference] = ()
) -> Group:
    """Return the tables, headed by the question and n of N."""
    parts: list[RenderableType] = [_heading(sweep), *_answer(sweep, effects)]
    if len(sweep.runs):
        parts += [_verdicts(sweep, effects), *_beside_text(effects)]
        if (effects["family"] == "ladder").any():
            parts += [_ladder(sweep, effects)]
        parts += [*_interactions(sweep, effects), _levels(sweep)]
    parts += [_preferred(one) for one in preferences]
    parts += [Text(f"note: {note}") for note in (*sweep.notes, *notes)]
    parts += [*_lost(sweep), *_failing(sweep)]
    return Group(*parts)


def _heading(sweep: Sweep) -> Text:
    done = len(sweep.valued)
    text = Text()
    text.append(f"{sweep.name}", style="bold")
    if sweep.question:
        text.append(f": {sweep.question}")
    whole = done + len(sweep.unneeded) == sweep.expected
    text.append(f"\n{'all' if whole else 'partial:'} {done} of {sweep.expected - len(sweep.unneeded)} replicates, ")
    text.append(f"{sweep.valued['seed'].nunique()} seeds. ")
    for sentence in spared(sweep):
        text.append(f"{sentence}. ")
    metric = sweep.metric
    delta = f"; an effect below {metric.delta:g} does not matter" if metric.delta is not None else ""
    text.append(f"{metric.name} in {metric.unit or 'its own unit'}, {metric.better} is better{delta}.")
    if sweep.early_stopping.get("policy") == "asha":
        text.append("\nSearch mode (asha): made to pick a cell, not to compare factors.", style="bold")
    return text


def _answer(sweep: Sweep, effects: pd.DataFrame) -> list[RenderableType]:
    """Return the two sentences that the page begins with."""
    if not len(sweep.runs):
        return []
    best = best_cell(sweep)
    expected = sweep.expected - len(sweep.unneeded)
    sentences = answer(sweep, effects, best, worth(sweep, best), expected)
    return [Text("\n" + " ".join(one.striptags() for one in sentences) + "\n", style="bold")]


def _beside_text(effects: pd.DataFrame) -> list[RenderableType]:
    """Return LSD and distances side by side, where captions are judged."""
    rows = beside_text(effects)
    if not rows:
        return []
    told = [f"{row['metric']} {_number(row['estimate'], '+.3g')} ({word_of(row['verdict'])})" for row in rows]
    if not any(is_distance(str(row["metric"])) for row in rows):
        told.append("no distance between distributions was measured, and LSD hardly sees captions")
    return [Text("text, side by side: " + "; ".join(told) + "\n")]


def _verdicts(sweep: Sweep, effects: pd.DataFrame) -> Table:
    table = _table(f"What each factor does to {sweep.metric.name} (95 % interval: new seeds and clips)", "factor")
    for _, row in effects[effects["family"] == "primary"].iterrows():
        name, change = f"{row['factor']}:", f"{row['baseline']} → {row['level']}"
        _add(table, f"{name} {change}" if len(name) + len(change) < FACTOR else f"{name}\n{change}", row)
    return table


def _ladder(sweep: Sweep, effects: pd.DataFrame) -> Table:
    steps = {step.step: step for step in sweep.ladder}
    table = _table(f"The ladder, step by step ({sweep.metric.name})", "step")
    for _, row in effects[effects["family"] == "ladder"].iterrows():
        step, before = steps[row["level"]], steps.get(row["baseline"])
        changed = {k: v for k, v in step.levels.items() if before is None or before.levels[k] != v}
        _add(table, f"{row['baseline']} → {row['level']}  {cell_name(changed)}", row)
    return table


def _interactions(sweep: Sweep, effects: pd.DataFrame) -> list[RenderableType]:
    """Return a warning for every factor whose effect depends on another one, with its effect in each context."""
    lines: list[RenderableType] = []
    for one in dependences(sweep, effects):
        each = ", ".join(f"{row['estimate']:+.3g} at {row['with']}" for row in one["rows"])
        lines.append(Text(f"depends: {one['factor']} {one['baseline']} → {one['level']} is {each}"))
    return lines


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False, box=box.SIMPLE_HEAD,
                  collapse_padding=True)  # fmt: skip
    table.add_column(first, max_width=FACTOR, overflow="fold")
    table.add_column("effect", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("p adj", justify="right", no_wrap=True)
    table.add_column("verdict", max_width=VERDICT, overflow="fold")
    return table


def _add(table: Table, name: str, row: pd.Series) -> None:
    interval = "-" if _missing(row["low"]) else f"{row['low']:+.3g} … {row['high']:+.3g}"
    words = str(row["verdict"])
    words = words if len(words) <= VERDICT else words.replace(" (", "\n(", 1)
    if not _missing(row["confounded_with"]):
        words += f" [{'' if row['family'] == 'ladder' else 'with '}{row['confounded_with']}]"
    style = next((style for word, style in STYLES.items() if words.startswith(word)), "")
    table.add_row(
        Text(name), _number(row["estimate"], "+.3g"), interval, p_text(row["p_adjusted"]), Text(words, style=style)
    )


def _levels(sweep: Sweep) -> Table:
    """Return what the metric is worth: trivial answers, the ladder's cells, the best cell untrained and trained."""
    names = ["lsd", "lsd_hf", sweep.metric.name]
    metrics = [metric for metric in sorted(sweep.metrics, key=lambda one: one.name) if metric.name in names]
    table = Table(title="Beside trivial answers (mean over clips and seeds)", title_justify="left", title_style="bold",
                  pad_edge=False, box=box.SIMPLE_HEAD)  # fmt: skip
    table.add_column("what", overflow="fold")
    for metric in metrics:
        table.add_column(metric.name, justify="right", no_wrap=True)
    best = best_cell(sweep)
    rows = [(title, reference_rows(sweep, subject, best)) for subject, title in REFERENCES]
    rows += [(f"trained, step {step.step}", cell_rows(sweep.runs, step.levels, "@")) for step in sweep.ladder]
    if not sweep.ladder:
        rows.append(
            ("trained, all at baseline", cell_rows(sweep.runs, {f.name: f.baseline for f in sweep.factors}, "@"))
        )
    if best:
        rows.append((f"trained, best cell: {cell_name(best)}", cell_rows(sweep.runs, best, "@")))
    paper = paper_cell(sweep)
    if paper:
        rows.append((f"trained, the paper's choices: {cell_name(paper)}", cell_rows(sweep.runs, paper, "@")))
    for title, found in rows:
        if len(found):
            means = (_number(found[metric.name].mean() if metric.name in found else None, ".4g") for metric in metrics)
            table.add_row(Text(title), *means)
    return table


def best_cell(sweep: Sweep) -> dict[str, str]:
    """Return the levels of the best cell among those with the most finished seeds; empty where none has a value."""
    names = [factor.name for factor in sweep.factors]
    groups = sweep.runs.groupby(["@" + name for name in names], sort=False)[sweep.metric.name]
    means = groups.mean()[groups.count() == groups.count().max()].dropna()
    if means.empty:
        return {}
    best = means.idxmin() if sweep.metric.better == "lower" else means.idxmax()
    return dict(zip(names, best if isinstance(best, tuple) else (best,), strict=True))


def best_trial(sweep: Sweep) -> str | None:
    """Return the training of the best cell's first seed; None where the table does not name it."""
    rows = cell_rows(sweep.runs, best_cell(sweep), "@") if len(sweep.runs) and "trial" in sweep.runs else sweep.runs[:0]
    return str(rows["trial"].iloc[0]) if len(rows) else None


def paper_cell(sweep: Sweep) -> dict[str, str]:
    """Return the cell of the paper's own choices among those that finished; empty where the grid has none.

    Factors that the paper does not decide, or not at a level of this grid, stand at their baseline; text and roll-off,
    which make SAGA-SR what it is, must be there.
    """
    if not all(any(one.name == name and PAPER[name] in one.levels for one in sweep.factors) for name in SAGA):
        return {}
    levels = {one.name: PAPER[one.name] if PAPER.get(one.name) in one.levels else one.baseline for one in sweep.factors}
    return levels if len(cell_rows(sweep.runs, levels, "@")) else {}


def worth(sweep: Sweep, best: Mapping[str, str]) -> dict[str, float]:
    """Return the metric's mean for the baseline cell, the best cell and the trivial answers."""
    if not len(sweep.runs):
        return {}
    metric = sweep.metric.name
    found = {subject: reference_rows(sweep, subject, best) for subject, _ in REFERENCES}
    found |= {"baseline": cell_rows(sweep.runs, {f.name: f.baseline for f in sweep.factors}, "@")}
    found |= {"best": cell_rows(sweep.runs, best, "@")}
    return {key: float(rows[metric].mean()) for key, rows in found.items() if metric in rows and len(rows)}


def reference_rows(sweep: Sweep, subject: str, levels: Mapping[str, str]) -> pd.DataFrame:
    """Return the scores of a trivial answer, of this cell where they are kept per cell."""
    rows = sweep.references
    if rows is None or "subject" not in rows:
        return pd.DataFrame()
    rows = rows[rows["subject"] == subject]
    return cell_rows(rows, levels, "") if set(levels) <= set(rows) else rows


def cell_rows(rows: pd.DataFrame, levels: Mapping[str, str], prefix: str) -> pd.DataFrame:
    for name, level in levels.items():
        rows = rows[rows[prefix + name].astype(str) == level]
    return rows


def _preferred(one: Preference) -> Text:
    interval = "" if _missing(one.low) else f", {one.low:.0%} to {one.high:.0%} for the second, p {p_text(one.p)}"
    return Text(
        f"heard blind: {one.b} closer in {one.b_preferred}, {one.a} in {one.a_preferred} of {one.clips} clips, "
        f"{one.ties} ties{interval}"
    )


def _failing(sweep: Sweep) -> list[RenderableType]:
    """Return a line for each level that fails more or less often than its baseline."""
    return [
        Text(
            f"fails {'more' if one.failed * one.ended_baseline > one.failed_baseline * one.ended else 'less'} often: "
            f"{one.factor}={one.level} ({one.failed} of {one.ended} trainings, baseline {one.failed_baseline} of "
            f"{one.ended_baseline}; Fisher's exact test, p adj {p_text(one.p_adjusted)})"
        )
        for one in failure_rates(sweep)
        if one.p_adjusted <= ALPHA
    ]


def _lost(sweep: Sweep) -> list[RenderableType]:
    """Return a line for every replicate without a value, with its reason."""
    if not sweep.lost:
        missing = sweep.expected - len(sweep.runs) - len(sweep.unneeded)
        return [Text(f"missing: {missing} replicates the plan expects and does not name")] if missing > 0 else []
    lines = [
        Text(f"{one.kind}: {one.cell} seed {one.seed}" + (f" ({one.reason})" if one.reason else ""))
        for one in sorted(sweep.lost, key=lambda one: one.kind)[:LOST_SHOWN]
    ]
    if len(sweep.lost) > LOST_SHOWN:
        lines.append(Text(f"… and {len(sweep.lost) - LOST_SHOWN} more"))
    return [Text("Without a result (they enter no average):", style="bold"), *lines]


def p_text(value: object) -> str:
    """Return a p value as it is read: ``< .001``, ``.024``, or ``-``."""
    if _missing(value):
        return "-"
    number = float(value)  # type: ignore[arg-type]
    return "< .001" if number < 0.001 else f"{number:.3f}".lstrip("0") if number < 1 else "1"


def _number(value: object, form: str) -> str:
    return "-" if _missing(value) else format(float(value), form)  # type: ignore[arg-type]


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and not np.isfinite(value)) or value is pd.NA
