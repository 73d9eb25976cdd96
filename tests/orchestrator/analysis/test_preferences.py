"""What listeners preferred, blind: counted by clip, tested exactly; files from outside are checked, never trusted."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.analysis.preferences import compare, read_sheet
from orchestrator.cli.report import report as main
from sagasr.io.errors import DataError
from tests.orchestrator.sweep_folders import TWO, noisy_grid, write_sweep

EVIL = "<script>alert(1)</script>"


def sheet(path: Path, votes: dict[str, str | None], a: str = "off", b: str = "on", **changes: Any) -> Path:
    trials = [
        {"clip": clip, "shown_as_1": "A", "preferred": vote, "heard": {"A": 2, "B": 1}} for clip, vote in votes.items()
    ]
    tree = {"sweep": "case", "plan_hash": "p", "test": "preference", "seed": "x", "A": a, "B": b,
            "finished": "2026-01-01T00:00:00Z", "trials": trials} | changes  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    return path


def test_shares_intervals_and_p_are_exact(tmp_path: Path) -> None:
    votes = {f"c{i}": "B" for i in range(9)} | {"c9": "A", "c10": "tie", "c11": None}
    (found,) = compare([read_sheet(sheet(tmp_path / "s.json", votes))])
    assert (found.b_preferred, found.a_preferred, found.ties, found.clips, found.listeners) == (9, 1, 1, 11, 1)
    assert found.share_b == 0.9
    assert (found.low, found.high) == (pytest.approx(0.5550, abs=1e-4), pytest.approx(0.9975, abs=1e-4))
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)  # 9 or 10 of 10, both sides


def test_listeners_of_one_clip_count_once_whichever_answer_was_called_a(tmp_path: Path) -> None:
    sheets = [
        sheet(tmp_path / "1.json", {"c0": "B", "c1": "B"}),
        sheet(tmp_path / "2.json", {"c0": "A", "c1": "B"}, a="on", b="off"),  # prefers "on" on c0, "off" on c1
        sheet(tmp_path / "3.json", {"c0": "B", "c1": "tie"}),
    ]
    (found,) = compare([read_sheet(path) for path in sheets])
    assert (found.a, found.b) == ("off", "on")
    assert (found.b_preferred, found.a_preferred, found.ties, found.listeners) == (1, 0, 1, 3)


def test_nobody_with_a_preference_is_no_test(tmp_path: Path) -> None:
    (found,) = compare([read_sheet(sheet(tmp_path / "s.json", {"c0": "tie", "c1": None}))])
    assert found.p != found.p
    assert (found.ties, found.clips) == (1, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "s.json"),
        ("[]", "expected the answers of a blind test"),
        ('{"sweep": "case"}', "plan_hash"),
        (json.dumps({"trials": 3}), "s.json"),
    ],
)
def test_what_is_no_sheet_is_refused_in_one_line(tmp_path: Path, text: str, words: str, capsys) -> None:
    folder = write_sweep(tmp_path, noisy_grid(TWO, 2, {}), TWO)
    path = tmp_path / "s.json"
    path.write_text(text)
    assert main([str(folder), "--preferences", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_keys_that_nobody_asked_for_and_wrong_words_are_refused(tmp_path: Path) -> None:
    for name, changes in (("more", {"run": "rm"}), ("word", {"test": "abx"}), ("same", {"B": "off"})):
        with pytest.raises(DataError, match=name):
            read_sheet(sheet(tmp_path / f"{name}.json", {"c": "A"}, **changes))
    with pytest.raises(DataError, match="preferred"):
        read_sheet(sheet(tmp_path / "vote.json", {"c": "C"}))


def test_sheets_in_the_report_folder_are_found_and_bad_ones_told_of(tmp_path: Path, capsys) -> None:
    folder = write_sweep(tmp_path, noisy_grid(TWO, 2, {}), TWO, plan_hash="p")
    sheet(tmp_path / "report" / "preferences.json", {"c0": "B", "c1": "B"}, a=EVIL, b="plain")
    sheet(tmp_path / "report" / "preferences-copy.json", {"c0": "B", "c1": "B"}, a=EVIL, b="plain")
    sheet(tmp_path / "report" / "preferences-other.json", {"c0": "B"}, sweep="another")
    (tmp_path / "report" / "preferences-broken.json").write_text("no")
    elsewhere = sheet(tmp_path / "mine.json", {"c0": "A"}, a=EVIL, b="plain", plan_hash="old")
    assert main([str(folder), "--preferences", str(elsewhere)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "plain closer in 1," in text
    assert "preferences-other.json is about the sweep 'another'" in text
    assert "preferences-broken.json" in text
    assert "mine.json was answered under another plan" in text
    table = pd.read_parquet(tmp_path / "results" / "preferences.parquet")
    assert table[["b_preferred", "ties", "listeners"]].to_numpy().tolist() == [[1, 1, 2]]  # a copy counts once
    page = (tmp_path / "report" / "index.html").read_text()
    assert EVIL not in page
    assert 'id="preferred"' in page
    (tmp_path / "report" / "preferences.json").unlink()
    (tmp_path / "report" / "preferences-copy.json").unlink()
    assert main([str(folder)]) == 0
    assert not (tmp_path / "results" / "preferences.parquet").exists()
