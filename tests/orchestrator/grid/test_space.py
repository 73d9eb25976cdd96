"""Grid files become cells: designs, constraints, stages, and what is refused."""

import subprocess
import sys
from itertools import combinations

import pytest

from orchestrator.grid.expand import MAX_CELLS, expand
from orchestrator.grid.factors import STANDARD, level_name, parse_only
from orchestrator.grid.fractional import fraction
from orchestrator.grid.read import find_grid, read_space, shipped
from orchestrator.grid.space import SearchSpace
from orchestrator.sweep_folder.design import cell_name
from sagasr.io.errors import ConfigError
from sagasr.metrics.table import METRICS
from tests.small import BASE


def names(space: SearchSpace) -> list[str]:
    return [cell.name for cell in expand(space)]


def faults(make_grid, **changes) -> str:
    with pytest.raises(ConfigError) as error:
        expand(read_space(make_grid(**changes)))
    return str(error.value)


def test_full_design_is_the_product_in_order(make_grid):
    space = read_space(make_grid())
    assert names(space) == ["text=off lfr=off", "text=off lfr=hard", "text=caption lfr=off", "text=caption lfr=hard"]


def test_each_level_of_a_cell_reaches_its_configuration(make_grid):
    cells = expand(read_space(make_grid(factors={"text": ["caption", "off"], "latent_dropout": ["off", 0.1, 0.25]})))
    found = {cell.name: (cell.config.conditions.text.source, cell.config.conditions.low.dropout) for cell in cells}
    assert found["text=caption latent_dropout=0.25"] == ("caption", 0.25)
    assert found["text=off latent_dropout=off"] == ("off", 0.0)


def test_one_at_a_time_changes_one_factor_against_the_baseline(make_grid):
    space = read_space(make_grid(design="one-at-a-time", factors={"text": ["off", "caption"], "lfr": ["off", "hard"]}))
    assert names(space) == ["text=off lfr=off", "text=caption lfr=off", "text=off lfr=hard"]


def test_ladder_steps_name_what_they_are_compared_with(make_grid):
    ladder = [
        {"step": 0},
        {"step": "1", "text": "caption"},
        {"step": "2", "text": "caption", "lfr": "hard"},
        {"step": "3", "lfr": "hard", "versus": "0"},
    ]
    space = read_space(make_grid(design="ladder", ladder=ladder))
    assert [(step.step, step.versus) for step in space.ladder] == [("0", None), ("1", "0"), ("2", "1"), ("3", "0")]
    assert names(space) == ["text=off lfr=off", "text=caption lfr=off", "text=caption lfr=hard", "text=off lfr=hard"]


def test_ladder_cells_outside_the_design_are_added(make_grid):
    ladder = [{"step": "0"}, {"step": "both", "text": "caption", "lfr": "hard"}]
    space = read_space(make_grid(design="one-at-a-time", ladder=ladder))
    assert names(space)[-1] == "text=caption lfr=hard"
    assert len(names(space)) == 4


def test_rules_leave_cells_out(make_grid):
    where = [
        {"if": {"size": "medium"}, "then": {"text": "caption", "lfr": ["off", "hard"]}},
        {"not": {"size": "small", "lfr": "crossfade"}},
    ]
    factors = {"text": ["off", "caption"], "lfr": ["off", "hard", "crossfade"], "size": ["small", "medium"]}
    assert set(names(read_space(make_grid(factors=factors, where=where)))) == {
        "text=off lfr=off size=small",
        "text=off lfr=hard size=small",
        "text=caption lfr=off size=small",
        "text=caption lfr=hard size=small",
        "text=caption lfr=off size=medium",
        "text=caption lfr=hard size=medium",
    }


@pytest.mark.parametrize(
    ("count", "resolution", "runs"), [(3, 3, 4), (4, 4, 8), (5, 5, 16), (6, 4, 16), (7, 3, 8), (8, 4, 16), (15, 3, 16)]
)
def test_fractions_have_the_textbook_number_of_runs(count, resolution, runs):
    design = fraction([f"f{i}" for i in range(count)], resolution)
    cells = list(design.cells())
    assert len(set(cells)) == len(cells) == runs
    assert (0,) * count in cells
    assert min(map(len, design.words)) >= resolution


