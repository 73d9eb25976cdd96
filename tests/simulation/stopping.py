"""Does early stopping corrupt the comparison? Generated curves, methods of stopping, and the bands they must land in.

Generated learning curves of a 2^4 grid go through the estimator and the decision function that sweeps use; every rate
must land in its band, and stopping trials on their values (ASHA, plateaus) must fail, or this would prove nothing.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from orchestrator.analysis.design_matrix import Array, Fit, fit
from orchestrator.analysis.group_sequential import Contrast, Look, Rule, decide, e_value
from orchestrator.sweep_folder.json_files import Spending
from tests.simulation.bands import CELLS, FACTORS, Check
from tests.simulation.controls import asha, plateau_values

PAIRS = list(itertools.combinations(range(len(FACTORS)), 2))

SEEDS, STEPS, DELTA, ALPHA = 6, 27, 0.03, 0.05
RUNGS = (3, 9)
OFFERED = ("6 seeds", "2 seeds", "pocock", "obrien-fleming", "e-process")


@dataclass(frozen=True)
class Scenario:
    """Final effects (LSD), factors on the size of the learning curve, and effects before R/2 where they differ."""

    final: tuple[float, float, float, float]
    slower: tuple[float, float, float, float] = (1, 1, 1, 1)
    early: tuple[float, float, float, float] | None = None


SCENARIOS = {
    "null": Scenario((0, 0, 0, 0)),
    "parallel": Scenario((-0.04, -0.08, 0, 0)),
    "slow": Scenario((-0.04, -0.08, 0, 0), (1.2, 1, 1, 1.4)),
    "late": Scenario((-0.04, -0.08, 0, 0), early=(0, -0.08, 0, 0.06)),
    "allreal": Scenario((-0.04, -0.08, 0.05, -0.06), (1.2, 1, 1, 1.4)),
    "edge": Scenario((-0.04, -0.08, 0, 0.03)),
}


@dataclass(frozen=True)
class Answers:
    """What a method said in every replicate, [replicates, factors]; ``used`` is the share of the full grid's epochs."""

    value: Array
    low: Array
    high: Array
    different: Array
    nil: Array
    used: Array


def curves(scenario: Scenario, replicates: int, random: np.random.Generator) -> Array:
    """Return val LSD [replicates, runs, steps]; runs are seed by seed in grid order."""
    t = np.arange(1, STEPS + 1, dtype=float)
    signs = 2.0 * CELLS - 1
    final = np.asarray(scenario.final)
    early = np.asarray(scenario.early if scenario.early is not None else scenario.final)
    mix = np.clip((t - STEPS / 2) / (STEPS / 2), 0, 1)
    effect = signs @ (early[:, None] * (1 - mix) + final[:, None] * mix) / 2
    height = 0.20 * np.prod(np.where(CELLS == 1, scenario.slower, 1.0), axis=1)
    mean = np.tile(1.2 + effect + height[:, None] * ((t / STEPS) ** -0.5 - 1), (SEEDS, 1))
    noise = np.empty((replicates, len(mean), STEPS))
    noise[..., 0] = random.standard_normal(noise.shape[:2])
    for step in range(1, STEPS):
        keep = np.exp(-np.log((step + 1) / step) / 2.1507)
        fresh = random.standard_normal(noise.shape[:2])
        noise[..., step] = keep * noise[..., step - 1] + np.sqrt(1 - keep**2) * fresh
    seed = np.repeat(random.normal(0, 0.02, (replicates, SEEDS)), len(CELLS), axis=1)
    return np.asarray(mean + seed[..., None] + 0.03 * noise + random.normal(0, 0.01, noise.shape))


@cache
def grid_fit(seeds: int) -> Fit:
    """Return the estimator that sweeps use, on ``seeds`` blocks of the grid."""
    codes = np.tile(CELLS, (seeds, 1)).astype(np.int64)
    blocks = np.repeat(np.arange(seeds), len(CELLS)).astype(np.int64)
    return fit(codes, (2,) * len(FACTORS), blocks, [(i,) for i in range(len(FACTORS))], PAIRS)


def estimate(values: Array, seeds: int) -> tuple[Array, Array, int]:
    """Return effects and standard errors [replicates, factors] and degrees of freedom, of ``values`` per run."""
    fitted = grid_fit(seeds)
    weights = np.array([fitted.weights({(i,): np.array([2.0])}) for i in range(len(FACTORS))])
    square = (fitted.residuals(values.T) ** 2).sum(axis=0) / fitted.df
    return values @ weights.T, np.sqrt(square[:, None] * (weights**2).sum(axis=1)), fitted.df


