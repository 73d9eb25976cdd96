"""The answer in two sentences and the methods in a paragraph, from the effects alone. User text is escaped here."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from orchestrator.analysis.load import Sweep
from orchestrator.analysis.verdict import ALPHA, smallest_found
from orchestrator.formats import count
from orchestrator.report.wording import VERDICTS, number, word_of
from orchestrator.sweep_folder.stopping import is_search
from sagasr.io.states import State
from sagasr.metrics.table import is_distance

DB_PER_LSD = 10.0
TEXT = "text"  # the factor that LSD alone never judges


def name(text: object) -> Markup:
    """Return user text set apart, so that its writing direction moves nothing round it."""
    return Markup("<bdi>{}</bdi>").format(str(text))


def answer(sweep: Sweep, effects: pd.DataFrame, best: Mapping[str, str], means: Mapping[str, float]) -> list[Markup]:
    """Return two sentences: which factors matter, and what the best cell reaches beside trivial answers."""
    expected = sweep.expected - len(sweep.unneeded)
    done = f"{len(sweep.runs)} of {expected} replicates"
    if not len(sweep.runs):
        return [Markup("There is no answer yet."), Markup("{} have finished; failures stand below.").format(done)]
    if not best:
        return [Markup("There is no answer."), Markup("Of {}, none has a value of {}.").format(done, sweep.metric.name)]
    return [_which_matter(sweep, effects), _best_reaches(sweep, best, means, expected)]


def _which_matter(sweep: Sweep, effects: pd.DataFrame) -> Markup:
    if is_search(sweep.early_stopping):
        made = Markup("This sweep was made to pick a cell ({}), not to compare factors, so it names no effects.")
        return made.format(sweep.early_stopping["policy"])
    groups: dict[str, list[Markup]] = {}
    for _, row in effects[effects["family"] == "primary"].iterrows():
        groups.setdefault(word_of(row["verdict"]), []).append(_level(sweep, effects, row))
    metric, delta = sweep.metric, sweep.metric.delta
    within = f" (within ±{delta:g} {metric.unit})" if delta is not None else ""
    forms = {
        "improves": Markup("{} improve{s} {metric}"),
        "harms": Markup("{} harm{s} {metric}"),
        "no relevant effect": Markup("{} make{s} no relevant difference{within}"),
        "undecided": Markup("{} remain{s} undecided"),
        "not estimable": Markup("{} cannot be estimated"),
    }
    parts = []
    for word, levels in sorted(groups.items(), key=lambda group: VERDICTS.index(group[0])):
        *others, last = levels
        listed = Markup(" and ").join([Markup(", ").join(others), last] if others else levels)
        s = "s" if not others else ""
        parts.append(forms[word].format(listed, s=s, metric=name(metric.name), within=within))
    return Markup("; ").join(parts) + Markup(".")


def _level(sweep: Sweep, effects: pd.DataFrame, row: "pd.Series[Any]") -> Markup:
    """Return a level with the size of its effect; of ``text`` also what distances say, and how many words are known."""
    text = name(row["factor"]) + Markup(" = ") + name(row["level"])
    delta = sweep.metric.delta
    if word_of(row["verdict"]) in ("improves", "harms"):
        size = f"{number(row['estimate'], '+.3g')} {row['unit'] or ''}".rstrip()
        small = ", less than matters" if delta is not None and abs(row["estimate"]) < delta else ""
        text += Markup(" ({}{})").format(size, small)
    if row["factor"] != TEXT:
        return text
    for other in beside_text(effects):
        if other["level"] == row["level"] and is_distance(str(other["metric"])):
            change = number(other["estimate"], "+.3g")
            text += Markup(" [{} {}, {}]").format(other["metric"], change, word_of(other["verdict"]))
    if (share := sweep.known_words.get(str(row["level"]))) is not None:
        text += Markup(" [{} of the validation words known]").format(f"{share:.0%}")
    return text


def _best_reaches(sweep: Sweep, best: Mapping[str, str], means: Mapping[str, float], expected: int) -> Markup:
    cell = Markup(" ").join(Markup("{}={}").format(name(key), name(level)) for key, level in best.items())
    titles = {"baseline": "for the baseline cell", "untrained": "untrained", "low": "for the input as it came"}
    known = [key for key in titles if math.isfinite(means.get(key, math.nan))]
    beside = [f"{number(means[key], '.4g')} {titles[key]}" for key in known]
    seeds = sweep.valued["seed"].nunique()
    return Markup("The best cell, {}, reaches {} {}{}; this rests on {} of {} replicates over {} seed{}.").format(
        cell,
        number(means.get("best"), ".4g"),
        sweep.metric.unit,
        " against " + ", ".join(beside) if beside else "",
        len(sweep.valued),
        expected,
        seeds,
        "s" if seeds != 1 else "",
    )


def beside_text(effects: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return what captions do to the verdict's metric and to every distance between distributions, side by side.

    LSD hardly sees what a caption changes (it compares single clips with their own targets); a distance between
    distributions may. Empty without a factor ``text``.
    """
    rows = effects[(effects["factor"] == TEXT) & effects["with"].isna() & (effects["domain"] == "all")]
    rows = rows[(rows["family"] == "primary") | rows["metric"].map(str).map(is_distance).astype(bool)]
    rows = rows.sort_values(["level", "family"], key=lambda column: column != "primary", kind="stable")
    return rows.astype(object).to_dict("records")