def test_aliases_are_the_effects_whose_columns_coincide():
    """Counted from the cells alone: contrast columns of aliased effects are equal or opposite, of others neither."""
    factors = ("a", "b", "c", "d", "e", "f")
    design = fraction(factors, 4)
    cells = list(design.cells())

    def column(effect):
        values = []
        for cell in cells:
            sign = 1
            for name in effect:
                sign *= 2 * cell[factors.index(name)] - 1
            values.append(sign)
        return values

    for effect in [("a",), ("b", "c"), ("a", "f")]:
        mine = column(effect)
        expected = {
            ":".join(other)
            for order in (1, 2, 3)
            for other in combinations(factors, order)
            if other != effect and column(other) in (mine, [-value for value in mine])
        }
        assert set(design.aliases(effect)) == expected
    assert design.aliases(("b", "c"))


def test_fractional_design_is_read_in_both_spellings(make_grid):
    factors = {"text": ["off", "caption"], "lfr": ["off", "hard"], "rolloff": ["off", "on"], "weights": ["ema", "raw"]}
    plain = read_space(make_grid(factors=factors, design="fractional", resolution=4))
    nested = read_space(make_grid(factors=factors, design={"fractional": {"resolution": 4}}))
    assert names(plain) == names(nested)
    assert len(names(plain)) == 8
    assert plain.fraction is not None
    assert plain.fraction.relation() == ("I = text:lfr:rolloff:weights",)


def test_stage_is_derived_from_the_paths_a_factor_changes(make_grid):
    factors = {
        "text": ["off", "caption"],
        "lfr": ["off", "hard"],
        "steps": [2, 5],
        "mixed": {"baseline": "a", "levels": {"a": {}, "b": {"evaluation.weights": "raw", "training.steps": 5}}},
        "fixed": {"baseline": "a", "levels": {"a": {}, "b": {"evaluation": {"rolloff_fixed": 0.5}}}},
    }
    space = read_space(make_grid(factors=factors))
    stages = {name: factor.stage for name, factor in space.factors.items()}
    assert stages == {"text": "train", "lfr": "eval", "steps": "eval", "mixed": "train", "fixed": "eval"}


def test_baseline_is_the_standard_one_when_listed_and_else_the_first(make_grid):
    space = read_space(make_grid(factors={"text": ["caption", "off"], "lfr": ["hard", "crossfade"], "steps": [25, 50]}))
    assert space.baseline == {"text": "off", "lfr": "hard", "steps": "25"}


@pytest.mark.parametrize(
    ("value", "name"), [("off", "off"), (0.1, "0.1"), (25, "25"), (25.0, "25"), (1e-4, "0.0001"), (True, "true")]
)
def test_levels_are_known_by_their_text(value, name):
    assert level_name(value) == name


def test_a_level_may_replace_a_whole_section_by_its_kind(make_grid):
    codec = {"baseline": "wavelet", "levels": {"wavelet": {}, "pqmf": {"codec": {"kind": "pqmf", "bands": 64}}}}
    cells = expand(read_space(make_grid(factors={"codec": codec})))
    assert [cell.config.codec.kind for cell in cells] == ["wavelet", "pqmf"]


def test_every_standard_level_is_a_valid_configuration_that_differs_from_its_baseline(make_grid):
    factors = {name: list(standard.levels) for name, standard in STANDARD.items()}
    factors["steps"] = ["100", "25"]
    weights = {"codec": {"kind": "stable-audio", "checkpoint": "sao.safetensors", "config": "sao.json"}}  # for `init`
    weights["model"] = BASE["model"] | {"latents": "raw", "checkpoint": "sao.safetensors"}
    cells = names(read_space(make_grid(BASE | weights, factors=factors, design="one-at-a-time")))
    assert len(cells) == 1 + sum(len(levels) - 1 for levels in factors.values())


def test_metrics_known_to_planning_are_the_trainers():
    code = "from sagasr.metrics.score import COMPUTE; print([*COMPUTE])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([*METRICS])


def test_settings_reach_the_base_and_the_grid(make_grid):
    space = read_space(make_grid(), settings={"training.steps": 7, "early_stopping.policy": "none"}, seeds=[3])
    assert {cell.config.training.steps for cell in expand(space)} == {7}
    assert space.grid.early_stopping.policy == "none"
    assert {cell.config.seed for cell in expand(space)} == {3}