def fixed(final: Array, seeds: int) -> Answers:
    """Return what the whole grid says after a number of seeds fixed beforehand: Holm, 95 % intervals."""
    value, se, df = estimate(final[:, : seeds * len(CELLS)], seeds)
    p = 2 * stats.t.sf(np.abs(value) / se, df)
    half = stats.t.ppf(1 - ALPHA / 2, df) * se
    nil = np.abs(value) + stats.t.ppf(1 - ALPHA, df) * se < DELTA
    return Answers(value, value - half, value + half, holm(p), nil.astype(float), np.full(len(final), seeds / SEEDS))


def blocks(final: Array, spending: Spending) -> Answers:
    """Return what the shipped decision function says, look by look, until it stops."""
    judged = {seeds: estimate(final[:, : seeds * len(CELLS)], seeds) for seeds in range(2, SEEDS + 1)}
    rule = Rule(FACTORS, SEEDS, DELTA, spending, ALPHA)
    shape = (len(final), len(FACTORS))
    value, low, high, different, nil = (np.zeros(shape) for _ in range(5))
    used = np.zeros(len(final))
    for one in range(len(final)):
        looks: list[Look] = []
        for seeds, (values, errors, df) in judged.items():
            contrasts = zip(FACTORS, values[one], errors[one], strict=True)
            looks.append(Look(seeds, {name: Contrast(float(v), float(se), df) for name, v, se in contrasts}))
            outcome = decide(looks, rule)
            if outcome.stop:
                break
        used[one] = looks[-1].seeds / SEEDS
        for place, decision in enumerate(outcome.decisions[name] for name in FACTORS):
            value[one, place], low[one, place], high[one, place] = decision.value, decision.low, decision.high
            different[one, place], nil[one, place] = decision.word == "different", decision.word == "nil"
    return Answers(value, low, high, different, nil, used)


def anytime(final: Array) -> Answers:
    """Return what e-values say, looking after every seed until all is decided, with no maximum planned."""
    shape = (len(final), len(FACTORS))
    value, half, different, nil = (np.zeros(shape) for _ in range(4))
    used, open_ = np.full(len(final), 1.0), np.ones(len(final), dtype=bool)
    for seeds in range(2, SEEDS + 1):
        now, se, df = estimate(final[:, : seeds * len(CELLS)], seeds)
        t = np.abs(now) / se
        runs = seeds * len(CELLS)
        for sharing in range(len(FACTORS), 0, -1):  # Holm: the k-th largest t needs the k-th level
            waiting = np.where(different > 0, -np.inf, t)
            best = waiting.argmax(axis=1)
            few = different.sum(axis=1) == len(FACTORS) - sharing
            hit = open_ & few & (waiting.max(axis=1) >= _critical_t(df, runs, ALPHA / sharing))
            different[hit, best[hit]] = 1
        inside = np.abs(now) + _critical_t(df, runs, 2 * ALPHA) * se < DELTA
        nil[open_] = np.maximum(nil[open_], (inside & (different == 0))[open_])
        value[open_], half[open_] = now[open_], (_critical_t(df, runs, ALPHA) * se)[open_]
        used[open_] = seeds / SEEDS
        open_ = open_ & ~((different + nil) > 0).all(axis=1)
    return Answers(value, value - half, value + half, different, nil, used)


@cache
def _critical_t(df: int, runs: int, alpha: float) -> float:
    return float(brentq(lambda t: e_value(t, df, 4 / runs) - 1 / alpha, 0.0, 200.0))


def holm(p: Array) -> Array:
    """Return which p values [replicates, factors] Holm calls different."""
    order = p.argsort(axis=1)
    steps = np.take_along_axis(p, order, axis=1) <= ALPHA / np.arange(p.shape[1], 0, -1)
    out = np.zeros_like(p)
    np.put_along_axis(out, order, np.logical_and.accumulate(steps, axis=1).astype(float), axis=1)
    return out


def run(name: str, replicates: int, seed: int) -> dict[str, Answers]:
    """Return what every method offered says in a scenario, and the controls where the bands name them."""
    random = np.random.default_rng([seed, list(SCENARIOS).index(name)])
    found: dict[str, list[Answers]] = {}
    for start in range(0, replicates, 250):
        path = curves(SCENARIOS[name], min(250, replicates - start), random)
        final = path[..., -1]
        methods = {"6 seeds": fixed(final, 6), "2 seeds": fixed(final, 2), "pocock": blocks(final, "pocock"),
                   "obrien-fleming": blocks(final, "obrien-fleming"), "e-process": anytime(final)}  # fmt: skip
        if name == "slow":
            last, finished = asha(path, random, RUNGS, np.tile(CELLS[:, -1], SEEDS))
            methods |= {
                "ASHA, last values": fixed(last, SEEDS),
                "ASHA, first rung": fixed(path[..., RUNGS[0] - 1], SEEDS),
                "ASHA, finishers": _finishers(final, finished),
                "plateau": fixed(plateau_values(path), SEEDS),
            }
        for method, answers in methods.items():
            found.setdefault(method, []).append(answers)
    return {method: Answers(*(np.concatenate(parts) for parts in zip(*map(_fields, many), strict=True)))
            for method, many in found.items()}  # fmt: skip


