"""Every comparison estimated, on every metric and domain: from the tables of a sweep to numbers with their errors.

``effect_curves`` estimates each main effect anew from the validation values at every step that the runs share: with
run-level intervals, one step at a time; exploratory. Its last step is not the verdict: that has its own scoring.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from orchestrator.analysis.contrasts import Comparison, comparisons
from orchestrator.analysis.design_matrix import Array, block_means
from orchestrator.analysis.load import QUESTION, Sweep, decisive
from orchestrator.analysis.metrics import Metric
from orchestrator.analysis.split_plot import Layout, codes_of, layout_of
from orchestrator.analysis.variance import Errors, Estimate, Response, errors, judge
from orchestrator.sweep_folder.stopping import is_search

SEARCH = "search mode: trials were stopped on their values, so those that finished are not a fair sample"
MAX_STEPS = 40  # of an effect curve


@dataclass(frozen=True)
class Finding:
    """One comparison on one metric and domain, before its family is corrected."""

    comparison: Comparison
    metric: Metric
    domain: str
    estimate: Estimate | None
    reason: str
    anova: dict[str, float]
    n_runs: int
    n_seeds: int


def responses(sweep: Sweep) -> Iterator[tuple[Metric, str, Response]]:
    """Yield (metric, domain, values) of the finished replicates; a value that cannot be had is NaN."""
    for metric in sweep.metrics:
        means = sweep.runs[metric.name].to_numpy(dtype=float, na_value=np.nan)
        if sweep.clips is None or metric.name not in sweep.clips:
            yield metric, "all", Response(_finite(means), None)
            yield from _distances(sweep, metric)
            continue
        clips, domains = _clip_matrix(sweep, metric.name)
        yield metric, "all", _response(means, clips)
        for domain in sorted(set(domains) - {""}):
            yield metric, domain, _response(np.full(len(means), np.nan), clips[:, domains == domain])


def clips_left_out(sweep: Sweep) -> list[str]:
    """Return a sentence where clips enter no comparison of the plan's metric, because some run has no value on them."""
    name = sweep.metric.name
    if sweep.clips is None or name not in sweep.clips:
        return []
    clips = _clip_matrix(sweep, name)[0]
    used = _response(sweep.runs[name].to_numpy(dtype=float, na_value=np.nan), clips).clips
    if used is not None:
        left, count = clips.shape[1] - used.shape[1], clips.shape[1]
        return [f"{name}: {left} of {count} clips lack a finite value in some run and enter no mean"] if left else []
    reason = "the clips lack finite values in some runs" if clips.shape[1] > 1 else "there is one clip"
    return [f"{name}: {reason}, so intervals hold for new seeds on these clips alone"]


def findings(sweep: Sweep, primary_only: bool = False) -> Iterator[Finding]:
    """Yield every finding, or only the primary ones: main effects on the plan's metric over all clips."""
    codes, sizes = codes_of(sweep)
    plans: dict[bytes, tuple[Layout, list[Comparison]]] = {}
    searched = is_search(sweep.early_stopping) and any(lost.kind == "stopped" for lost in sweep.lost)
    for metric, domain, response in responses(sweep):
        if primary_only and not (metric is sweep.metric and domain == "all"):
            break
        kept = np.isfinite(response.values)
        if not kept.any() and not (metric is sweep.metric and domain == "all"):
            continue
        if kept.tobytes() not in plans:
            layout = layout_of(sweep, codes, sizes, kept)
            plans[kept.tobytes()] = layout, comparisons(sweep, layout, primary_only)
        layout, compared = plans[kept.tobytes()]
        shifted = shift(response, kept)
        pooled = errors(layout, shifted)
        for comparison in compared:
            weights = comparison.weights
            reason = SEARCH if searched else _other_question(sweep, comparison, layout) or comparison.reason
            if weights is None or reason:
                yield Finding(comparison, metric, domain, None, reason, {}, 0, 0)
                continue
            judged = comparison.term and not sweep.nested  # the term of a factor that acts in part has no ANOVA line
            anova = _anova(layout, comparison, shifted, pooled) if judged else {}
            used = np.abs(weights.rows) > 1e-12
            num_runs, num_seeds = (len(np.unique(labels[used])) for labels in (layout.run, layout.seed))
            yield Finding(comparison, metric, domain, judge(weights, shifted, pooled), "", anova, num_runs, num_seeds)


def shift(response: Response, kept: NDArray[np.bool_]) -> Response:
    """Return the values that are there, less a constant: contrasts ignore it, and large values keep their digits."""
    values = response.values[kept]
    offset = values[0] if len(values) else 0.0
    clips = None if response.clips is None else response.clips[kept] - offset
    floor = 8 * float(np.finfo(float).eps * np.abs(values).max(initial=0.0))
    return Response(values - offset, clips, floor)


