"""The forest plot: main effects with their intervals, as rows of the page and as a figure for a paper or a notebook."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from orchestrator.formats import is_missing
from orchestrator.report.charts import Axis, axis, band, dot, grid, line, svg
from orchestrator.report.report import Report
from orchestrator.report.wording import kind_of, number, word_of
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.io.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, BAND, HAIR = "#1f2933", "#e8ecf1", "#9aa5b1"
COLOURS = {"better": "#1a7f4b", "worse": "#b3261e", "same": "#4a6785"}  # by kind, as in page.css
OPEN = "#b7791f"  # undecided, or not estimable
INCHES_A_ROW = 0.34


def axis_of(rows: pd.DataFrame, delta: float | None) -> Axis:
    """Return an axis that holds 0, the band and all intervals, but no interval so wide that nothing else is seen."""
    estimates = [abs(value) for value in rows["estimate"] if math.isfinite(value)]
    reach = 5 * max([*estimates, delta or 0.0, 1e-9])
    ends = [value for name in ("low", "high", "low_runs", "high_runs", "estimate") for value in rows[name]]
    shown = [min(max(value, -reach), reach) for value in ends if math.isfinite(value)]
    return axis([*shown, 0.0, *((-1.2 * delta, 1.2 * delta) if delta else ())], 7)


def svg_row(row: Mapping[str, Any], scale: Axis, delta: float | None) -> Markup:
    """Return the two intervals (thin: new seeds and clips; thick: new seeds, these clips) round the estimate."""
    kind = kind_of(row["verdict"])
    parts = []
    if delta:
        parts.append(band(scale.at(-delta), scale.at(delta) - scale.at(-delta), "delta"))
    parts += grid(scale, None)
    parts.append(line(scale.at(0.0), 0, scale.at(0.0), 100, "zero"))
    ends = [row["low"], row["high"]]
    if not any(map(is_missing, ends)):
        parts.append(line(scale.at(ends[0]), 50, scale.at(ends[1]), 50, f"whisker {kind}"))
        inside = [scale.at(end) for end in ends if scale.low <= end <= scale.high]
        parts += [line(place, 34, place, 66, f"whisker {kind}") for place in inside]
    if not (is_missing(row["low_runs"]) or is_missing(row["high_runs"])):
        parts.append(line(scale.at(row["low_runs"]), 50, scale.at(row["high_runs"]), 50, f"core {kind}"))
    if not is_missing(row["estimate"]):
        parts.append(dot(scale.at(row["estimate"]), 50, 5, f"estimate {kind}"))
    estimate, low, high = (number(row[name], "+.3g") for name in ("estimate", "low", "high"))
    label = f"{row['contrast']}: {estimate}, 95 % interval {low} to {high}, {word_of(row['verdict'])}"
    return svg(label, 40, parts, "track")


def figure(report: Report) -> "Figure":
    """Return a figure of each factor's effect on the metric that decides, over the band too small to matter.

    Thick: 95 % interval for new seeds, these clips; thin: for new seeds and clips.
    """
    from matplotlib.figure import Figure

    rows, metric = report.primary[report.primary["estimate"].notna()], report.sweep.metric
    drawing = Figure(figsize=(7.5, 1.1 + INCHES_A_ROW * max(1, len(rows))), layout="constrained", facecolor="white")
    axes = drawing.subplots()
    if metric.delta:
        axes.axvspan(-metric.delta, metric.delta, color=BAND, linewidth=0)
    axes.axvline(0, color=HAIR, linewidth=1)
    colours = [COLOURS.get(kind_of(verdict), OPEN) for verdict in rows["verdict"]]
    places = range(len(rows))
    axes.hlines(places, rows["low"], rows["high"], colors=colours, linewidth=1.2)
    axes.hlines(places, rows["low_runs"], rows["high_runs"], colors=colours, linewidth=4)
    axes.scatter(rows["estimate"], places, c=colours, s=42, zorder=3, edgecolors="white", linewidths=0.8)
    names = rows["factor"] + ": " + rows["baseline"].astype(str) + " → " + rows["level"].astype(str)
    axes.set_yticks(list(places), [_no_mathematics(name) for name in names], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    right = axes.secondary_yaxis("right")
    right.set_yticks(list(places), [word_of(verdict) for verdict in rows["verdict"]])
    for label, colour in zip(right.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    for side in (axes, right):
        side.tick_params(axis="y", length=0)
        side.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=HAIR)
    unit = f" [{metric.unit}]" if metric.unit else ""
    within = f"; within ± {metric.delta:g} it does not matter" if metric.delta else ""
    axes.set_xlabel(_no_mathematics(f"effect on {metric.name}{unit}, {metric.better} is better{within}"), color=INK)
    return drawing


def write_figure(report: Report, folder: Path) -> None:
    """Write report/effects.svg, equal bytes for equal effects; nothing where no training has finished."""
    import matplotlib

    if report.sweep.runs.empty:
        return
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "sagasr", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure(report).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write_text(SweepPaths(folder).forest, text.getvalue())


def _no_mathematics(text: str) -> str:
    """Return a name as it is written: matplotlib would read text between two dollars as mathematics."""
    return text.replace("$", r"\$")