def _fields(answers: Answers) -> tuple[Array, ...]:
    return (answers.value, answers.low, answers.high, answers.different, answers.nil, answers.used)


def _finishers(final: Array, finished: np.ndarray) -> Answers:
    """Return NaN effects where the runs that finished leave some factor undetermined, else 0 (only that is asked)."""
    codes = np.tile(CELLS, (SEEDS, 1)).astype(np.int64)
    seeds = np.repeat(np.arange(SEEDS), len(CELLS))
    value = np.zeros((len(final), len(FACTORS)))
    mains = [(i,) for i in range(len(FACTORS))]
    for one, kept in enumerate(finished):
        block = np.unique(seeds[kept], return_inverse=True)[1].astype(np.int64)
        fitted = fit(codes[kept], (2,) * len(FACTORS), block, mains, PAIRS)
        if fitted.df < 1 or any(fitted.weights({main: np.array([2.0])}) is None for main in mains):
            value[one] = np.nan
    nothing = np.zeros_like(value)
    return Answers(value, value, value, nothing, nothing, np.zeros(len(final)))


def checks(results: Mapping[str, Mapping[str, Answers]]) -> Iterator[Check]:
    """Yield every band that the scenarios present allow to check."""
    for name, methods in results.items():
        truth = np.asarray(SCENARIOS[name].final)
        for method in OFFERED:
            said = methods[method]
            bias = (said.value - truth).mean(axis=0)
            yield Check(f"{name}: {method}: worst bias, mLSD", 1000 * float(bias[np.abs(bias).argmax()]), -2.5, 2.5)
            if (truth == 0).any():
                limit = 2.0 if method == "e-process" and name != "edge" else 6.5
                yield Check(f"{name}: {method}: family-wise false positives, %", _fwer(said, truth), 0, limit)
            cover = ((said.low <= truth) & (truth <= said.high)).mean()
            yield Check(f"{name}: {method}: coverage of the 95 % interval, %", 100 * float(cover), 93.5, 100)
        pocock = methods["pocock"]
        cost = {"null": (63, 71), "allreal": (33, 42)}.get(name, (54, 62))
        yield Check(f"{name}: pocock: epochs used, %", 100 * float(pocock.used.mean()), *cost)
        if truth[0]:
            yield Check(f"{name}: pocock: power for text, %", 100 * float(pocock.different[:, 0].mean()), 99, 100)
    if "edge" in results:
        yield Check(
            "edge: pocock: nil at the margin, %", 100 * float(results["edge"]["pocock"].nil[:, 3].mean()), 0, 6.5
        )
    if "slow" in results:
        yield from _controls(results["slow"])


def _controls(slow: Mapping[str, Answers]) -> Iterator[Check]:
    """Yield the checks of scenario slow alone: the e-process's cost, and the methods that must be seen to fail."""
    yield Check("slow: e-process: epochs used, %", 100 * float(slow["e-process"].used.mean()), 75, 85)
    yield Check("slow: 2 seeds: power for text, %", 100 * float(slow["2 seeds"].different[:, 0].mean()), 78, 88)
    truth = np.asarray(SCENARIOS["slow"].final)
    last, rung = slow["ASHA, last values"], slow["ASHA, first rung"]
    wrong = [float(((one.value[:, 0] > 0) & (one.different[:, 0] > 0)).mean()) for one in (last, rung)]
    yield Check("control: ASHA last values: size bias, mLSD", 1000 * float(last.value[:, 3].mean()), 300, np.inf)
    yield Check("control: ASHA last values: false positives, %", _fwer(last, truth), 99, 100)
    yield Check("control: ASHA last values: text wrong sign, %", 100 * wrong[0], 60, 100)
    missing = np.isnan(slow["ASHA, finishers"].value).any(axis=1)
    yield Check("control: ASHA finishers: not estimable, %", 100 * float(missing.mean()), 80, 100)
    yield Check("control: ASHA first rung: false positives, %", _fwer(rung, truth), 99, 100)
    yield Check("control: ASHA first rung: text wrong sign, %", 100 * wrong[1], 95, 100)
    yield Check("control: plateau stop: false positives, %", _fwer(slow["plateau"], truth), 15, 100)


def _fwer(said: Answers, truth: Array) -> float:
    return 100 * float((said.different[:, truth == 0] > 0).any(axis=1).mean())
