"""Whatever sign a level's name may hold works wherever a level is named, or the grid refuses the name at once."""

import itertools
import json
from pathlib import Path

import pytest

from orchestrator.cli.report import report
from orchestrator.cli.sweep import sweep
from orchestrator.grid.expand import expand
from orchestrator.grid.factors import parse_only
from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import scan
from orchestrator.plan.plan import make_plan, write_plan
from orchestrator.plan.show import explain
from sagasr.io.errors import ConfigError
from sagasr.io.files import dump_yaml, parse_yaml
from tests.orchestrator.sweep_folders import write_sweep

NAMES = ["large model", 'it\'s "so"', "a|b", "16:9", "größer 大", "[bold]", "$x$ 50%", "-1", "a:smile:b", "x - y (z)"]


def own(*names: object) -> dict:
    steps = {name: {"training.steps": 5 + place} for place, name in enumerate(names)}
    return {"baseline": "plain", "levels": {"plain": {}, **steps}}


def selected(space, *only: str) -> set[str]:
    plan = make_plan(space, parse_only(only, space.factors))
    return {row.cell for trial in plan.selected for row in trial.replicates}


def test_every_name_is_understood_by_only_why_ladder_where_and_promote(make_grid):
    for name in NAMES:
        grid = make_grid(
            factors={"w": own(*NAMES), "text": ["off", "caption"]},
            ladder=[{"step": "0"}, {"step": name, "w": name}],
            where=[{"if": {"text": "caption"}, "then": {"w": [name, "plain"]}}],
            promote={"when": "improves", "from": {"w": "plain"}, "to": {"w": name}},
            seeds=[0],
        )
        space = read_space(grid)
        assert selected(space, f"w={name}") == {f"w={name} text=off", f"w={name} text=caption"}
        for both in (f"w={name} text=off", f"text=off, w={name}", f"text = off w = {name} "):
            assert selected(space, both) == {f"w={name} text=off"}
        plan = make_plan(space)
        assert len(explain(plan, scan(plan), f"w={name} text=caption seed=0")) == 1


@pytest.mark.parametrize(("given", "written"), [(0.001, "1e-3"), ("1e-3", 0.001), (1e-5, "0.00001"), ("é", "e\u0301")])
def test_a_level_is_known_by_its_number_and_by_how_it_looks(make_grid, given, written):
    assert len(selected(read_space(make_grid(factors={"w": own(given)})), f"w={written}")) == 1
    assert len(expand(read_space(make_grid(factors={"w": own(given)}, where=[{"not": {"w": written}}])))) == 1


@pytest.mark.parametrize("name", ["", " a", "a ", "a,b", "a=b", "a\tb", "a\nb", "a\u202eb", "a\u00a0b", "x" * 61])
def test_other_names_are_refused_at_once(make_grid, name):
    with pytest.raises(ConfigError, match="must be 1 to 60 printable characters"):
        read_space(make_grid(factors={"w": own(name)}))


def test_two_spellings_of_one_number_are_refused(make_grid):
    with pytest.raises(ConfigError, match=r"factors\.w: level '0\.001' is the same number as '1e-3'; remove one"):
        read_space(make_grid(factors={"w": own("1e-3", "0.001")}))


# ------------------------------------------------------------------------------------------- settings with their values


def values(space, name: str) -> list:
    return [eval(f"cell.config.{name}", {"cell": cell}) for cell in expand(space)]


