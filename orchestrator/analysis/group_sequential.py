"""When to stop adding seeds: looks after whole seed blocks, with the error spread over them beforehand.

Lan-DeMets spending gives each look a nominal level; group-sequential Holm shares it among the primary contrasts; a
contrast is nil when its repeated 90 % interval lies inside +-delta. All functions are pure: the same looks give the
same decision, in whatever order trials finished and however often the sweep was restarted; nothing can be spent twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy.optimize import brentq
from scipy.stats import norm

from orchestrator.analysis.design_matrix import Array
from orchestrator.analysis.variance import Estimate
from orchestrator.sweep_folder.json_files import MIN_SEEDS, Basis, Spending, Word
from sagasr.io.errors import DataError

NODES = 96  # Gauss-Legendre nodes of the recursion; boundaries agree with published ones to 1e-4 from 40 on
FARTHEST = 8.2  # a boundary beyond this z is never crossed (two-sided 2e-16)


class Contrast(NamedTuple):
    """One primary contrast at one look: estimate, its standard error, degrees of freedom and leverage (of e-values)."""

    value: float
    se: float
    df: float
    leverage: float = float("nan")


class Look(NamedTuple):
    """What was known after ``seeds`` complete blocks. A contrast without an estimate is left out."""

    seeds: int
    contrasts: Mapping[str, Contrast]


@dataclass(frozen=True)
class Rule:
    """How to decide; fixed in the plan. ``names`` are all primary contrasts, estimable or not.

    ``basis``: error spent as planned, or e-values, which stay valid where seeds were added after looking.
    """

    names: tuple[str, ...]
    max_seeds: int
    delta: float | None = None
    spending: Spending = "pocock"
    alpha: float = 0.05
    basis: Basis = "spending"

    def fractions(self, looks: Sequence[Look]) -> tuple[float, ...]:
        """Return the share of all planned seeds at each look."""
        return tuple(look.seeds / self.max_seeds for look in looks)


@dataclass(frozen=True)
class Decision:
    """The state of one contrast. ``low`` and ``high`` are its repeated 95 % interval at the last look."""

    word: Word
    at_seeds: int | None  # the look that decided
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """The decisions of all contrasts, and whether to stop launching seeds."""

    decisions: Mapping[str, Decision]
    stop: bool


def spent(fraction: float, alpha: float, spending: Spending) -> float:
    """Return the two-sided error that may be used up by this fraction of the seeds (Lan and DeMets 1983)."""
    if spending == "pocock":
        return float(alpha * np.log1p((np.e - 1) * min(fraction, 1.0)))
    return float(4 * norm.sf(norm.isf(alpha / 4) / np.sqrt(min(fraction, 1.0))))


@lru_cache(maxsize=4096)
def boundaries(fractions: tuple[float, ...], alpha: float, spending: Spending) -> tuple[float, ...]:
    """Return the |z| to exceed at each look, by recursive numerical integration (Armitage, McPherson and Rowe 1969).

    The score process has independent increments; its density where nothing was rejected is carried from look to look.
    """
    nodes, mass = np.polynomial.legendre.leggauss(NODES)
    bounds: list[float] = []
    points, density = np.zeros(1), np.ones(1)
    for look, fraction in enumerate(fractions):
        before = fractions[look - 1] if look else 0.0
        scale = float(np.sqrt(fraction - before))
        use = spent(fraction, alpha, spending) - (spent(before, alpha, spending) if look else 0.0)
        limit = FARTHEST * float(np.sqrt(fraction))
        bound = _solve(points, density, scale, use, limit) if look else scale * float(norm.isf(use / 2))
        bounds.append(min(bound, limit) / float(np.sqrt(fraction)))
        edge = bounds[-1] * float(np.sqrt(fraction))
        here = nodes * edge
        shape = norm.pdf((here[:, None] - points) / scale) / scale @ density
        points, density = here, shape * mass * edge  # the density times its quadrature weight
    return tuple(bounds)


def nominal_levels(fractions: tuple[float, ...], alpha: float, spending: Spending) -> tuple[float, ...]:
    """Return the two-sided p value to reach at each look."""
    return tuple(float(2 * norm.sf(bound)) for bound in boundaries(fractions, alpha, spending))


def decide(looks: Sequence[Look], rule: Rule) -> Outcome:
    """Return the state after the looks taken so far; raises DataError for looks that could not have been lawful."""
    _check(looks, rule)
    words: dict[str, tuple[Word, int | None]] = dict.fromkeys(rule.names, ("open", None))
    fractions = rule.fractions(looks)
    different: set[str] = set()
    for place, look in enumerate(looks):
        for name in _holm(look, place, fractions, different, rule):
            different.add(name)
            if words[name][0] == "open":
                words[name] = ("different", look.seeds)
        for name, contrast in look.contrasts.items():
            if rule.delta is None or words[name][0] != "open":
                continue
            low, high = interval(contrast, fractions, place, 2 * rule.alpha, rule)
            if -rule.delta < low and high < rule.delta:
                words[name] = ("nil", look.seeds)
    nothing = float("nan"), float("nan"), float("nan")
    now = {
        name: (contrast.value, *interval(contrast, fractions, len(looks) - 1, rule.alpha, rule))
        for name, contrast in (looks[-1].contrasts if looks else {}).items()
    }
    decisions = {name: Decision(*words[name], *now.get(name, nothing)) for name in rule.names}
    full = bool(looks) and looks[-1].seeds >= rule.max_seeds
    return Outcome(decisions, full or all(word != "open" for word, _ in words.values()))


def interval(
    contrast: Contrast | Estimate, fractions: tuple[float, ...], place: int, alpha: float, rule: Rule
) -> tuple[float, float]:
    """Return the interval that misses with probability ``alpha`` at most over all looks, by the rule's basis."""
    if rule.basis == "e-values":
        return anytime_interval(contrast, alpha)
    level = nominal_levels(fractions, alpha, rule.spending)[place]
    critical = float(-special.stdtrit(contrast.df, level / 2)) if level > 0 and contrast.df > 0 else float("inf")
    return contrast.value - critical * contrast.se, contrast.value + critical * contrast.se


