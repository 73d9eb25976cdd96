"""Factors that act only beside some levels of others, and levels that change what is scored: plan and analysis."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.effects import effects
from orchestrator.analysis.estimates import findings
from orchestrator.analysis.interim import take_looks
from orchestrator.analysis.load import read_sweep
from orchestrator.grid.expand import expand, lay_out
from orchestrator.grid.read import read_space
from orchestrator.plan.plan import Replicate, make_plan, write_plan
from orchestrator.plan.promotion import Effect, decide
from orchestrator.report.analyse import analyse
from orchestrator.report.page import write_page
from orchestrator.sweep_folder.design import Promote
from sagasr.config.parsing import parse
from sagasr.config.patching import leaves, patch
from sagasr.config.settings import Config
from sagasr.config.stages import IDLE, acting
from sagasr.io.errors import ConfigError
from tests.orchestrator.sweep_folders import Rows, primary, write_sweep
from tests.small import BASE

LFR = {"lfr": ["off", "hard", "crossfade"], "lfr_ratio": ["off", "on"], "text": ["off", "caption"]}
ROUTE = {"rolloff": ["off", "on"], "rolloff_route": ["both", "cross", "global"], "text": ["off", "caption"]}


def cells(make_grid, config: dict[str, Any] | None = None, **changes: Any) -> set[str]:
    return {cell.name for cell in expand(read_space(make_grid(config, **changes)))}


def faults(make_grid, config: dict[str, Any] | None = None, **changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        make_plan(read_space(make_grid(config, **changes)))
    return str(error.value)


# ------------------------------------------------------------------------------------------------------ what acts


@pytest.mark.parametrize(
    ("factors", "left", "said"),
    [
        (LFR, 2, "lfr_ratio acts only where lfr=hard|crossfade: 2 cells left out, scored once"),
        (ROUTE, 4, "rolloff_route acts only where rolloff=on: 4 cells left out, trained once"),
        (
            {"rolloff": ["on", "off"], "rolloff_target": ["oracle", "fixed", "estimated"]},
            2,
            "rolloff_target acts only where rolloff=on: 2 cells left out, scored once",
        ),
        (
            {"latent_dropout": ["off", 0.1], "null_latent": ["zero", "minus5"]},
            1,
            "null_latent acts only where latent_dropout=0.1: 1 cell left out, trained once",
        ),
        (
            {"latent_dropout": ["off", 0.1], "text": ["off", "caption"], "guidance": ["off", "paper"]},
            1,
            "guidance does nothing where latent_dropout=off text=off: 1 cell left out, scored once",
        ),
        (
            {
                "text": ["off", "caption"],
                "drop": {"baseline": "a", "levels": {"a": {}, "b": {"conditions.text.dropout": 0.3}}},
            },
            1,
            "drop acts only where text=caption: 1 cell left out, trained once",
        ),
        (
            {"weights": ["ema", "raw"], "ema": {"baseline": "a", "levels": {"a": {}, "b": {"training.ema.beta": 0.5}}}},
            1,
            "ema acts only where weights=ema: 1 cell left out, trained once",
        ),
        (
            {"rolloff": ["off", "on"], "rolloff_route": ["both", "cross", "prepend"]},
            1,
            "rolloff_route=cross acts only where rolloff=on: 1 cell left out, trained once",
        ),
    ],
)
def test_cells_that_are_equal_by_construction_are_one_cell_and_the_plan_says_so(make_grid, factors, left, said):
    space = read_space(make_grid(factors=factors))
    design = lay_out(space)
    assert [str(one) for one in design.left_out] == [said]
    assert len(design.cells) == np.prod([len(factor.levels) for factor in space.factors.values()]) - left
    assert len({acting(cell.config) for cell in design.cells}) == len(design.cells)
    tree = make_plan(space).tree
    assert tree["left_out"] == [said]
    assert len(tree["cells"]) == len(design.cells)


def test_two_factors_under_one_level_are_left_out_each_and_together(make_grid):
    factors = {"rolloff": ["off", "on"], "rolloff_route": ["both", "cross"], "rolloff_target": ["oracle", "fixed"]}
    space = read_space(make_grid(factors=factors))
    assert len(lay_out(space).cells) == 5
    assert {str(one).split(":")[0] for one in lay_out(space).left_out} == {
        "rolloff_route acts only where rolloff=on",
        "rolloff_target acts only where rolloff=on",
    }


def test_cells_that_stay_keep_their_trials(make_grid):
    """What acts decides which cells are there, never what a training is called."""
    alone = make_plan(read_space(make_grid(factors={"rolloff_route": ["both", "cross"]})))
    both = make_plan(read_space(make_grid(factors={"rolloff": ["on", "off"], "rolloff_route": ["both", "cross"]})))
    assert {trial.id for trial in alone.trials} < {trial.id for trial in both.trials}
    assert len(both.trials) == 3 * 2


@pytest.mark.parametrize("position", range(len(IDLE)))
def test_what_does_nothing_is_a_key_and_does_something_elsewhere(position):
    """Each entry names keys that are there, holds in some configuration, and not in one that uses the key."""
    idle = IDLE[position]
    base = {"data": {"train": "a", "val": "a"}, "codec": {"kind": "wavelet"}}
    used = {
        "conditions.text.source": "caption",
        "evaluation.lfr": "hard",
        "evaluation.rolloff_target": "fixed",
        "model": {"init": "pretrained", "checkpoint": "a", "latents": "raw"},
        "codec": {"kind": "stable-audio", "checkpoint": "a", "config": "b"},
    }
    unused = {
        "conditions.text.source": "off",
        "conditions.rolloff": "off",
        "conditions.low.dropout": 0,
        "evaluation.weights": "raw",
        "training.schedule.power": 0,
    }
    assert not idle.holds(parse(Config, patch(base, used), ""))
    there = parse(Config, patch(base, unused), "")
    assert idle.holds(there)
    assert set(idle.keys) <= leaves(there.model_dump(mode="json")).keys()
    assert acting(there) == acting(acting(there))


def test_one_at_a_time_tries_a_factor_where_it_acts(make_grid):
    factors = {
        "lfr": ["off", "hard"],
        "lfr_ratio": ["off", "on"],
        "rolloff_route": ["both", "cross"],
        "rolloff": ["off", "on"],
    }
    assert cells(make_grid, factors=factors, design="one-at-a-time") == {
        "lfr=off lfr_ratio=off rolloff_route=both rolloff=off",
        "lfr=hard lfr_ratio=off rolloff_route=both rolloff=off",
        "lfr=hard lfr_ratio=on rolloff_route=both rolloff=off",
        "lfr=off lfr_ratio=off rolloff_route=both rolloff=on",
        "lfr=off lfr_ratio=off rolloff_route=cross rolloff=on",
    }


def test_a_level_that_does_nothing_anywhere_is_refused_with_the_reason(make_grid):
    off = patch(BASE, {"conditions.rolloff": "off"})
    text = faults(make_grid, off, factors={"rolloff_route": ["both", "cross"], "lfr": ["off", "hard"]})
    assert "factors.rolloff_route: level 'cross' gives the same as 'both' in every cell" in text
    assert "while conditions.rolloff is off" in text


def test_a_fraction_and_a_ladder_step_that_need_such_a_cell_are_refused(make_grid):
    assert "a fraction needs them all" in faults(
        make_grid, factors={**LFR, "lfr": ["off", "hard"]}, design="fractional", resolution=3
    )
    ladder = [{"step": "0"}, {"step": "1", "lfr_ratio": "on"}]
    assert "ladder step 1: lfr_ratio=on does nothing" in faults(make_grid, factors=LFR, ladder=ladder)


def test_where_may_have_left_out_the_baseline_of_what_does_nothing(make_grid):
    where = [{"not": {"lfr": "off", "lfr_ratio": "off"}}]
    assert cells(make_grid, factors={k: LFR[k] for k in ("lfr", "lfr_ratio")}, where=where) == {
        "lfr=off lfr_ratio=on",
        "lfr=hard lfr_ratio=off",
        "lfr=hard lfr_ratio=on",
        "lfr=crossfade lfr_ratio=off",
        "lfr=crossfade lfr_ratio=on",
    }


# ---------------------------------------------------------------------------------------------------------- under


def own(path: str, first: Any, second: Any, **more: Any) -> dict[str, Any]:
    return {"baseline": "a", "levels": {"a": {path: first}, "b": {path: second}}, **more}


def test_under_leaves_a_factor_at_its_baseline_elsewhere(make_grid):
    factors = {
        "lfr": ["off", "hard", "crossfade"],
        "lfr_ratio": {"levels": ["off", "on"], "under": {"lfr": "hard"}},
        "steps": {"levels": [2, 3], "baseline": 3, "under": {"lfr": ["hard", "crossfade"]}},
    }
    found = cells(make_grid, factors=factors)
    assert found == {
        "lfr=off lfr_ratio=off steps=3",
        *(f"lfr=hard lfr_ratio={ratio} steps={steps}" for ratio, steps in product(("off", "on"), (2, 3))),
        "lfr=crossfade lfr_ratio=off steps=2",
        "lfr=crossfade lfr_ratio=off steps=3",
    }
    plan = make_plan(read_space(make_grid(factors=factors)))
    assert plan.tree["factors"]["steps"]["under"] == {"lfr": ["crossfade", "hard"]}
    assert [cell.config.evaluation.sampler.steps for cell in plan.cells if cell.levels["lfr"] == "off"] == [3]


def test_under_several_factors_in_a_chain(make_grid):
    factors = {
        "text": ["off", "caption"],
        "drop": own("conditions.text.dropout", 0.1, 0.2, under={"text": "caption"}),
        "batch": own("training.batch_size", 1, 2, under={"drop": "b", "text": "caption"}),
    }
    assert cells(make_grid, factors=factors) == {
        "text=off drop=a batch=a",
        "text=caption drop=a batch=a",
        "text=caption drop=b batch=a",
        "text=caption drop=b batch=b",
    }
    assert cells(make_grid, factors=factors, design="one-at-a-time") == cells(make_grid, factors=factors)


def test_a_factor_may_change_the_section_that_the_factor_above_it_replaces(make_grid):
    codec = {"baseline": "wavelet", "levels": {"wavelet": {}, "pqmf": {"codec": {"kind": "pqmf", "bands": 64}}}}
    factors = {"levels": own("codec.levels", 6, 5, under={"codec": "wavelet"}), "codec": codec}
    found = {cell.name: cell.config.codec for cell in expand(read_space(make_grid(factors=factors)))}
    assert {name: one.kind for name, one in found.items()} == {
        "levels=a codec=wavelet": "wavelet",
        "levels=b codec=wavelet": "wavelet",
        "levels=a codec=pqmf": "pqmf",
    }
    assert found["levels=b codec=wavelet"].levels == 5


@pytest.mark.parametrize(
    ("under", "said"),
    [
        ({"rollof": "on"}, "factors.x.under: unknown factor 'rollof'; did you mean 'rolloff'?"),
        ({"rolloff": "onn"}, "factors.x.under: factor 'rolloff' has no level 'onn'; did you mean 'on'?"),
        ({"x": "a"}, "factors.x.under: x lies under itself"),
        ({"y": "a"}, "factors.x.under: x lies under itself"),
        ({}, "factors.x.under: expected another factor"),
        ("rolloff", "factors.x.under: expected another factor"),
    ],
)
def test_a_wrong_under_is_told(make_grid, under, said):
    factors = {
        "rolloff": ["off", "on"],
        "x": own("training.steps", 4, 5, under=under),
        "y": own("training.batch_size", 1, 2, under={"x": "a"}),
    }
    assert said in faults(make_grid, factors=factors)
    assert "did you mean 'under'?" in faults(make_grid, factors={"x": own("training.steps", 4, 5, undr={"y": "a"})})


def test_the_written_grid_with_under_makes_the_same_plan_again(make_grid, tmp_path):
    factors = {"lfr": ["off", "hard"], "lfr_ratio": {"levels": ["off", "on"], "under": {"lfr": "hard"}}}
    plan = make_plan(read_space(make_grid(factors=factors, storage=str(tmp_path / "sweeps"))))
    write_plan(plan)
    assert make_plan(read_space(plan.paths.grid)).hash == plan.hash


# ------------------------------------------------------------------------------------------------ what is scored


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("validation.cutoff_hz", 12_000),
        ("validation.filter", "bessel"),
        ("validation.order", 4),
        ("validation.clips", 1),
        ("validation.segment", 16_384),
        ("validation.distance.embedder", "off"),
        ("degradation.rolloff_cap", 0.8),
        ("audio.channels", 2),
    ],
)
def test_levels_that_change_what_is_scored_are_refused(make_grid, key, value):
    mixed = {"baseline": "a", "levels": {"a": {}, "b": {"training.weight_decay": 0.002, key: value}}}
    text = faults(make_grid, factors={"mixed": mixed, "text": ["off", "caption"]})
    assert text.splitlines()[0].split(": ", 1)[1].startswith(f"factors.mixed: {key} (")
    assert "not comparable" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"validation.every": 2},
        {"codec": {"kind": "pqmf", "bands": 64}},
        {"audio.segment": 4_096},
        {"degradation.cutoff_hz": [4_000, 12_000]},
        {"degradation.variants": 2},
        {"evaluation.sampler.steps": 3},
    ],
)
def test_levels_that_change_the_answer_are_fine(make_grid, change):
    assert len(cells(make_grid, factors={"own": {"baseline": "a", "levels": {"a": {}, "b": change}}})) == 2


def test_other_training_recordings_are_fine_and_other_validation_recordings_are_not(make_grid):
    def corpus(key: str) -> dict[str, Any]:
        return {"corpus": {"baseline": "a", "levels": {"a": {}, "b": {f"data.{key}": "other.csv"}}}}

    grid = make_grid(factors=corpus("train"))
    folder = grid.parent
    rows = (folder / "manifest.csv").read_text()
    (folder / "other.csv").write_text(rows.replace("a.flac,train", "a.flac,val").replace("c.flac,val", "c.flac,train"))
    (folder / "other.csv").write_text(rows.replace("a.flac,train,noise,a noise called a\n", ""))
    assert len(make_plan(read_space(grid)).cells) == 2
    (folder / "more.flac").write_bytes((folder / "c.flac").read_bytes() + b"more")
    (folder / "other.csv").write_text(rows.replace("c.flac,val", "more.flac,val"))
    text = faults(make_grid, factors=corpus("val"))
    assert "not comparable" in text
    assert "other.csv ('corpus=b')" in text


def test_a_report_compares_nothing_that_an_older_sweep_scored_on_different_things(tmp_path):
    factors = {"mixed": ["a", "b"], "text": ["off", "caption"]}
    rows = simulated(factors, 3, lambda cell: -0.1 * (cell["mixed"] == "b") - 0.1 * (cell["text"] != "off"), bool)
    config = {"data": {"train": "a", "val": "b"}, "codec": {"kind": "wavelet"}}
    other = patch(config, {"validation.cutoff_hz": 12_000})
    for row in rows:
        row["trial"] = f"{row['mixed']}-{row['text']}-{row['seed']}"
    trials = [{"trial": row["trial"], "config": other if row["mixed"] == "b" else config} for row in rows]
    table = effects(read_sweep(write_sweep(tmp_path, rows, factors, trials=trials)))
    verdict = primary(table, "mixed")["verdict"]
    assert verdict.startswith(
        "not estimable (not comparable: scored on different things (validation.cutoff_hz 12000.0;"
    )
    assert primary(table, "text")["verdict"] == "improves"


# ------------------------------------------------------------------------------------------------------- analysis


def simulated(factors: dict[str, list[str]], seeds: int, value: Any, there: Any, random: int = 0) -> Rows:
    """Return rows of the cells that are ``there``: 1.2 + ``value`` of the cell + seed + noise."""
    rng = np.random.default_rng(random)
    rows = []
    for seed in range(seeds):
        shift = rng.normal(0, 0.05)
        for levels in product(*factors.values()):
            cell = dict(zip(factors, levels, strict=True))
            if there(cell):
                rows.append({**cell, "seed": seed, "lsd": 1.2 + value(cell) + shift + rng.normal(0, 0.01)})
    return rows


UNDER = {"lfr_ratio": {"lfr": ["hard", "crossfade"]}}


def difference(rows: Rows, factor: str, level: str, base: str, **fixed: str) -> tuple[float, int]:
    """Return the mean of the differences of runs that differ in the factor alone, and how many runs that are."""
    table = pd.DataFrame(rows)
    for name, value in fixed.items():
        table = table[table[name] == value]
    index = [name for name in table if name not in (factor, "lsd")]
    both = table.pivot(index=index, columns=factor, values="lsd")[[level, base]].dropna()
    return float((both[level] - both[base]).mean()), 2 * len(both)


def ratio_acts(cell: dict[str, str]) -> bool:
    return cell["lfr"] != "off" or cell["lfr_ratio"] == "off"


def ratio_value(cell: dict[str, str]) -> float:
    """The ratio harms with hard replacement and does more with crossfade; text helps less beside replacement."""
    ratio = {"hard": 0.1, "crossfade": 0.3}.get(cell["lfr"], 0.0) * (cell["lfr_ratio"] == "on")
    return ratio - 0.2 * (cell["lfr"] != "off") - 0.1 * (cell["text"] != "off") * (1 - 0.5 * (cell["lfr"] == "hard"))


@pytest.mark.parametrize("stage", [("lfr", "lfr_ratio"), ()])
@pytest.mark.parametrize("declared", [True, False])
def test_effects_of_a_nested_design_are_those_of_cells_that_differ_in_the_factor_alone(tmp_path, stage, declared):
    """In either stage, and for tables of others that do not say so but lack the cells."""
    rows = simulated(LFR, 3, ratio_value, ratio_acts)
    under = UNDER if declared else None
    table = effects(read_sweep(write_sweep(tmp_path, rows, LFR, eval_stage=stage, delta=0.02, under=under)))
    for factor, level, base in [
        ("lfr_ratio", "on", "off"),
        ("lfr", "hard", "off"),
        ("lfr", "crossfade", "off"),
        ("text", "caption", "off"),
    ]:
        found = primary(table, factor, level)
        expected, runs = difference(rows, factor, level, base)
        assert found["estimate"] == pytest.approx(expected, abs=1e-12)
        assert found["verdict"] == ("harms" if expected > 0 else "improves")
        if not stage:
            assert found["n_runs"] == runs
        assert found["n_seeds"] == 3
        assert found["se_run"] < 0.01  # what lfr does to the ratio is no noise
    simple = table[(table["family"] == "simple") & (table["factor"] == "lfr_ratio")].set_index("with")
    assert "lfr=off" not in simple.index
    for at in ("hard", "crossfade"):
        assert simple.loc[f"lfr={at}", "estimate"] == pytest.approx(
            difference(rows, "lfr_ratio", "on", "off", lfr=at)[0]
        )
    crossed = table[(table["family"] == "interaction") & (table["with"] == "lfr_ratio") & (table["factor"] == "lfr")]
    assert len(crossed) == 2
    assert crossed["verdict"].str.startswith("not estimable").all()
    if declared:
        assert crossed["verdict"].str.contains("lfr_ratio acts only where lfr=hard|crossfade", regex=False).all()
        assert primary(table, "lfr_ratio")["confounded_with"] is None


def test_the_interaction_of_a_nested_factor_is_that_of_the_cells_where_it_acts(tmp_path):
    rows = simulated(LFR, 3, ratio_value, ratio_acts)
    table = effects(read_sweep(write_sweep(tmp_path, rows, LFR, under=UNDER)))
    found = table[(table["family"] == "interaction") & (table["factor"] == "lfr_ratio") & (table["with"] == "text")]
    on, off = (difference(rows, "lfr_ratio", "on", "off", text=text)[0] for text in ("caption", "off"))
    assert found["estimate"].tolist() == pytest.approx([on - off])


def test_the_error_of_a_nested_factor_is_that_of_its_own_pairs(tmp_path):
    """One training factor under another: the interval is near that of a paired t test on the cells where it acts."""
    factors = {"rolloff": ["off", "on"], "route": ["both", "cross"]}
    rows = simulated(
        factors,
        40,
        lambda cell: 0.02 * (cell["route"] == "cross"),
        lambda c: c["rolloff"] == "on" or c["route"] == "both",
    )
    under = {"route": {"rolloff": ["on"]}}
    found = primary(effects(read_sweep(write_sweep(tmp_path, rows, factors, under=under))), "route")
    table = pd.DataFrame(rows).query("rolloff == 'on'").pivot(index="seed", columns="route", values="lsd")
    each = table["cross"] - table["both"]
    assert found["estimate"] == pytest.approx(each.mean())
    assert found["n_runs"] == 80
    assert found["se_run"] == pytest.approx(0.01 * np.sqrt(2 / 40), rel=0.2)
    assert found["se_run"] == pytest.approx(each.std() / np.sqrt(40), rel=0.2)


def test_an_evaluation_factor_under_a_training_factor(tmp_path):
    """Trainings without it have one variant, the others three; the parent is compared on the one they share."""
    factors = {"rolloff": ["off", "on", "more"], "target": ["oracle", "fixed", "estimated"], "text": ["off", "caption"]}
    gain = {"oracle": 0.0, "fixed": 0.1, "estimated": 0.2}
    rows = simulated(
        factors,
        4,
        lambda cell: gain[cell["target"]] * (1 + (cell["rolloff"] == "more")) - 0.1 * (cell["rolloff"] != "off"),
        lambda cell: cell["rolloff"] != "off" or cell["target"] == "oracle",
    )
    under = {"target": {"rolloff": ["on", "more"]}}
    table = effects(read_sweep(write_sweep(tmp_path, rows, factors, eval_stage=("target",), under=under)))
    for factor, level in [(name, level) for name, levels in factors.items() for level in levels[1:]]:
        found = primary(table, factor, level)
        assert found["estimate"] == pytest.approx(difference(rows, factor, level, factors[factor][0])[0]), factor
        assert found["se_run"] < 0.02


def test_a_failed_run_takes_its_pair_with_it(tmp_path):
    rows = simulated(LFR, 3, ratio_value, ratio_acts)
    lost = next(row for row in rows if row["lfr"] == "hard" and row["lfr_ratio"] == "on")
    lost["status"] = "failed"
    table = effects(read_sweep(write_sweep(tmp_path, rows, LFR, under=UNDER)))
    left = [{key: value for key, value in row.items() if key != "status"} for row in rows if row is not lost]
    found = primary(table, "lfr_ratio")
    expected, runs = difference(left, "lfr_ratio", "on", "off")
    assert (found["estimate"], found["n_runs"]) == (pytest.approx(expected), runs)
    assert found["n_failed"] == 1


def test_blocks_decide_a_nested_factor_and_a_report_is_made(tmp_path):
    rows = simulated(LFR, 4, ratio_value, ratio_acts)
    blocks = {"early_stopping": {"policy": "blocks"}, "eval_stage": ("lfr", "lfr_ratio")}
    folder = write_sweep(tmp_path, rows, LFR, delta=0.02, under=UNDER, **blocks)
    account = take_looks(folder)
    assert account is not None
    assert account.decisions["lfr_ratio: on - off"].word == "different"
    found = analyse(folder)
    assert write_page(found, folder).exists()


def test_what_improves_where_it_acts_is_promoted_with_the_levels_it_acts_beside():
    rule = Promote("improves", {"size": "small"}, {"size": "full"})
    baseline = {"rolloff": "off", "route": "both", "size": "small"}
    waiting = [
        Replicate(
            **{"id": f"{rolloff}-{route}", "fingerprint": "", "cell": "", "variant": "", "trial": f"{rolloff}-{route}"},
            **{"levels": {"rolloff": rolloff, "route": route, "size": "full"}, "seed": 0},
        )
        for rolloff, route in (("off", "both"), ("on", "both"), ("on", "cross"))
    ]
    effects_ = [Effect("rolloff", "on", "undecided", 0.0), Effect("route", "cross", "improves", -0.1)]
    decided = decide(rule, baseline, effects_, waiting, [0], {}, under={"route": {"rolloff": frozenset({"on"})}})
    assert set(decided.replicates) == {"off-both", "on-both", "on-cross"}


def test_trainings_with_unlike_variants_are_judged_with_the_error_they_have(tmp_path):
    """Over 60 sweeps the variance of an estimate is what the analysis says, with and without noise of trainings."""
    factors = {"rolloff": ["off", "on", "more"], "target": ["oracle", "fixed", "estimated"], "text": ["off", "caption"]}
    found: dict[str, list[tuple[float, float]]] = {"rolloff: on - off": [], "text: caption - off": []}
    for sweep in range(60):
        noise = np.random.default_rng(sweep).normal(0, 0.01, (3, 3, 2)).tolist()
        rows = []
        for row in simulated(
            factors, 3, lambda cell: 0.0, lambda cell: cell["rolloff"] != "off" or cell["target"] == "oracle", sweep
        ):
            at = factors["rolloff"].index(row["rolloff"]), factors["text"].index(row["text"])
            rows.append({**row, "lsd": row["lsd"] + noise[row["seed"]][at[0]][at[1]]})
        folder = tmp_path / str(sweep)
        folder.mkdir()
        under = {"target": {"rolloff": ["on", "more"]}}
        written = write_sweep(folder, rows, factors, eval_stage=("target",), under=under)
        for one in findings(read_sweep(written), primary_only=True):
            if one.comparison.contrast in found:
                assert one.estimate is not None
                found[one.comparison.contrast].append((one.estimate.value, one.estimate.variance_run))
    for contrast, each in found.items():
        estimates, variances = np.array(each).T
        assert 0.65 < variances.mean() / estimates.var(ddof=1) < 1.5, contrast


def test_one_at_a_time_compares_a_factor_where_it_acts(make_grid, tmp_path):
    """From the grid file to the effects: what the plan writes is what the analysis reads."""
    lfr = {"lfr": ["off", "hard"], "lfr_ratio": {"levels": ["off", "on"], "under": {"lfr": "hard"}}}
    keys = {"design": "one-at-a-time", "early_stopping": {"policy": "none"}}
    grid = make_grid(factors=lfr | {"text": ["off", "caption"]}, storage=str(tmp_path), **keys)
    plan = make_plan(read_space(grid, seeds=[0, 1, 2]))
    write_plan(plan)
    rows = [{**row.levels, "cell": row.cell, "seed": row.seed, "trial": row.trial} for row in plan.replicates]
    rng = np.random.default_rng(0)
    for row in rows:
        row["lsd"] = 1.2 + 0.1 * (row["lfr_ratio"] == "on") + rng.normal(0, 0.001)
    plan.paths.results.mkdir()
    pd.DataFrame([{"status": "done", **row} for row in rows]).to_parquet(plan.paths.table("replicates"))
    found = primary(effects(read_sweep(plan.folder)), "lfr_ratio")
    table = pd.DataFrame(rows).query("lfr == 'hard'").groupby("lfr_ratio")["lsd"].mean()
    assert found["estimate"] == pytest.approx(table["on"] - table["off"])
    assert found["verdict"] == "harms"
