"""The analysis gives published answers for published data, covers as it says, and never counts what is not there."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from orchestrator.analysis.cells import best_cell, means_beside
from orchestrator.analysis.diagnostics import bootstrap_interval, cross_check, sign_flip_p
from orchestrator.analysis.effects import effects
from orchestrator.analysis.group_sequential import Contrast, Look, Rule, boundaries, decide, e_value, sequential_p
from orchestrator.analysis.interim import complete_seeds, first_blocks, look_at
from orchestrator.analysis.load import read_sweep
from orchestrator.analysis.split_plot import codes_of, contrast, layout_of
from orchestrator.analysis.variance import Response, errors, judge
from orchestrator.analysis.verdict import detectable
from orchestrator.report.analyse import analyse
from sagasr.io.errors import DataError
from tests.orchestrator.sweep_folders import TWO, Rows, noisy_grid, primary, with_clips, write_sweep
from tests.simulation.clips import grid, scores
from tests.simulation.controls import asha
from tests.simulation.stopping import SCENARIOS, checks, curves, run


def two_levels(names: str, levels: str) -> dict[str, Sequence[str]]:
    """Return a factor per letter, each with the same two levels."""
    return {name: list(levels) for name in names}


# ---------------------------------------------------------------------------------------------- published data sets

# NIST StRD, Analysis of Variance, SiRstv: resistivity (ohm cm) of a silicon wafer, five instruments x five readings
SIRSTV = {
    "1": (196.3052, 196.1240, 196.1890, 196.2569, 196.3403),
    "2": (196.3042, 196.3825, 196.1669, 196.3257, 196.0422),
    "3": (196.1303, 196.2005, 196.2889, 196.0343, 196.1811),
    "4": (196.2795, 196.1748, 196.1494, 196.1485, 195.9885),
    "5": (196.2119, 196.1051, 196.1850, 196.0052, 196.2090),
}
# Yates (1935), oats: six blocks, whole plots of three varieties, split into four amounts of nitrogen (cwt)
OATS = {
    "I": {"Victory": (111, 130, 157, 174), "Golden Rain": (117, 114, 161, 141), "Marvellous": (105, 140, 118, 156)},
    "II": {"Victory": (61, 91, 97, 100), "Golden Rain": (70, 108, 126, 149), "Marvellous": (96, 124, 121, 144)},
    "III": {"Victory": (68, 64, 112, 86), "Golden Rain": (60, 102, 89, 96), "Marvellous": (89, 129, 132, 124)},
    "IV": {"Victory": (74, 89, 81, 122), "Golden Rain": (64, 103, 132, 133), "Marvellous": (70, 89, 104, 117)},
    "V": {"Victory": (62, 90, 100, 116), "Golden Rain": (80, 82, 94, 126), "Marvellous": (63, 70, 109, 99)},
    "VI": {"Victory": (53, 74, 118, 113), "Golden Rain": (89, 82, 86, 104), "Marvellous": (97, 99, 119, 121)},
}
# Montgomery, Design and Analysis of Experiments, example 6.2: filtration rate of a 2^4 in standard order (A fastest)
FILTRATION = (45, 71, 48, 65, 68, 60, 80, 65, 43, 100, 45, 104, 75, 86, 70, 96)
# Montgomery, table 4-3: vascular graft yield at four extrusion pressures in six batches of resin (randomised blocks)
GRAFTS = {
    "8500": (90.3, 89.2, 98.2, 93.9, 87.4, 97.9),
    "8700": (92.5, 89.5, 90.6, 94.7, 87.0, 95.8),
    "8900": (85.5, 90.8, 89.6, 86.2, 88.0, 93.4),
    "9100": (82.5, 89.5, 85.6, 87.4, 78.9, 90.7),
}


def one_way(data: dict[str, Sequence[float]], shared_seeds: bool) -> Rows:
    """Return a row per value; seeds are shared by the levels (blocks) or each value has its own (labels)."""
    counter = itertools.count()
    return [
        {"kind": level, "seed": place if shared_seeds else next(counter), "lsd": float(value)}
        for level, values in data.items()
        for place, value in enumerate(values)
    ]


def test_one_way_analysis_of_variance_agrees_with_the_certified_values_of_nist(tmp_path: Path) -> None:
    write_sweep(tmp_path, one_way(SIRSTV, shared_seeds=False), {"kind": list(SIRSTV)})
    row = primary(effects(read_sweep(tmp_path)), "kind", "2")
    assert row["ss"] == pytest.approx(5.11462616000000e-02, rel=1e-10)
    assert row["f"] == pytest.approx(1.18046237440255, rel=1e-9)
    assert (row["df_num"], row["df_error"]) == (4, 20)


@pytest.mark.parametrize("level", [1e0, 1e4, 1e8])
def test_a_large_constant_costs_no_more_digits_than_the_file_itself_loses(tmp_path: Path, level: float) -> None:
    """As in the sets SmLs of NIST: 1 + .4, .3, .5 in nine levels, F = 21 exactly, whatever is added to all values."""
    offsets = (0.4, 0.3, 0.5)
    pattern = [offsets[0] if place == 0 else offsets[1 + place % 2] for place in range(21)]
    means = {kind: 0.0 if kind == 1 else 0.1 * (-1) ** kind for kind in range(1, 10)}
    levels = {str(kind): [level + mean + value for value in pattern] for kind, mean in means.items()}
    write_sweep(tmp_path, one_way(levels, shared_seeds=False), {"kind": list(levels)})
    row = primary(effects(read_sweep(tmp_path)), "kind", "2")
    assert row["f"] == pytest.approx(21.0, rel=1e-5)
    assert (row["df_num"], row["df_error"]) == (8, 180)


def test_randomised_blocks_take_the_blocks_out_of_the_error(tmp_path: Path) -> None:
    write_sweep(tmp_path, one_way(GRAFTS, shared_seeds=True), {"kind": list(GRAFTS)}, better="higher")
    row = primary(effects(read_sweep(tmp_path)), "kind", "9100")
    assert row["ss"] == pytest.approx(178.17, abs=0.005)
    assert row["f"] == pytest.approx(8.11, abs=0.005)
    assert (row["df_num"], row["df_error"]) == (3, 15)
    assert row["f_p"] == pytest.approx(0.0019, abs=5e-5)
    assert row["se_run"] == pytest.approx(np.sqrt(2 * 7.33 / 6), abs=1e-3)
    assert row["verdict"] == "harms"


def oats_rows() -> Rows:
    return [
        {"seed": block, "trial": block + variety, "variety": variety, "nitrogen": amount, "yield": float(value)}
        for block, plots in OATS.items()
        for variety, values in plots.items()
        for amount, value in zip(("0", "0.2", "0.4", "0.6"), values, strict=True)
    ]


def test_a_split_plot_judges_each_factor_by_the_error_of_its_own_stratum(tmp_path: Path) -> None:
    factors = {"variety": ["Victory", "Golden Rain", "Marvellous"], "nitrogen": ["0", "0.2", "0.4", "0.6"]}
    write_sweep(tmp_path, oats_rows(), factors, "yield", ["nitrogen"], better="higher")
    table = effects(read_sweep(tmp_path))
    variety, nitrogen = primary(table, "variety", "Marvellous"), primary(table, "nitrogen", "0.6")
    mixed = table[table["family"] == "interaction"].iloc[0]
    assert (variety["ss"], variety["f"]) == (pytest.approx(1786.36, abs=0.01), pytest.approx(1.4853, abs=1e-4))
    assert (nitrogen["ss"], nitrogen["f"]) == (pytest.approx(20020.5), pytest.approx(37.686, abs=1e-3))
    assert (mixed["ss"], mixed["f"]) == (pytest.approx(321.75), pytest.approx(0.3028, abs=1e-4))
    assert [row["df_error"] for row in (variety, nitrogen, mixed)] == [10, 45, 45]
    assert (variety["se_run"], nitrogen["se_run"]) == (pytest.approx(7.0789, abs=1e-4), pytest.approx(4.4358, abs=1e-4))
    simple = table[(table["factor"] == "variety") & (table["with"] == "nitrogen=0")].iloc[0]
    assert simple["se_run"] == pytest.approx(9.7150, abs=1e-4)  # both strata, Satterthwaite
    assert simple["df"] == pytest.approx(30.23, abs=0.01)


def test_control_the_split_plot_read_as_one_stratum_gives_another_answer(tmp_path: Path) -> None:
    factors = {"variety": ["Victory", "Golden Rain", "Marvellous"], "nitrogen": ["0", "0.2", "0.4", "0.6"]}
    write_sweep(tmp_path, oats_rows(), factors, "yield", [], better="higher")
    assert primary(effects(read_sweep(tmp_path)), "variety", "Marvellous")["df_error"] == 55


def filtration_rows(factors: str) -> Rows:
    """Return the 2^4; a factor left out becomes the replicate, as the book projects the design onto A, C, D."""
    rows = []
    for value, (d, c, b, a) in zip(FILTRATION, itertools.product("-+", repeat=4), strict=True):
        levels = {"A": a, "B": b, "C": c, "D": d}
        seed = 0 if "B" in factors else f"{b}{a}{c}{d}"
        rows.append({**{name: levels[name] for name in factors}, "seed": seed, "lsd": float(value)})
    return rows


def test_an_unreplicated_factorial_takes_its_error_from_three_way_interactions(tmp_path: Path) -> None:
    write_sweep(tmp_path, filtration_rows("ABCD"), two_levels("ABCD", "-+"), better="higher")
    table = effects(read_sweep(tmp_path))
    published = {"A": (21.625, 1870.56), "B": (3.125, 39.0625), "C": (9.875, 390.062), "D": (14.625, 855.563)}
    for factor, (effect, ss) in published.items():
        row = primary(table, factor)
        assert row["estimate"] == pytest.approx(effect)
        assert row["ss"] == pytest.approx(ss, abs=5e-3)
        assert row["df_error"] == 5
    mixed = table[(table["factor"] == "A") & (table["with"] == "C") & (table["family"] == "interaction")].iloc[0]
    assert mixed["estimate"] == pytest.approx(2 * -18.125)  # the book halves the difference of differences
    assert mixed["ss"] == pytest.approx(1314.06, abs=5e-3)
    assert primary(table, "A")["verdict"] == "improves"


def test_a_projected_factorial_has_the_book_s_effects_with_replicates_as_labels(tmp_path: Path) -> None:
    write_sweep(tmp_path, filtration_rows("ACD"), two_levels("ACD", "-+"), better="higher")
    row = primary(effects(read_sweep(tmp_path)), "A")
    pure, three_way = 179.52, 10.56  # error and A:C:D of the book's table, pooled here
    assert row["df_error"] == 9
    assert row["f"] == pytest.approx(1870.56 / ((pure + three_way) / 9), rel=1e-3)


# ---------------------------------------------------------------------------------------------- designs made by hand


def test_a_hand_computed_two_by_two_by_two_agrees_to_nine_digits(tmp_path: Path) -> None:
    """y = 10 + 3a + b - c + 2ab + seed/2, and a residual orthogonal to the model: +-.3 by the sign of abc x seed."""
    rows = []
    for seed, (a, b, c) in itertools.product((0, 1), itertools.product((0, 1), repeat=3)):
        sign = (2 * a - 1) * (2 * b - 1) * (2 * c - 1) * (2 * seed - 1)
        value = 10 + 3 * a + b - c + 2 * a * b + 0.5 * seed + 0.3 * sign
        rows.append({"a": str(a), "b": str(b), "c": str(c), "seed": seed, "lsd": value})
    write_sweep(tmp_path, rows, two_levels("abc", "01"))
    table = effects(read_sweep(tmp_path))
    a = primary(table, "a")
    df = 16 - 1 - 3 - 3 - 1
    square = 16 * 0.3**2 / df
    assert a["estimate"] == pytest.approx(3 + 2 * 0.5, abs=1e-9)
    assert a["se_run"] == pytest.approx(np.sqrt(square * 4 / 16), abs=1e-9)
    assert a["df"] == df
    assert a["low"] == pytest.approx(4 - stats.t.ppf(0.975, df) * np.sqrt(square / 4), abs=1e-9)
    assert a["f"] == pytest.approx(4 * 4**2 / square, rel=1e-9)
    mixed = table[(table["factor"] == "a") & (table["with"] == "b") & (table["family"] == "interaction")].iloc[0]
    assert mixed["estimate"] == pytest.approx(2, abs=1e-9)
    assert mixed["se_run"] == pytest.approx(np.sqrt(square), abs=1e-9)  # four times the main effect's variance
    simple = table[(table["factor"] == "a") & (table["with"] == "b=1") & (table["family"] == "simple")].iloc[0]
    assert simple["estimate"] == pytest.approx(5, abs=1e-9)
    assert simple["se_run"] == pytest.approx(np.sqrt(square / 2), abs=1e-9)
    holm = table[table["family"] == "primary"].sort_values("p")
    expected = np.maximum.accumulate(np.minimum(1, holm["p"].to_numpy() * np.array([3, 2, 1])))
    assert holm["p_adjusted"].to_numpy() == pytest.approx(expected)


def test_planted_effects_get_their_words(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 6, {"text": -0.2, "rolloff": 0.2}, sigma=0.03)
    write_sweep(tmp_path, rows, TWO, delta=0.05)
    table = effects(read_sweep(tmp_path))
    assert [primary(table, name)["verdict"] for name in TWO] == ["improves", "harms", "no relevant effect"]
    assert primary(table, "text")["e_value"] > 20 > primary(table, "size")["e_value"]


def test_higher_is_better_turns_the_words_round(tmp_path: Path) -> None:
    write_sweep(tmp_path, noisy_grid(TWO, 4, {"text": -0.2}), TWO, better="higher")
    assert primary(effects(read_sweep(tmp_path)), "text")["verdict"] == "harms"


def test_a_metric_of_which_nobody_says_which_way_is_good_is_not_judged(tmp_path: Path) -> None:
    rows = [{**row, "pesq": 4 - row["lsd"]} for row in noisy_grid(TWO, 2, {"text": -0.2})]
    clips = [{**row, "clip": clip} for row in rows for clip in ("a", "b")]
    sweep = read_sweep(write_sweep(tmp_path, rows, TWO, clips=clips))
    assert "pesq" not in [metric.name for metric in sweep.metrics]
    assert "pesq is not judged: 'metrics' of plan.json does not say which way is good" in sweep.notes
    said = [{"name": "pesq", "better": "higher"}]
    sweep = read_sweep(write_sweep(tmp_path, rows, TWO, clips=clips, metrics=said))
    assert [metric.better for metric in sweep.metrics if metric.name == "pesq"] == ["higher"]
    write_sweep(tmp_path, rows, TWO, metric="pesq", better=None)
    with pytest.raises(DataError, match=r"plan\.json: metric 'pesq' does not say which way is good"):
        read_sweep(tmp_path)


def test_a_value_that_is_not_finite_makes_no_cell_the_best_and_no_mean_empty(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2})
    rows[0]["lsd"], rows[1]["lsd"] = -math.inf, math.inf
    sweep = read_sweep(write_sweep(tmp_path, rows, TWO))
    assert best_cell(sweep)["text"] == "caption"
    assert 0.9 < means_beside(sweep, best_cell(sweep))["baseline"] < 1.5
    assert sorted(one.kind for one in sweep.lost) == ["no value", "no value"]


def test_an_undecided_effect_says_how_many_seeds_would_decide_and_they_do(tmp_path: Path) -> None:
    write_sweep(tmp_path, noisy_grid(TWO, 2, {"text": -0.03}, sigma=0.04, random=3), TWO)
    word = primary(effects(read_sweep(tmp_path)), "text")["verdict"]
    assert word.startswith("undecided (about ")
    more = int(word.split()[2])
    decided = 0
    for random in range(10):
        write_sweep(tmp_path, noisy_grid(TWO, 2 + more, {"text": -0.03}, sigma=0.04, random=random), TWO)
        decided += primary(effects(read_sweep(tmp_path)), "text")["verdict"] == "improves"
    assert decided >= 6


def test_one_seed_without_three_way_interactions_has_no_p(tmp_path: Path) -> None:
    factors = {"text": ["off", "on"], "size": ["small", "full"]}
    write_sweep(tmp_path, noisy_grid(factors, 1, {"text": -0.2}), factors)
    row = primary(effects(read_sweep(tmp_path)), "text")
    assert np.isfinite(row["estimate"])
    assert np.isnan(row["p"])
    assert np.isnan(row["low"])
    assert row["verdict"].startswith("undecided (one seed leaves no error")


def test_failed_stopped_and_missing_replicates_are_named_and_enter_no_average(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 4, {"text": -0.2})
    rows[1] |= {"status": "failed", "reason": "loss is NaN at step 40", "lsd": 99.0}
    rows[10] |= {"stopped_at_step": 10, "steps": 100, "lsd": 55.0}
    lost = rows.pop(20)
    write_sweep(tmp_path, rows, TWO, expected_replicates=32)
    sweep = read_sweep(tmp_path)
    assert [(one.kind, one.reason) for one in sweep.lost][:2] == [("failed", "loss is NaN at step 40"), ("stopped", "")]
    missing = sweep.lost[2]
    assert (missing.kind, missing.seed, dict(missing.levels)) == ("missing", "2", {name: lost[name] for name in TWO})
    row = primary(effects(sweep), "text")
    assert row["estimate"] == pytest.approx(-0.2, abs=0.05)
    assert (row["n_runs"], row["n_failed"], row["n_missing"]) == (29, 1, 2)


def test_unbalanced_runs_are_least_squares_not_raw_means(tmp_path: Path) -> None:
    """The size effect is large; dropping full-size runs of one text level would fool a difference of means."""
    rows = noisy_grid(TWO, 4, {"size": -1.0}, sigma=1e-3)
    kept = [row for row in rows if not (row["text"] == "caption" and row["size"] == "full" and row["seed"] > 0)]
    write_sweep(tmp_path, kept, TWO, expected_replicates=len(rows))
    frame = pd.DataFrame(kept)
    naive = frame[frame["text"] == "caption"]["lsd"].mean() - frame[frame["text"] == "off"]["lsd"].mean()
    assert abs(naive) > 0.2
    assert primary(effects(read_sweep(tmp_path)), "text")["estimate"] == pytest.approx(0, abs=5e-3)


def test_a_level_without_any_finished_run_is_not_estimable_and_says_so(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {})
    for row in rows:
        if row["size"] == "full":
            row |= {"status": "failed", "reason": "out of memory"}
    write_sweep(tmp_path, rows, TWO)
    table = effects(read_sweep(tmp_path))
    assert primary(table, "size")["verdict"] == "not estimable (no finished run with size=full)"
    assert primary(table, "text")["verdict"].startswith(("undecided", "no relevant"))


def test_a_factor_tied_to_the_seeds_is_not_estimable(tmp_path: Path) -> None:
    rows = [row for row in noisy_grid(TWO, 4, {}) if (row["text"] == "off") == (row["seed"] < 2)]
    write_sweep(tmp_path, rows, TWO)
    assert primary(effects(read_sweep(tmp_path)), "text")["verdict"].startswith(
        "not estimable (it changes only together"
    )


def test_a_half_fraction_lists_what_each_effect_is_confounded_with(tmp_path: Path) -> None:
    factors = two_levels("ABCD", "-+")
    half = [row for row in noisy_grid(factors, 3, {"A": -0.3}) if [row[name] for name in "ABCD"].count("-") % 2 == 0]
    write_sweep(tmp_path, half, factors)
    table = effects(read_sweep(tmp_path))
    assert primary(table, "A")["confounded_with"] == "B:C:D"
    assert primary(table, "A")["verdict"] == "improves"
    mixed = table[table["family"] == "interaction"].set_index(["factor", "with"])["confounded_with"]
    assert mixed["A", "B"] == "C:D"
    assert mixed["C", "D"] == "A:B"
    full = noisy_grid(factors, 3, {"A": -0.3})
    write_sweep(tmp_path, full, factors)
    assert effects(read_sweep(tmp_path))["confounded_with"].isna().all()


def test_one_at_a_time_says_that_effects_hold_at_the_baseline_only(tmp_path: Path) -> None:
    rows = [row for row in noisy_grid(TWO, 4, {"text": -0.2}) if sum(row[n] != TWO[n][0] for n in TWO) <= 1]
    write_sweep(tmp_path, rows, TWO)
    table = effects(read_sweep(tmp_path))
    assert primary(table, "text")["estimate"] == pytest.approx(-0.2, abs=0.06)
    assert set(primary(table, "text")["confounded_with"].split(", ")) >= {"text:rolloff", "text:size"}
    mixed = table[table["family"] == "interaction"]["verdict"]
    assert mixed.str.startswith("not estimable (no finished run with").all()


def test_ladder_steps_pair_the_seeds_that_both_cells_have(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 5, {"text": -0.2, "rolloff": -0.1})
    ladder = [
        {"step": "0", "levels": {}, "versus": None},
        {"step": "1", "levels": {"text": "caption"}, "versus": "0"},
        {"step": "2", "levels": {"text": "caption", "rolloff": "on", "size": "full"}, "versus": "1"},
    ]
    rows[4]["status"] = "failed"  # text=caption of seed 0
    write_sweep(tmp_path, rows, TWO, ladder=ladder)
    table = effects(read_sweep(tmp_path))
    step = table[table["family"] == "ladder"].set_index("level").loc["1"]
    done = {(r["seed"], r["text"]): r["lsd"] for r in rows if r["rolloff"] == "off" and r["size"] == "small"}
    expected = np.mean([done[seed, "caption"] - done[seed, "off"] for seed in range(1, 5)])
    assert rows[4]["text"] == "caption"
    assert step["estimate"] == pytest.approx(expected, abs=1e-12)
    assert (step["n_seeds"], step["n_runs"], step["n_failed"]) == (4, 8, 1)
    assert (
        table[table["family"] == "ladder"].set_index("level").loc["2"]["confounded_with"] == "rolloff + size together"
    )


def test_ladder_steps_inside_one_training_cancel_the_training_noise(tmp_path: Path) -> None:
    """Variants 2' (off) and 2 (hard) share a training; other trainings were scored at off only."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(5):
        for text in ("off", "on"):
            training = rng.normal(0, 0.5)
            for lfr in ("off", "hard") if text == "on" else ("off",):
                value = 1 + training - 0.1 * (lfr == "hard") + rng.normal(0, 0.005)
                rows.append({"text": text, "lfr": lfr, "seed": seed, "trial": f"{text}{seed}", "lsd": value})
    ladder = [
        {"step": "0", "levels": {"text": "off", "lfr": "off"}, "versus": None},
        {"step": "1", "levels": {"text": "on", "lfr": "off"}, "versus": "0"},
        {"step": "2", "levels": {"text": "on", "lfr": "hard"}, "versus": "1"},
    ]
    factors = {"text": ["off", "on"], "lfr": ["off", "hard"]}
    write_sweep(tmp_path, rows, factors, eval_stage=["lfr"], ladder=ladder)
    steps = effects(read_sweep(tmp_path)).query("family == 'ladder'").set_index("level")
    assert steps.loc["2"]["verdict"] == "improves"
    assert steps.loc["2"]["se_run"] < 0.01 < steps.loc["1"]["se_run"]


