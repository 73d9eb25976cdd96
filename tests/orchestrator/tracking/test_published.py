"""The answer reaches MLflow: page, effects and spectrograms lie where a reader of the server looks; links are true."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.image import imread

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import Plan, make_plan, write_plan
from orchestrator.report.listening import triptych
from orchestrator.tracking.client import connect
from orchestrator.tracking.mlflow_internals import links
from orchestrator.tracking.publish import publish, to_compare
from orchestrator.tracking.tracker import Tracker
from sagasr.constants import SAMPLE_RATE
from sagasr.io.errors import DataError

ROW = {"family": "primary", "factor": "text", "level": "caption <b>", "domain": "all", "estimate": -0.1, "low": -0.2}
EFFECTS = pd.DataFrame([{**ROW, "high": float("nan")}, {**ROW, "family": "simple", "high": 0.0}])


@pytest.fixture
def plan(make_grid, tmp_path) -> Plan:
    plan = make_plan(read_space(make_grid(), storage=str(tmp_path / "sweeps")))
    write_plan(plan)
    return plan


@pytest.mark.slow
@pytest.mark.cluster
def test_page_and_effects_stand_in_the_parent_run(plan: Plan, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("<p>the answer</p>")
    assert publish(plan, page, EFFECTS) == []  # nothing was tracked yet
    tracker = Tracker(plan)
    tracker.start()
    tracker.close()
    for _ in range(2):  # sending twice leaves one page
        found = publish(plan, page, EFFECTS)
    client = connect(plan.tracking_uri)
    experiment = client.get_experiment_by_name(plan.name).experiment_id
    (parent,) = client.search_runs([experiment], "tags.`sagasr.kind` = 'sweep'")
    assert "report/index.html" in [one.path for one in client.list_artifacts(parent.info.run_id, "report")]
    assert parent.data.metrics == {"effect/text/caption _b_": -0.1, "effect/text/caption _b_/low": -0.2}
    assert len(found) == 1  # no replicate has a run yet
    assert found[-1].endswith(f"/runs/{parent.info.run_id}/artifacts/report/index.html")


def test_a_server_that_does_not_answer_is_told_in_a_line(plan: Plan, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("x")
    plan = replace(plan, tracking_uri="http://127.0.0.1:9")
    (line,) = publish(plan, page, EFFECTS)
    assert line.startswith("report not in MLflow yet: ")
    assert "\n" not in line


def test_links_name_the_runs_and_no_password() -> None:
    found = links("https://ann:secret@tracking.example/", "7", "p", ["a", "b"])
    assert all("secret" not in one for one in found)
    address = urlsplit(found[0].split(": ", 1)[1])
    query = parse_qs(address.fragment.split("?")[1])
    assert address.netloc == "tracking.example"
    assert query == {"runs": ['["a","b"]'], "experiments": ['["7"]']}
    chart = urlsplit(links("http://h", "7", "p", [], list("abc"), "val/si_sdr")[0].split(": ", 1)[1]).fragment
    shown = parse_qs(chart.split("?")[1])
    assert chart.startswith("/metric?")
    assert (shown["runs"], shown["metric"], shown["x_axis"]) == (['["a","b","c"]'], ['"val/si_sdr"'], ["step"])
    assert links("sqlite:///x.db", "7", "p", ["a"])[-1].startswith("report in MLflow: http://127.0.0.1:5000/#/")


def test_each_cell_is_compared_once_by_its_first_seed() -> None:
    runs = pd.DataFrame({"@text": ["off", "on", "on"], "replicate": ["a", "b", "c"]})
    assert to_compare(runs, [{"text": "on"}, {"text": "off"}, {"text": "on"}, {"text": "none"}]) == ["b", "a"]


def test_three_spectrograms_are_one_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("low", "answer", "high"):
        soundfile.write(tmp_path / f"{name}.flac", 0.1 * rng.standard_normal(20_000), SAMPLE_RATE)
    (tmp_path / "tri.png").write_bytes(triptych(*(tmp_path / f"{name}.flac" for name in ("low", "answer", "high"))))
    assert imread(tmp_path / "tri.png").shape[:2] == (2 * 154, 2 * (3 * 168 + 2 * 4))
    (tmp_path / "low.flac").write_bytes(b"no sound")
    with pytest.raises(DataError):
        triptych(*(tmp_path / f"{name}.flac" for name in ("low", "answer", "high")))
