"""More published data sets, as parquet in and effects out: each agrees with the numbers printed beside it."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import mixedlm, ols
from statsmodels.stats.multitest import multipletests

from orchestrator.analysis.effects import effects
from orchestrator.analysis.load import read_sweep
from orchestrator.analysis.verdict import adjust
from tests.orchestrator.sweep_folders import Rows, primary, write_sweep

# NIST StRD, Analysis of Variance, AtmWtAg: atomic weight of silver by two instruments, 24 readings each; average
# difficulty: seven digits are alike. Only the digits behind 107.868 are written here.
SILVER = {
    "1": "1568 1465 1572 1785 1446 1903 1526 1494 1616 1587 1519 1486 1419 1569 1508 1672 1385 1518 1662 1424 1360 "
    "1333 1610 1477",
    "2": "1079 1344 1513 1197 1604 1385 1642 1365 1151 1082 1517 1448 1198 1482 1334 1609 1101 1512 1469 1360 1254 "
    "1261 1450 1368",
}
# Box, Hunter and Hunter, Statistics for Experimenters: pilot plant, 2^3 in standard order (temperature fastest), two
# runs of each
PILOT = ((59, 61), (74, 70), (50, 58), (69, 67), (50, 54), (81, 85), (46, 44), (79, 81))
# Montgomery, Design and Analysis of Experiments: rocket propellant, a Latin square of five batches x five operators
PROPELLANT = (
    (("A", 24), ("B", 20), ("C", 19), ("D", 24), ("E", 24)),
    (("B", 17), ("C", 24), ("D", 30), ("E", 27), ("A", 36)),
    (("C", 18), ("D", 38), ("E", 26), ("A", 27), ("B", 21)),
    (("D", 26), ("E", 31), ("A", 26), ("B", 23), ("C", 22)),
    (("E", 22), ("A", 30), ("B", 20), ("C", 29), ("D", 31)),
)
# Montgomery: tensile strength of paper, a split plot: three replicates x three pulps (whole plots) x four temperatures
PAPER = {
    "200": ((30, 34, 29), (28, 31, 31), (31, 35, 32)),
    "225": ((35, 41, 26), (32, 36, 30), (37, 40, 34)),
    "250": ((37, 38, 33), (40, 42, 32), (41, 39, 39)),
    "275": ((36, 42, 36), (41, 40, 40), (40, 44, 45)),
}
# Venables and Ripley (R's npk): yield of peas, 2^3 of fertilisers in six blocks of four, N:P:K confounded with blocks
PEAS = (
    "011 49.5 110 62.8 000 46.8 101 57.0", "100 59.8 111 58.5 001 55.5 010 56.0", "010 62.8 111 55.8 100 69.5 001 55.0",
    "100 62.0 111 48.8 001 45.5 010 44.2", "110 52.0 000 51.5 101 49.8 011 48.8", "101 57.2 110 59.0 011 53.2 000 56.0",
)  # fmt: skip

# Yates (R's oats): six blocks x three varieties (whole plots) x four amounts of nitrogen
OATS = {
    "Victory": ((111, 130, 157, 174), (61, 91, 97, 100), (68, 64, 112, 86), (74, 89, 81, 122), (62, 90, 100, 116),
                (53, 74, 118, 113)),
    "Golden": ((117, 114, 161, 141), (70, 108, 126, 149), (60, 102, 89, 96), (64, 103, 132, 133), (80, 82, 94, 126),
               (89, 82, 86, 104)),
    "Marvel": ((105, 140, 118, 156), (96, 124, 121, 144), (89, 129, 132, 124), (70, 89, 104, 117), (63, 70, 109, 99),
               (97, 99, 119, 121)),
}  # fmt: skip
NITROGEN = [0.0, 0.2, 0.4, 0.6]


def oats() -> Rows:
    return [
        {"variety": name, "nitrogen": amount, "seed": block, "lsd": float(value)}
        for name, blocks in OATS.items()
        for block, line in enumerate(blocks)
        for amount, value in zip(NITROGEN, line, strict=True)
    ]


def table(folder: Path, rows: Rows, factors: dict[str, list[Any]], eval_stage: tuple[str, ...] = ()) -> pd.DataFrame:
    write_sweep(folder, rows, factors, eval_stage=eval_stage)
    return effects(read_sweep(folder))


def interaction(found: pd.DataFrame, first: str, second: str) -> pd.Series:
    return found[(found["family"] == "interaction") & (found["factor"] == first) & (found["with"] == second)].iloc[0]


def test_silver_has_the_certified_sums_of_squares_though_seven_digits_are_alike(tmp_path: Path) -> None:
    seeds = itertools.count()
    rows = [
        {"instrument": name, "seed": next(seeds), "lsd": float(f"107.868{digits}")}
        for name, values in SILVER.items()
        for digits in values.split()
    ]
    row = primary(table(tmp_path, rows, {"instrument": ["1", "2"]}), "instrument")
    assert row["ss"] == pytest.approx(3.63834187500000e-09, rel=1e-6)
    assert row["f"] == pytest.approx(1.59467335677930e01, rel=1e-6)
    assert (row["df_num"], row["df_error"]) == (1, 46)


def test_the_pilot_plant_has_the_effects_of_the_book(tmp_path: Path) -> None:
    seeds = itertools.count()
    rows = [
        {"temperature": t, "concentration": c, "catalyst": k, "seed": next(seeds), "lsd": float(value)}
        for values, (k, c, t) in zip(PILOT, itertools.product("-+", repeat=3), strict=True)
        for value in values
    ]
    found = table(tmp_path, rows, {name: ["-", "+"] for name in ("temperature", "concentration", "catalyst")})
    effect = [primary(found, name)["estimate"] for name in ("temperature", "concentration", "catalyst")]
    assert effect == pytest.approx([23.0, -5.0, 1.5])
    halves = {
        ("temperature", "concentration"): 1.5,
        ("temperature", "catalyst"): 10.0,
        ("concentration", "catalyst"): 0.0,
    }
    for (first, second), value in halves.items():  # the book halves the difference of differences
        assert interaction(found, first, second)["estimate"] / 2 == pytest.approx(value, abs=1e-9)
    pooled = (64 + 4 * 0.5**2) / 9  # the book's pure error (s^2 = 8 on 8 df) and its three-way interaction of 0.5
    assert primary(found, "temperature")["se_run"] == pytest.approx((4 * pooled / 16) ** 0.5)


def test_a_latin_square_takes_rows_and_columns_out_of_the_error(tmp_path: Path) -> None:
    rows = [
        {"formulation": name, "operator": str(operator), "seed": batch, "lsd": float(value)}
        for batch, line in enumerate(PROPELLANT)
        for operator, (name, value) in enumerate(line)
    ]
    found = table(tmp_path, rows, {"formulation": list("ABCDE"), "operator": [str(i) for i in range(5)]})
    row = primary(found, "formulation", "B")
    assert (row["ss"], row["df_num"], row["df_error"]) == (pytest.approx(330.0), 4, 12)
    assert row["f"] == pytest.approx(7.73, abs=0.01)
    assert row["f_p"] == pytest.approx(0.0025, abs=2e-4)
    assert primary(found, "operator", "1")["ss"] == pytest.approx(150.0)


def test_a_split_plot_of_paper_has_both_of_its_errors(tmp_path: Path) -> None:
    rows = [
        {"pulp": str(pulp), "temperature": temperature, "seed": replicate, "trial": f"{pulp}{replicate}", "lsd": value}
        for temperature, replicates in PAPER.items()
        for replicate, values in enumerate(replicates)
        for pulp, value in enumerate(map(float, values))
    ]
    factors = {"pulp": ["0", "1", "2"], "temperature": list(PAPER)}
    found = table(tmp_path, rows, factors, ("temperature",))
    pulp, temperature = primary(found, "pulp", "1"), primary(found, "temperature", "225")
    mixed = interaction(found, "pulp", "temperature")
    assert [one["ss"] for one in (pulp, temperature, mixed)] == pytest.approx([128.39, 434.08, 75.17], abs=0.005)
    assert [one["f"] for one in (pulp, temperature, mixed)] == pytest.approx([7.08, 36.43, 3.15], abs=0.01)
    assert [one["df_error"] for one in (pulp, temperature, mixed)] == [4, 18, 18]


def test_oats_have_the_strata_that_r_prints(tmp_path: Path) -> None:
    found = table(tmp_path, oats(), {"variety": list(OATS), "nitrogen": NITROGEN}, ("nitrogen",))
    variety, nitrogen = primary(found, "variety", "Golden"), primary(found, "nitrogen", "0.4")
    mixed = interaction(found, "variety", "nitrogen")
    assert [one["ss"] for one in (variety, nitrogen, mixed)] == pytest.approx([1786.4, 20020.5, 321.75], abs=0.05)
    assert [one["f"] for one in (variety, nitrogen, mixed)] == pytest.approx([1.485, 37.686, 0.303], abs=5e-4)
    assert [one["f_p"] for one in (variety, nitrogen, mixed)] == pytest.approx([0.272, 2.458e-12, 0.932], rel=2e-3)
    assert [one["df_error"] for one in (variety, nitrogen, mixed)] == [10, 45, 45]
    assert [primary(found, "nitrogen", level)["estimate"] for level in ("0.2", "0.6")] == pytest.approx([19.5, 44.0])


@pytest.mark.filterwarnings("ignore:The design matrix is rank-deficient")  # variety lies in the plots
def test_oats_that_lost_plots_keep_every_block_and_agree_with_maximum_likelihood(tmp_path: Path) -> None:
    rows = [row for index, row in enumerate(oats()) if index % 7]
    found = table(tmp_path, rows, {"variety": list(OATS), "nitrogen": NITROGEN}, ("nitrogen",))
    frame = pd.DataFrame(rows)
    formula = "lsd ~ C(seed) + C(variety, Treatment('Victory')) * C(nitrogen, Sum)"
    plots = frame["variety"] + frame["seed"].astype(str)
    fitted = mixedlm(formula, frame, groups=plots).fit(reml=True)
    for name in ("Golden", "Marvel"):
        row, key = primary(found, "variety", name), f"C(variety, Treatment('Victory'))[T.{name}]"
        assert row["estimate"] == pytest.approx(fitted.params[key], abs=0.1 * fitted.bse[key])
        assert row["se_run"] == pytest.approx(fitted.bse[key], rel=0.05)
        assert (row["n_runs"], row["df"]) == (12, pytest.approx(10))
    inside = ols("lsd ~ C(plot) + C(nitrogen, Treatment(0)) * C(variety, Sum)", frame.assign(plot=plots)).fit()
    row = primary(found, "nitrogen", "0.4")
    assert row["estimate"] == pytest.approx(inside.params["C(nitrogen, Treatment(0))[T.0.4]"])
    assert (row["df_error"], row["ss"]) == (inside.df_resid, pytest.approx(row["f"] * 3 * inside.mse_resid))


def test_peas_in_incomplete_blocks_have_the_analysis_that_r_prints(tmp_path: Path) -> None:
    rows = []
    for block, line in enumerate(PEAS):
        words = line.split()
        for levels, value in zip(words[::2], words[1::2], strict=True):
            rows.append({**dict(zip("NPK", levels, strict=True)), "seed": block, "lsd": float(value)})
    found = table(tmp_path, rows, {name: ["0", "1"] for name in "NPK"})
    printed = {"N": (189.28, 12.259), "P": (8.40, 0.544), "K": (95.20, 6.166)}
    for name, (ss, f) in printed.items():
        row = primary(found, name)
        assert (row["ss"], row["f"]) == (pytest.approx(ss, abs=0.005), pytest.approx(f, abs=0.001))
        assert row["df_error"] == 12
    mixed = {("N", "P"): (21.28, 1.378), ("N", "K"): (33.14, 2.146), ("P", "K"): (0.48, 0.031)}
    for (first, second), (ss, f) in mixed.items():
        row = interaction(found, first, second)
        assert (row["ss"], row["f"]) == (pytest.approx(ss, abs=0.006), pytest.approx(f, abs=0.001))


@pytest.mark.parametrize(("family", "method"), [("primary", "holm"), ("interaction", "fdr_bh")])
def test_p_values_are_adjusted_as_statsmodels_does(family: str, method: str) -> None:
    for count in (1, 2, 9):
        p = np.random.default_rng(count).uniform(0, 0.2, count)
        p[-1] = p[0]  # a tie
        adjusted = adjust([*p, float("nan")], family)
        assert adjusted[:-1] == list(multipletests(p, method=method)[1])
        assert np.isnan(adjusted[-1])
    assert adjust([], family) == []
