"""The answer in 80 columns: verdicts per factor, the ladder, what the numbers mean beside trivial answers, failures."""

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.cells import (
    baseline_cell,
    levels_beside,
    means_beside,
)
from orchestrator.analysis.contrasts import step_change
from orchestrator.analysis.diagnostics import failure_rates
from orchestrator.analysis.load import Sweep
from orchestrator.analysis.preferences import Preference
from orchestrator.analysis.verdict import ALPHA
from orchestrator.formats import number, p_value
from orchestrator.report.report import Report
from orchestrator.report.summary import answer, beside_text, dependences, not_run
from orchestrator.report.wording import word_of
from orchestrator.sweep_folder.design import cell_name
from orchestrator.sweep_folder.stopping import may_stop, search_label
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


def print_report(report: Report, console: Console | None = None) -> None:
    """Print every table of the sweep."""
    (console or Console(width=WIDTH, highlight=False, emoji=False)).print(render(report))


def render(report: Report) -> Group:
    """Return the tables, headed by the question and n of N."""
    sweep, effects = report.sweep, report.effects
    parts: list[RenderableType] = [_heading(sweep)]
    if len(sweep.runs):
        sentences = answer(sweep, effects, report.best, means_beside(sweep, report.best))
        parts.append(Text("\n" + " ".join(sentence.striptags() for sentence in sentences) + "\n", style="bold"))
        parts += [_verdicts(report), *_beside_text(effects), *_ladder(report)]
        for effect in dependences(sweep, effects):
            contexts = ", ".join(f"{row['estimate']:+.3g} at {row['with']}" for row in effect["rows"])
            change = f"{effect['factor']} {effect['baseline']} → {effect['level']}"
            parts.append(Text(f"depends: {change} is {contexts}"))
        parts.append(_levels(report))
    parts += map(_preference, report.preferences)
    parts += [Text(f"note: {note}") for note in (*sweep.notes, *report.notes)]
    return Group(*parts, *_lost(sweep), *_failing(sweep))


def _heading(sweep: Sweep) -> Text:
    done, expected = len(sweep.valued), sweep.expected - len(sweep.unneeded)
    text = Text().append(sweep.name, style="bold")
    if sweep.question:
        text.append(f": {sweep.question}")
    text.append(f"\n{'all' if done == expected else 'partial:'} {done} of {expected} replicates, ")
    text.append(f"{sweep.valued['seed'].nunique()} seeds. ")
    text.append("".join(f"{sentence}. " for sentence in not_run(sweep)))
    metric = sweep.metric
    delta = f"; an effect below {metric.delta:g} does not matter" if metric.delta is not None else ""
    text.append(f"{metric.name} in {metric.unit or 'its own unit'}, {metric.better} is better{delta}.")
    text.append("".join(f"\n{line}" for line in may_stop(sweep.early_stopping, len(sweep.seeds))))
    if label := search_label(sweep.early_stopping):
        text.append(f"\n{label}", style="bold")
    return text


def _beside_text(effects: pd.DataFrame) -> list[RenderableType]:
    """Return LSD and distances side by side, where captions are judged."""
    rows = beside_text(effects)
    if not rows:
        return []
    parts = [f"{row['metric']} {number(row['estimate'], '+.3g')} ({word_of(row['verdict'])})" for row in rows]
    if not any(is_distance(str(row["metric"])) for row in rows):
        parts.append("no distance between distributions was measured, and LSD hardly sees captions")
    return [Text("text, side by side: " + "; ".join(parts) + "\n")]


def _verdicts(report: Report) -> Table:
    metric = report.sweep.metric.name
    table = _effects_table(f"What each factor does to {metric} (95 % interval: new seeds and clips)", "factor")
    for _, row in report.primary.iterrows():
        name, change = f"{row['factor']}:", f"{row['baseline']} → {row['level']}"
        _add_effect(table, f"{name} {change}" if len(name) + len(change) < FACTOR else f"{name}\n{change}", row)
    return table


