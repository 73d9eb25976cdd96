"""Charts as inline SVG: axes, forest rows, curves, interactions, scatter; placed in per cent, so they fit any width.

Text stands in HTML beside the drawings (see page.html.j2), never inside them: it keeps its size on a phone. Every text
that reaches a drawing (labels, titles) is escaped here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

MAX_LINES = 240  # curves drawn in one panel
MAX_POINTS = 160  # of one curve
NUM_SERIES = 6  # colours in page.css
NOTHING = Markup()


@dataclass(frozen=True)
class Axis:
    """A linear scale from ``low`` to ``high`` with labelled ticks at (per cent, text)."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Return the place of ``value`` in per cent, kept inside the axis."""
        return round(min(max((value - self.low) / (self.high - self.low), 0.0), 1.0) * 100, 2)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Plot:
    """A drawing with its scales. ``flipped`` y: ticks count from below."""

    title: str
    svg: Markup
    x: Axis
    y: Axis | None = None
    note: str = ""
    other_x: Axis | None = None


def axis(values: Iterable[float], count: int = 5, margin: float = 0.05) -> Axis:
    """Return an axis round the finite values; 0 to 1 when there are none."""
    finite = [float(value) for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    spread = high - low if high > low else abs(high) or 1.0
    low, high = low - margin * spread, high + margin * spread
    step = _step((high - low) / count)
    digits = max(0, -math.floor(math.log10(step)))
    found = []
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        text = f"{index * step:.{digits}f}" if abs(index * step) < 1e5 and step > 1e-6 else f"{index * step:.3g}"
        found.append((round((index * step - low) / (high - low) * 100, 2), minus(text)))
    return Axis(low, high, tuple(found))


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return float(power) * next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999)


def minus(text: str) -> str:
    """Return the number with a true minus sign."""
    return text.replace("-", "−")


def svg(label: str, height: int, parts: Iterable[Markup], kind: str = "") -> Markup:
    """Return an image of full width and ``height`` pixels that screen readers call ``label``."""
    head = Markup('<svg class="{}" role="img" aria-label="{}" width="100%" height="{}">').format(kind, label, height)
    return head + Markup("").join(parts) + Markup("</svg>")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight line between two points in per cent."""
    form = '<line x1="{}%" y1="{}%" x2="{}%" y2="{}%" class="{}"/>'
    return Markup(form).format(x1, y1, x2, y2, kind)


def dot(x: float, y: float, radius: float, kind: str, title: str = "") -> Markup:
    """Return a point; ``title`` is shown on hovering."""
    inner = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<circle cx="{}%" cy="{}%" r="{}" class="{}">{}</circle>').format(x, y, radius, kind, inner)


def band(x: float, width: float, kind: str) -> Markup:
    """Return a full-height stripe."""
    return Markup('<rect x="{}%" y="0" width="{}%" height="100%" class="{}"/>').format(x, round(width, 2), kind)


def grid(x: Axis | None, y: Axis | None) -> list[Markup]:
    """Return the hair lines at the ticks."""
    upright = _uprights(x, "grid") if x else []
    heights = [round(100 - place, 2) for place, _ in (y.ticks if y else ())]
    return upright + [line(0, height, 100, height, "grid") for height in heights]


def _uprights(x: Axis, kind: str) -> list[Markup]:
    return [line(place, 0, place, 100, kind) for place, _ in x.ticks]


def polylines(parts: Iterable[Markup]) -> Markup:
    """Return paths drawn in a square of 100 by 100 that is stretched over the image."""
    head = Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">')
    return head + Markup("").join(parts) + Markup("</svg>")


def path(points: Iterable[tuple[float, float]], kind: str, attributes: Markup = NOTHING, title: str = "") -> Markup:
    """Return a polyline through points in per cent, y counted from below."""
    places = " ".join(f"{x:g},{round(100 - y, 2):g}" for x, y in points)
    inner = Markup("<title>{}</title>").format(title) if title else Markup("")
    form = '<polyline points="{}" class="{}" {} vector-effect="non-scaling-stroke">{}</polyline>'
    return Markup(form).format(places, kind, attributes, inner)


# ---- forest


def forest_axis(rows: pd.DataFrame, delta: float | None) -> Axis:
    """Return an axis that holds 0, the band and all intervals, but no interval so wide that nothing else is seen."""
    estimates = [abs(value) for value in rows["estimate"] if math.isfinite(value)]
    reach = 5 * max([*estimates, delta or 0.0, 1e-9])
    ends = [value for name in ("low", "high", "low_runs", "high_runs", "estimate") for value in rows[name]]
    kept = [min(max(value, -reach), reach) for value in ends if math.isfinite(value)]
    return axis([*kept, 0.0, *((-1.2 * delta, 1.2 * delta) if delta else ())], 7)


def forest_row(row: Mapping[str, float], scale: Axis, delta: float | None, label: str, kind: str) -> Markup:
    """Return the two intervals (thin: new seeds and clips; thick: new seeds, these clips) round the estimate."""
    parts = []
    if delta:
        parts.append(band(scale.at(-delta), scale.at(delta) - scale.at(-delta), "delta"))
    parts += [line(place, 0, place, 100, "grid") for place, _ in scale.ticks]
    parts.append(line(scale.at(0.0), 0, scale.at(0.0), 100, "zero"))
    if math.isfinite(row["low"]) and math.isfinite(row["high"]):
        parts.append(line(scale.at(row["low"]), 50, scale.at(row["high"]), 50, f"whisker {kind}"))
        parts += [line(scale.at(end), 34, scale.at(end), 66, f"whisker {kind}")
                  for end in (row["low"], row["high"]) if scale.holds(end)]  # fmt: skip
    if math.isfinite(row["low_runs"]) and math.isfinite(row["high_runs"]):
        parts.append(line(scale.at(row["low_runs"]), 50, scale.at(row["high_runs"]), 50, f"core {kind}"))
    if math.isfinite(row["estimate"]):
        parts.append(dot(scale.at(row["estimate"]), 50, 5, f"estimate {kind}"))
    return svg(label, 40, parts, "track")


# ---- curves


@dataclass(frozen=True)
class Curve:
    """One training: its name, the index of each factor's level, its table of step and value, its hours a step."""

    name: str
    levels: tuple[int, ...]
    table: pd.DataFrame
    hours: float | None = None


