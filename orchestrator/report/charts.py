"""Drawing as inline SVG: axes, lines, dots, bands; placed in per cent, so that a drawing fits any width.

Text stands in HTML beside the drawings (see page.html.j2), never inside them: it keeps its size on a phone. Every text
that reaches a drawing (labels, titles) is escaped here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.report.wording import minus

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
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step)))
    ticks = []
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        text = f"{index * step:.{digits}f}" if abs(index * step) < 1e5 and step > 1e-6 else f"{index * step:.3g}"
        ticks.append((round((index * step - low) / (high - low) * 100, 2), minus(text)))
    return Axis(low, high, tuple(ticks))


def svg(label: str, height: int, parts: Iterable[Markup], kind: str = "") -> Markup:
    """Return an image of full width and ``height`` pixels that screen readers call ``label``."""
    head = Markup('<svg class="{}" role="img" aria-label="{}" width="100%" height="{}">').format(kind, label, height)
    return head + NOTHING.join(parts) + Markup("</svg>")


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
    upright = [line(place, 0, place, 100, "grid") for place, _ in (x.ticks if x else ())]
    heights = [round(100 - place, 2) for place, _ in (y.ticks if y else ())]
    return upright + [line(0, height, 100, height, "grid") for height in heights]


def polylines(parts: Iterable[Markup]) -> Markup:
    """Return paths drawn in a square of 100 by 100 that is stretched over the image."""
    head = Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">')
    return head + NOTHING.join(parts) + Markup("</svg>")


def path(points: Iterable[tuple[float, float]], kind: str, attributes: Markup = NOTHING, title: str = "") -> Markup:
    """Return a polyline through points in per cent, y counted from below."""
    places = " ".join(f"{x:g},{round(100 - y, 2):g}" for x, y in points)
    inner = Markup("<title>{}</title>").format(title) if title else Markup("")
    form = '<polyline points="{}" class="{}" {} vector-effect="non-scaling-stroke">{}</polyline>'
    return Markup(form).format(places, kind, attributes, inner)
