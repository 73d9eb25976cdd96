"""The answer in two sentences and the methods in a paragraph, from the effects alone. User text is escaped here."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from orchestrator.analysis.load import Sweep
from orchestrator.analysis.power import detectable
from orchestrator.analysis.verdict import ALPHA
from orchestrator.report.charts import minus
from sagasr.io.states import State
from sagasr.metrics.table import is_distance

VERDICTS = ("improves", "harms", "no relevant effect", "undecided", "not estimable")
KINDS = ("better", "worse", "same", "open", "none")  # classes in page.css, in the order of VERDICTS
DB_PER_LSD = 10.0
TEXT = "text"  # the factor whose verdict is never told by LSD alone


def word_of(verdict: object) -> str:
    """Return the verdict without its explanation."""
    return next((word for word in VERDICTS if str(verdict).startswith(word)), VERDICTS[-1])


def kind_of(verdict: object) -> str:
    return KINDS[VERDICTS.index(word_of(verdict))]


def remark_of(verdict: object) -> str:
    """Return what stands in brackets behind the verdict."""
    text = str(verdict)
    return text[text.index("(") + 1 : -1] if "(" in text and text.endswith(")") else ""


def name(text: object) -> Markup:
    """Return user text set apart, so that its writing direction moves nothing round it."""
    return Markup("<bdi>{}</bdi>").format(str(text))


def number(value: object, form: str = ".3g") -> str:
    """Return the number for reading; a dash for a missing one."""
    if value is None or value is pd.NA or not math.isfinite(float(value)):  # type: ignore[arg-type]
        return "–"
    return minus(format(float(value), form))  # type: ignore[arg-type]


def answer(
    sweep: Sweep, effects: pd.DataFrame, best: Mapping[str, str], levels: Mapping[str, float], expected: int
) -> list[Markup]:
    """Return two sentences: which factors matter, and what the best cell reaches beside trivial answers."""
    done = f"{len(sweep.runs)} of {expected} replicates"
    if not len(sweep.runs):
        return [Markup("There is no answer yet."), Markup("{} have finished; failures stand below.").format(done)]
    if not best:
        return [Markup("There is no answer."), Markup("Of {}, none has a value of {}.").format(done, sweep.metric.name)]
    return [_which(sweep, effects), _reached(sweep, best, levels, f"{len(sweep.valued)} of {expected} replicates")]


def _which(sweep: Sweep, effects: pd.DataFrame) -> Markup:
    if sweep.early_stopping.get("policy") == "asha":
        return Markup("This sweep was made to pick a cell (asha), not to compare factors, so it names no effects.")
    rows = effects[effects["family"] == "primary"]
    groups: dict[str, list[Markup]] = {}
    for _, row in rows.iterrows():
        told = [name(row["factor"]), Markup(" = "), name(row["level"])]
        if word_of(row["verdict"]) in ("improves", "harms"):
            size = f"{number(row['estimate'], '+.3g')} {row['unit'] or ''}".rstrip()
            small = sweep.metric.delta is not None and abs(row["estimate"]) < sweep.metric.delta
            told.append(Markup(" ({}{})").format(size, ", less than matters" if small else ""))
        if row["factor"] == TEXT:
            told += [
                Markup(" [{} {}, {}]").format(one["metric"], number(one["estimate"], "+.3g"), word_of(one["verdict"]))
                for one in beside_text(effects)
                if one["level"] == row["level"] and is_distance(str(one["metric"]))
            ]
            if (share := sweep.known_words.get(str(row["level"]))) is not None:
                told.append(Markup(" [{} of the validation words known]").format(f"{share:.0%}"))
        groups.setdefault(word_of(row["verdict"]), []).append(Markup("").join(told))
    band = f" (within ±{sweep.metric.delta:g} {sweep.metric.unit})" if sweep.metric.delta is not None else ""
    metric = name(sweep.metric.name)
    forms = {
        "improves": lambda one, s: Markup("{} improve{} {}").format(one, s, metric),
        "harms": lambda one, s: Markup("{} harm{} {}").format(one, s, metric),
        "no relevant effect": lambda one, s: Markup("{} make{} no relevant difference{}").format(one, s, band),
        "undecided": lambda one, s: Markup("{} remain{} undecided").format(one, s),
        "not estimable": lambda one, s: Markup("{} cannot be estimated").format(one),
    }
    told = [
        forms[word](_joined(groups[word]), "s" if len(groups[word]) == 1 else "") for word in VERDICTS if word in groups
    ]
    return Markup("; ").join(told) + Markup(".")


def _reached(sweep: Sweep, best: Mapping[str, str], levels: Mapping[str, float], done: str) -> Markup:
    cell = Markup(" ").join(Markup("{}={}").format(name(key), name(level)) for key, level in best.items())
    beside = [f"{number(levels[key], '.4g')} {words}" for key, words in
              (("baseline", "for the baseline cell"), ("untrained", "untrained"), ("low", "for the input as it came"))
              if key in levels and math.isfinite(levels[key])]  # fmt: skip
    form = Markup("The best cell, {}, reaches {} {}{}; this rests on {} over {}.")
    seeds = sweep.valued["seed"].nunique()
    against = (" against " + ", ".join(beside)) if beside else ""
    worth = number(levels.get("best"), ".4g")
    return form.format(cell, worth, sweep.metric.unit, against, done, f"{seeds} seed{'s' if seeds != 1 else ''}")


def _joined(parts: Sequence[Markup]) -> Markup:
    if len(parts) < 2:
        return Markup("").join(parts)
    return Markup(", ").join(parts[:-1]) + Markup(" and ") + parts[-1]


def beside_text(effects: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what captions do to the verdict's metric and to every distance between distributions, side by side.

    LSD hardly sees what a caption changes (it compares single clips with their own targets); a distance between
    distributions may. Empty without a factor ``text``.
    """
    rows = effects[(effects["factor"] == TEXT) & effects["with"].isna() & (effects["domain"] == "all")]
    main = rows["family"] == "primary"
    rows = rows[main | rows["metric"].map(lambda one: is_distance(str(one))).astype(bool)]
    rows = rows.sort_values(["level", "family"], key=lambda one: one.map(lambda word: word != "primary"), kind="stable")
    keys = ["level", "baseline", "metric", "unit", "estimate", "low", "high", "p_adjusted", "verdict"]
    return [dict(zip(keys, row, strict=True)) for row in rows[keys].astype(object).to_numpy().tolist()]


