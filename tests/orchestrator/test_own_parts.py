"""A metric, an embedder and a sampler of a user's own: named in a configuration, checked, planned, scored by."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.plan import make_plan
from orchestrator.space import read_space
from sagasr.commands import train, upsample
from sagasr.config import patch
from sagasr.errors import ConfigError
from sagasr.testing import check_embedder, check_metric, check_sampler
from tests import own_parts
from tests.orchestrator.conftest import BASE

OWN = {
    "validation.metrics": ["own_parts.py:Loudness"],
    "validation.distance.embedder": "own_parts:Levels",
    "evaluation.sampler.solver": "own_parts.py:Midpoint",
}


def study(make_grid, changes: dict = OWN, **grid: object) -> Path:
    """Write a study with the parts beside its grid; return the grid's path."""
    path = make_grid(patch(BASE, changes), **grid)
    shutil.copyfile(own_parts.__file__, path.parent / "own_parts.py")
    return path


def test_parts_that_keep_their_contract_pass_its_check():
    check_metric(own_parts.Loudness())
    check_embedder(own_parts.Levels())
    check_sampler(own_parts.Midpoint())


def test_parts_that_break_their_contract_are_told_what_does_not_hold():
    class Backwards(own_parts.Loudness):
        better = "higher"

    class Still(own_parts.Midpoint):
        def sample(self, velocity_at, noise, times):
            return noise

    class Mixing(own_parts.Levels):
        def embed(self, windows):
            return super().embed(windows) - super().embed(windows).mean(0)

    with pytest.raises(AssertionError, match="scores worse than noise"):
        check_metric(Backwards())
    with pytest.raises(AssertionError, match="eight times the steps"):
        check_sampler(Still())
    with pytest.raises(AssertionError, match="depends on the other windows"):
        check_embedder(Mixing())


def test_a_training_is_scored_by_them(make_grid, monkeypatch, capsys):
    folder = study(make_grid).parent
    monkeypatch.chdir(folder)
    given = ["--set", "data.train=manifest.csv", "--set", "data.val=manifest.csv"]
    assert train(["base.yaml", "--out", "run", *given]) == 0
    assert "loudness" in capsys.readouterr().out
    scores = pd.read_parquet(folder / "run" / "scores" / "default.parquet")
    assert scores["loudness"].notna().all()
    distances = pd.read_parquet(folder / "run" / "scores" / "distances-default.parquet")
    assert set(distances["metric"]) == {"fd_levels"}
    assert upsample(["a.flac", "out.flac", "--checkpoint", "run"]) == 2  # the folder may be anybody's
    assert "install it as an entry point" in capsys.readouterr().err
    assert not (folder / "out.flac").exists()


def test_a_plan_knows_which_way_they_are_good_and_may_be_judged_by_one(make_grid):
    plan = make_plan(read_space(study(make_grid, early_stopping={"metric": "val/loudness"})))
    assert plan.tree["metric"] == {"name": "loudness", "better": "lower", "delta": 0.05}
    assert plan.tree["metrics"] == [{"name": "loudness", "better": "lower", "unit": "dB"}]


def test_what_a_part_says_is_part_of_what_it_scored_and_where_it_lies_is_not(make_grid, tmp_path):
    grid = study(make_grid)
    before = make_plan(read_space(grid))
    moved = tmp_path / "moved"
    shutil.copytree(grid.parent, moved)
    assert make_plan(read_space(moved / "grid.yaml")).hash == before.hash
    with (moved / "own_parts.py").open("a") as source:
        source.write("\n# another remark\n")
    after = make_plan(read_space(moved / "grid.yaml"))
    assert {trial.id for trial in after.trials} == {trial.id for trial in before.trials}
    assert not {row.id for row in after.replicates} & {row.id for row in before.replicates}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"validation.metrics": ["loudness"]}, "validation.metrics: not installed, and not FILE.py:CLASS"),
        ({"validation.metrics": ["own_parts.py:Loundess"]}, "no class 'Loundess' there; did you mean 'Loudness'?"),
        ({"validation.metrics": ["absent.py:Loudness"]}, "cannot be imported (FileNotFoundError"),
        ({"validation.metrics": ["own_parts.py:Midpoint"]}, "Midpoint has no name, unit, better, score"),
        ({"validation.distance.embedder": "spectrl"}, "none of spectral, clap, off"),
        ({"evaluation.sampler.solver": "eulr"}, "did you mean 'euler'?"),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_used_is_refused_before_anything_runs(changes, expected, make_grid):
    with pytest.raises(ConfigError) as refused:
        make_plan(read_space(study(make_grid, changes)))
    assert len(str(refused.value).splitlines()) == 1
    assert expected in str(refused.value)
