"""What a sweep is predicted to cost: from operations, from what was timed, and from trainings that have ended."""

import subprocess
import sys

import pytest
from rich.console import Console

from orchestrator.api import Sweep
from orchestrator.cli.sweep import sweep as command
from orchestrator.plan import capacity
from orchestrator.plan import cost as estimate
from orchestrator.plan.cost import Cost, Speed, Speeds, disk_bytes, elapsed, kind_of, seconds_of
from orchestrator.plan.preflight import preflight
from orchestrator.run.calibrate import SAMPLING_STEPS, STEPS, Timeline, _speed, calibrate
from orchestrator.sweep_folder.json_files import read_prediction
from sagasr.io.errors import ConfigError, SagasrError
from sagasr.io.files import read_json, write_json
from sagasr.training.trial_log import Status, write_status
from tests.small import BASE

SPEED = Speed(step=0.5, forward=0.01, score=0.1, once=3, save=2, start=4, encode=0.2)


@pytest.fixture
def sweep(make_grid, tmp_path):
    """Return a sweep of the test grid, whose keys are replaced by the arguments."""

    def make(config=None, **changes) -> Sweep:
        return Sweep(make_grid(config, **changes), storage=tmp_path / "sweeps")

    return make


def timed(made: Sweep, speed: Speed = SPEED, only: int | None = None) -> None:
    """Remember a speed for (some of) the kinds of training of a sweep."""
    kinds = {kind_of(trial): speed for trial in made.plan().plan.trials[:only]}
    write_json(made.plan().plan.paths.speeds, Speeds(kinds=kinds).model_dump(mode="json"))


def text_of(made: Sweep) -> str:
    console = Console(width=300, record=True, quiet=False)
    made.plan().show(console)
    return console.export_text()


# ------------------------------------------------------------------------------------------------------- one training


def test_a_training_is_its_steps_validations_and_checkpoints(sweep):
    config = BASE | {
        "training": {"steps": 10, "batch_size": 2},
        "validation": {"every": 4, "clips": 2, "segment": 8192},
        "evaluation": {"sampler": {"steps": 3}},
    }
    plan = sweep(config, resources={"default": {"checkpoint_every": 5}}).plan().plan
    off, caption = plan.trials[:2]
    assert (off.levels["text"], caption.levels["text"]) == ("off", "caption")
    assert len(off.variants) == 2  # replacing low frequencies is scored by itself, and sampled with the others
    # 4 validations (before, at 4, 8 and 10) of 2 clips: 5 passes for the loss, 3 steps of 2 or 3 branches, 2 scores
    assert seconds_of(off, SPEED) == pytest.approx(10 * 0.5 + 4 * 2 * ((5 + 3 * 2) * 0.01 + 2 * 0.1) + 2 * 2 + 3)
    assert seconds_of(caption, SPEED) == pytest.approx(10 * 0.5 + 4 * 2 * ((5 + 3 * 3) * 0.01 + 2 * 0.1) + 2 * 2 + 3)


def test_what_differs_only_in_length_is_of_one_kind(sweep):
    factors = {
        "length": {"baseline": "short", "levels": {"short": {}, "long": {"training.steps": 8}}},
        "batch": {"baseline": "two", "levels": {"two": {}, "three": {"training.batch_size": 3}}},
    }
    trials = sweep(factors=factors).plan().plan.trials
    kinds = {(trial.levels["length"], trial.levels["batch"]): kind_of(trial) for trial in trials}
    assert kinds["short", "two"] == kinds["long", "two"] != kinds["short", "three"]
    assert len({kind_of(trial) for trial in trials}) == 2  # whatever the seed
    shared = sweep(factors=factors, resources={"default": {"gpus_per_worker": 0.5}}).plan().plan.trials
    assert not {kind_of(trial) for trial in shared} & set(kinds.values())


def test_disk_is_that_of_the_checkpoints_that_are_kept(sweep):
    sizes = {}
    for every in (2, 4, 100):
        found = sweep(resources={"default": {"checkpoint_every": every}}).plan()
        trial = found.plan.trials[0]
        sizes[every] = disk_bytes(trial, found.shapes[trial.replicates[0].cell])
    assert sizes[2] - sizes[4] == found.shapes[trial.replicates[0].cell].parameters * 4 * 4
    assert sizes[4] == sizes[100]