@pytest.mark.parametrize(
    ("key", "path", "given", "levels"),
    [
        ("training.learning_rate", "training.learning_rate", [1e-3, 1e-4], ["0.001", "0.0001"]),
        ("learning_rate", "training.learning_rate", [1e-4, 1e-3], ["0.0001", "0.001"]),
        ("sampler.steps", "evaluation.sampler.steps", [2, 3], ["2", "3"]),
        ("training.steps", "training.steps", [4, 5], ["4", "5"]),
        ("betas", "training.betas", [[0.9, 0.99], [0.8, 0.99]], ["0.9 0.99", "0.8 0.99"]),
        ("codec.kind", "codec.kind", ["wavelet", "pqmf"], ["wavelet", "pqmf"]),
        ("linear-quadratic", None, [1, 2], "linear-quadratic"),
        ("wavelet", "codec.wavelet", ["bior4.4", "bior2.2"], ["bior4.4", "bior2.2"]),
        ("max_tokens", "conditions.text.encoder.max_tokens", [8, 16], ["8", "16"]),
    ],
)
def test_a_setting_with_its_values_is_a_factor(make_grid, key, path, given, levels):
    grid = make_grid(factors={key: given})
    if path is None:
        with pytest.raises(ConfigError, match="a factor's name has"):
            read_space(grid)
        return
    space = read_space(grid)
    assert list(space.factors) == [key]
    assert (space.baseline[key], list(space.factors[key].levels)) == (levels[0], levels)
    found = [list(one) if isinstance(one, tuple) else one for one in values(space, path)]
    assert found == given
    assert selected(space, f"{key}={levels[1]}") == {f"{key}={levels[1]}"}
    assert space.factors[key].stage == ("eval" if path.startswith("evaluation.") else "train")
    again = grid.parent / "resolved.yaml"
    (grid.parent / "base.yaml").write_text(dump_yaml(space.base))
    again.write_text(dump_yaml(space.tree))
    assert values(read_space(again), path) == values(space, path)


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        (
            {"kind": [1, 2]},
            "factors.kind: several settings end so; name one of: codec.kind, conditions.text.encoder.kind",
        ),
        ({"learning_rat": [1, 2]}, "factors.learning_rat: not a standard factor; did you mean 'learning_rate'?"),
        ({"training.learning_rat": [1, 2]}, "did you mean 'training.learning_rate'?"),
        ({"learning_rate": [1e-3, 0.001]}, "factors.learning_rate: level '0.001' is listed twice"),
        ({"learning_rate": []}, "factors.learning_rate is empty; list at least two values"),
        ({"learning_rate": ["fast", 1e-3]}, "training.learning_rate: input should be a valid number (found 'fast')"),
        ({"learning_rate": [{"a": 1}]}, "factors.learning_rate: expected values of training.learning_rate"),
        ({"seed": [1, 2]}, "factors.seed: "),
        ({"a.b": [1, 2]}, "factors.a.b: not a standard factor"),
        ({"training": [1, 2]}, "factors.training: not a standard factor"),
        ({"learning_rate": [1e-3, 1e-4], "training.learning_rate": [1e-3, 1e-5]}, "both change training.learning_rate"),
    ],
)
def test_what_cannot_be_meant_by_a_setting_is_told_in_one_line(make_grid, factors, told):
    with pytest.raises(ConfigError) as error:
        expand(read_space(make_grid(factors=factors)))
    assert told in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_odd_names_and_dotted_factors_pass_through_plan_and_report(make_grid, tmp_path, capsys, monkeypatch):
    factors = {"training.learning_rate": ["0.001", "0.0001"], "w": ["plain", *NAMES]}
    rows = [
        {"training.learning_rate": rate, "w": w, "seed": seed, "lsd": 1 + 0.01 * seed * len(w) % 0.02 + add}
        for seed, rate, w in itertools.product(range(3), *factors.values())
        for add in [0.5 * (rate == "0.0001") * (w != "plain")]  # the rate's effect depends on w
    ]
    folder = tmp_path / "it's a sweep"
    folder.mkdir()
    assert report([str(write_sweep(folder, rows, factors, delta=0.05))]) == 0
    told = capsys.readouterr().out
    assert "depends: training.learning_rate 0.001 → 0.0001" in told
    assert "a:smile:b" in told.replace("\n", "")
    assert "16:9" in (folder / "report" / "index.html").read_text()
    assert report([str(folder), "--json"]) == 0
    levels = {row["level"] for row in json.loads(capsys.readouterr().out)["effects"] if row["family"] == "primary"}
    assert levels == {"0.0001", *NAMES}
    grid = make_grid(
        factors={"learning_rate": [1e-3, 1e-4], "training.cooldown": [0, 0.5], "w": own(*NAMES)}, seeds=[0]
    )
    monkeypatch.chdir(grid.parent)
    assert sweep(["grid.yaml", "--plan", "--only", "training.cooldown=0.5 learning_rate=1e-4 w=large model"]) == 0
    assert "a:smile:b" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- include and anchors


