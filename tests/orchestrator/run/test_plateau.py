"""`policy: plateau`: a trial that no longer improves is stopped, with its reason everywhere; a search, no verdicts."""

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.grid.read import read_space
from orchestrator.grid.space import EarlyStopping
from orchestrator.plan.plan import Plan, Trial, make_plan
from orchestrator.run.trial_ends import TrialEnds
from orchestrator.run.tune import is_plateau, scheduler, watch, why_stopped
from orchestrator.run.worker import METRIC, TIME, point_key, point_of
from orchestrator.sweep_folder.trial_marks import stop_reason
from sagasr.training.trial_log import Status, read_status, write_status
from tests.orchestrator.run.chaos import tables
from tests.orchestrator.run.test_sweep import run, runs_of, write_grid
from tests.processes import SLOWLY

inf = float("inf")


@pytest.mark.parametrize(
    ("losses", "keys", "stops"),
    [
        ([3.0, 2.0, 1.9, 1.9, 1.9], {}, False),  # the best before the last three is 2.0
        ([3.0, 2.0, 1.96, 1.97, 1.98], {}, True),
        ([2.0, 2.1, 2.2, 2.3], {}, True),  # gets worse: its values scatter and it is no better for that
        ([2.0, 2.0, 2.0], {}, False),  # nothing before the last three
        ([2.0] * 5, {"grace": 5}, False),
        ([2.0] * 6, {"grace": 5}, True),
        ([2.0, 2.0], {"patience": 1, "grace": 0}, True),
        ([2.0, 1.5], {"patience": 1, "grace": 0, "delta": 0.5}, True),  # no more than delta
        ([2.0, 1.25], {"patience": 1, "grace": 0, "delta": 0.5}, False),
        ([inf] * 4, {}, True),
        ([inf, 2.0, inf, inf], {}, False),
    ],
)
def test_a_plateau_is_no_gain_over_all_before(losses: list[float], keys: dict[str, Any], stops: bool) -> None:
    assert is_plateau(losses, EarlyStopping(policy="plateau", **keys)) is stops


@pytest.fixture
def plan(make_grid: Any, tmp_path: Any) -> Plan:
    rule = {"policy": "plateau", "patience": 2, "grace": 1}
    grid = make_grid(seeds=[0], early_stopping=rule)
    return make_plan(read_space(grid, storage=str(tmp_path / "sweeps"), settings={"training.steps": 80}))


def decided(plan: Plan, trial: Trial, curve: list[tuple[int, float]]) -> list[str]:
    """Return what the scheduler answers to each validation of a trial, by its loss."""
    rule, known = scheduler(plan, plan.trials), SimpleNamespace(trial_id="t", config=point_of(trial.levels, trial.seed))
    return [rule.on_trial_result(None, known, {TIME: step, METRIC: loss}) for step, loss in curve]


def test_the_scheduler_stops_a_flat_trial_but_neither_untrained_nor_at_its_last_step(plan: Plan) -> None:
    trial = plan.trials[0]
    last = trial.config.training.steps
    flat = [(0, 1.0), (1, 2.0), (2, 2.0), (3, 2.0)]
    assert decided(plan, trial, flat) == ["CONTINUE"] * 3 + ["STOP"]
    assert decided(plan, trial, [(0, 2.0), (1, 2.0), (2, 2.0), (last, 2.0)]) == ["CONTINUE"] * 4
    assert decided(plan, trial, [(0, 1.0), (1, 2.0), (2, 1.9), (3, 1.8), (4, 1.7)]) == ["CONTINUE"] * 5


def test_a_trial_that_starts_anew_is_judged_as_before(plan: Plan) -> None:
    early = [(0, 3.0), (1, 2.0), (2, 2.0)]
    assert decided(plan, plan.trials[0], [*early, *early, (3, 2.0)]) == ["CONTINUE"] * 6 + ["STOP"]


def test_the_reason_of_a_stop_names_rule_metric_and_step() -> None:
    rule = EarlyStopping(policy="plateau")
    assert why_stopped(rule, 40) == "plateau: val/lsd improved by no more than 0.05 in 3 validations, at step 40"
    assert why_stopped(EarlyStopping(policy="asha"), 40) == "asha: behind the others at step 40"


def test_tunes_result_says_why_a_trial_ended(plan: Plan) -> None:
    first, second = plan.trials[:2]
    points = {point_key(point_of(trial.levels, trial.seed)): trial.id for trial in (first, second)}
    told = watch(TrialEnds(plan.storage), points, plan.space.grid.early_stopping)
    stopped = {TIME: 40, METRIC: 2.0, "done": True}
    told.on_trial_result(1, [], SimpleNamespace(config=point_of(first.levels, first.seed)), stopped)
    assert stopped["reason"] == "plateau: val/lsd improved by no more than 0.05 in 2 validations, at step 40"
    assert stop_reason(plan.paths.trial(first.id)) == stopped["reason"]
    failed = {TIME: 40, METRIC: inf, "done": True, "ended": True}
    write_status(plan.paths.trial(second.id), Status(state="failed", step=40, steps=80, reason="behind its own input"))
    told.on_trial_result(1, [], SimpleNamespace(config=point_of(second.levels, second.seed)), failed)
    assert failed["reason"] == "behind its own input"
    going = {TIME: 40, METRIC: 2.0, "done": False}
    told.on_trial_result(1, [], SimpleNamespace(config=point_of(first.levels, first.seed)), going)
    assert "reason" not in going


# ---------------------------------------------------------------------------------------------------- through real Ray


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(2_400)
def test_a_trial_at_a_plateau_is_stopped_and_says_so_in_mlflow_terminal_and_report(tmp_path: Any) -> None:
    rate = {"baseline": "sane", "levels": {"sane": {}, "idle": {"training.learning_rate": 1e-9}}}
    rule = {"policy": "plateau", "grace": 1, "patience": 2, "delta": 1e-4}
    grid = write_grid(tmp_path, factors={"rate": rate}, early_stopping=rule)
    settings = {"training.steps": 80, "validation.every": 5}
    arguments = ["--max-concurrent", "1"]
    for name, value in settings.items():
        arguments += ["--set", f"{name}={value}"]
    ended = run(grid, tmp_path / "sweeps", *arguments, **SLOWLY)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps"), settings=settings))
    idle = next(trial for trial in plan.trials if trial.levels["rate"] == "idle")
    status = read_status(plan.paths.trial(idle.id))
    assert (status.state, status.step < 80) == ("stopped", True)
    assert status.reason.startswith("plateau: val/lsd improved by no more than 0.0001 in 2 validations, at step ")
    said = " ".join(ended.stdout.split())
    for words in (status.reason, "early stopping (plateau)", "Search mode (plateau)"):
        assert words in said
    _, _, runs = runs_of(plan)
    for row in idle.replicates:
        assert (runs[row.id].info.status, runs[row.id].data.tags["sagasr.reason"]) == ("KILLED", status.reason)
    lost = {row["reason"] for row in tables(plan)["replicates"] if row["status"] == "stopped"}
    assert status.reason in lost
    assert status.reason in (plan.folder / "report" / "index.html").read_text()
    again = run(grid, tmp_path / "sweeps", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert read_status(plan.paths.trial(idle.id)) == status  # what was stopped stays so
