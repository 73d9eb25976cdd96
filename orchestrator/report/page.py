"""report/index.html: one self-contained page with the answer, the effects, the curves, the clips and players.

Everything is inline: it opens from a file, in a sandboxed frame, and without a network. User text is escaped by the
template or, in drawings, by charts.py; scripts see it only as JSON.
"""

import base64
import hashlib
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup

from orchestrator.analysis.effect_curves import courses
from orchestrator.analysis.failure_rates import failure_rates
from orchestrator.analysis.load import Sweep
from orchestrator.analysis.preferences import Preference
from orchestrator.analysis.tables import devices_of, level_of, training_steps, word_of
from orchestrator.grid.factors import cell_name
from orchestrator.plan.promotion import read_decisions
from orchestrator.report import charts
from orchestrator.report import summary as story
from orchestrator.report.cost import cost_of
from orchestrator.report.listening import MAX_BYTES, ListeningSet, Version, listening_set
from orchestrator.report.terminal import REFERENCES, best_cell, cell_rows, p_text, paper_cell, reference_rows, worth
from orchestrator.sweep_folder.paths import SweepPaths
from orchestrator.sweep_folder.plan_file import cells_of
from sagasr.io.files import read_json, write_text

LOST_SHOWN = 200
CELLS_SHOWN = 200
PANELS_SHOWN = 6
CLIPS_SHOWN = 4  # best and worst of each contrast
PACKAGES = ("sagasr", "numpy", "scipy", "pandas", "pyarrow", "soundfile")


def write_page(
    sweep: Sweep,
    effects: pd.DataFrame,
    notes: Sequence[str],
    folder: Path,
    max_bytes: int = MAX_BYTES,
    preferences: Sequence[Preference] = (),
) -> Path:
    """Write the page of the sweep in ``folder`` and return its path."""
    path = SweepPaths(folder).report
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(sweep, effects, notes, folder, max_bytes, preferences))
    return path


def page(
    sweep: Sweep,
    effects: pd.DataFrame,
    notes: Sequence[str],
    folder: Path,
    max_bytes: int = MAX_BYTES,
    preferences: Sequence[Preference] = (),
) -> str:
    """Return the page as text."""
    paths = SweepPaths(folder)
    plan = read_json(paths.plan)
    best = best_cell(sweep) if len(sweep.runs) else {}
    expected = sweep.expected - len(sweep.unneeded)
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    primary = effects[effects["family"] == "primary"]
    clips = _clip_effects(sweep, primary)
    heard = _listening(sweep, plan, paths, best, clips, max_bytes)
    loader = jinja2.FunctionLoader(_asset)
    shape = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shape.filters |= {"number": story.number, "p": p_text, "kind": story.kind_of, "word": story.word_of}
    shape.filters["remark"] = story.remark_of
    return shape.get_template("page.html.j2").render(
        sweep=sweep,
        done=len(sweep.valued),
        expected=expected,
        unneeded=sweep.unneeded,
        spared=story.spared(sweep),
        num_seeds=sweep.valued["seed"].nunique(),
        metric=sweep.metric,
        db=story.DB_PER_LSD if sweep.metric.unit == "LSD" else None,
        answer=story.answer(sweep, effects, best, worth(sweep, best), expected),
        primary=_records(primary),
        forest=_forest(sweep, primary),
        scale=charts.forest_axis(primary, sweep.metric.delta),
        others=_others(sweep, effects),
        ladder=_ladder(sweep, effects),
        depends=story.dependences(sweep, effects),
        interactions=_interactions(sweep, effects),
        panels_shown=PANELS_SHOWN,
        curves=_curves(sweep, plan, paths),
        clip_effects=[_clip_panel(sweep, one, table) for one, table in clips],
        heard=heard,
        takes=_takes(sweep, plan, heard),
        references=_references(sweep, best),
        cells=_cells(sweep),
        cost=cost_of(sweep, plan, paths),
        promotion=_promotion(sweep, effects, folder),
        failure_rates=failure_rates(sweep),
        preferences=preferences,
        beside_text=story.beside_text(effects),
        courses=_courses(sweep),
        hours_of="GPU-hours" if _on_gpus(sweep) else "hours",
        lost=sorted(sweep.lost, key=lambda one: one.kind),
        lost_shown=LOST_SHOWN,
        methods=story.methods(sweep, effects, _design(plan)),
        notes=[*sweep.notes, *notes],
        provenance=_provenance(sweep, plan),
        grid_text=paths.grid.read_text(errors="replace") if paths.grid.exists() else "",
        data={
            "name": sweep.name,
            "plan_hash": sweep.plan_hash,
            "effects": effects.to_csv(index=False),
            "versions": [{"name": one.name, "kind": one.kind} for one in heard.versions],
        },
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )


def _asset(name: str) -> str:
    return resources.files("orchestrator.report").joinpath(name).read_text(encoding="utf-8")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with None for missing numbers, for words."""
    return [{key: None if value != value else value for key, value in row.items()} for row in _numbers(table)]


def _numbers(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with NaN for missing numbers, for drawing."""
    return [dict(zip(map(str, table.columns), row, strict=True)) for row in table.to_numpy().tolist()]


def _forest(sweep: Sweep, primary: pd.DataFrame) -> list[Markup]:
    scale = charts.forest_axis(primary, sweep.metric.delta)
    return [
        charts.forest_row(
            row,
            scale,
            sweep.metric.delta,
            f"{row['contrast']}: {story.number(row['estimate'], '+.3g')}, "
            f"95 % interval {story.number(row['low'], '+.3g')} to {story.number(row['high'], '+.3g')}, "
            f"{story.word_of(row['verdict'])}",
            story.kind_of(row["verdict"]),
        )
        for row in _numbers(primary)
    ]


def _others(sweep: Sweep, effects: pd.DataFrame) -> list[dict[str, Any]]:
    """Return main effects on other metrics and in each domain, for the plan's contrasts."""
    wanted = effects[(effects["family"] == "primary") | (effects["family"] == "exploratory")]
    wanted = wanted[wanted["contrast"].isin(effects.loc[effects["family"] == "primary", "contrast"])]
    by_metric = wanted[wanted["domain"] == "all"]
    by_domain = wanted[(wanted["metric"] == sweep.metric.name) & (wanted["domain"] != "all")]
    groups = [("metric", by_metric), ("domain", by_domain)]
    out = []
    for key, rows in groups:
        columns = list(dict.fromkeys(rows[key]))
        units = dict(zip(rows[key], rows["unit"], strict=True)) if key == "metric" else {}
        better = {one.name: one.better for one in sweep.metrics} if key == "metric" else {}
        lines = [
            {"contrast": contrast, "cells": [found.get(column) for column in columns]}
            for contrast, found in (
                (contrast, {row[key]: row for row in _records(part)})
                for contrast, part in rows.groupby("contrast", sort=False)
            )
        ]
        if lines:
            out.append({"key": key, "columns": columns, "units": units, "better": better, "lines": lines})
    return out