def curve_panel(
    title: str, curves: Sequence[Curve], factors: Sequence[Sequence[str]], x: Axis, hours: Axis | None = None
) -> Plot | None:
    """Return one panel: a thin line for each training and, per factor, a thick mean for each of its levels.

    Means stop at the last step that all lines of the level share. Scale: the middle 99 % of the values, so that one
    divergence hides nothing. Where ``hours`` is given, each line says how to move to that axis: scale, then shift.
    """
    lines = [(one, _thinned(one.table)) for one in curves if len(one.table) > 1]
    values = np.concatenate([points.to_numpy() for _, points in lines]) if lines else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [0.0, 0.995])
    y = axis([float(low), float(high)], 4)
    thin = [
        path(
            _places(points, x, y),
            "thin",
            Markup('data-levels="{}" {}').format(" ".join(map(str, one.levels)), _moved(one.hours, x, hours)),
            one.name,
        )
        for one, points in lines[:MAX_LINES]
    ]
    means = []
    for index, names in enumerate(factors):
        group = []
        for level, name in enumerate(names):
            mine = [(one, points) for one, points in lines if one.levels[index] == level]
            if mine:
                shared = pd.concat([points for _, points in mine], axis=1, join="inner").mean(axis=1)
                paces = [one.hours for one, _ in mine if one.hours]
                move = _moved(float(np.mean(paces)) if paces else None, x, hours)
                group.append(path(_places(shared, x, y), f"mean s{level % NUM_SERIES}", move, name))
        means.append(Markup('<g class="means" data-factor="{}">{}</g>').format(index, Markup("").join(group)))
    left = len(lines) - MAX_LINES
    note = f"{MAX_LINES} of {len(lines)} trainings are drawn thin; the means hold all." if left > 0 else ""
    label = f"{title} over training steps, {len(lines)} trainings; values are in the tables"
    scales = _uprights(x, "grid")
    if hours is not None:
        form = '<g data-axis="{}" style="{}">{}</g>'
        drawn_at = [("steps", "", scales), ("hours", "display:none", _uprights(hours, "grid"))]
        scales = [Markup(form).format(name, style, Markup("").join(lines_)) for name, style, lines_ in drawn_at]
    drawn = svg(label, 240, [*scales, *grid(None, y), polylines([*thin, *means])], "curves")
    return Plot(title, drawn, x, y, note=note, other_x=hours)


