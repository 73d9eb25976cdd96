"""The terminal report answers in eighty columns, says n of N, and names what has no result."""

import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.cli.report import report as main
from orchestrator.formats import p_value
from orchestrator.report.analyse import analyse
from orchestrator.report.terminal import print_report
from tests.orchestrator.sweep_folders import TWO, Rows, noisy_grid, write_sweep

LADDER = [
    {"step": "0", "levels": {}, "versus": None},
    {"step": "1", "levels": {"text": "caption"}, "versus": "0"},
    {"step": "2'", "levels": {"text": "caption", "rolloff": "on"}, "versus": "1"},
]


def shown(folder: Path) -> str:
    console = Console(width=80, record=True, highlight=False, file=None, quiet=False)
    with console.capture() as capture:
        print_report(analyse(folder), console)
    return capture.get()


def written(folder: Path, rows: Rows, **plan: object) -> Path:
    write_sweep(folder, rows, TWO, delta=0.05, ladder=LADDER, **plan)
    clips = range(3)
    pd.DataFrame(
        [
            {"subject": subject, "clip": f"c{clip}", "domain": "speech", "lsd": value + clip, "lsd_hf": 2 * value}
            for subject, value in (("low", 3.0), ("shaped_noise", 2.0), ("untrained", 2.5))
            for clip in clips
        ]
    ).to_parquet(folder / "results" / "references.parquet")
    return folder


def test_every_factor_has_a_verdict_and_no_line_is_wider_than_eighty(tmp_path: Path) -> None:
    text = shown(written(tmp_path, noisy_grid(TWO, 4, {"text": -0.2, "rolloff": 0.2})))
    assert max(len(line) for line in text.splitlines()) <= 80
    for words in ("improves", "harms", "all 32 of 32", "4 seeds", "2'", "The ladder"):
        assert words in text


def test_a_verdict_and_its_remedy_stand_on_a_line_each(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2, "size": -0.02}, sigma=0.03, random=1)
    text = shown(written(tmp_path, [{**row, "a_long_name_of_a_factor": "of a level"} for row in rows]))
    remedies = [line for line in text.splitlines() if "more seed" in line and "undecided" not in line]
    assert remedies
    assert all(re.search(r"\((about \d+|over 50) more seeds?\)$", line.rstrip()) for line in remedies)
    assert re.search(r"^ text: *-0\.\d+ .* improves *$\n^ off → caption *$", text, re.MULTILINE)


def test_the_reference_rows_stand_beside_the_trained_cells(tmp_path: Path) -> None:
    rows = [{**row, "lsd_hf": row["lsd"] * 2} for row in noisy_grid(TWO, 3, {"text": -0.5})]
    text = shown(written(tmp_path, rows))
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines() if "  " in line}
    low = next(line for name, line in lines.items() if name.startswith("low input"))
    assert low.split()[-2:] == ["4", "6"]
    assert any(name.startswith("untrained, best cell") for name in lines)
    assert any(name.startswith("low + shaped noise") for name in lines)
    assert "trained, best cell: text=caption" in text


def test_a_partial_sweep_says_n_of_n_and_names_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2})
    rows[2] |= {"status": "failed", "reason": "loss is NaN at step 7", "lsd": float("nan")}
    folder = written(tmp_path, rows[:-2], expected_replicates=24)
    assert main([str(folder)]) == 1
    text = capsys.readouterr().out
    assert "partial: 21 of 24" in text
    assert "failed: text=off rolloff=on size=small seed 0 (loss is NaN at step 7)" in " ".join(text.split())
    assert text.count("missing:") == 2


def test_an_interaction_is_shown_by_the_effect_in_each_context(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 6, {})
    for row in rows:
        if row["text"] == "caption" and row["rolloff"] == "on":
            row["lsd"] -= 0.4
    text = " ".join(shown(written(tmp_path, rows)).split())
    assert "depends: text off → caption is" in text
    assert "at rolloff=on" in text