def test_only_joins_with_and_inside_and_or_between(make_grid):
    space = read_space(make_grid())
    assert parse_only(["text=caption,lfr=hard", "text=off"], space.factors) == (
        {"text": frozenset({"caption"}), "lfr": frozenset({"hard"})},
        {"text": frozenset({"off"})},
    )
    with pytest.raises(ConfigError, match="did you mean 'caption'"):
        parse_only(["text=captoin"], space.factors)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"factors": {"txt": ["off"]}}, "factors.txt: not a standard factor; did you mean 'text'?"),
        ({"factors": {"text": ["off", "captoin"]}}, "unknown level 'captoin'; did you mean 'caption'?"),
        ({"factors": {"text": []}}, "factors.text is empty"),
        ({"factors": {"own": {"baseline": "a", "levels": {}}}}, "factors.own is empty"),
        ({"factors": {}}, "factors: "),
        ({"factors": {"text": ["off", "off"]}}, "level 'off' is listed twice"),
        ({"factors": {"text": "off"}}, "factors.text: expected a list of levels"),
        ({"factors": {"lsd": {"baseline": "a", "levels": {"a": {}}}}}, "column of the results tables"),
        ({"factors": {"own": {"baseline": "c", "levels": {"a": {}, "b": {}}}}}, "baseline: unknown level 'c'"),
        ({"factors": {"own": {"levels": {"a": {}}}}}, "factors.own.baseline is missing"),
        ({"factors": {"own": {"baseline": "a", "level": {}}}}, "unknown key 'level'; did you mean 'levels'?"),
        ({"factors": {"steps": [0, 25]}}, "unknown level '0'"),
        ({"desing": "full"}, "unknown key 'desing'; did you mean 'design'?"),
        ({"design": "half"}, "design: "),
        ({"design": "ladder"}, "ladder is missing"),
        ({"design": "fractional", "factors": {"lfr": ["off", "hard", "crossfade"]}}, "factors.lfr has 3 levels"),
        ({"resolution": 4}, "resolution has no effect"),
        ({"name": "Big Study"}, "name: "),
        ({"name": None}, "name is missing"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [0, 0]}, "names a seed twice"),
        ({"seeds": ["0"]}, "seeds.0: "),
        ({"seeds": [True]}, "seeds.0: "),
        ({"resources": {"smal": {}}}, "unknown size 'smal'; did you mean 'small'?"),
        ({"resources": {"small": {"gpus": 1}}}, "unknown key 'resources.small.gpus'"),
        ({"early_stopping": {"metric": "val/lds"}}, "unknown metric 'val/lds'; did you mean 'val/lsd'?"),
        ({"early_stopping": {"policy": "hyperband"}}, "early_stopping.policy"),
        ({"ladder": [{"text": "off"}]}, "ladder.0: step is missing"),
        ({"ladder": [{"step": "0"}, {"step": "1"}]}, "step '1' changes nothing against step '0'"),
        ({"ladder": [{"step": "0"}, {"step": "1", "text": "caption", "versus": "9"}]}, "no earlier step '9'"),
        ({"ladder": [{"step": "0", "txt": "off"}]}, "unknown factor 'txt'; did you mean 'text'?"),
        ({"where": [{"if": {"text": "off"}}]}, "where.0: expected"),
        ({"where": [{"not": {"text": "of"}}]}, "factor 'text' has no level 'of'; did you mean 'off'?"),
        ({"where": [{"not": {"text": ["off", "caption"]}}]}, "where leaves no cell"),
        ({"promote": {"when": "improves"}}, "promote: expected when, from and to"),
        ({"base": "bas.yaml"}, "bas.yaml: no such file"),
        ({"data": None}, "data is missing"),
        ({"data": {"train": "manifest.csv"}}, "data.val is missing"),
    ],
)
def test_each_mistake_is_named_with_its_remedy(make_grid, changes, expected):
    text = faults(make_grid, **changes)
    assert expected in text
    assert "Traceback" not in text


def test_all_mistakes_are_told_at_once(make_grid):
    lines = faults(
        make_grid, desing="full", seeds=["x"], factors={"txt": ["off"], "lfr": ["of", "hard"]}, storge="here"
    ).splitlines()
    assert len(lines) == 5


def test_a_patch_on_an_unknown_path_is_refused_with_the_level_named(make_grid):
    own = {"baseline": "a", "levels": {"a": {}, "b": {"evaluation.sampler.stepz": 3}}}
    text = faults(make_grid, factors={"own": own, "text": ["off", "caption"]})
    assert "factors.own.levels.b" in text
    assert "unknown key 'evaluation.sampler.stepz'; did you mean 'steps'?" in text
    assert len(text.splitlines()) == 1