def _ladder(sweep: Sweep, effects: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row for each step: its cell's mean, what the step does, and what the grid says of the same factors."""
    rows = {row["level"]: row for row in _records(effects[effects["family"] == "ladder"])}
    main = {(row["factor"], row["level"]): row for row in _records(effects[effects["family"] == "primary"])}
    steps = {step.step: step for step in sweep.ladder}
    out = []
    for step in sweep.ladder if len(sweep.runs) else ():
        before = steps.get(step.versus) if step.versus is not None else None
        changed = {key: level for key, level in step.levels.items() if before is None or before.levels[key] != level}
        found = cell_rows(sweep.runs, step.levels, "@")
        average = main.get(next(iter(changed.items()))) if before is not None and len(changed) == 1 else None
        out.append({
            "step": step.step, "versus": step.versus, "cell": cell_name(step.levels), "changed": cell_name(changed),
            "mean": float(found[sweep.metric.name].mean()) if len(found) else None,
            "seeds": int(found[sweep.metric.name].count()),
            "effect": rows.get(step.step), "average": average, "several": before is not None and len(changed) > 1,
        })  # fmt: skip
    return out


def _interactions(sweep: Sweep, effects: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a panel for each pair of factors, the surest interaction first."""
    if len(sweep.valued) < 2 or len(sweep.factors) < 2:
        return []
    metric, runs = sweep.metric.name, sweep.valued
    names = ["@" + one.name for one in sweep.factors]
    spread = _run_spread(sweep, names)
    tables = []
    for second in range(len(sweep.factors)):
        for first in range(second):
            one, two = sweep.factors[first], sweep.factors[second]
            groups = runs.groupby(["@" + one.name, "@" + two.name])
            trainings = groups["trial"].nunique() if "trial" in runs else groups.size()
            means = groups[metric].mean().unstack().reindex(index=list(one.levels), columns=list(two.levels))
            error = trainings.pow(-0.5).mul(spread).unstack().reindex(index=list(one.levels), columns=list(two.levels))
            rows = effects[
                (effects["family"] == "interaction") & (effects["factor"] == one.name) & (effects["with"] == two.name)
            ]
            p = rows["p_adjusted"].min()
            tables.append((math.inf if pd.isna(p) else float(p), one, two, means, error))
    values = [value for _, _, _, means, error in tables
              for value in np.concatenate([(means - error).to_numpy().ravel(), (means + error).to_numpy().ravel(),
                                           means.to_numpy().ravel()])]  # fmt: skip
    y = charts.axis(values, 4)
    out = []
    for p, one, two, means, error in sorted(tables, key=lambda table: table[0]):
        label = f"mean {metric} for each level of {one.name} and {two.name}"
        plot = charts.interaction_panel(f"{one.name} × {two.name}", label, means, error, y, one.levels, two.levels)
        out.append({"plot": plot, "p": None if math.isinf(p) else p, "lines": one, "across": two})
    return out


def _run_spread(sweep: Sweep, names: list[str]) -> float:
    """Return the standard deviation of runs left when cells and seeds are taken out; NaN with one seed."""
    runs, metric = sweep.valued, sweep.metric.name
    left = runs[metric] - runs.groupby(names)[metric].transform("mean")
    left = left - left.groupby(runs["seed"]).transform("mean")
    cells, seeds = runs.groupby(names).ngroups, runs["seed"].nunique()
    df = len(runs) - cells - (seeds - 1)
    return float(np.sqrt((left**2).sum() / df)) if df > 0 else float("nan")


def _replicates(sweep: Sweep, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Return replicate, trial, cell, seed and levels of all that the plan, or the results, know by id."""
    rows = []
    for cell in cells_of(plan):
        levels = {f"@{f.name}": level_of(cell["levels"].get(f.name, f.baseline), f.levels) for f in sweep.factors}
        for one in cell.get("replicates") or []:
            if one.get("replicate"):
                keys = {"replicate": str(one["replicate"]), "trial": str(one.get("trial", ""))}
                rows.append({**keys, "cell": str(cell.get("cell", "")), "seed": word_of(one.get("seed", "")), **levels})
    if rows:
        return pd.DataFrame(rows)
    if "replicate" not in sweep.runs:
        return pd.DataFrame(columns=["replicate", "trial", "cell", "seed"])
    levels_of = sweep.runs[["@" + one.name for one in sweep.factors]]
    cells = [cell_name(dict(zip((f.name for f in sweep.factors), row, strict=True))) for row in levels_of.to_numpy()]
    table = sweep.runs.assign(cell=cells)
    return table.assign(trial=table["trial"] if "trial" in table else table["replicate"])


def _curves(sweep: Sweep, plan: Mapping[str, Any], paths: SweepPaths) -> list[charts.Plot]:
    """Return panels of training and validation on one axis of steps; each training once where variants share it."""
    path = paths.table("curves")
    if not path.exists():
        return []
    curves = pq.read_table(path).to_pandas()
    if curves.empty or not {"replicate", "step", "metric", "value"} <= set(curves):
        return []
    curves["replicate"] = curves["replicate"].astype(str)
    known = _replicates(sweep, plan).drop_duplicates("replicate").set_index("replicate")
    indices = {one.name: {level: index for index, level in enumerate(one.levels)} for one in sweep.factors}
    curves = curves[curves["replicate"].isin(known.index)]
    steps = charts.axis([float(curves["step"].min()), float(curves["step"].max())], 5, 0.01)
    pace = _pace(paths, list(indices))
    paces = [pace[one] for one in known.index if one in pace]
    hours = charts.axis([0.0, float(curves["step"].max()) * max(paces)], 5, 0.01) if paces else None
    panels = []
    for metric in ("train/loss", "val/loss", f"val/{sweep.metric.name}"):
        rows = curves[curves["metric"] == metric]
        lines, seen = [], set()
        for replicate, table in rows.groupby("replicate", sort=False):
            about = known.loc[replicate]
            mark = (about["trial"], tuple(table["value"])) if about["trial"] else replicate
            if mark not in seen:
                seen.add(mark)
                levels = tuple(indices[one.name].get(about["@" + one.name], 0) for one in sweep.factors)
                name = f"{about['cell']}, seed {about['seed']}"
                lines.append(charts.Curve(name, levels, table, pace.get(str(replicate))))
        panel = charts.curve_panel(metric, lines, [one.levels for one in sweep.factors], steps, hours)
        panels += [panel] if panel else []
    return panels


def _pace(paths: SweepPaths, factors: Sequence[str]) -> dict[str, float]:
    """Return the hours that one step of each replicate's training took: of GPUs, or of the clock where it had none."""
    table = pq.read_table(paths.table("replicates")).to_pandas()
    if not {"replicate", "wall_seconds"} <= set(table):
        return {}
    wall, gpu = (pd.to_numeric(table.get(name), errors="coerce") for name in ("wall_seconds", "gpu_seconds"))
    seconds = gpu if gpu is not None and gpu.gt(0).any() else wall
    stopped = pd.to_numeric(table.get("stopped_at_step", pd.Series(np.nan, index=table.index)), errors="coerce")
    steps = stopped.where(stopped.gt(0), training_steps(table, factors))
    hours = seconds / 3_600 / steps
    return {str(name): float(value) for name, value in zip(table["replicate"], hours, strict=True) if value > 0}


def _on_gpus(sweep: Sweep) -> bool:
    return bool("gpu_seconds" in sweep.runs and pd.to_numeric(sweep.runs["gpu_seconds"], errors="coerce").gt(0).any())


def _courses(sweep: Sweep) -> list[dict[str, Any]]:
    """Return a panel for each main effect over the training, on one scale of steps and one of effects."""
    found = courses(sweep)
    if not found:
        return []
    x = charts.axis([float(found[0].steps[0]), float(found[0].steps[-1])], 4, 0.01)
    values = np.concatenate([one.estimate for one in found])
    spread = np.concatenate([np.concatenate([one.low, one.high]) for one in found])
    reach = 4 * float(np.abs(values).max() or 1.0)
    y = charts.axis([0.0, *values, *np.clip(spread[np.isfinite(spread)], -reach, reach)], 4)
    return [
        {"factor": one.factor, "level": one.level, "plot": charts.course_panel(one.contrast, one, x, y)}
        for one in found
    ]


def _promotion(sweep: Sweep, effects: pd.DataFrame, folder: Path) -> dict[str, Any] | None:
    """Return what was promoted and why, with each promoted effect where it was promoted to."""
    if sweep.promote is None:
        return None
    decision = read_decisions(folder).of(sweep.plan_hash)
    if decision is None:
        at, to = cell_name(sweep.promote.source), cell_name(sweep.promote.target)
        return {"reason": f"Cells at {to} wait until {at} is decided.", "rows": []}
    simple = effects[(effects["family"] == "simple") & (effects["domain"] == "all")]
    context = simple[simple["with"] == cell_name(decision.target)]
    after = {(row["factor"], row["level"]): row for row in _records(context)}
    rows = [
        {"judged": one, "after": after.get((one.factor, one.level)) if one.promoted else None}
        for one in decision.judged
    ]
    return {
        "reason": f"Decided: {decision.reason}.",
        "rows": rows,
        "at": cell_name(decision.source),
        "to": cell_name(decision.target),
        "gpu_hours": decision.gpu_hours,
        "budget": decision.budget,
    }


def _clip_effects(sweep: Sweep, primary: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return for each main effect the clips' means at level (y) and baseline (x), sorted by gain, best first."""
    if sweep.clips is None or sweep.metric.name not in sweep.clips:
        return []
    clips = sweep.clips.assign(domain=sweep.clips.get("domain", ""))
    out = []
    for row in _records(primary):
        words = sweep.runs["@" + row["factor"]].to_numpy()[clips["row"]]
        table = clips.assign(level=words).pivot_table(
            sweep.metric.name, ["clip", "domain"], "level", "mean", observed=True
        )
        if {row["level"], row["baseline"]} <= set(table):
            table = table[[row["baseline"], row["level"]]].dropna().set_axis(["x", "y"], axis=1).reset_index()
            table = table.assign(gain=(table["y"] - table["x"]) * sweep.metric.sign)
            out.append((row, table.sort_values("gain", ascending=False)))
    return [(row, table) for row, table in out if len(table) > 1]


def _clip_panel(sweep: Sweep, row: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    domains = sorted(map(str, set(table["domain"])))
    scale = charts.axis([*table["x"], *table["y"]], 4)
    title = f"{row['factor']}: {row['level']} against {row['baseline']}"
    better = int((table["gain"] > 0).sum())
    label = f"{title}, each clip's mean {sweep.metric.name}; better for {better} of {len(table)} clips"
    plot = charts.scatter(title, label, table, scale, {domain: index for index, domain in enumerate(domains)})
    shown = min(CLIPS_SHOWN, len(table) // 2)
    rows = _records(table)
    return {"plot": plot, "row": row, "domains": domains, "better": better, "clips": len(table),
            "best": rows[:shown], "worst": rows[::-1][:shown]}  # fmt: skip


def _listening(
    sweep: Sweep,
    plan: Mapping[str, Any],
    paths: SweepPaths,
    best: Mapping[str, str],
    clips: Sequence[tuple[dict[str, Any], pd.DataFrame]],
    max_bytes: int,
) -> ListeningSet:
    """Return what can be heard: low, high, baseline, best cell, ladder, then the other cells, of the first seed."""
    table = _replicates(sweep, plan)
    table = table[table["replicate"].map(lambda one: (paths.audio / _plain(one)).is_dir()).astype(bool)]
    wanted = [{f.name: f.baseline for f in sweep.factors}, dict(best), *(dict(step.levels) for step in sweep.ladder)]
    order = {
        cell_name({f.name: one.get(f.name, "") for f in sweep.factors}): -index
        for index, one in enumerate(wanted[::-1])
    }
    versions = [Version("low input", "low", "low"), Version("high (target)", "high", "high")]
    if len(table):
        names = [cell_name({f.name: row["@" + f.name] for f in sweep.factors}) for row in table.to_dict("records")]
        table = table.assign(name=names, place=[order.get(one, 1) for one in names]).sort_values("place", kind="stable")
        table = table.drop_duplicates("name")
        versions += [Version(str(row["name"]), "cell", str(row["replicate"])) for row in table.to_dict("records")]
    spread = pd.concat([table.assign(size=table["gain"].abs()) for _, table in clips]) if clips else pd.DataFrame()
    rank = list(spread.groupby("clip")["size"].max().sort_values(ascending=False).index) if len(spread) else []
    return listening_set(paths.audio, versions, rank, max_bytes)


def _plain(name: object) -> str:
    """Return the name where it is a plain one, else one that no replicate has: a plan cannot name a path outside."""
    return str(name) if re.fullmatch(r"\w[\w-]*", str(name)) else "--"


def _takes(sweep: Sweep, plan: Mapping[str, Any], heard: ListeningSet) -> list[dict[str, Any]]:
    """Return for each clip and version what the page shows beside the sound, and the sound itself."""
    metrics = [one for one in sweep.metrics if one.name in {sweep.metric.name, "seam"}]
    scores: dict[tuple[str, str], dict[str, Any]] = {}
    domains: dict[str, str] = {}
    if sweep.clips is not None and "replicate" in sweep.runs:
        shown = sweep.clips[sweep.clips["clip"].astype(str).isin([clip.name for clip in heard.clips])]
        ids = sweep.runs["replicate"].to_numpy()[shown["row"]]
        for row, replicate in zip(_records(shown), ids, strict=True):
            scores[str(replicate), str(row["clip"])] = row
            domains[str(row["clip"])] = str(row.get("domain") or "")
    if sweep.references is not None and {"subject", "clip"} <= set(sweep.references):
        for row in _records(sweep.references[sweep.references["subject"] == "low"].drop_duplicates("clip")):
            scores["low", str(row["clip"])] = row
    out = []
    for clip in heard.clips:
        rows = []
        for index, take in sorted(clip.takes.items()):
            found = scores.get((heard.versions[index].folder, clip.name), {})
            told = [f"{one.name} {story.number(found[one.name])} {one.unit}".strip() for one in metrics
                    if isinstance(found.get(one.name), float) and math.isfinite(found[one.name])]  # fmt: skip
            rows.append({"version": index, "text": ", ".join(told), "gain": f"{take.gain_db:+.1f} dB",
                         "audio": take.audio, "image": take.image})  # fmt: skip
        out.append({"clip": clip, "domain": domains.get(clip.name, ""), "takes": rows})
    return out


def _references(sweep: Sweep, best: Mapping[str, str]) -> dict[str, Any]:
    """Return means of the trivial answers and of trained cells, on every metric."""
    if not len(sweep.runs):
        return {"rows": []}
    base = {one.name: one.baseline for one in sweep.factors}
    rows = [(words, "", reference_rows(sweep, subject, best)) for subject, words in REFERENCES]
    rows.append(("trained, baseline cell", cell_name(base), cell_rows(sweep.runs, base, "@")))
    rows.append(("trained, best cell", cell_name(best), cell_rows(sweep.runs, best, "@")))
    paper = paper_cell(sweep)
    if paper:
        rows.append(("trained, the paper's own choices", cell_name(paper), cell_rows(sweep.runs, paper, "@")))
    return {"rows": [
        {"words": words, "cell": cell,
         "values": [found[one.name].mean() if one.name in found else None for one in sweep.metrics]}
        for words, cell, found in rows if len(found)
    ]}  # fmt: skip


def _cells(sweep: Sweep) -> dict[str, Any]:
    """Return every cell's mean on every metric, best first."""
    if not len(sweep.runs):
        return {"rows": [], "left": 0}
    names = ["@" + one.name for one in sweep.factors]
    groups = sweep.runs.groupby(names, sort=False)
    table = groups[[one.name for one in sweep.metrics if one.name in sweep.runs]].mean()
    table = table.assign(seeds=groups[sweep.metric.name].count())
    table = table.sort_values(sweep.metric.name, ascending=sweep.metric.better == "lower")
    rows = [
        {"levels": key if isinstance(key, tuple) else (key,), "seeds": int(row["seeds"]),
         "values": [row.get(one.name) for one in sweep.metrics]}
        for key, row in table.head(CELLS_SHOWN).iterrows()
    ]  # fmt: skip
    return {"rows": rows, "left": max(0, len(table) - CELLS_SHOWN)}


def _design(plan: Mapping[str, Any]) -> str:
    design = plan.get("design")
    return str(design.get("kind", "full") if isinstance(design, Mapping) else design or "full")


def _provenance(sweep: Sweep, plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the results came from, as (name, value)."""
    trials = plan.get("trials") or []
    sets = sorted({str(one.get("data_fingerprint", "")) for one in trials} - {""})
    configs = sorted({str(one.get("config_fingerprint", "")) for one in trials} - {""})
    shown = f"{len(configs)}: " + ", ".join(one[:12] for one in configs[:12])
    results = ", ".join(sorted({str(one["version"]) for one in trials if "version" in one}))
    return [
        ("sweep", sweep.name),
        ("plan hash", sweep.plan_hash),
        ("design", _design(plan)),
        ("seeds", ", ".join(sweep.seeds)),
        ("early stopping", json.dumps(dict(sweep.early_stopping), sort_keys=True) if sweep.early_stopping else "none"),
        ("data (content hash)", ", ".join(sets) or "not recorded"),
        ("configurations (hashes)", shown if configs else "not recorded"),
        ("result version", results or "not recorded"),
        (
            "trained on",
            ", ".join(f"{name} ({count})" for name, count in devices_of(sweep.runs).items()) or "not recorded",
        ),
        ("analysed with", f"Python {platform.python_version()}, " + ", ".join(_versions())),
    ]


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
