"""effects.parquet has the columns, types and words that other people's scripts stand on, whatever the sweep is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.analysis.effects import effects
from orchestrator.analysis.load import read_sweep
from orchestrator.cli.report import report as main
from orchestrator.report.analyse import analyse
from sagasr.io.errors import DataError
from sagasr.io.files import read_json, write_json
from tests.orchestrator.sweep_folders import TWO, noisy_grid, primary, with_clips, write_sweep

CONTRACT = (
    "family contrast factor level baseline with metric domain estimate unit se_run se_total df low high low_runs "
    "high_runs p p_adjusted e_value verdict delta ss f df_num df_error f_p share_clips_better n_runs n_seeds n_clips "
    "n_failed n_missing confounded_with stopped plan_hash"
)
WORDS = ("improves", "harms", "no relevant effect", "undecided (", "not estimable (")


def test_the_file_has_exactly_the_contract_s_columns_and_types(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2})
    write_sweep(tmp_path, rows, TWO, delta=0.05, clips=with_clips(rows, 4), plan_hash="abc123")
    assert main([str(tmp_path), "--json"]) == 0
    schema = pq.read_schema(tmp_path / "results" / "effects.parquet")
    assert " ".join(schema.names) == CONTRACT
    assert schema.field("estimate").type == pa.float64()
    assert schema.field("n_runs").type == pa.int64()
    table = pd.read_parquet(tmp_path / "results" / "effects.parquet")
    assert set(table["family"]) <= {"primary", "ladder", "interaction", "simple", "exploratory"}
    assert table["verdict"].str.startswith(WORDS).all()
    assert set(table["stopped"]) == {"plain"}
    assert set(table["plan_hash"]) == {"abc123"}
    assert set(table["unit"]) == {"LSD"}
    mains = table[table["family"] == "primary"]
    assert mains["with"].isna().all()
    assert list(mains[["factor", "level", "baseline"]].iloc[0]) == ["text", "caption", "off"]
    mixed = table[table["family"] == "interaction"].iloc[0]
    assert (mixed["factor"], mixed["with"]) == ("text", "rolloff")
    assert (mains["low"] <= mains["estimate"]).all()
    assert (mains["estimate"] <= mains["high"]).all()
    assert (mains["low"] <= mains["low_runs"]).all()


def test_every_pair_of_factors_and_every_context_has_a_line(tmp_path: Path) -> None:
    factors = {"a": ["0", "1", "2"], "b": ["x", "y"], "c": ["p", "q"]}
    write_sweep(tmp_path, noisy_grid(factors, 2, {}), factors, eval_stage=["c"])
    table = effects(read_sweep(tmp_path))
    count = table["family"].value_counts()
    assert count["primary"] == 2 + 1 + 1
    assert count["interaction"] == 2 * 1 + 2 * 1 + 1 * 1
    assert count["simple"] == 2 * (2 + 2) + 1 * (3 + 2) + 1 * (3 + 2)


def test_levels_match_their_words_however_the_columns_are_typed(tmp_path: Path) -> None:
    factors = {"dropout": ["off", "0.1"], "steps": ["100", "25"], "flag": ["off", "on"]}
    rows = noisy_grid(factors, 3, {"steps": -0.3})
    planned = [
        {"cell": f"{r['dropout']} {r['steps']} {r['flag']}", "levels": {f: r[f] for f in factors}} for r in rows[:8]
    ]
    for row in rows:
        row["cell"] = f"{row['dropout']} {row['steps']} {row['flag']}"
        row["flag"] = row["flag"] == "on"
    write_sweep(tmp_path, rows, factors)
    words = effects(read_sweep(tmp_path))
    for row in rows:
        row["steps"] = 500  # the results column of that name: steps trained
    write_sweep(tmp_path, rows, factors, cells=planned)
    by_cell = effects(read_sweep(tmp_path))
    assert primary(words, "steps")["verdict"] == primary(by_cell, "steps")["verdict"] == "improves"
    numbers = [{**row, "steps": float(row["cell"].split()[1])} for row in rows]
    write_sweep(tmp_path, numbers, factors)
    assert primary(effects(read_sweep(tmp_path)), "steps")["estimate"] == pytest.approx(-0.3, abs=0.05)


@pytest.mark.parametrize(
    ("planned", "written"),
    [
        ([False, True], ["false", "true"]),
        ([False, True], ["off", "on"]),
        (["off", "on"], [False, True]),
        (["off", "0.10"], ["off", "0.1"]),
        (["0", "0.1"], np.array([0, 0.1], dtype=np.float32)),
        ([None, 0.1], [float("nan"), 0.1]),
        (["a b", "C(x)"], pd.Categorical(["a b", "C(x)"])),
    ],
    ids=["words of truth", "on and off", "truth", "number as text", "float32", "nothing", "categories"],
)
def test_a_level_is_known_in_whatever_type_a_table_has_it(tmp_path: Path, planned: Any, written: Any) -> None:
    rows = noisy_grid({"drop": ["0", "1"]}, 3, {"drop": -0.3})
    column = pd.Series(written)
    clips = [{"seed": row["seed"], "drop": planned[int(row["drop"])], "clip": name, "lsd": row["lsd"] + shift}
             for row in rows for name, shift in (("a", 0.1), ("b", -0.1))]  # fmt: skip
    write_sweep(tmp_path, rows, {"drop": planned}, clips=[{**one, "drop": str(one["drop"])} for one in clips])
    frame = pd.DataFrame(rows).assign(status="done", drop=column.take([int(row["drop"]) for row in rows]).array)
    frame.to_parquet(tmp_path / "results" / "replicates.parquet")
    sweep = read_sweep(tmp_path)
    row = primary(effects(sweep), "drop")
    assert row["estimate"] == pytest.approx(-0.3, abs=0.1)
    assert (row["n_runs"], row["n_clips"], sweep.lost, sweep.notes) == (6, 2, (), ())


def test_a_table_written_twice_counts_once_and_repeats_of_a_cell_are_told(tmp_path: Path) -> None:
    rows = [{**row, "trial": f"t{index}"} for index, row in enumerate(noisy_grid(TWO, 2, {"text": -0.2}))]
    write_sweep(tmp_path, [*rows, *rows[:3]], TWO, expected_replicates=16)
    sweep = read_sweep(tmp_path)
    assert primary(effects(sweep), "text")["n_runs"] == 16
    assert "3 rows of replicates.parquet are written twice and count once" in sweep.notes
    write_sweep(tmp_path, [*rows, {**rows[0], "trial": "again", "lsd": 1.0}], TWO)
    sweep = read_sweep(tmp_path)
    assert primary(effects(sweep), "text")["n_runs"] == 17
    assert "1 finished row more for a cell and seed that have one" in sweep.notes[0]


def test_a_finished_replicate_without_a_value_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = noisy_grid(TWO, 3, {})
    rows[0]["lsd"], rows[9]["lsd"] = float("nan"), float("inf")
    write_sweep(tmp_path, rows, TWO)
    assert main([str(tmp_path)]) == 1
    assert "no value: text=off rolloff=off size=small seed 0 (lsd is empty or not finite)" in capsys.readouterr().out
    row = primary(pd.read_parquet(tmp_path / "results" / "effects.parquet"), "text")
    assert (row["n_runs"], row["n_missing"]) == (22, 2)


def test_clips_that_are_not_used_are_told(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 2, {})
    clips = [{**row, "clip": f"c{clip}", "domain": None if clip else "music", "lsd": row["lsd"] + clip}
             for row in rows for clip in range(4)]  # fmt: skip

    def notes(changed: list[dict[str, Any]]) -> list[str]:
        write_sweep(tmp_path, rows, TWO, clips=changed)
        table = pd.read_parquet(tmp_path / "results" / "clips.parquet")
        table.astype({"domain": "category"} if "domain" in table else {}).to_parquet(
            tmp_path / "results" / "clips.parquet"
        )
        return analyse(tmp_path).notes + list(read_sweep(tmp_path).notes)

    assert notes(clips) == []
    assert notes([{**clips[0], "lsd": None}, *clips[1:]]) == [
        "lsd: 1 of 4 clips lack a finite value in some run and enter no mean"
    ]
    assert "the clips lack finite values in some runs" in notes(clips[4:])[0]
    assert "no columns tie its rows" in notes([{"clip": one["clip"], "lsd": one["lsd"]} for one in clips])[0]


@pytest.fixture(scope="module")
def without_cells(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return listed(tmp_path_factory.mktemp("without"))


def listed(folder: Path, **more: object) -> pd.DataFrame:
    """Return the effects of a sweep whose plan says more than it must."""
    write_sweep(folder, noisy_grid(TWO, 2, {"text": -0.1}), TWO, **more)
    assert main([str(folder), "--quiet"]) in (0, 1)
    return effects(read_sweep(folder)).drop(columns=["plan_hash", "n_missing"])


@pytest.mark.parametrize(
    "cells",
    [
        ["text=off", "text=caption"],
        {"a": {"text": "off"}},
        [{"text": "off", "rolloff": "on", "size": "full"}],
        [{"levels": {"text": "off", "rolloff": "on", "size": "full"}}],
        [{"cell": "a", "levels": "text=off", "replicates": 3}],
    ],
)
def test_cells_that_another_writer_lists_in_its_own_form_change_nothing(
    tmp_path: Path, without_cells: pd.DataFrame, cells: object
) -> None:
    """Rows, factors and seeds are enough."""
    pd.testing.assert_frame_equal(without_cells, listed(tmp_path, cells=cells))


def test_extra_columns_and_cells_that_the_plan_dropped_are_left_out(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {})
    rows.append({**rows[0], "text": "transcript", "lsd": 50.0})
    rows = [{**row, "gpu_seconds": 3.0, "wall_seconds": 4.0, "comment": "x", "mlflow_run_id": "y"} for row in rows]
    write_sweep(tmp_path, rows, TWO, expected_replicates=24)
    sweep = read_sweep(tmp_path)
    assert len(sweep.runs) == 24
    assert "1 replicate of cells that the plan does not have is left out" in sweep.notes[0]
    assert set(effects(sweep)["metric"]) == {"lsd"}


def test_one_clip_per_replicate_gives_the_run_level_analysis(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2})
    write_sweep(tmp_path, rows, TWO)
    without = primary(effects(read_sweep(tmp_path)), "text")
    clips = [{**{k: v for k, v in row.items() if k != "lsd"}, "clip": "only", "lsd": row["lsd"]} for row in rows]
    write_sweep(tmp_path, rows, TWO, clips=clips)
    one = primary(effects(read_sweep(tmp_path)), "text")
    assert one["estimate"] == pytest.approx(without["estimate"], abs=1e-12)
    assert one["se_total"] == one["se_run"] == pytest.approx(without["se_run"], rel=1e-9)
    assert (one["n_clips"], np.isnan(without["n_clips"])) == (1, True)


def test_a_run_whose_metric_is_missing_is_left_out_of_that_metric_alone(tmp_path: Path) -> None:
    rows = [{**row, "si_sdr": 10.0 + row["lsd"]} for row in noisy_grid(TWO, 3, {"text": -0.2})]
    rows[0]["si_sdr"] = float("nan")
    write_sweep(tmp_path, rows, TWO)
    table = effects(read_sweep(tmp_path))
    mains = table[(table["factor"] == "text") & table["with"].isna()].set_index("metric")
    assert (mains.loc["lsd", "n_runs"], mains.loc["si_sdr", "n_runs"]) == (24, 23)
    assert (mains.loc["lsd", "verdict"], mains.loc["si_sdr", "verdict"]) == ("improves", "harms")


def test_the_declared_direction_and_delta_of_other_metrics_are_used(tmp_path: Path) -> None:
    rows = [{**row, "speed": 5 + row["lsd"]} for row in noisy_grid(TWO, 6, {"text": -0.2})]
    metrics = {"speed": {"better": "higher", "unit": "x", "delta": 0.5}}
    write_sweep(tmp_path, rows, TWO, metrics=metrics)
    table = effects(read_sweep(tmp_path))
    row = table[(table["metric"] == "speed") & (table["factor"] == "text") & table["with"].isna()].iloc[0]
    assert (row["unit"], row["delta"], row["verdict"]) == ("x", 0.5, "no relevant effect")


def test_a_retried_replicate_counts_once_by_its_finished_row(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {})
    again = [{**rows[0], "status": "failed", "lsd": None}, *rows]
    write_sweep(tmp_path, again, TWO, expected_replicates=24)
    sweep = read_sweep(tmp_path)
    assert (len(sweep.runs), sweep.lost) == (24, ())


@pytest.mark.parametrize("seed_names", [[0, 1, 2], ["a", "b", "c"], [10, 2, 33]])
def test_seeds_may_be_any_names(tmp_path: Path, seed_names: list[object]) -> None:
    rows = [{**row, "seed": seed_names[row["seed"]]} for row in noisy_grid(TWO, 3, {"text": -0.2})]
    write_sweep(tmp_path, rows, TWO)
    assert primary(effects(read_sweep(tmp_path)), "text")["df_error"] == 24 - 1 - 3 - 3 - 2


def test_hostile_names_pass_through_as_they_are(tmp_path: Path) -> None:
    factors = {"<script>": ["off", "'; drop"], "a:b": ["[red]", "ünï\u202e"]}
    write_sweep(tmp_path, noisy_grid(factors, 3, {"a:b": -0.3}), factors)
    assert main([str(tmp_path)]) == 0
    table = pd.read_parquet(tmp_path / "results" / "effects.parquet")
    assert primary(table, "a:b")["level"] == "ünï\u202e"


def test_a_sweep_without_any_finished_run_says_of_each_effect_why_it_has_none(tmp_path: Path) -> None:
    rows = [{**row, "status": "failed", "reason": "no GPU", "lsd": None} for row in noisy_grid(TWO, 1, {})]
    write_sweep(tmp_path, rows, TWO)
    frame = pd.read_parquet(tmp_path / "results" / "replicates.parquet").astype({"lsd": float})
    frame.to_parquet(tmp_path / "results" / "replicates.parquet")
    assert main([str(tmp_path)]) == 1
    table = pd.read_parquet(tmp_path / "results" / "effects.parquet")
    assert set(table["family"]) == {"primary", "interaction"}
    assert primary(table, "text")["verdict"] == "not estimable (no finished run with text=off)"
    assert set(table["n_failed"]) == {8}


def test_broken_folders_are_named_in_one_line_and_exit_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "plan.json: no such file" in capsys.readouterr().err
    write_sweep(tmp_path, noisy_grid(TWO, 2, {}), TWO)
    plan = read_json(tmp_path / "plan.json")
    for change, words in (
        ({"metric": None}, "key 'metric' is missing"),
        ({"metric": {"name": "nosuch"}}, "no column 'nosuch'"),
        ({"factors": {"text": {"baseline": "no", "levels": ["off"]}}}, "baseline 'no'"),
        ({"factors": {"color": {"baseline": "a", "levels": ["a", "b"]}}}, "no column 'color'"),
        ({"factors": {"text": "off"}}, "factor 'text'"),
        ({"factors": [{"name": "text", "levels": ["off"]}]}, "factors: expected a mapping"),
        ({"factors": {"status": {"levels": ["a", "b"]}}}, "factor 'status': a column of the results has that name"),
    ):
        write_json(tmp_path / "plan.json", {**plan, **change})
        assert main([str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    write_json(tmp_path / "plan.json", plan)
    (tmp_path / "results" / "replicates.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not readable as Parquet"):
        read_sweep(tmp_path)


def test_json_has_the_same_rows_without_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = noisy_grid(TWO, 1, {})
    write_sweep(tmp_path, rows[:-1], TWO, expected_replicates=8)
    assert main([str(tmp_path), "--json"]) == 1
    tree = json.loads(capsys.readouterr().out)
    table = pd.read_parquet(tmp_path / "results" / "effects.parquet")
    assert len(tree["effects"]) == len(table)
    assert tree["replicates"] == {"done": 7, "expected": 8}
    assert tree["lost"][0]["kind"] == "missing"


def test_the_answer_needs_neither_torch_nor_ray_nor_mlflow() -> None:
    modules = "orchestrator.report.analyse, orchestrator.report.page"
    code = f"import sys, {modules}; print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_rounding_is_not_an_effect(tmp_path: Path) -> None:
    """A metric that no run changes: the last bits differ, and a t test of last bits would mean nothing."""
    rng = np.random.default_rng(0)
    rows = [{**row, "lsd_lf": 0.1 + rng.integers(-2, 3) * 1.4e-17} for row in noisy_grid(TWO, 4, {"text": -0.2})]
    write_sweep(tmp_path, rows, TWO)
    table = effects(read_sweep(tmp_path))
    flat = table[(table["metric"] == "lsd_lf") & table["with"].isna()]
    assert len(flat) == 3
    assert set(flat["verdict"]) == {"no relevant effect"}


def test_a_cell_run_twice_in_one_block_counts_as_two_runs(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 2, {"text": -0.2}) + noisy_grid(TWO, 2, {"text": -0.2}, random=1)
    write_sweep(tmp_path, rows, TWO)
    row = primary(effects(read_sweep(tmp_path)), "text")
    assert (row["n_runs"], row["df_error"]) == (32, 32 - 1 - 3 - 3 - 1)


def test_numbers_as_text_are_numbers_and_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = noisy_grid(TWO, 2, {"text": -0.2})
    write_sweep(tmp_path, [{**row, "lsd": str(row["lsd"])} for row in rows], TWO)
    assert primary(effects(read_sweep(tmp_path)), "text")["estimate"] == pytest.approx(-0.2, abs=0.05)
    write_sweep(tmp_path, [{**row, "lsd": "good"} for row in rows], TWO)
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "column 'lsd' holds something other than numbers" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"metric": {"name": "lsd", "better": "Higher"}}, "metric.better: 'Higher' is none of lower, higher; did you"),
        ({"metric": {"name": "lsd", "better": "max"}}, "metric.better: 'max' is none of lower, higher"),
        ({"metric": {"name": "lsd", "delta": -1}}, "metric.delta: -1 is no size of an effect; give a number"),
        ({"metric": {"name": "lsd", "delta": float("nan")}}, "metric.delta: nan is no size of an effect"),
        ({"metrics": [{"name": "lsd", "better": "up"}]}, "metrics.0.better: 'up' is none of lower, higher"),
        ({"metrics": {"lsd_hf": {"better": "up"}}}, "metrics.lsd_hf.better: 'up' is none of lower, higher"),
        ({"ladder": [{"step": "0", "levels": {"txt": "off"}}]}, "ladder.0: unknown factor 'txt'; did you mean 'text'?"),
        ({"ladder": [{"step": "0", "txt": "off"}]}, "ladder.0: unknown factor 'txt'; did you mean 'text'?"),
        ({"factors": {"text": {"levels": ["off", "caption"], "stage": "evla"}}}, "factors.text.stage: 'evla' is none"),
    ],
)
def test_a_word_that_would_turn_a_verdict_round_is_refused(tmp_path: Path, wrong: Any, told: str, capsys: Any) -> None:
    write_sweep(tmp_path, noisy_grid(TWO, 2, {}), TWO)
    plan = {**read_json(tmp_path / "plan.json"), **wrong}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'plan.json'}: {told}")
    assert not (tmp_path / "results" / "effects.parquet").exists()


def test_what_a_plan_may_leave_out_is_left_out(tmp_path: Path) -> None:
    write_sweep(tmp_path, noisy_grid(TWO, 2, {}), TWO)
    plan = read_json(tmp_path / "plan.json") | {"metric": {"name": "lsd", "better": None, "delta": None}}
    for spec in plan["factors"].values():
        del spec["stage"]
    write_json(tmp_path / "plan.json", plan)
    assert read_sweep(tmp_path).metric.better == "lower"


@pytest.mark.parametrize("place", ["results", "report"])
def test_a_file_where_a_folder_is_written_is_told_before_anything_is(tmp_path: Path, place: str, capsys: Any) -> None:
    write_sweep(tmp_path, noisy_grid(TWO, 2, {}), TWO)
    if place == "results":
        for table in (tmp_path / "results").iterdir():
            table.unlink()
        (tmp_path / "results").rmdir()
    (tmp_path / place).write_text("")
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / place}: a file stands where a folder is needed")
    assert list(tmp_path.rglob("effects.parquet")) == []


def test_answers_that_are_not_there_are_told_before_anything_is_written(tmp_path: Path, capsys: Any) -> None:
    write_sweep(tmp_path, noisy_grid(TWO, 2, {}), TWO)
    assert main([str(tmp_path), "--preferences", "nope.json"]) == 2
    assert capsys.readouterr().err.startswith("nope.json: no such file; save the answers")
    assert list(tmp_path.rglob("effects.parquet")) == []