# ------------------------------------------------------------------------------------------------------- clips


def test_more_clips_of_the_same_runs_do_not_make_a_result_surer_about_runs(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {}, sigma=0.1)
    spread = []
    for clips in (10, 200):
        write_sweep(tmp_path, rows, TWO, clips=with_clips(rows, clips))
        row = primary(effects(read_sweep(tmp_path)), "text")
        spread.append(row["se_run"])
        assert row["se_total"] >= row["se_run"]
        assert row["n_clips"] == clips
    assert spread[1] > 0.8 * spread[0]


def test_domains_and_other_metrics_are_exploratory_and_the_plan_s_metric_is_not(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2})
    clips = with_clips(rows, 8)
    frame = pd.DataFrame(clips).groupby(["text", "rolloff", "size", "seed"])["lsd_hf"].mean()
    rows = [{**row, "lsd_hf": frame[row["text"], row["rolloff"], row["size"], row["seed"]]} for row in rows]
    write_sweep(tmp_path, rows, TWO, metric="val/lsd", clips=clips)
    table = effects(read_sweep(tmp_path))
    assert set(table[table["family"] == "primary"]["metric"]) == {"lsd"}
    other = table[(table["factor"] == "text") & table["with"].isna() & (table["family"] == "exploratory")]
    assert {("lsd", "speech"), ("lsd", "music"), ("lsd_hf", "all")} <= set(
        zip(other["metric"], other["domain"], strict=True)
    )
    assert (other["verdict"] == "improves").all()