def _moved(pace: float | None, x: Axis, hours: Axis | None) -> Markup:
    """Return how a place on the axis of steps moves to that of hours, at ``pace`` hours a step."""
    if pace is None or hours is None:
        return NOTHING
    spread = hours.high - hours.low
    scale = pace * (x.high - x.low) / spread
    shift = (pace * x.low - hours.low) / spread * 100
    return Markup('data-hours="{:.6g} {:.6g}"').format(scale, shift)


def course_panel(title: str, course: Any, x: Axis, y: Axis) -> Plot:
    """Return one effect over the steps: a line, its interval as a band, and the line of no effect."""
    top = [(x.at(step), y.at(value)) for step, value in zip(course.steps, course.high, strict=True) if value == value]
    low = [(x.at(step), y.at(value)) for step, value in zip(course.steps, course.low, strict=True) if value == value]
    places = " ".join(f"{at:g},{round(100 - height, 2):g}" for at, height in [*top, *low[::-1]])
    band_ = Markup('<polygon points="{}" class="interval"/>').format(places)
    middle = [(x.at(step), y.at(value)) for step, value in zip(course.steps, course.estimate, strict=True)]
    zero = line(0, round(100 - y.at(0.0), 2), 100, round(100 - y.at(0.0), 2), "zero")
    label = f"{title} over training steps, from {course.estimate[0]:+.3g} to {course.estimate[-1]:+.3g}"
    return Plot(
        title, svg(label, 170, [*grid(x, y), polylines([band_, path(middle, "mean s0")]), zero], "course"), x, y
    )


def _thinned(table: pd.DataFrame) -> pd.Series:
    """Return the finite values by step, the last of each step, as many as are drawn."""
    steps, values = table["step"].to_numpy(float), table["value"].to_numpy(float)
    order = np.flatnonzero(np.isfinite(values))[np.argsort(steps[np.isfinite(values)], kind="stable")]
    order = order[np.diff(steps[order], append=np.inf) > 0]
    if len(order) > MAX_POINTS:
        order = order[np.unique(np.linspace(0, len(order) - 1, MAX_POINTS).round().astype(int))]
    return pd.Series(values[order], index=steps[order])


def _places(points: pd.Series, x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [(x.at(step), y.at(value)) for step, value in zip(points.index.to_numpy(float), points, strict=True)]


# ---- interactions


def interaction_panel(
    title: str,
    label: str,
    means: pd.DataFrame,
    error: pd.DataFrame,
    y: Axis,
    rows: Sequence[str],
    columns: Sequence[str],
) -> Plot:
    """Return one panel: a line for each row of ``means`` over its columns, bars of +- ``error``; y is shared."""
    places = [(index + 0.5) / len(columns) * 100 for index in range(len(columns))]
    x = Axis(0.0, 100.0, tuple((round(place, 2), name) for place, name in zip(places, columns, strict=True)))
    lines, marks = [], []
    for index, row in enumerate(rows):
        colour = f"s{index % NUM_SERIES}"
        shift = (index - (len(rows) - 1) / 2) * 1.6
        points = []
        for place, column in zip(places, columns, strict=True):
            value, bar = (float(table.loc[row, column]) for table in (means, error))  # type: ignore[arg-type]
            if not math.isfinite(value):
                continue
            at, height = round(place + shift, 2), y.at(value)
            points.append((at, height))
            if math.isfinite(bar):
                marks.append(line(at, 100 - y.at(value - bar), at, 100 - y.at(value + bar), f"bar {colour}"))
            marks.append(dot(at, round(100 - height, 2), 4, f"point {colour}", f"{row}, {column}: {value:.4g}"))
        lines.append(path(points, f"mean {colour}"))
    return Plot(title, svg(label, 190, [*grid(None, y), polylines(lines), *marks], "interaction"), x, y)


# ---- clips


def scatter(title: str, label: str, points: pd.DataFrame, scale: Axis, kinds: Mapping[str, int]) -> Plot:
    """Return level against baseline, one dot a clip, with the diagonal of no effect. Columns: clip, domain, x, y."""
    diagonal = polylines([path([(0, 0), (100, 100)], "diagonal")])
    dots = [
        dot(scale.at(x), round(100 - scale.at(y), 2), 4.5, f"point s{kinds.get(domain, 0) % NUM_SERIES}",
            f"{clip}: {x:.4g} → {y:.4g}")
        for clip, domain, x, y in points[["clip", "domain", "x", "y"]].to_numpy().tolist()
    ]  # fmt: skip
    return Plot(title, svg(label, 260, [*grid(scale, scale), diagonal, *dots], "scatter"), scale, scale)