def _ladder(report: Report) -> list[RenderableType]:
    steps = {step.step: step for step in report.sweep.ladder}
    table = _effects_table(f"The ladder, step by step ({report.sweep.metric.name})", "step")
    for _, row in report.effects[report.effects["family"] == "ladder"].iterrows():
        _, changed = step_change(report.sweep, steps[row["level"]])
        _add_effect(table, f"{row['baseline']} → {row['level']}  {cell_name(changed)}", row)
    return [table] if table.row_count else []


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", pad_edge=False, box=box.SIMPLE_HEAD)


def _effects_table(title: str, first: str) -> Table:
    table = _table(title)
    table.collapse_padding = True
    table.add_column(first, max_width=FACTOR, overflow="fold")
    for name in ("effect", "95 % interval", "p adj"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", max_width=VERDICT, overflow="fold")
    return table


def _add_effect(table: Table, name: str, row: "pd.Series") -> None:
    low, high = (number(row[end], "+.3g") for end in ("low", "high"))
    verdict = str(row["verdict"])
    style = STYLES.get(word_of(verdict), "")
    if len(verdict) > VERDICT:
        verdict = verdict.replace(" (", "\n(", 1)
    if pd.notna(row["confounded_with"]):
        verdict += f" [{'' if row['family'] == 'ladder' else 'with '}{row['confounded_with']}]"
    table.add_row(
        Text(name),
        number(row["estimate"], "+.3g"),
        "-" if low == "-" else f"{low} … {high}",
        p_value(row["p_adjusted"]),
        Text(verdict, style=style),
    )


def _levels(report: Report) -> Table:
    """Return what the metric is worth: trivial answers, the ladder's cells, the best cell untrained and trained."""
    sweep, best = report.sweep, report.best
    names = sorted({"lsd", "lsd_hf", sweep.metric.name} & {metric.name for metric in sweep.metrics})
    table = _table("Beside trivial answers (mean over clips and seeds)")
    table.add_column("what", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    cells = {f"step {step.step}": step.levels for step in sweep.ladder} or {"all at baseline": baseline_cell(sweep)}
    for title, levels, runs in levels_beside(sweep, best, cells):
        named = f"{title}: {cell_name(levels)}" if levels and title.removeprefix("trained, ") not in cells else title
        table.add_row(Text(named), *(number(mean, ".4g") for mean in runs.reindex(columns=names).mean()))
    return table


def _preference(heard: Preference) -> Text:
    low, high = (number(end, ".0%") for end in (heard.low, heard.high))
    interval = "" if low == "-" else f", {low} to {high} for the second, p {p_value(heard.p)}"
    return Text(
        f"heard blind: {heard.b} closer in {heard.b_preferred}, {heard.a} in {heard.a_preferred} of {heard.clips} "
        f"clips, {heard.ties} ties{interval}"
    )


def _failing(sweep: Sweep) -> list[RenderableType]:
    """Return a line for each level that fails more or less often than its baseline."""
    return [
        Text(
            f"fails {'more' if rate.failed * rate.ended_baseline > rate.failed_baseline * rate.ended else 'less'} "
            f"often: {rate.factor}={rate.level} ({rate.failed} of {rate.ended} trainings, baseline "
            f"{rate.failed_baseline} of {rate.ended_baseline}; Fisher's exact test, p adj {p_value(rate.p_adjusted)})"
        )
        for rate in failure_rates(sweep)
        if rate.p_adjusted <= ALPHA
    ]


def _lost(sweep: Sweep) -> list[RenderableType]:
    """Return a line for every replicate without a value, with its reason."""
    if not sweep.lost:
        missing = sweep.expected - len(sweep.runs) - len(sweep.unneeded)
        return [Text(f"missing: {missing} replicates the plan expects and does not name")] if missing > 0 else []
    lines = [
        Text(f"{lost.kind}: {lost.cell} seed {lost.seed}" + (f" ({lost.reason})" if lost.reason else ""))
        for lost in sorted(sweep.lost, key=lambda lost: lost.kind)[:LOST_SHOWN]
    ]
    if len(sweep.lost) > LOST_SHOWN:
        lines.append(Text(f"… and {len(sweep.lost) - LOST_SHOWN} more"))
    return [Text("Without a result (they enter no average):", style="bold"), *lines]