def _other_question(sweep: Sweep, comparison: Comparison, layout: Layout) -> str:
    """Return why a comparison is none: its sides were scored on different things; nothing where they were not."""
    if comparison.weights is None or QUESTION not in sweep.runs:
        return ""
    asked = pd.Series(comparison.weights.rows).groupby(sweep.runs[QUESTION].to_numpy()[layout.kept]).sum()
    if np.abs(asked).max() < 1e-9:
        return ""
    return f"not comparable: scored on different things ({'; '.join(sorted(asked.index))})"


def _anova(layout: Layout, comparison: Comparison, response: Response, pooled: Errors) -> dict[str, float]:
    """Return the ANOVA line of the comparison's term with the error of its stratum."""
    assert comparison.term is not None
    if set(comparison.term) & set(layout.within_factors):
        assert layout.within is not None
        values = response.values[layout.inner]
        values = values - block_means(values, layout.within.blocks)
        ss, df = layout.within.sum_of_squares(comparison.term, values)
        error, df_error = pooled.within, pooled.within_df
    else:
        variants = layout.num_variants  # published sums of squares count every scored variant
        ss, df = layout.between.sum_of_squares(comparison.term, layout.training_means(response.values))
        ss, error, df_error = ss * variants, pooled.between * variants, pooled.between_df
    if not df:
        return {"df_error": df_error}
    f = ss / df / error if df_error and error > 0 else float("nan")
    f_p = float(special.fdtrc(df, df_error, f)) if np.isfinite(f) else float("nan")
    return {"ss": ss, "f": f, "df_num": df, "df_error": df_error, "f_p": f_p}


def _distances(sweep: Sweep, metric: Metric) -> Iterator[tuple[Metric, str, Response]]:
    """Yield what a metric that no clip has says in each domain."""
    if sweep.distances is None:
        return
    rows = sweep.distances[(sweep.distances["metric"] == metric.name) & (sweep.distances["domain"] != "all")]
    for domain, part in rows.groupby("domain", sort=True):
        values = part.set_index("row")["value"].reindex(range(len(sweep.runs))).to_numpy(dtype=float)
        yield metric, str(domain), Response(_finite(values), None)


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan)


def _clip_matrix(sweep: Sweep, metric: str) -> tuple[Array, Any]:
    """Return [replicates, clips] values (NaN where not scored) and the domain of each clip ('' when there is none)."""
    assert sweep.clips is not None
    clip, names = pd.factorize(sweep.clips["clip"])
    matrix = np.full((len(sweep.runs), len(names)), np.nan)
    matrix[sweep.clips["row"].to_numpy(), clip] = sweep.clips[metric].to_numpy(dtype=float, na_value=np.nan)
    domains = np.full(len(names), "", dtype=object)
    if "domain" in sweep.clips:
        domains[clip] = sweep.clips["domain"].astype(object).fillna("").astype(str).to_numpy()
    return _finite(matrix), domains


def _response(means: Array, clips: Array) -> Response:
    """Return means over the clips that every scored replicate has; the replicate's own value where none is shared."""
    scored = np.isfinite(clips)
    usable = scored.mean(axis=1) > 0.5
    shared = scored[usable].all(axis=0)
    # no clip is common, or some finished replicate has no clip rows: run level alone
    if not (usable.any() and shared.any() and usable[np.isfinite(means)].all()):
        return Response(_finite(means), None)
    values = np.where(usable, clips[:, shared].mean(axis=1), np.nan)
    return Response(values, clips[:, shared] if shared.sum() > 1 else None)


@dataclass(frozen=True)
class EffectCurve:
    """One main effect over the training: estimate and 95 % interval for new seeds, [steps] each."""

    comparison: Comparison
    steps: Array
    estimate: Array
    low: Array
    high: Array


def effect_curves(sweep: Sweep) -> list[EffectCurve]:
    """Return the curve of every main effect; none where runs share no validation curve."""
    sweep = decisive(sweep)
    if sweep.curves is None:
        return []
    kept = np.asarray(np.isfinite(sweep.curves.values).all(axis=1), dtype=bool).reshape(-1)
    if kept.sum() < 2:
        return []
    layout = layout_of(sweep, *codes_of(sweep), kept)
    places = np.unique(np.linspace(0, len(sweep.curves.steps) - 1, MAX_STEPS).round().astype(int))
    responses = [shift(Response(sweep.curves.values[:, place], None), kept) for place in places]
    pooled = [errors(layout, response) for response in responses]
    curves = []
    for comparison in comparisons(sweep, layout, primary_only=True):
        if comparison.weights is not None:
            estimates = [judge(comparison.weights, *pair) for pair in zip(responses, pooled, strict=True)]
            values = np.array([(estimate.value, *estimate.interval_runs(0.95)) for estimate in estimates])
            curves.append(EffectCurve(comparison, sweep.curves.steps[places], *values.T))
    return curves