def dependences(sweep: Sweep, effects: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each effect that depends on another factor, with its size in each context (``rows``)."""
    on_metric = effects[(effects["metric"] == sweep.metric.name) & (effects["domain"] == "all")]
    found = on_metric[(on_metric["family"] == "interaction") & (on_metric["p_adjusted"] <= ALPHA)]
    found = found[found["verdict"].map(word_of) != "no relevant effect"]
    simple = on_metric[on_metric["family"] == "simple"]
    levels = {one.name: one.levels for one in sweep.factors}
    out: dict[tuple[str, str, str], dict[str, Any]] = {}
    for _, row in found.iterrows():
        at, baseline = str(row["with"]), levels[row["factor"]][0]
        level = next(one for one in levels[row["factor"]] if row["level"] in [f"{one}:{other}" for other in levels[at]])
        rows = simple[(simple["factor"] == row["factor"]) & (simple["level"] == level)]
        rows = rows[rows["with"].str.startswith(f"{at}=")]
        shown = rows[["with", "estimate"]].astype(object).to_dict("records")
        out[row["factor"], level, at] = {"factor": row["factor"], "baseline": baseline, "level": level, "rows": shown}
    return list(out.values())


def spared(sweep: Sweep) -> list[str]:
    """Return, reason by reason, how many replicates were not run, or wait."""
    reasons = Counter((one.kind, one.reason or "decided before") for one in sweep.unneeded)
    return [
        f"{count} more {'wait' if kind == State.HELD else 'were not needed'} ({why})"
        for (kind, why), count in reasons.most_common()
    ]


def _smallest(effects: pd.DataFrame) -> float | None:
    """Return the least size at which every main effect would be found; None where one has no error to be judged by."""
    rows = effects[effects["family"] == "primary"]
    errors = rows["se_total"].fillna(rows["se_run"])
    if rows.empty or not (errors.gt(0) & rows["df"].gt(0)).all():
        return None
    found = max(detectable(se, df, ALPHA / len(rows)) for se, df in zip(errors, rows["df"], strict=True))
    return found if math.isfinite(found) else None


def methods(sweep: Sweep, effects: pd.DataFrame, design: str) -> list[str]:
    """Return sentences ready to paste into a paper."""
    factors = ", ".join(
        f"{one.name} ({' / '.join(one.levels)}{', applied at evaluation' if one.stage == 'eval' else ''})"
        for one in sweep.factors
    )
    seeds = sweep.valued["seed"].nunique()
    clips = sweep.clips["clip"].nunique() if sweep.clips is not None else 0
    cells = len(sweep.valued.groupby(["@" + one.name for one in sweep.factors]))
    within = any(one.stage == "eval" for one in sweep.factors)
    delta = sweep.metric.delta
    smallest = _smallest(effects)
    wide = (
        "Intervals are 95 %: the wide one holds for new seeds and new clips (run and clip variance, Satterthwaite "
        "degrees of freedom), the narrow one for new seeds on these clips."
    )
    told = [
        f"We varied {factors} in a {design} design of {cells} cells with {seeds} seed{'s' if seeds != 1 else ''} "
        f"as blocks{f'; every training was scored on the same {clips} clips' if clips else ''}.",
        "The unit of replication is the training run; effects are least-squares contrasts of run means in seed blocks.",
        wide if clips > 1 else "Intervals are 95 % for new seeds.",
        "p values of main effects and of ladder steps are Holm-adjusted within their family, all others by "
        f"Benjamini and Hochberg and are exploratory; significance means adjusted p ≤ {ALPHA:g}.",
    ]
    if smallest is not None:
        told.append(
            f"With these seeds and clips a main effect of {number(smallest)} {sweep.metric.unit or ''}".rstrip()
            + " is found with 80 % power, the largest of what the contrasts need, after Holm."
        )
    if within:
        told.append("Factors applied at evaluation are judged against the error within runs (split plot).")
    if delta is not None:
        band = f"±{delta:g} {sweep.metric.unit}".strip()
        told.append(f"No relevant effect means that the 90 % interval lies inside {band} (two one-sided tests).")
    if sweep.promote is not None:
        at = ", ".join(f"{key} = {level}" for key, level in sweep.promote.source.items())
        to = ", ".join(f"{key} = {level}" for key, level in sweep.promote.target.items())
        told.append(
            f"Main effects rest on the runs at {at}; runs at {to} were started for the factors that improved there, "
            "and enter interactions and effects in context."
        )
    if (effects["stopped"] == "repeated").any():
        told.append(
            "Seed blocks were added until every main effect was decided; the wide intervals and p values of main "
            "effects allow for these looks, no other number is adjusted for them."
        )
    lost = len(sweep.lost)
    left = "1 replicate without a final value enters" if lost == 1 else f"{lost} replicates without a final value enter"
    told.append(f"{left} no average." if lost else "No replicate was left out.")
    return told
