"""The forest plot as a file: from any names, equal bytes for equal effects, left out where nothing was trained."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from orchestrator.cli.report import report as main
from tests.orchestrator.sweep_folders import noisy_grid, write_sweep

FACTORS = {"text": ["off", "caption"], "a $x$ <b> & ü": ["off", "on", "</svg>"]}


def test_the_forest_plot_is_written_beside_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, noisy_grid(FACTORS, 3, {"text": -0.1}), FACTORS, delta=0.03)
    assert main([str(tmp_path)]) == 0
    drawn = (tmp_path / "report" / "effects.svg").read_bytes()
    written = ["".join(node.itertext()).strip() for node in ElementTree.fromstring(drawn).iter()]
    assert "text: off → caption" in written
    assert "a $x$ <b> & ü: off → </svg>" in written
    assert "improves" in written
    assert any("lower is better; within ± 0.03" in text for text in written)
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report" / "effects.svg").read_bytes() == drawn
    capsys.readouterr()


def test_without_a_finished_training_there_is_no_forest_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "status": "failed", "lsd": None} for row in noisy_grid({"text": ["off", "on"]}, 2, {})]
    write_sweep(tmp_path, rows, {"text": ["off", "on"]})
    assert main([str(tmp_path)]) == 1
    assert (tmp_path / "report" / "index.html").exists()
    assert not (tmp_path / "report" / "effects.svg").exists()
    capsys.readouterr()
