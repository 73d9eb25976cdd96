"""Numbers as people read them: sizes, times, counts. Every table, line and page takes them from here."""

import math

MISSING = "-"


def is_missing(value: object) -> bool:
    """Return whether there is no finite number: None, NaN, infinity, or pandas' NA."""
    try:
        return value is None or not math.isfinite(value)  # type: ignore[arg-type]
    except TypeError:  # pandas' NA has no float
        return True


def number(value: object, form: str = ".3g", missing: str = MISSING) -> str:
    """Return the number in a format, such as ``+.3g``; ``missing`` where there is none."""
    return missing if is_missing(value) else format(float(value), form)  # type: ignore[arg-type]


def p_value(value: object) -> str:
    """Return a p value as papers print it: ``< .001``, ``.024``, ``1``, or a dash."""
    if is_missing(value):
        return MISSING
    p = float(value)  # type: ignore[arg-type]
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def count(amount: int, noun: str) -> str:
    """Return e.g. ``1 cell`` or ``3 cells``."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def with_prefix(value: float) -> str:
    """Return the number with the prefix of its size: ``44.1M``."""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1_000:
            return f"{value:.3g}{prefix}"
        value /= 1_000
    return f"{value:.3g}P"


def gigabytes(amount: float) -> str:
    """Return e.g. ``5.3 GB``."""
    return f"{amount / 1e9:.3g} GB"


def file_size(amount: float) -> str:
    """Return bytes as gigabytes, or as megabytes below one: ``3.2 GB``, ``412 MB``."""
    return gigabytes(amount) if amount >= 1e9 else f"{amount / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """Return a measured time: ``49 s``, ``12.5 min``, ``3.2 h``."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7_200 else f"{seconds / 3_600:.3g} h"


def estimated_duration(seconds: float) -> str:
    """Return a predicted time, never more exact than a minute: ``4 min``, ``3.2 h``."""
    return f"{max(seconds / 60, 1):.0f} min" if seconds < 3_600 else f"{seconds / 3_600:.3g} h"


def clock_duration(seconds: float) -> str:
    """Return a running time by its units: ``42 s``, ``5 min 03 s``, ``1 h 05 min``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
