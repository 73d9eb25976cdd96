"""The forest plot as a figure of its own: for a paper, a notebook, or the top of a README."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from orchestrator.analysis.load import Sweep
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.io.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, BAND, HAIR = "#1f2933", "#e8ecf1", "#9aa5b1"
COLOURS = {"improves": "#1a7f4b", "harms": "#b3261e", "no relevant effect": "#4a6785"}
OPEN = "#b7791f"  # undecided, or not estimable
INCHES_A_ROW = 0.34


def forest(sweep: Sweep, effects: pd.DataFrame) -> "Figure":
    """Return a figure of each factor's effect on the metric that decides, over the band too small to matter.

    Thick: 95 % interval for new seeds, these clips; thin: for new seeds and clips. ``effects``: effects.parquet.
    """
    from matplotlib.figure import Figure

    metric = sweep.metric
    rows = effects[(effects["family"] == "primary") & effects["estimate"].notna()]
    figure = Figure(figsize=(7.5, 1.1 + INCHES_A_ROW * max(1, len(rows))), layout="constrained", facecolor="white")
    axes = figure.subplots()
    if metric.delta:
        axes.axvspan(-metric.delta, metric.delta, color=BAND, linewidth=0)
    axes.axvline(0, color=HAIR, linewidth=1)
    words = rows["verdict"].astype(str).str.split(" (", regex=False).str[0]
    colours = [COLOURS.get(word, OPEN) for word in words]
    places = range(len(rows))
    axes.hlines(places, rows["low"], rows["high"], colors=colours, linewidth=1.2)
    axes.hlines(places, rows["low_runs"], rows["high_runs"], colors=colours, linewidth=4)
    axes.scatter(rows["estimate"], places, c=colours, s=42, zorder=3, edgecolors="white", linewidths=0.8)
    names = rows["factor"] + ": " + rows["baseline"].astype(str) + " → " + rows["level"].astype(str)
    axes.set_yticks(list(places), [_plain(name) for name in names], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    told = axes.secondary_yaxis("right")
    told.set_yticks(list(places), list(words))
    for label, colour in zip(told.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    for side in (axes, told):
        side.tick_params(axis="y", length=0)
        for spine in side.spines.values():
            spine.set_visible(False)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(HAIR)
    unit = f" [{metric.unit}]" if metric.unit else ""
    band = f"; within ± {metric.delta:g} it does not matter" if metric.delta else ""
    axes.set_xlabel(_plain(f"effect on {metric.name}{unit}, {metric.better} is better{band}"), color=INK)
    return figure


def write_forest(sweep: Sweep, effects: pd.DataFrame, folder: Path) -> Path:
    """Write report/effects.svg of the sweep in ``folder``, equal bytes for equal effects, and return its path."""
    import matplotlib

    path, text = SweepPaths(folder).forest, io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "sagasr", "svg.fonttype": "none", "font.family": "sans-serif"}):
        forest(sweep, effects).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write_text(path, text.getvalue())
    return path


def _plain(text: str) -> str:
    """Return a name as it is written: matplotlib would read text between two dollars as mathematics."""
    return text.replace("$", r"\$")