def test_a_clip_without_a_value_leaves_every_run_s_mean_alike(tmp_path: Path) -> None:
    """A hard clip that only the off runs scored must not look like an effect of text."""
    rows = noisy_grid(TWO, 3, {}, sigma=0.001)
    clips = with_clips(rows, 9)
    for clip in clips:
        if clip["clip"] == "c0":
            clip["lsd"] = 50.0 if clip["text"] == "off" else float("nan")
    write_sweep(tmp_path, rows, TWO, clips=clips)
    row = primary(effects(read_sweep(tmp_path)), "text")
    assert abs(row["estimate"]) < 0.05
    assert row["n_clips"] == 8


@pytest.mark.parametrize(("levels", "seeds", "df"), [({"a": ["off", "on"]}, 2, 1), (TWO, 1, 1), (TWO, 2, 8)])
def test_few_runs_are_not_made_surer_by_their_clips(tmp_path: Path, levels: dict, seeds: int, df: int) -> None:
    """Without an effect, where clips differ in theirs: at most one in twenty is found, and no interval is narrower."""
    random = np.random.default_rng(1)
    rows = [{**row, "replicate": str(at)} for at, row in enumerate(noisy_grid(levels, seeds, {}))]
    sweep = read_sweep(write_sweep(tmp_path, rows, levels))
    plan = layout_of(sweep, *codes_of(sweep), np.ones(len(rows), dtype=bool))
    weights, found = contrast(plan, {(0,): np.array([2.0])}), 0
    assert weights is not None
    for _ in range(1_000):
        runs, effect = random.normal(0, 0.06, (len(rows), 1)), random.normal(0, 0.08, 12)
        clips = runs + random.normal(0, 0.05, (len(rows), 12)) + np.where(plan.codes[:, :1] == 1, 0.5, -0.5) * effect
        response = Response(clips.mean(axis=1), clips)
        one = judge(weights, response, errors(plan, response))
        assert one.df_run == df
        assert np.ptp(one.interval(0.95)) >= np.ptp(one.interval_runs(0.95)) * (1 - 1e-9)
        found += one.p() < 0.05
    assert found <= 65


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_population_interval_covers_and_clips_as_independent_rows_do_not(seeds: int) -> None:
    plan, random = grid(seeds), np.random.default_rng(seeds)
    weights = contrast(plan, {(0,): np.array([2.0])})
    assert weights is not None
    hits = np.zeros(3)
    for _ in range(400):
        clips, here = scores(plan, random)
        response = Response(clips.mean(axis=1), clips)
        one = judge(weights, response, errors(plan, response))
        low, high = one.interval(0.95)
        low_runs, high_runs = one.interval_runs(0.95)
        on = plan.codes[:, 0] == 1
        welch = stats.ttest_ind(clips[on].ravel(), clips[~on].ravel(), equal_var=False).confidence_interval(0.95)
        hits += (low < 0 < high, low_runs < here < high_runs, welch.low < 0 < welch.high)
    population, these, independent = 100 * hits / 400
    assert 92 <= population <= 97.5
    assert 92 <= these <= 97.5
    assert independent < 91.5