def test_what_is_said_of_trainings_is_what_they_do():
    from sagasr.evaluation import evaluate
    from sagasr.evaluation import score_files as scores
    from sagasr.training import checkpoint

    assert estimate.CHECKPOINTS_KEPT == checkpoint.CHECKPOINTS_KEPT
    assert estimate.LISTENING_CLIPS == scores.LISTENING_CLIPS
    assert len(evaluate.LOSS_TIMES) == estimate.LOSS_PASSES


# ------------------------------------------------------------------------------------------------ what it rests on


def test_what_was_timed_here_is_used_and_the_rest_is_assumed(sweep):
    factors = {"batch": {"baseline": "two", "levels": {"two": {}, "three": {"training.batch_size": 3}}}}
    made = sweep(factors=factors, seeds=[0])
    assert "nothing was timed: --calibrate" in text_of(made)
    two, three = made.plan().plan.trials
    timed(made, only=1)
    costs = made.plan().costs
    assert costs[two.id].seconds == pytest.approx(seconds_of(two, SPEED))
    assert (costs[two.id].basis, costs[three.id].basis) == ("measured", "assumed")
    assert "nothing was timed" in text_of(made)
    timed(made)
    assert "as timed on this machine" in text_of(made)


def test_trainings_that_have_ended_correct_those_like_them(sweep):
    made = sweep(factors={"text": ["off", "caption"]})
    timed(made)
    planned = made.plan()
    first, *others = planned.plan.trials
    took = 3 * planned.costs[first.id].seconds
    write_status(planned.plan.paths.trial(first.id), Status(state="done", wall_seconds=took))
    scores = planned.plan.paths.of(first.id).scores(first.variants[0].id)
    scores.parent.mkdir()
    scores.touch()
    after = made.plan().costs
    for trial in others:
        assert after[trial.id].seconds == pytest.approx(3 * planned.costs[trial.id].seconds)
        assert after[trial.id].basis == "ended"
    assert "as trainings of this sweep that have ended took" in text_of(made)
    scores.unlink()
    again = made.plan().costs[first.id]
    assert again.seconds < 0.9 * after[first.id].seconds  # it is only scored
    assert (again.disk_bytes, again.basis) == (0, "ended")


def test_what_was_predicted_of_a_training_that_has_begun_stands(sweep):
    made = sweep(budget={"price_per_gpu_hour": 2.5})
    plan = made.plan().plan
    first, *others = plan.trials
    estimate.write_estimate(plan, {trial.id: Cost(10.0, 1.0) for trial in plan.trials})
    write_status(plan.paths.trial(first.id), Status(state="running"))
    estimate.write_estimate(plan, {trial.id: Cost(20.0, 2.0) for trial in plan.trials})
    found = read_prediction(plan.folder)
    assert found.trials[first.id].seconds == 10
    assert {found.trials[trial.id].seconds for trial in others} == {20}
    assert found.price_per_gpu_hour == 2.5


def test_speeds_that_cannot_be_read_are_named(sweep, capsys, make_grid, tmp_path):
    made = sweep()
    path = made.plan().plan.paths.speeds
    write_json(path, {"kinds": {"abc": {"step": -1}}})
    assert command([str(make_grid()), "--plan", "--storage", str(tmp_path / "sweeps")]) == 2
    assert f"{path}: kinds.abc.step" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- the whole sweep


def of(seconds: float, start: float = 0.0, encode: float = 0.0) -> Cost:
    return Cost(seconds, 0.0, start=start, encode=encode)


def test_as_many_at_once_as_there_are_cpus(sweep, monkeypatch):
    monkeypatch.setattr(capacity, "cpus_here", lambda: 2)
    plan = sweep(seeds=[0, 1, 2], factors={"text": ["off"]}, early_stopping={"policy": "none"}).plan().plan
    costs = {trial.id: of(100, start=5) for trial in plan.trials}
    assert elapsed(plan, plan.trials, costs) == pytest.approx(210)  # two, then the third
    assert elapsed(plan, plan.trials, costs, concurrent=1) == pytest.approx(315)
    first, second, third = plan.trials
    assert elapsed(plan, plan.trials, {first.id: of(100), second.id: of(10), third.id: of(20)}) == pytest.approx(100)