def dependences(sweep: Sweep, effects: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each effect that depends on another factor, with its size in each context (``rows``)."""
    on_metric = effects[(effects["metric"] == sweep.metric.name) & (effects["domain"] == "all")]
    sure = on_metric[(on_metric["family"] == "interaction") & (on_metric["p_adjusted"] <= ALPHA)]
    sure = sure[sure["verdict"].map(word_of) != "no relevant effect"]
    simple = on_metric[on_metric["family"] == "simple"]
    levels = {factor.name: factor.levels for factor in sweep.factors}
    effects_in_context: dict[tuple[str, str, str], dict[str, Any]] = {}
    for _, row in sure.iterrows():
        factor, other = str(row["factor"]), str(row["with"])
        level = next(level for level in levels[factor] if row["level"] in [f"{level}:{at}" for at in levels[other]])
        rows = simple[(simple["factor"] == factor) & (simple["level"] == level)]
        rows = rows[rows["with"].str.startswith(f"{other}=")]
        effects_in_context[factor, level, other] = {
            "factor": factor,
            "baseline": levels[factor][0],
            "level": level,
            "rows": rows[["with", "estimate"]].astype(object).to_dict("records"),
        }
    return list(effects_in_context.values())


def not_run(sweep: Sweep) -> list[str]:
    """Return, reason by reason, how many replicates were not run, or wait."""
    reasons = Counter((lost.kind, lost.reason or "decided before") for lost in sweep.unneeded)
    return [
        f"{count} more {'wait' if kind == State.HELD else 'were not needed'} ({reason})"
        for (kind, reason), count in reasons.most_common()
    ]


def methods(sweep: Sweep, effects: pd.DataFrame, design: str) -> list[str]:
    """Return sentences ready to paste into a paper."""
    return [*_design(sweep, design), *_tests(sweep, effects), *_selection(sweep, effects)]


def _design(sweep: Sweep, design: str) -> list[str]:
    """Say what was varied, and what the intervals hold for."""
    factors = ", ".join(
        f"{factor.name} ({' / '.join(factor.levels)}{', applied at evaluation' if factor.stage == 'eval' else ''})"
        for factor in sweep.factors
    )
    seeds = sweep.valued["seed"].nunique()
    clips = sweep.clips["clip"].nunique() if sweep.clips is not None else 0
    cells = len(sweep.valued.groupby(["@" + factor.name for factor in sweep.factors]))
    return [
        f"We varied {factors} in a {design} design of {cells} cells with {seeds} seed{'s' if seeds != 1 else ''} "
        f"as blocks{f'; every training was scored on the same {clips} clips' if clips else ''}.",
        "The unit of replication is the training run; effects are least-squares contrasts of run means in seed blocks.",
        "Intervals are 95 %: the wide one holds for new seeds and new clips (run and clip variance, Satterthwaite "
        "degrees of freedom), the narrow one for new seeds on these clips."
        if clips > 1
        else "Intervals are 95 % for new seeds.",
    ]


def _tests(sweep: Sweep, effects: pd.DataFrame) -> list[str]:
    """Say how p values were adjusted, how small an effect would be found, and which is too small to matter."""
    metric, smallest = sweep.metric, smallest_found(effects)
    sentences = [
        "p values of main effects and of ladder steps are Holm-adjusted within their family, all others by "
        f"Benjamini and Hochberg and are exploratory; significance means adjusted p ≤ {ALPHA:g}."
    ]
    if smallest is not None:
        size = f"{number(smallest)} {metric.unit or ''}".rstrip()
        sentences.append(
            f"With these seeds and clips a main effect of {size} is found with 80 % power, the largest of what the "
            "contrasts need, after Holm."
        )
    if any(factor.stage == "eval" for factor in sweep.factors):
        sentences.append("Factors applied at evaluation are judged against the error within runs (split plot).")
    if metric.delta is not None:
        within = f"±{metric.delta:g} {metric.unit}".strip()
        sentences.append(f"No relevant effect means that the 90 % interval lies inside {within} (two one-sided tests).")
    return sentences


def _selection(sweep: Sweep, effects: pd.DataFrame) -> list[str]:
    """Say which runs were made because of what others showed, and which enter no average."""
    sentences = []
    if sweep.promote is not None:
        source, target = (
            ", ".join(f"{key} = {level}" for key, level in levels.items())
            for levels in (sweep.promote.source, sweep.promote.target)
        )
        sentences.append(
            f"Main effects rest on the runs at {source}; runs at {target} were started for the factors that improved "
            "there, and enter interactions and effects in context."
        )
    if (effects["stopped"] == "repeated").any():
        sentences.append(
            "Seed blocks were added until every main effect was decided; the wide intervals and p values of main "
            "effects allow for these looks, no other number is adjusted for them."
        )
    lost = len(sweep.lost)
    left_out = f"{count(lost, 'replicate')} without a final value enter{'s' if lost == 1 else ''}"
    return [*sentences, f"{left_out} no average." if lost else "No replicate was left out."]