@pytest.mark.slow
def test_a_sweep_without_effects_says_improves_in_no_more_than_the_stated_share(tmp_path: Path) -> None:
    wrong = 0
    for random in range(40):
        write_sweep(tmp_path, noisy_grid(TWO, 2, {}, random=random), TWO)
        table = effects(read_sweep(tmp_path))
        wrong += table[table["family"] == "primary"]["verdict"].isin(["improves", "harms"]).any()
    assert wrong <= 5  # 40 sweeps at 5 %: more has probability .01


def test_two_runs_of_one_recipe_differ_by_a_clip_test_far_too_often() -> None:
    plan, random = grid(2), np.random.default_rng(0)
    clips = [scores(plan, random, clip_effect=0.0)[0] for _ in range(200)]
    assert np.mean([stats.ttest_rel(one[0], one[16]).pvalue < 0.05 for one in clips]) > 0.2


# ------------------------------------------------------------------------------------------- cross-checks and power


def test_sign_flips_are_exact_for_few_pairs_and_close_for_many() -> None:
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    differences = np.random.default_rng(0).normal(0.3, 1, 60)
    assert sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_the_bootstrap_of_runs_within_cells_and_clips_agrees_with_the_formula() -> None:
    plan = grid(5)
    weights = contrast(plan, {(0,): np.array([2.0])})
    assert weights is not None
    ratios = []
    for random in range(10):
        clips, _ = scores(plan, np.random.default_rng(random))
        response = Response(clips.mean(axis=1), clips)
        low, high = judge(weights, response, errors(plan, response)).interval(0.95)
        ours = bootstrap_interval(plan, weights.rows, clips)
        ratios.append((ours[1] - ours[0]) / (high - low))
    assert np.mean(ratios) == pytest.approx(1.05, abs=0.12)


