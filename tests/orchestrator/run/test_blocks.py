"""`policy: blocks`: whole seed blocks, a look after each, no more seeds once the answer is in; no look taken twice."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy.optimize import brentq

from orchestrator.analysis.effects import effects
from orchestrator.analysis.group_sequential import Contrast, Look, Rule, anytime_interval, decide, e_value, sequential_p
from orchestrator.analysis.interim import incomplete_blocks, take_looks
from orchestrator.analysis.load import read_sweep
from orchestrator.grid.read import read_space
from orchestrator.plan.ledger import record, scan
from orchestrator.plan.plan import Plan, Trial, make_plan, write_plan
from orchestrator.plan.show import show_summary
from orchestrator.report.report import Report, exit_code
from orchestrator.report.terminal import render
from orchestrator.run.progress import View
from orchestrator.run.results import collect
from orchestrator.run.schedule import Schedule
from orchestrator.sweep_folder.json_files import read_looks
from orchestrator.sweep_folder.stopping import FAILURE_RULE
from sagasr.io.errors import DataError
from sagasr.io.files import write_whole
from sagasr.training.trial_log import Status, write_status
from tests.orchestrator.sweep_folders import TWO, noisy_grid, primary, write_sweep
from tests.processes import SWEEP
from tests.small import write_grid

BLOCKS = {"policy": "blocks", "metric": "val/lsd", "delta": 0.05, "spending": "pocock"}
SEEDS, CELLS = 5, 8
CLEAR = {"text": -0.3, "rolloff": 0.3, "size": -0.4}
FAINT = {"text": -0.05, "rolloff": 0.05, "size": -0.05}  # at the margin: seldom decided


def write(folder: Path, rows: list[dict[str, Any]], **plan: Any) -> Path:
    """Write a folder whose plan has all seeds, whatever has run."""
    folder.mkdir(exist_ok=True)
    rows = [{**row, "trial": f"{row['text']}-{row['rolloff']}-{row['size']}-{row['seed']}"} for row in rows]
    settings = {"delta": 0.05, "early_stopping": BLOCKS, "seeds": list(range(SEEDS)), "plan_hash": "a" * 64}
    return write_sweep(folder, rows, TWO, **settings | {"expected_replicates": SEEDS * CELLS} | plan)


def run_blocks(folder: Path, rows: list[dict[str, Any]], **plan: Any) -> int:
    """Do what the sweep does: a block, a look, another block, until a look says stop. Return how many blocks ran."""
    for count in range(1, SEEDS + 1):
        write(folder, [row for row in rows if row["seed"] < count], **plan)
        account = take_looks(folder)
        if account and account.stop:
            return count
    raise AssertionError("the looks never stopped, not even at the last seed")


def kept(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "looks.json").read_text())


# ------------------------------------------------------------------------------------------------------------ the looks


def test_clear_effects_stop_after_the_second_block(tmp_path: Path) -> None:
    assert run_blocks(tmp_path, noisy_grid(TWO, SEEDS, CLEAR)) == 2
    account = read_looks(tmp_path).of("a" * 64)
    assert {name: one.word for name, one in account.decisions.items()} == dict.fromkeys(
        ("text: caption - off", "rolloff: on - off", "size: full - small"), "different"
    )
    assert account.decided_after == 2
    assert account.looks[0].spent == pytest.approx(0.05 * np.log1p((np.e - 1) * 2 / SEEDS))


def test_no_effect_at_all_is_declared_nil_before_the_end(tmp_path: Path) -> None:
    blocks = run_blocks(tmp_path, noisy_grid(TWO, SEEDS, {}))
    assert 2 <= blocks < SEEDS
    assert {one.word for one in read_looks(tmp_path).of("a" * 64).decisions.values()} == {"nil"}


def test_effects_at_the_margin_run_to_the_last_seed(tmp_path: Path) -> None:
    assert run_blocks(tmp_path, noisy_grid(TWO, SEEDS, FAINT, sigma=0.15)) == SEEDS
    account = read_looks(tmp_path).of("a" * 64)
    assert [len(look.seeds) for look in account.looks] == [2, 3, 4, 5]
    assert account.looks[-1].spent == pytest.approx(0.05)
    assert account.decided_after is None
    assert account.words == "not decided after block 5 of 5"


def test_o_brien_and_fleming_ask_more_of_the_first_look(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, SEEDS, {"text": -0.06, "rolloff": 0.06, "size": -0.06}, sigma=0.035, random=3)
    early = run_blocks(tmp_path / "pocock", rows)
    late = run_blocks(tmp_path / "obf", rows, early_stopping=BLOCKS | {"spending": "obrien-fleming"})
    assert early < late


def test_looks_taken_after_a_restart_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    """Between any two looks everything may be lost but the folder; and the same look may be asked for again."""
    rows = noisy_grid(TWO, SEEDS, FAINT, sigma=0.1)
    run_blocks(tmp_path / "calm", rows)
    write(tmp_path / "late", rows)  # every block was there before the first look was taken
    take_looks(tmp_path / "late")
    take_looks(tmp_path / "late")
    for count in (2, 3, 5):  # the fourth look was missed
        write(tmp_path / "torn", [row for row in rows if row["seed"] < count])
        for _ in range(2):
            take_looks(tmp_path / "torn")
    assert kept(tmp_path / "calm") == kept(tmp_path / "late") == kept(tmp_path / "torn")


def test_a_block_that_had_begun_when_a_look_decided_changes_no_effect_and_is_said_to_be_left_out(
    tmp_path: Path,
) -> None:
    """So the rates of the simulation, which stops where a look decides, are those of a sweep that trains ahead."""
    rows = noisy_grid(TWO, 3, CLEAR)
    write(tmp_path, rows[: 2 * CELLS])
    assert take_looks(tmp_path).stop
    decided = primary(effects(read_sweep(tmp_path)), "text").to_dict()
    for overrun in (1, CELLS):
        late = [{**row, "lsd": 9.0} for row in rows[2 * CELLS : 2 * CELLS + overrun]]
        write(tmp_path, [*rows[: 2 * CELLS], *late])
        take_looks(tmp_path)
        assert primary(effects(read_sweep(tmp_path)), "text").to_dict() == pytest.approx(decided, nan_ok=True)
        assert incomplete_blocks(read_sweep(tmp_path)) == ["effects rest on the blocks that decided alone: seeds 0, 1"]


def test_the_order_in_which_trials_finish_changes_no_decision(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, SEEDS, FAINT, sigma=0.06)
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    assert run_blocks(tmp_path / "one", rows) == run_blocks(tmp_path / "two", shuffled)
    one, two = (read_looks(tmp_path / name).of("a" * 64) for name in ("one", "two"))
    for name, decision in one.decisions.items():
        assert (decision.word, decision.after) == (two.decisions[name].word, two.decisions[name].after)
        assert decision.low == pytest.approx(two.decisions[name].low, rel=1e-9)


def test_a_block_that_lacks_a_replicate_gets_no_look(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 2, CLEAR)
    write(tmp_path, rows[:-1])
    assert take_looks(tmp_path) is None
    assert not (tmp_path / "looks.json").exists()
    write(tmp_path, [*rows[:-1], {**rows[-1], "status": "interrupted", "lsd": None}])
    assert take_looks(tmp_path) is None
    write(tmp_path, rows)
    assert take_looks(tmp_path).stop


def test_a_failed_cell_leaves_its_block_complete_and_is_named(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 2, CLEAR)
    failed = [*rows[:-1], {**rows[-1], "status": "failed", "reason": "loss is nan", "lsd": None}]
    write(tmp_path, failed)
    account = take_looks(tmp_path)
    assert account.stop
    assert account.looks[0].failed == ("text=caption rolloff=on size=full seed=1",)
    assert any("without 1 failed" in note for note in read_sweep(tmp_path).notes)
    write(tmp_path, rows)  # mended since: the look stands as it was taken
    assert take_looks(tmp_path) == account


def test_a_look_at_which_nothing_can_be_estimated_is_refused_by_name(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 3, CLEAR)
    lost = [{**row, "status": "failed", "lsd": np.nan} if row["seed"] < 2 else row for row in rows]
    write(tmp_path, lost)
    account = take_looks(tmp_path)
    assert not account.stop
    assert account.looks == ()  # one seed with results is not two
    assert account.refused == tuple(
        f"no look after block {count}: no primary contrast can be estimated from 2 seeds" for count in (2, 3)
    )
    assert account.refused[0] in read_sweep(tmp_path).notes


def test_a_contrast_without_an_estimate_keeps_the_seeds_coming(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 2, CLEAR)
    write(tmp_path, [row if row["size"] == "small" else {**row, "status": "failed", "lsd": np.nan} for row in rows])
    account = take_looks(tmp_path)
    assert account.decisions["text: caption - off"].word == "different"
    assert account.decisions["size: full - small"].word == "open"
    assert not account.stop


# --------------------------------------------------------------------------------------------- other plans, more seeds


def test_seeds_added_after_looks_are_judged_by_e_values(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, SEEDS, CLEAR)
    write(tmp_path, rows[: 2 * CELLS], seeds=[0, 1])
    assert take_looks(tmp_path).basis == "spending"
    write(tmp_path, rows[: 3 * CELLS], plan_hash="b" * 64)
    account = take_looks(tmp_path)
    assert (account.basis, account.max_seeds) == ("e-values", SEEDS)
    assert [look.spent for look in account.looks] == [None, None]
    assert "seeds went from 2 to 5 after 1 looks" in account.reason
    table = effects(read_sweep(tmp_path))
    row = primary(table, "text")
    assert row["stopped"] == "repeated"
    assert row["verdict"] == "improves"
    assert account.reason in [*read_sweep(tmp_path).notes]
    assert [one.plan_hash[0] for one in read_looks(tmp_path).plans] == ["a", "b"]


def test_a_plan_of_other_trainings_begins_anew(tmp_path: Path) -> None:
    rows = noisy_grid(TWO, 2, CLEAR)
    write(tmp_path, rows)
    before = take_looks(tmp_path)
    others = [{**row, "seed": row["seed"] + 10} for row in rows]
    write(tmp_path, others, plan_hash="b" * 64, seeds=[10, 11, 12])
    account = take_looks(tmp_path)
    assert (account.basis, account.reason) == ("spending", "")
    assert read_looks(tmp_path).of("a" * 64) == before


def test_a_broken_record_of_looks_is_refused(tmp_path: Path) -> None:
    write(tmp_path, noisy_grid(TWO, 2, CLEAR))
    take_looks(tmp_path)
    for text in ("{", '{"plans": [{"plan_hash": "x"}]}', '{"spent": 0}'):
        (tmp_path / "looks.json").write_text(text)
        with pytest.raises(DataError, match=r"looks\.json says which looks were taken"):
            read_sweep(tmp_path)


def test_the_anytime_interval_holds_the_effects_whose_e_value_is_small() -> None:
    contrast = Contrast(0.1, 0.02, 20, 4 / 32)
    low, high = anytime_interval(contrast, 0.05)
    t = brentq(lambda t: e_value(t, 20, 4 / 32) - 20, 0, 100)
    assert (high - low) / 2 == pytest.approx(t * 0.02)
    assert anytime_interval(Contrast(0.1, 0.02, 1, 1.0), 1e-9) == (-np.inf, np.inf)  # one degree can never be so sure
    rule = Rule(("text",), 6, delta=0.05, basis="e-values")
    looks = [Look(2, {"text": contrast}), Look(3, {"text": Contrast(0.0, 0.02, 35, 4 / 48)})]
    assert decide(looks[:1], rule).decisions["text"].word == ("different" if low > 0 else "open")
    assert sequential_p(looks, "text", rule) == pytest.approx(1 / e_value(5, 20, 4 / 32))


# -------------------------------------------------------------------------------------------- what the sweep says of it


@pytest.fixture
def plan(make_grid, tmp_path) -> Plan:
    grid = make_grid(seeds=[0, 1, 2, 3], early_stopping={"delta": 0.05})
    plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps")))
    write_plan(plan)
    return plan


def finish(plan: Plan, seed: int, state: str = "done") -> None:
    """End all trials of a seed: text and lfr help by far."""
    rng = np.random.default_rng(seed)
    for trial in (one for one in plan.trials if one.seed == seed):
        record(plan.paths, trial)
        for variant in trial.variants if state == "done" else ():
            helps = (trial.levels["text"] != "off") + 2 * (variant.levels["lfr"] != "off")
            rows = [
                {"clip": clip, "domain": "speech", "subject": "model", "lsd": 3.0 - helps + rng.normal(0, 0.01)}
                for clip in "ab"
            ]
            path = plan.paths.of(trial.id).scores(variant.id)
            write_whole(path, lambda temporary, rows=rows: pq.write_table(pa.Table.from_pylist(rows), temporary))
        write_status(plan.paths.trial(trial.id), Status(state=state, step=4, steps=4, updated=5.0, reason="why"))


def taken(schedule: Schedule, count: int) -> list[Trial]:
    """Take so many trials, or as many as there are."""
    return [trial for trial in (schedule.take() for _ in range(count)) if trial]


def test_the_sweep_hands_out_two_blocks_then_no_more_once_the_answer_is_in(plan: Plan) -> None:
    settled: list[str] = []
    schedule = Schedule(plan, plan.trials, lambda trials: settled.extend(trial.id for trial in trials))
    trials = taken(schedule, 4)
    assert [trial.seed for trial in trials] == [0, 0, 1, 1]
    for seed in (0, 1):
        finish(plan, seed)
    assert [schedule.end(trial.id) for trial in trials] == [[]] * 4
    assert settled == [trial.id for trial in trials]
    assert schedule.over
    assert schedule.take() is None
    assert read_looks(plan.folder).of(plan.hash).decided_after == 2


def test_idle_places_begin_the_next_block_and_a_look_ends_what_it_makes_unnecessary(plan: Plan) -> None:
    schedule = Schedule(plan, plan.trials)
    *trials, ahead, finished = taken(schedule, 6)
    assert [trial.seed for trial in (*trials, ahead, finished)] == [0, 0, 1, 1, 2, 2]
    for seed in (0, 1, 2):
        finish(plan, seed)
    assert schedule.end(finished.id) == []
    write_status(plan.paths.trial(ahead.id), Status(state="running", step=1, steps=4))
    assert [schedule.end(trial.id) for trial in trials] == [[], [], [], [ahead]]
    assert schedule.take() is None
    assert not schedule.over
    assert schedule.end(ahead.id) == []
    assert schedule.over
    account = read_looks(plan.folder).of(plan.hash)
    assert (account.decided_after, account.seen) == (2, 2)


def test_a_block_that_was_complete_before_its_turn_has_no_part_in_a_decision_before_it(plan: Plan) -> None:
    for seed in (0, 1, 2):
        finish(plan, seed)
    collect(plan, scan(plan))
    assert take_looks(plan.folder).seen == 2
    assert set(effects(read_sweep(plan.folder))["n_seeds"].dropna()) == {2}


def test_a_restart_after_the_answer_mends_failures_and_launches_no_seed(plan: Plan) -> None:
    finish(plan, 0)
    finish(plan, 1)
    collect(plan, scan(plan))
    take_looks(plan.folder)
    failed = plan.trials[0]
    write_status(plan.paths.trial(failed.id), Status(state="failed", step=4, steps=4, reason="why"))
    waiting = [trial for trial in plan.selected if not scan(plan).finished(trial)]
    assert [trial.id for trial in taken(Schedule(plan, waiting), 9)] == [failed.id]


def test_blocks_without_an_answer_are_all_handed_out(plan: Plan) -> None:
    schedule, seeds = Schedule(plan, plan.trials), []
    while trial := schedule.take():
        seeds.append(trial.seed)
        finish(plan, trial.seed, "failed")
        assert schedule.end(trial.id) == []
    assert seeds == [0, 0, 1, 1, 2, 2, 3, 3]
    assert schedule.over


def test_cells_picked_by_hand_are_one_batch_without_looks(make_grid, tmp_path) -> None:
    space = read_space(make_grid(seeds=[0, 1, 2]), storage=str(tmp_path / "sweeps"))
    plan = make_plan(space, [{"text": frozenset({"off"})}])
    assert [trial.seed for trial in taken(Schedule(plan, plan.selected), 9)] == [0, 1, 2]


def test_seeds_not_needed_are_said_to_be_so_everywhere(plan: Plan) -> None:
    for seed in (0, 1):
        finish(plan, seed)
    collect(plan, scan(plan))
    take_looks(plan.folder)
    collect(plan, scan(plan))
    ledger = scan(plan)
    late = [row for row in plan.replicates if row.seed > 1]
    assert {ledger.entries[row.id] for row in late} == {("not needed", "decided after block 2")}
    assert all(ledger.finished(trial) for trial in plan.trials)
    rows = {row["replicate"]: row for row in pq.read_table(plan.paths.table("replicates")).to_pylist()}
    assert {(rows[row.id]["status"], rows[row.id]["reason"], rows[row.id]["lsd"]) for row in late} == {
        ("not needed", "decided after block 2", None)
    }
    sweep = read_sweep(plan.folder)
    assert not sweep.lost
    assert exit_code(sweep) == 0
    table = effects(sweep)
    row = primary(table, "text")
    assert (row["stopped"], row["verdict"], row["n_seeds"], row["n_missing"]) == ("repeated", "improves", 2, 0)
    text = shown(render(Report(sweep, table)))
    assert "all 8 of 8 replicates, 2 seeds. 8 more were not needed (decided after block 2)." in text
    assert "missing" not in text


def test_a_seed_begun_and_not_needed_enters_no_comparison(plan: Plan) -> None:
    for seed in (0, 1):
        finish(plan, seed)
    collect(plan, scan(plan))
    take_looks(plan.folder)
    finish(plan, 2)
    begun = next(trial for trial in plan.trials if trial.seed == 2)
    write_status(plan.paths.trial(begun.id), Status(state="interrupted", step=1, steps=4))
    collect(plan, scan(plan))
    sweep = read_sweep(plan.folder)
    assert sweep.runs["seed"].nunique() == 3
    assert primary(effects(sweep), "text")["n_seeds"] == 2


def test_the_plan_says_that_it_may_end_before(plan: Plan, make_grid, tmp_path) -> None:
    console = Console(width=80, record=True)
    show_summary(plan, scan(plan), console)
    assert "at most 8 trainings" in console.export_text()
    short = make_plan(read_space(make_grid(seeds=[0, 1]), storage=str(tmp_path / "others")))
    show_summary(short, scan(short), console)
    assert "at most" not in console.export_text()


@pytest.mark.parametrize(
    ("stopping", "seeds", "said"),
    [
        ({}, 3, "early stopping (blocks): seeds, once every factor is decided"),
        ({}, 2, "early stopping: nothing to stop with 2 seeds"),
        ({}, 1, "early stopping: nothing to stop with 1 seed"),
        ({"policy": "asha"}, 1, "early stopping (asha): trials that are behind the others"),
        ({"policy": "plateau"}, 1, "early stopping (plateau): trials that no longer improve"),
        ({"policy": "none"}, 3, "early stopping: none"),
    ],
)
def test_what_may_stop_is_said_in_plan_progress_and_report(make_grid, tmp_path, stopping, seeds, said) -> None:
    grid = make_grid(seeds=list(range(seeds)), early_stopping=stopping)
    plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps")))
    write_plan(plan)
    for trial in plan.trials:
        finish(plan, trial.seed)
    collect(plan, scan(plan))
    console = Console(width=80, record=True)
    show_summary(plan, scan(plan), console)
    console.print(View(plan, plan.trials))
    sweep = read_sweep(plan.folder)
    console.print(render(Report(sweep, effects(sweep))))
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert lines.count(said) == 3
    assert lines.count(FAILURE_RULE) == 3
    search = f"Search mode ({stopping.get('policy')}): made to pick a cell, not to compare factors."
    assert lines.count(search) == (2 if stopping.get("policy") in ("asha", "plateau") else 0)


def test_with_cells_left_out_nothing_is_said_to_stop(make_grid, tmp_path) -> None:
    grid = make_grid(seeds=[0, 1, 2], factors={"text": ["off", "caption"]})
    plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps")), [{"text": frozenset({"caption"})}])
    console = Console(width=80, record=True)
    show_summary(plan, scan(plan), console)
    console.print(View(plan, plan.trials))
    text = console.export_text()
    assert text.count("early stopping: none with --only, as no block is complete") == 2
    assert "at most" not in text


def shown(parts: Any) -> str:
    console = Console(width=200, record=True)
    console.print(parts)
    return " ".join(console.export_text().split())


# ---------------------------------------------------------------------------------------------------- through real Ray


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(2_400)
def test_a_sweep_stops_launching_seeds_when_its_answer_is_in(tmp_path: Path) -> None:
    keys = {
        "name": "answered",
        "factors": {"lfr": ["off", "hard"]},  # the low band given or generated by an untrained model: enormous
        "seeds": [0, 1, 2, 3],
        "early_stopping": {"metric": "val/lsd_lf", "delta": 0.05},
    }
    grid = write_grid(tmp_path, {"training.steps": 20, "validation.every": 20}, val="cd", **keys)
    command = [*SWEEP, str(grid), "--storage", str(tmp_path / "sweeps")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps")))
    account = read_looks(plan.folder).of(plan.hash)
    assert account.stop
    after = account.decided_after
    assert after in (2, 3)
    ran = {trial.seed for trial in plan.trials if plan.paths.of(trial.id).status.exists()}
    assert set(range(after)) <= ran <= set(range(after + 1))  # the next block may have begun, and was ended
    assert f"not needed (decided after block {after})" in " ".join(done.stdout.split())
    before = (plan.folder / "looks.json").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, timeout=1_800)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (plan.folder / "looks.json").read_bytes() == before
    assert "Nothing is left to do" in again.stdout