def test_a_block_ends_before_the_next_begins(sweep, monkeypatch):
    monkeypatch.setattr(capacity, "cpus_here", lambda: 8)
    plan = sweep(seeds=[0, 1, 2, 3], factors={"text": ["off"]}).plan().plan
    costs = {trial.id: of(100) for trial in plan.trials}
    assert elapsed(plan, plan.trials, costs) == pytest.approx(300)  # two seeds, a look, one, a look, one


def test_a_sweep_that_has_not_begun_encodes_its_recordings_first(sweep):
    plan = sweep(seeds=[0], factors={"text": ["off"]}).plan().plan
    (trial,) = plan.trials
    assert len(plan.recordings) == 3
    assert elapsed(plan, [trial], {trial.id: of(100, encode=2)}) == pytest.approx(106)
    plan.paths.trials.mkdir(parents=True)
    assert elapsed(plan, [trial], {trial.id: of(100, encode=2)}) == pytest.approx(100)


def test_four_small_trainings_share_a_gpu(sweep, monkeypatch):
    monkeypatch.setattr(capacity, "cpus_here", lambda: 16)
    monkeypatch.setattr(capacity, "gpus_here", lambda: 1)
    changes = {"resources": {"default": {"gpus_per_worker": 0.25}}, "early_stopping": {"policy": "none"}}
    found = sweep(seeds=[0, 1, 2, 3, 4], factors={"text": ["off"]}, **changes).plan().plan
    assert elapsed(found, found.trials, {trial.id: of(100) for trial in found.trials}) == pytest.approx(200)
    monkeypatch.setattr(capacity, "gpus_here", lambda: 0)
    assert elapsed(found, found.trials, {trial.id: of(100) for trial in found.trials}) is None


def test_a_gpu_that_no_training_uses_is_told(sweep, monkeypatch):
    monkeypatch.setattr("orchestrator.plan.show.gpus_here", lambda: 1)
    words = "add 'resources: {default: {gpus_per_worker: 1}}'"
    assert words in text_of(sweep(seeds=[0], factors={"text": ["off"]}))
    used = sweep(seeds=[0], factors={"text": ["off"]}, resources={"default": {"gpus_per_worker": 1}})
    assert words not in text_of(used)


def test_a_price_turns_gpu_hours_into_money(sweep):
    resources = {"default": {"gpus_per_worker": 1}}
    made = sweep(seeds=[0], factors={"text": ["off"]}, resources=resources, budget={"price_per_gpu_hour": 2.5})
    timed(made, SPEED.model_copy(update={"once": 7_200.0}))
    assert "2 GPU-hours (5 at 2.5 each)" in text_of(made)
    without = sweep(seeds=[0], factors={"text": ["off"]}, resources=resources, budget={"max_gpu_hours": 40})
    assert "2 GPU-hours, " in text_of(without)


@pytest.mark.parametrize(
    ("budget", "fault"),
    [
        ({}, "budget: is empty; give max_gpu_hours, price_per_gpu_hour or both"),
        ({"price_per_gpu_hour": 0}, "budget.price_per_gpu_hour: input should be greater than 0"),
        ({"price_per_gpu_hours": 2.5}, "unknown key 'budget.price_per_gpu_hours'; did you mean 'price_per_gpu_hour'?"),
    ],
)
def test_a_budget_that_says_nothing_is_refused(sweep, budget, fault):
    with pytest.raises(ConfigError) as refused:
        sweep(budget=budget)
    assert fault in str(refused.value)


# ---------------------------------------------------------------------------------------------------------- planning


def many(count: int) -> dict:
    rates = {f"rate{number}": {"training.learning_rate": 1e-3 / (number + 1)} for number in range(count)}
    return {"text": ["off", "caption"], "rate": {"baseline": "rate0", "levels": rates}}