def test_the_bootstrap_is_held_against_what_it_counts_thrice_not_against_the_formula_alone(tmp_path: Path) -> None:
    """Of a factor of the eval stage little but the residual of runs x clips is left, which it counts three times."""
    random, factors = np.random.default_rng(3), {"text": ["off", "caption"], "lfr": ["off", "hard"]}
    rows: Rows = []
    clips: Rows = []
    for text, seed in itertools.product(factors["text"], range(12)):
        training = 1.2 + random.normal(0, 0.03)
        for lfr in factors["lfr"]:
            values = training - 0.1 * (lfr == "hard") + random.normal(0, 0.1, 30)
            keys = {"text": text, "lfr": lfr, "seed": seed, "trial": f"{text}{seed}"}
            rows.append({**keys, "lsd": values.mean()})
            clips += [{**keys, "clip": f"c{index}", "lsd": value} for index, value in enumerate(values)]
    write_sweep(tmp_path, rows, factors, eval_stage=("lfr",), clips=clips)
    assert cross_check(read_sweep(tmp_path)) == []


@pytest.mark.parametrize(
    ("seeds", "df", "main", "holm", "step"), [(2, 20, 1.04, 1.28, 2.95), (6, 80, 0.58, 0.70, 1.64)]
)
def test_the_smallest_effect_that_is_found_is_that_of_exact_noncentral_t(seeds, df, main, holm, step) -> None:
    """In a grid of 2^4 cells, in run standard deviations: a main effect, the same under Holm, and a ladder step."""
    all_runs, two_cells = 2 / np.sqrt(16 * seeds), np.sqrt(2 / seeds)
    assert detectable(all_runs, df) == pytest.approx(main, abs=5e-3)
    assert detectable(all_runs, df, 0.05 / 4) == pytest.approx(holm, abs=5e-3)
    assert detectable(two_cells, df) == pytest.approx(step, abs=5e-3)