def anytime_interval(contrast: Contrast | Estimate, alpha: float) -> tuple[float, float]:
    """Return the effects whose e-value stays below 1 / ``alpha``: valid however often one looks and adds seeds."""
    half = float("inf")
    if contrast.se > 0 and contrast.df > 0 and contrast.leverage > 0:
        share = contrast.leverage / (contrast.leverage + 1)
        q = float((alpha * np.sqrt(share)) ** (2 / (contrast.df + 1)))
        if q > share:  # e = sqrt(share) ((1 + share x) / (1 + x))^(-(df + 1) / 2) with x = t^2 / df, solved for x
            half = float(np.sqrt((1 - q) / (q - share) * contrast.df)) * contrast.se
    return contrast.value - half, contrast.value + half


def e_value(t: float, df: float, leverage: float, tau: float = 1.0) -> float:
    """Return the evidence against no effect, valid however often one looks (Lindon et al., arXiv 2210.08589).

    ``leverage`` is the estimate's variance in units of the error variance (4 / n for an on-off contrast of n runs).
    Above 20 it rejects at 5 %, whatever was done before. NaN without an error estimate.
    """
    if not (np.isfinite(t) and df > 0 and leverage > 0):
        return float("nan")
    share = leverage / (leverage + tau**2)
    ratio = np.log1p(share * t**2 / df) - np.log1p(t**2 / df)
    return float(np.exp(np.clip(0.5 * np.log(share) - (df + 1) / 2 * ratio, -700, 700)))


def sequential_p(looks: Sequence[Look], name: str, rule: Rule) -> float:
    """Return the smallest overall error at which this contrast alone would have been called different at some look.

    It is a valid p value under the looks taken; Holm over these is group-sequential Holm. NaN when never estimated.
    """
    fractions = rule.fractions(looks)
    p = [(place, _p(look.contrasts[name], rule)) for place, look in enumerate(looks) if name in look.contrasts]
    if not p:
        return float("nan")
    if rule.basis == "e-values":
        return min(value for _, value in p)

    def called(alpha: float) -> bool:
        levels = nominal_levels(fractions, alpha, rule.spending)
        return any(value <= levels[place] for place, value in p)

    low, high = np.log(1e-12), 0.0
    if called(float(np.exp(low))):
        return float(np.exp(low))
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if called(round(float(np.exp(middle)), 14)) else (middle, high)
    return float(np.exp(high))


def _holm(look: Look, place: int, fractions: tuple[float, ...], different: set[str], rule: Rule) -> list[str]:
    """Return the contrasts newly called different, smallest p first, each freeing its share for the others."""
    waiting = sorted((_p(c, rule), name) for name, c in look.contrasts.items() if name not in different)
    called: list[str] = []
    for p, name in waiting:
        level = rule.alpha / (len(rule.names) - len(different) - len(called))
        if rule.basis == "spending":
            level = nominal_levels(fractions, level, rule.spending)[place]
        if not p <= level:
            break
        called.append(name)
    return called


def _p(contrast: Contrast, rule: Rule) -> float:
    if not (contrast.se > 0 and contrast.df > 0):
        return 1.0
    if rule.basis == "e-values":
        evidence = e_value(contrast.value / contrast.se, contrast.df, contrast.leverage)
        return float(1 / max(evidence, 1.0)) if np.isfinite(evidence) else 1.0
    return float(2 * special.stdtr(contrast.df, -abs(contrast.value) / contrast.se))


def _solve(points: Array, density: Array, scale: float, use: float, limit: float) -> float:
    """Return the bound of the score process that is crossed with probability ``use`` from the density carried on."""

    def excess(bound: float) -> float:
        out = special.ndtr((points - bound) / scale) + special.ndtr((-bound - points) / scale)
        return float(out @ density) - use

    return limit if excess(limit) >= 0 else float(brentq(excess, 0.0, limit, xtol=1e-10))


def _check(looks: Sequence[Look], rule: Rule) -> None:
    seeds = [look.seeds for look in looks]
    if any(count < MIN_SEEDS for count in seeds):
        raise DataError(f"a look needs {MIN_SEEDS} complete seed blocks or more; found a look at {min(seeds)}")
    if seeds != sorted(set(seeds)) or any(count > rule.max_seeds for count in seeds):
        raise DataError(f"looks must come at growing numbers of seeds up to {rule.max_seeds}; found {seeds}")
    strange = {name for look in looks for name in look.contrasts} - set(rule.names)
    if strange:
        raise DataError(f"a look judges contrasts that the plan does not have: {', '.join(sorted(strange))}")
