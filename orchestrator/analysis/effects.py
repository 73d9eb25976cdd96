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
from orchestrator.analysis.group_sequential import e_value
from orchestrator.analysis.interim import InterimAnalysis, in_seeds, interim_analysis
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
    part, whole = (interim.sweep, in_seeds(sweep, interim.seeds)) if interim else (part, sweep)
    found = [_in_family(sweep, finding) for finding in _findings(part, whole)]
    families = [(one.line.family, _second_stage(sweep, one)) for one in found]
    adjusted = _adjusted(found, families, interim)
    sizes = Counter(
        family
        for one, family in zip(found, families, strict=True)
        if one.estimate is not None and np.isfinite(one.estimate.p())
    )
    rows = [
        _row(part if _rests_on(part, one) else whole, one, p, sizes[family], interim)
        for one, p, family in zip(found, adjusted, families, strict=True)
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = [name for name in COLUMNS if name not in WORDS]
    return table.assign(**{name: pd.to_numeric(table[name]).astype(float) for name in numbers})


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
    mains = [one for one in findings(part) if _is_main(one)]
    names = {one.name for one in part.factors}
    others = [one for one in findings(whole) if not (_is_main(one) and one.line.factor in names)]
    yield from sorted([*mains, *others], key=lambda one: not _is_main(one))


def _second_stage(sweep: Sweep, one: Finding) -> bool:
    """Return whether this is a main effect that only promoted runs can show: it came after the others were decided."""
    return sweep.promote is not None and one.line.family == "primary" and one.line.factor in sweep.promote.target


def _is_main(one: Finding) -> bool:
    return one.line.term is not None and len(one.line.term) == 1


def _rests_on(part: Sweep, one: Finding) -> bool:
    return _is_main(one) and any(factor.name == one.line.factor for factor in part.factors)


def _in_family(sweep: Sweep, finding: Finding) -> Finding:
    """Return the finding in its family of tests: only the plan's metric over all clips is confirmatory."""
    if finding.metric == sweep.metric and finding.domain == "all":
        return finding
    return replace(finding, line=replace(finding.line, family="exploratory"))


def _adjusted(found: list[Finding], families: list[tuple[str, bool]], interim: InterimAnalysis | None) -> list[float]:
    p = np.array([one.estimate.p() if one.estimate else np.nan for one in found])
    if interim:
        for place, one in enumerate(found):
            p[place] = interim.p(one.line.contrast) if interim.decides(one.line) else p[place]
    out = np.full(len(p), np.nan)
    for family in set(families):
        mine = np.array([one == family for one in families], dtype=bool)
        out[mine] = adjust(list(p[mine]), family[0])
    return [float(value) for value in out]


def _row(sweep: Sweep, one: Finding, adjusted: float, tests: int, interim: InterimAnalysis | None) -> dict[str, Any]:
    line, estimate, delta = one.line, one.estimate, one.metric.delta
    lost = [each.kind for each in sweep.lost if line.concerns(each)]
    row: dict[str, Any] = {
        "family": line.family,
        "contrast": line.contrast,
        "factor": line.factor,
        "level": line.level,
        "baseline": line.baseline,
        "with": line.context,
        "metric": one.metric.name,
        "domain": one.domain,
        "unit": one.metric.unit,
        "delta": delta,
        "n_runs": one.n_runs,
        "n_seeds": one.n_seeds,
        "n_clips": None if sweep.clips is None or estimate is None else estimate.num_clips,
        "n_failed": lost.count("failed"),
        "n_missing": len(lost) - lost.count("failed"),
        "confounded_with": line.confounded or None,
        "stopped": "plain",
        "plan_hash": sweep.plan_hash,
        **one.anova,
    }
    if estimate is None:
        return row | {"verdict": f"not estimable ({one.reason})"}
    low, high = estimate.interval(0.95)
    low_runs, high_runs = estimate.interval_runs(0.95)
    word = verdict(estimate, adjusted, one.metric, tests, one.n_seeds)
    if interim and interim.decides(line):
        row["stopped"] = "repeated"
        low, high, word = interim.judge(line.contrast, one.metric, word, estimate)
    t = estimate.value / estimate.se_run if estimate.variance_run > 0 else float("nan")
    better = estimate.clips_up if one.metric.better == "higher" else estimate.clips_down
    return row | {
        "estimate": estimate.value,
        "se_run": estimate.se_run,
        "se_total": estimate.se,
        "df": estimate.df,
        "low": low,
        "high": high,
        "low_runs": low_runs,
        "high_runs": high_runs,
        "p": estimate.p(),
        "p_adjusted": adjusted,
        "e_value": e_value(t, estimate.df_run, estimate.leverage),
        "share_clips_better": better,
        "verdict": word,
    }