def test_with_one_degree_of_freedom_nothing_is_sure_to_be_found() -> None:
    assert detectable(1.0, 1, 0.05 / 20) == math.inf


def test_the_e_value_is_one_over_alpha_less_often_than_alpha_however_often_one_looks() -> None:
    random = np.random.default_rng(0)
    crossed = 0
    for _ in range(400):
        values = random.normal(0, 1, 60)
        for count in range(4, 61, 2):
            pair = values[:count].reshape(-1, 2)
            difference = pair[:, 0] - pair[:, 1]
            t = float(np.mean(difference) / (np.std(difference, ddof=1) / np.sqrt(len(difference))))
            if e_value(t, len(difference) - 1, 2 / len(difference)) > 20:
                crossed += 1
                break
    assert crossed <= 0.05 * 400


# ------------------------------------------------------------------------------------------- block-sequential stopping


@pytest.mark.parametrize(
    ("spending", "published"),
    [  # five equally spaced looks, two-sided .05 (Lan-DeMets boundaries as printed by ldbounds and gsDesign)
        ("obrien-fleming", (4.8769, 3.3569, 2.6803, 2.2898, 2.0310)),
        ("pocock", (2.4380, 2.4268, 2.4102, 2.3966, 2.3859)),
    ],
)
def test_boundaries_are_the_published_ones(spending: Any, published: tuple[float, ...]) -> None:
    assert boundaries((0.2, 0.4, 0.6, 0.8, 1.0), 0.05, spending) == pytest.approx(published, abs=2e-4)