def test_a_plan_needs_no_torch(make_grid, tmp_path):
    code = (
        "import sys; from orchestrator.cli.sweep import sweep; code = sweep();"
        "sys.exit(code or bool({'torch', 'ray', 'mlflow', 'lightning', 'scipy'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, str(make_grid()), "--plan", "--storage", str(tmp_path / "sweeps")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 trainings" in done.stdout
    assert not (tmp_path / "sweeps").exists()


def test_a_plan_of_many_cells_lists_some_and_says_how_many_more(sweep):
    made = sweep(factors=many(150), seeds=[0])
    text = text_of(made)
    assert "300 cells x 1 seed = 300 replicates" in text
    assert "… and 100 more cells: --json lists all" in text
    assert len(made.plan().tree["cells"]) == 300


def test_more_cells_than_anybody_means_are_refused(sweep, monkeypatch):
    monkeypatch.setattr("orchestrator.grid.expand.MAX_CELLS", 100)
    with pytest.raises(ConfigError, match="102 cells are more than 100"):
        sweep(factors=many(51), seeds=[0]).plan()


def test_counted_and_built_a_cell_is_the_same(sweep):
    plan = sweep().plan().plan
    counted, built = (preflight(plan.cells, "grid", build=build) for build in ((), None))
    for name in counted:
        assert counted[name]._replace(activation_bytes=0) == built[name]._replace(activation_bytes=0)
        assert counted[name].activation_bytes == pytest.approx(built[name].activation_bytes, rel=0.05)
    for cell in plan.cells:  # those that need not be built are counted, but for those that have the same shapes
        found = preflight(plan.cells, "grid", build={cell.name})
        assert found[cell.name] == built[cell.name]
        assert set(found.values()) == {built[cell.name], *counted.values()} - {counted[cell.name]}


# ------------------------------------------------------------------------------------------------------- calibration


def test_parts_are_told_apart_by_the_signs_of_life(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("orchestrator.run.calibrate._now", lambda: clock[0])
    life = Timeline()

    def after(seconds: float, act) -> None:
        clock[0] += seconds
        act()

    clips, branches = 10, 2

    def validate(warming: float) -> None:  # the loss takes 5 passes; a pass over a clip takes 0.01 s
        after(0.5 + warming, lambda: None)
        for part in (6, 4):  # of the 10 clips, which are sampled in two parts
            for _ in range(SAMPLING_STEPS):
                after(part * branches * 0.01, life.pulse)
        after(10 * 0.3, life.pulse)
        life.report({})

    after(4, life.pulse)
    validate(warming=1.0)
    after(0.7 + 0.5, life.pulse)  # the reference answers, and the first step
    for _ in range(STEPS - 1):
        after(0.5, life.pulse)
    validate(warming=0.0)
    after(2, life.pulse)
    clock[0] += 0.3
    found = _speed(life, 0.0, clock[0], clips, [branches], variants=2)
    assert found == pytest.approx(
        {"step": 0.5, "forward": 0.01, "score": 0.15, "once": 1.0 + 0.7 + 0.3, "save": 2.0, "start": 4.0}
    )


def test_a_gpu_that_is_not_here_is_not_timed(sweep, monkeypatch, capsys):
    monkeypatch.setattr("orchestrator.run.calibrate.gpus_here", lambda: 0)
    made = sweep(resources={"default": {"gpus_per_worker": 1}})
    assert {cost.basis for cost in made.plan(calibrate=True).costs.values()} == {"assumed"}
    assert capsys.readouterr().err.count("trains on a GPU and this machine has none: not timed") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)  # two processes that import torch, at the priority of trials
def test_a_calibration_times_each_kind_once_and_leaves_nothing_else(make_grid, tmp_path, capfd):
    grid, storage = str(make_grid(seeds=[0])), tmp_path / "sweeps"
    assert command([grid, "--plan", "--calibrate", "--storage", str(storage)]) == 0
    shown = capfd.readouterr()
    assert "as timed on this machine by --calibrate" in shown.out
    assert shown.err.count("timing a few steps of size custom") == 1
    assert [path.name for path in storage.iterdir()] == ["speeds.json"]
    speeds = Speeds.model_validate(read_json(storage / "speeds.json")).kinds
    assert len(speeds) == 1
    (speed,) = speeds.values()
    assert all(value > 0 for name, value in speed.model_dump().items() if name != "score")
    before = (storage / "speeds.json").stat().st_mtime_ns
    assert command([grid, "--plan", "--calibrate", "--storage", str(storage)]) == 0
    assert (storage / "speeds.json").stat().st_mtime_ns == before
    assert "timing" not in capfd.readouterr().err


def test_what_cannot_be_timed_says_why(sweep, tmp_path):
    made = sweep()
    plan = made.plan().plan
    (tmp_path / "study" / "c.flac").write_bytes(b"no sound")
    with pytest.raises(SagasrError, match=r"c\.flac"):
        calibrate(plan, plan.trials[:1])
    assert not plan.paths.speeds.exists()
