"""The table of effects: every finding corrected over its family and said in a word; writes results/effects.parquet."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.analysis.estimates import Finding, findings
from orchestrator.analysis.group_sequential import e_value, sequential_p
from orchestrator.analysis.interim import InterimAnalysis, complete_seeds, in_seeds, interim_analysis
from orchestrator.analysis.load import Sweep, decisive
from orchestrator.analysis.verdict import adjust, verdict
from sagasr.io.files import write_whole

# fmt: off
WORDS = ("family", "contrast", "factor", "level", "baseline", "with", "metric", "domain", "unit", "verdict",
         "confounded_with", "stopped", "plan_hash")
COUNTS = ("df_num", "n_runs", "n_seeds", "n_clips", "n_failed", "n_missing")
COLUMNS = ("family", "contrast", "factor", "level", "baseline", "with", "metric", "domain", "estimate", "unit",
           "se_run", "se_total", "df", "low", "high", "low_runs", "high_runs", "p", "p_adjusted", "e_value", "verdict",
           "delta", "ss", "f", "df_num", "df_error", "f_p", "share_clips_better", "n_runs", "n_seeds", "n_clips",
           "n_failed", "n_missing", "confounded_with", "stopped", "plan_hash")
# fmt: on
SCHEMA = pa.schema(
    [(name, pa.string() if name in WORDS else pa.int64() if name in COUNTS else pa.float64()) for name in COLUMNS]
)


def effects(sweep: Sweep) -> pd.DataFrame:
    """Return the table of design section 6, one row per comparison, metric and domain.

    Under ``policy: blocks`` the looks taken decide the primary family, on complete seed blocks alone. With ``promote``
    main effects rest on the part that decided; those of what was promoted are a family of their own.
    """
    part = decisive(sweep)
    interim = interim_analysis(part)
    part, whole = (interim.sweep, in_seeds(sweep, complete_seeds(interim.sweep))) if interim else (part, sweep)
    table = [
        finding
        if finding.metric == sweep.metric and finding.domain == "all"
        else replace(finding, comparison=replace(finding.comparison, family="exploratory"))
        for finding in _findings(part, whole)
    ]
    promoted = sweep.promote.target if sweep.promote else {}  # main effects that came after the others were decided
    comparisons = [finding.comparison for finding in table]
    families = [(each.family, each.family == "primary" and each.factor in promoted) for each in comparisons]
    adjusted = _adjusted(table, families, interim)
    sizes = Counter(
        family
        for finding, family in zip(table, families, strict=True)
        if finding.estimate is not None and np.isfinite(finding.estimate.p())
    )
    rows = []
    for finding, family, p in zip(table, families, adjusted, strict=True):
        row = _row(part if _rests_on(part, finding) else whole, finding)
        rows.append(row | _judged(finding, p, sizes[family], interim))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = [name for name in COLUMNS if name not in WORDS]
    return frame.assign(**{name: pd.to_numeric(frame[name]).astype(float) for name in numbers})


def write_effects(table: pd.DataFrame, path: Path) -> None:
    """Write the table whole, with the contract's column types (missing numbers are null, never 0)."""
    columns = [pa.array(table[name], type=SCHEMA.field(name).type, from_pandas=True) for name in COLUMNS]
    arrow = pa.Table.from_arrays(columns, schema=SCHEMA)
    write_whole(path, lambda temporary: pq.write_table(arrow, temporary))


def _findings(part: Sweep, whole: Sweep) -> Iterator[Finding]:
    """Yield main effects as ``part`` has them, everything else as ``whole`` has it."""
    if part.factors == whole.factors:
        yield from findings(whole)
        return
    mains = [finding for finding in findings(part) if _is_main(finding)]
    others = [finding for finding in findings(whole) if not _rests_on(part, finding)]
    yield from sorted([*mains, *others], key=lambda finding: not _is_main(finding))


def _is_main(finding: Finding) -> bool:
    return finding.comparison.term is not None and len(finding.comparison.term) == 1


def _rests_on(part: Sweep, finding: Finding) -> bool:
    return _is_main(finding) and any(factor.name == finding.comparison.factor for factor in part.factors)


def _adjusted(table: list[Finding], families: list[tuple[str, bool]], interim: InterimAnalysis | None) -> list[float]:
    """Return the p values, those of the looks where these decide, corrected within each family."""
    p = np.array([finding.estimate.p() if finding.estimate else np.nan for finding in table])
    for place, finding in enumerate(table):
        if interim and interim.decides(finding.comparison):
            p[place] = sequential_p(interim.looks, finding.comparison.contrast, interim.rule)
    adjusted = np.full(len(p), np.nan)
    for family in set(families):
        members = np.array([other == family for other in families], dtype=bool)
        adjusted[members] = adjust(list(p[members]), family[0])
    return [float(value) for value in adjusted]


def _row(sweep: Sweep, finding: Finding) -> dict[str, Any]:
    """Return what is compared, and on how many runs, seeds and clips."""
    comparison, metric = finding.comparison, finding.metric
    lost = [lost.kind for lost in sweep.lost if comparison.concerns(lost)]
    names = ("family", "contrast", "factor", "level", "baseline")
    return {
        **{name: getattr(comparison, name) for name in names},
        "with": comparison.context,
        "metric": metric.name,
        "domain": finding.domain,
        "unit": metric.unit,
        "delta": metric.delta,
        "n_runs": finding.n_runs,
        "n_seeds": finding.n_seeds,
        "n_clips": None if sweep.clips is None or finding.estimate is None else finding.estimate.num_clips,
        "n_failed": lost.count("failed"),
        "n_missing": len(lost) - lost.count("failed"),
        "confounded_with": comparison.confounded or None,
        "stopped": "plain",
        "plan_hash": sweep.plan_hash,
        **finding.anova,
    }


def _judged(finding: Finding, adjusted: float, tests: int, interim: InterimAnalysis | None) -> dict[str, Any]:
    """Return the estimate with its errors and verdict. ``tests`` is the size of the family of tests."""
    estimate, metric = finding.estimate, finding.metric
    if estimate is None:
        return {"verdict": f"not estimable ({finding.reason})"}
    row: dict[str, Any] = {
        "estimate": estimate.value,
        "se_run": estimate.se_run,
        "se_total": estimate.se,
        "df": estimate.df,
        "p": estimate.p(),
        "p_adjusted": adjusted,
        "share_clips_better": estimate.clips_up if metric.better == "higher" else estimate.clips_down,
        "verdict": verdict(estimate, adjusted, metric, tests, finding.n_seeds),
    }
    t = estimate.value / estimate.se_run if estimate.variance_run > 0 else float("nan")
    row["e_value"] = e_value(t, estimate.df_run, estimate.leverage)
    row["low"], row["high"] = estimate.interval(0.95)
    row["low_runs"], row["high_runs"] = estimate.interval_runs(0.95)
    if interim and interim.decides(finding.comparison):
        row["stopped"] = "repeated"
        contrast, plain = finding.comparison.contrast, row["verdict"]
        row["low"], row["high"], row["verdict"] = interim.judge(contrast, metric, plain, estimate)
    return row