RULE = Rule(("text", "size"), 6, delta=0.03)


def test_a_rejected_contrast_stays_rejected_and_frees_its_share() -> None:
    strong, weak = Contrast(-0.1, 0.01, 20), Contrast(-0.03, 0.0125, 20)
    nominal = 2 * stats.t.sf(0.03 / 0.0125, 20)
    levels = [stats.norm.sf(boundaries((2 / 6,), alpha, "pocock")[0]) * 2 for alpha in (0.025, 0.05)]
    assert levels[0] < nominal < levels[1] + 0.01
    first = Look(2, {"text": strong, "size": weak})
    later = Look(3, {"text": Contrast(-0.001, 0.01, 35), "size": Contrast(0.0, 0.008, 35)})
    outcome = decide([first, later], RULE)
    assert outcome.decisions["text"].word == "different"
    assert outcome.decisions["text"].at_seeds == 2
    assert outcome.decisions["size"].word == "nil"
    assert outcome.stop


def test_repeated_intervals_are_wider_than_plain_ones_and_hold_under_peeking() -> None:
    look = Look(2, {"text": Contrast(0.1, 0.05, 20), "size": Contrast(0.1, 0.05, 20)})
    decision = decide([look], RULE).decisions["text"]
    assert decision.high - decision.low > 2 * stats.t.ppf(0.975, 20) * 0.05


def test_unlawful_looks_are_refused() -> None:
    one = {"text": Contrast(0.0, 0.01, 5)}
    for looks in ([Look(1, one)], [Look(3, one), Look(2, one)], [Look(2, one), Look(2, one)], [Look(7, one)]):
        with pytest.raises(DataError):
            decide(looks, RULE)


def test_the_sequential_p_is_the_error_at_which_the_looks_would_have_called_it() -> None:
    looks = [Look(2, {"text": Contrast(0.03, 0.015, 20)}), Look(3, {"text": Contrast(0.03, 0.012, 35)})]
    rule = Rule(("text",), 6)
    p = sequential_p(looks, "text", rule)
    assert p > 2 * stats.t.sf(2.5, 35)
    for alpha, word in ((p * 1.01, "different"), (p * 0.99, "open")):
        assert decide(looks, Rule(("text",), 6, alpha=alpha)).decisions["text"].word == word


BLOCKS = {"policy": "blocks", "metric": "val/lsd", "delta": 0.05, "spending": "pocock"}


def test_blocks_report_repeated_intervals_on_complete_blocks_alone(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 4, {"text": -0.4, "size": -0.05}, sigma=0.1)  # of which one is too near the margin to stop
    partial = rows[: 3 * 8 + 5]  # the fourth block is under way
    write_sweep(tmp_path, partial, TWO, delta=0.05, early_stopping=BLOCKS, seeds=list(range(6)), expected_replicates=48)
    sweep = read_sweep(tmp_path)
    assert complete_seeds(sweep) == ("0", "1", "2")
    row = primary(effects(sweep), "text")
    assert (row["stopped"], row["n_seeds"], row["verdict"]) == ("repeated", 3, "improves")
    write_sweep(tmp_path, rows[:24], TWO, delta=0.05)
    plain = primary(effects(read_sweep(tmp_path)), "text")
    assert plain["estimate"] == pytest.approx(row["estimate"], abs=1e-12)
    assert row["high"] - row["low"] > plain["high"] - plain["low"]
    assert row["p_adjusted"] > plain["p_adjusted"]