def test_an_effect_that_is_sure_and_small_is_said_to_be_less_than_matters(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 2, {"text": -0.048, "rolloff": -0.2}, sigma=0.008)
    text = " ".join(shown(written(tmp_path, rows)).split())
    assert re.search(r"text = caption \(−0\.04\d+ LSD, less than matters\)", text)
    assert re.search(r"rolloff = on \(−0\.\d+ LSD\)", text)


@pytest.mark.parametrize("policy", ["asha", "plateau"])
def test_search_mode_is_headed_so(tmp_path: Path, policy: str) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.3})
    rows[0] |= {"status": "stopped", "reason": f"{policy}: at step 20", "lsd": float("nan")}
    text = shown(written(tmp_path, rows, early_stopping={"policy": policy}))
    assert f"Search mode ({policy}): made to pick a cell, not to compare factors." in text
    assert f"made to pick a cell ({policy}), not to compare factors, so it names no effects." in " ".join(text.split())
    assert f"({policy}: at step 20)" in text
    assert "improves" not in text


def test_unequal_noise_is_noted(tmp_path: Path) -> None:
    quiet, loud = noisy_grid(TWO, 8, {}, sigma=0.01), noisy_grid(TWO, 8, {}, sigma=0.2)
    rows = [two if two["size"] == "full" else one for one, two in zip(quiet, loud, strict=True)]
    assert "levels of size" in " ".join(shown(written(tmp_path, rows)).split())


@pytest.mark.filterwarnings("error")
def test_of_a_metric_that_nothing_changes_nothing_is_found_wrong(tmp_path: Path) -> None:
    rows = [{**row, "lsd": 1.1, "replicate": str(number)} for number, row in enumerate(noisy_grid(TWO, 5, {}))]
    clips = [
        {**row, "clip": f"c{clip}", "domain": "speech", "lsd": 0.1 * clip + 1} for row in rows for clip in range(3)
    ]
    text = " ".join(shown(write_sweep(tmp_path, rows, TWO, delta=0.05, clips=clips)).split())
    assert "no relevant effect" in text
    assert "note:" not in text


def test_where_no_training_has_a_value_each_is_named_and_no_cell_is_best(tmp_path: Path) -> None:
    folder = written(tmp_path, [{**row, "lsd": float("nan")} for row in noisy_grid(TWO, 2, {})])
    text = " ".join(shown(folder).split())
    assert text.count("is empty or not finite") == 16
    assert "Of 16 of 16 replicates, none has a value of lsd." in text
    assert "The best cell" not in text
    assert main([str(folder)]) == 1
    assert (folder / "report" / "index.html").exists()


def test_p_values_read_as_people_write_them() -> None:
    assert [p_value(p) for p in (0.00001, 0.0123, 0.5, 1.0, float("nan"), None)] == [
        "< .001",
        ".012",
        ".500",
        "1",
        "-",
        "-",
    ]


def test_an_answer_rests_on_the_replicates_that_have_a_value(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2})
    for place in (3, 7):
        rows[place]["lsd"] = float("nan")
    folder = written(tmp_path, rows)
    text = " ".join(shown(folder).split())
    assert "partial: 22 of 24 replicates" in text
    assert "this rests on 22 of 24 replicates over 3 seeds" in text
    assert main([str(folder), "--json"]) == 1
    page = (folder / "report" / "index.html").read_text()
    assert "partial: 22 of 24 replicates" in page
    assert "24 of 24" not in page


def test_a_verdict_on_text_says_when_few_words_are_known(tmp_path: Path) -> None:
    factors = {"text": ["off", "caption"]}
    folder = write_sweep(tmp_path, noisy_grid(factors, 4, {}), factors, delta=0.5, known_words={"caption": 0.125})
    text = " ".join(shown(folder).split())
    assert "text = caption [12% of the validation words known]" in text
    assert "note: text=caption: of the words of the validation texts a model knows only 12%" in text