def test_a_level_that_changes_nothing_is_refused(make_grid):
    own = {"baseline": "a", "levels": {"a": {}, "b": {"training.steps": 4}, "c": {"training.steps": 5}}}
    assert "level 'b' changes nothing against baseline 'a'" in faults(make_grid, factors={"own": own})
    twins = {"baseline": "a", "levels": {"a": {}, "b": {"training.steps": 5}, "c": {"training": {"steps": 5}}}}
    assert "level 'c' changes nothing against level 'b'" in faults(make_grid, factors={"own": twins})


@pytest.mark.parametrize(
    "patch", [{"conditions.text.source": "caption"}, {"conditions": {"text": {"source": "caption"}}}]
)
def test_two_factors_on_one_path_are_refused(make_grid, patch):
    own = {"baseline": "a", "levels": {"a": {}, "b": patch}}
    text = faults(make_grid, factors={"own": own, "text": ["off", "caption"]})
    assert "both change conditions.text.source" in text


def test_a_factor_inside_a_section_that_another_replaces_is_refused(make_grid):
    whole = {"baseline": "a", "levels": {"a": {}, "b": {"codec": {"kind": "pqmf"}}}}
    inside = {"baseline": "a", "levels": {"a": {}, "b": {"codec.companding": 0.7}}}
    assert "both change codec" in faults(make_grid, factors={"whole": whole, "inside": inside})


def test_heads_that_do_not_divide_are_named_with_both_numbers_in_one_line(make_grid):
    heads = {"baseline": "2", "levels": {"2": {}, "3": {"model.num_heads": 3}}}
    lines = faults(make_grid, factors={"heads": heads, "text": ["off", "caption"]}).splitlines()
    assert len(lines) == 1
    assert "num_heads 3 does not divide embed_dim 64" in lines[0]
    assert "heads=3 text=off" in lines[0]


def test_a_setting_that_a_factor_decides_is_refused(make_grid):
    with pytest.raises(ConfigError, match="the factor 'lfr' decides it"):
        read_space(make_grid(), settings={"evaluation.lfr": "hard"})


@pytest.mark.parametrize(
    ("key", "message"),
    [("traning.steps", "did you mean 'training'"), ("training.step", "did you mean 'steps'"), ("seed", "use --seeds")],
)
def test_settings_with_unknown_keys_are_refused(make_grid, key, message):
    with pytest.raises(ConfigError, match=message):
        read_space(make_grid(), settings={key: 3})


def test_as_many_cells_as_are_allowed_expand_and_more_are_refused(make_grid, monkeypatch):
    def own(count):
        return {"baseline": "1", "levels": {str(n): {"training.steps": n} for n in range(1, count + 1)}}

    assert MAX_CELLS == 10_000
    monkeypatch.setattr("orchestrator.grid.expand.MAX_CELLS", 100)
    factors = {"own": own(25), "text": ["off", "caption"], "lfr": ["off", "hard"]}
    assert len(expand(read_space(make_grid(factors=factors)))) == 100
    assert "102 cells are more than 100" in faults(make_grid, factors={"own": own(51), "text": ["off", "caption"]})


def test_a_shipped_grid_is_found_by_name_and_others_are_guessed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_grid("demo") == shipped("demo.yaml")
    with pytest.raises(ConfigError, match=r"did you mean 'demo.yaml'"):
        find_grid("demmo.yaml")


def test_a_file_that_is_not_there_is_no_shipped_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^grid\.yaml: no such file; the shipped grid of that name is meant by 'grid'$"
    ):
        find_grid("grid.yaml")
    (tmp_path / "demo").mkdir()  # a sweep of that name
    assert find_grid("demo").name == "demo.yaml"


@pytest.mark.parametrize(
    ("rule", "delta"),
    [
        ({}, 0.05),
        ({"metric": "val/lsd_hf"}, 0.05),
        ({"metric": "val/seam"}, None),
        ({"metric": "val/seam", "delta": 1}, 1),
    ],
)
def test_only_an_lsd_has_a_difference_that_matters_by_default(make_grid, rule, delta):
    assert read_space(make_grid(early_stopping=rule)).grid.early_stopping.delta == delta


def test_cell_names_are_readable():
    assert cell_name({"text": "caption", "lfr": "off"}) == "text=caption lfr=off"