def test_an_effect_that_is_there_and_too_small_to_matter_is_none_that_matters_under_any_policy(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 4, {"text": -0.02, "rolloff": -0.2}, sigma=0.002)
    for policy in ({"policy": "none"}, BLOCKS):
        write_sweep(tmp_path, rows, TWO, delta=0.05, early_stopping=policy)
        found = effects(read_sweep(tmp_path))
        assert primary(found, "text")["p_adjusted"] < 0.01
        assert [primary(found, name)["verdict"] for name in ("text", "rolloff")] == ["no relevant effect", "improves"]


def test_blocks_under_way_are_said_to_be_left_out(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 4, {"text": -0.2})
    write_sweep(tmp_path, rows[:-1], TWO, delta=0.05, early_stopping=BLOCKS, expected_replicates=32)
    assert "effects rest on the complete blocks alone: seeds 0, 1, 2" in analyse(tmp_path).notes
    write_sweep(tmp_path, rows, TWO, delta=0.05, early_stopping=BLOCKS)
    assert analyse(tmp_path).notes == []


def test_a_look_at_an_incomplete_block_is_refused(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {})[:-1]
    write_sweep(tmp_path, rows, TWO, early_stopping=BLOCKS, seeds=[0, 1, 2], expected_replicates=24)
    with pytest.raises(DataError, match="complete blocks"):
        first_blocks(read_sweep(tmp_path), 3)


def test_the_order_in_which_trials_finish_changes_no_look(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.03})
    found = []
    for order in (range(24), np.random.default_rng(0).permutation(24)):
        shuffled = [rows[place] for place in order]
        write_sweep(tmp_path, shuffled, TWO, early_stopping=BLOCKS, seeds=[0, 1, 2], expected_replicates=24)
        found.append([look_at(read_sweep(tmp_path), count) for count in (2, 3)])
    for left, right in zip(*found, strict=True):
        for name in left.contrasts:
            assert left.contrasts[name] == pytest.approx(right.contrasts[name], rel=1e-9)


def test_search_mode_with_stopped_trials_estimates_nothing(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2})
    rows[3] |= {"status": "stopped", "stopped_at_step": 9}
    write_sweep(tmp_path, rows, TWO, early_stopping={"policy": "asha"})
    assert primary(effects(read_sweep(tmp_path)), "text")["verdict"].startswith("not estimable (search mode")


def test_trainings_on_unlike_devices_are_noted_once_each_and_alike_ones_not(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, {"text": -0.2})
    for number, row in enumerate(rows):
        row |= {"trial": f"t{number // 2}", "device": "NVIDIA L40S"}
    write_sweep(tmp_path, rows, TWO)
    assert not [note for note in read_sweep(tmp_path).notes if "devices" in note]
    for row in rows[:4]:
        row["device"] = "NVIDIA H200"
    write_sweep(tmp_path, rows, TWO)
    (note,) = [note for note in read_sweep(tmp_path).notes if "devices" in note]
    assert f"({len(rows) // 2 - 2} on NVIDIA L40S, 2 on NVIDIA H200)" in note


# ----------------------------------------------------------------------------------------------- the simulation, small


def test_the_simulation_separates_sound_stopping_from_stopping_on_values() -> None:
    """A small run of the command; wider bands than its own at 1000 replicates."""
    found = {check.rate: check.measured for check in checks({"slow": run("slow", 120, 1)})}
    assert found["slow: pocock: epochs used, %"] == pytest.approx(58, abs=5)
    assert found["slow: pocock: power for text, %"] > 96
    assert found["slow: pocock: family-wise false positives, %"] < 12
    assert abs(found["slow: pocock: worst bias, mLSD"]) < 5
    assert found["control: ASHA last values: size bias, mLSD"] > 300
    assert found["control: ASHA last values: false positives, %"] > 99
    assert found["control: ASHA finishers: not estimable, %"] > 80


def test_halving_stops_by_the_order_of_arrival_and_keeps_the_best_third() -> None:
    """Rung values 2.0, 1.9, … stop nobody; reversed, four of five stop."""
    falling = np.tile(np.array([2.0, 1.9, 1.8, 1.7, 1.6])[None, :, None], (1, 1, 4))
    falling = np.concatenate([falling, np.tile(np.array([9.0] * 5)[None, :, None], (1, 1, 4))], axis=1)
    slow = np.arange(10) > 99
    for curves_, stopped in ((falling, 0), (falling[:, [4, 3, 2, 1, 0, 5, 6, 7, 8, 9]], 4)):
        _, finished = asha(curves_, np.random.default_rng(0), (2,), slow, workers=1)
        assert (~finished[0, :5]).sum() == stopped


def test_generated_curves_have_the_stated_noise() -> None:
    path = curves(SCENARIOS["null"], 400, np.random.default_rng(0))
    within = path - path.mean(axis=1, keepdims=True)
    assert within[..., -1].std() == pytest.approx(np.hypot(np.hypot(0.03, 0.01), 0.02), rel=0.05)
    same = path[:, :16] - path[:, :16].mean(axis=1, keepdims=True)
    third, last = same[..., 8].ravel(), same[..., 26].ravel()
    assert np.corrcoef(third, last)[0, 1] == pytest.approx(0.6 * 0.9, abs=0.05)
