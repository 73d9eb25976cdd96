"""report/index.html: one self-contained page with the answer, the effects, the curves, the clips and players.

Everything is inline: it opens from a file, in a sandboxed frame, and without a network. User text is escaped by the
template or, in drawings, by charts.py; scripts see it only as JSON.
"""

import base64
import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from orchestrator.analysis.cells import means_beside
from orchestrator.analysis.diagnostics import failure_rates
from orchestrator.analysis.tables import devices_of
from orchestrator.formats import p_value
from orchestrator.report import summary
from orchestrator.report.cost import cost_of
from orchestrator.report.listening import MAX_BYTES
from orchestrator.report.page_data import PageData
from orchestrator.report.report import Report
from orchestrator.report.sections.curves import curves_section
from orchestrator.report.sections.listen import heard, takes
from orchestrator.report.sections.panels import clip_means, clip_panel, interactions_section
from orchestrator.report.sections.tables import effects_section, ladder_section, levels_section
from orchestrator.report.wording import kind_of, number, remark_of, word_of
from orchestrator.sweep_folder.paths import SweepPaths
from orchestrator.sweep_folder.stopping import may_stop, search_label
from sagasr.io.files import read_json, write_text

LOST_SHOWN = 200
PACKAGES = ("sagasr", "numpy", "scipy", "pandas", "pyarrow", "soundfile")


def write_page(report: Report, folder: Path, max_bytes: int = MAX_BYTES) -> Path:
    """Write the page of the sweep in ``folder`` and return its path."""
    path = SweepPaths(folder).report
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(report, folder, max_bytes))
    return path


def page(report: Report, folder: Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the page as text. ``max_bytes`` holds for sounds and their pictures."""
    paths = SweepPaths(folder)
    shown = (report.sweep, report.effects, report.notes, report.preferences)
    data = PageData(*shown, paths=paths, plan=read_json(paths.plan))
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "p": p_value, "word": word_of, "kind": kind_of, "remark": remark_of}
    return environment.get_template("page.html.j2").render(
        **_opening(data),
        **effects_section(data),
        **ladder_section(data),
        **interactions_section(data),
        **curves_section(data),
        **_clips_sections(data, max_bytes),
        **levels_section(data),
        **_closing_sections(data),
    )


def _asset(name: str) -> str:
    return resources.files("orchestrator.report").joinpath(name).read_text(encoding="utf-8")


def _opening(data: PageData) -> dict[str, Any]:
    """Return what holds for the whole page (the sweep, style, script, what the browser may load) and the answer."""
    sweep, script = data.sweep, _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "sweep": sweep,
        "metric": sweep.metric,
        "done": len(sweep.valued),
        "expected": sweep.expected - len(sweep.unneeded),
        "script": Markup(script),
        "style": Markup(_asset("page.css")),
        "policy": f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "answer": summary.answer(sweep, data.effects, data.best, means_beside(sweep, data.best)),
        "num_seeds": sweep.valued["seed"].nunique(),
        "db": summary.DB_PER_LSD if sweep.metric.unit == "LSD" else None,
        "spared": summary.not_run(sweep),
        "may_stop": may_stop(sweep.early_stopping, len(sweep.seeds)),
        "search": search_label(sweep.early_stopping),
        "notes": [*sweep.notes, *data.notes],
    }


def _clips_sections(data: PageData, max_bytes: int) -> dict[str, Any]:
    """Return the scatter of every main effect, the players, and what the script of the page reads."""
    means = clip_means(data)
    played = heard(data, [table for _, table in means], max_bytes)
    return {
        "clip_effects": [clip_panel(data.sweep.metric.name, row, table) for row, table in means],
        "heard": played,
        "takes": takes(data, played),
        "preferences": data.preferences,
        "data": {
            "name": data.sweep.name,
            "plan_hash": data.sweep.plan_hash,
            "effects": data.effects.to_csv(index=False),
            "versions": [{"name": version.name, "kind": version.kind} for version in played.versions],
        },
    }


def _closing_sections(data: PageData) -> dict[str, Any]:
    """Return cost, failures, methods and provenance."""
    sweep, grid = data.sweep, data.paths.grid
    return {
        "cost": cost_of(sweep, data.plan, data.paths),
        "failure_rates": failure_rates(sweep),
        "lost": sorted(sweep.lost, key=lambda lost: lost.kind),
        "lost_shown": LOST_SHOWN,
        "methods": summary.methods(sweep, data.effects, _design(data.plan)),
        "provenance": _provenance(data),
        "grid_text": grid.read_text(errors="replace") if grid.exists() else "",
    }


def _design(plan: Mapping[str, Any]) -> str:
    design = plan.get("design")
    return str(design.get("kind", "full") if isinstance(design, Mapping) else design or "full")


def _provenance(data: PageData) -> list[tuple[str, str]]:
    """Return what the results came from, as (name, value)."""
    sweep, trials = data.sweep, data.plan.get("trials") or []
    data_hashes, configs, results = (
        sorted({str(trial.get(key) or "") for trial in trials} - {""})
        for key in ("data_fingerprint", "config_fingerprint", "version")
    )
    shown = f"{len(configs)}: " + ", ".join(config[:12] for config in configs[:12])
    devices = ", ".join(f"{name} ({count})" for name, count in devices_of(sweep.runs).items())
    stopping = json.dumps(dict(sweep.early_stopping), sort_keys=True) if sweep.early_stopping else "none"
    versions = (f"{package} {version(package)}" for package in PACKAGES)
    return [
        ("sweep", sweep.name),
        ("plan hash", sweep.plan_hash),
        ("design", _design(data.plan)),
        ("seeds", ", ".join(sweep.seeds)),
        ("early stopping", stopping),
        ("data (content hash)", ", ".join(data_hashes) or "not recorded"),
        ("configurations (hashes)", shown if configs else "not recorded"),
        ("result version", ", ".join(results) or "not recorded"),
        ("trained on", devices or "not recorded"),
        ("analysed with", ", ".join((f"Python {platform.python_version()}", *versions))),
    ]