def files(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_an_included_grid_gives_what_the_other_does_not_say(make_grid, tmp_path):
    """Files are relative to the grid that names them; keys of the includer win; factors are joined by name."""
    folder = make_grid().parent
    files(
        folder,
        common__all="x-w: &w {evaluation.weights: raw}\nname: all\nbase: ../base.yaml\n"
        "data: {train: ../manifest.csv, val: ../manifest.csv}\nseeds: [0, 1]\n"
        "factors:\n  text: [off, caption]\n  lfr: [off, hard]\n  solver: [euler, ../my.py:Mine]\n"
        "  own: {baseline: a, levels: {a: {}, b: *w}}\n",
        middle="include: common/all.yaml\nseeds: [3]\n",
        mine="include: middle.yaml\nname: mine\nfactors: {lfr: [off, crossfade], rolloff: [off, on]}\n",
    )
    space = read_space(folder / "mine.yaml", storage=str(tmp_path / "sweeps"))
    assert space.grid.name == "mine"
    assert space.grid.seeds == (3,)
    shown = {name: list(one.levels) for name, one in space.factors.items()}
    assert shown == {
        **{"text": ["off", "caption"], "lfr": ["off", "crossfade"], "solver": ["euler", "../my.py:Mine"]},
        **{"own": ["a", "b"], "rolloff": ["off", "on"]},
    }
    assert space.factors["solver"].levels["../my.py:Mine"] == {
        "evaluation": {"sampler": {"solver": f"{folder / 'my.py'}:Mine"}}
    }
    assert space.base["data"]["train"] == str(folder / "manifest.csv")
    (folder / "my.py").write_text(
        "class Mine:\n    def sample(self, velocity_at, noise, times):\n        return noise\n"
    )
    plan = make_plan(space)
    write_plan(plan)
    kept = parse_yaml((plan.folder / "grid.yaml").read_text(), "grid.yaml")
    assert "include" not in kept
    assert list(kept["factors"]) == list(shown)
    again = make_plan(read_space(plan.folder / "grid.yaml", storage=str(tmp_path / "sweeps")))
    assert [trial.fingerprint for trial in again.trials] == [trial.fingerprint for trial in plan.trials]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (
            {"mine": "include: gird.yaml\n"},
            "mine.yaml: include: gird.yaml: no such file, and none of that name is shipped",
        ),
        ({"mine": "include: far/away.yaml\n"}, "away.yaml: no such file; there is no folder"),
        ({"mine": "include: mine.yaml\n"}, "mine.yaml: include: mine.yaml includes this file in turn"),
        (
            {"mine": "include: b.yaml\n", "b": "include: mine.yaml\n"},
            "b.yaml: include: mine.yaml includes this file in",
        ),
        ({"mine": "include: [a, b]\n"}, "mine.yaml: include: expected the name of a grid, such as common.yaml"),
        ({"mine": "include:\n"}, "mine.yaml: include: expected the name of a grid"),
        ({"mine": "include: base.yaml\n"}, "base.yaml: a configuration, not a grid"),
        ({"mine": "include: b.yaml\n", "b": "desing: full\n"}, "b.yaml: unknown key 'desing'; did you mean 'design'?"),
        ({"mine": "include: b.yaml\n", "b": "factors: {text: [of]}\n"}, "b.yaml: factors.text: unknown level 'of'"),
        ({"mine": "inclde: grid.yaml\n"}, "mine.yaml: unknown key 'inclde'; did you mean 'include'?"),
    ],
)
def test_what_cannot_be_included_is_told_in_one_line(make_grid, texts, told):
    folder = make_grid().parent
    files(folder, **texts)
    with pytest.raises(ConfigError) as error:
        read_space(folder / "mine.yaml")
    assert told in str(error.value)
    assert "inclde" in texts["mine"] or len(str(error.value).splitlines()) == 1


def test_x_keys_hold_anchors_in_grids_and_configurations(make_grid):
    grid = make_grid()
    text = (grid.parent / "base.yaml").read_text()
    (grid.parent / "base.yaml").write_text(f"x-steps: &few 3\n{text.replace('steps: 4', 'steps: *few')}")
    grid.write_text(
        "x-shared: &shared {training.cooldown: 0.5, training.clip_norm: 1}\n" + grid.read_text() + "x-note: anything\n"
    )
    changed = grid.read_text().replace(
        "factors:\n", "factors:\n  own: {baseline: a, levels: {a: {}, x-large: {<<: *shared, training.clip_norm: 2}}}\n"
    )
    grid.write_text(changed)
    space = read_space(grid)
    assert space.factors["own"].levels["x-large"] == {"training.cooldown": 0.5, "training.clip_norm": 2}
    assert {cell.config.training.steps for cell in expand(space)} == {3}
    assert not any(key.startswith("x-") for key in space.tree)


def test_include_is_no_setting(make_grid):
    with pytest.raises(ConfigError, match="--set include: "):
        read_space(make_grid(), settings={"include": "other.yaml"})
