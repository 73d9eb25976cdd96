"""`promote`: costly cells wait; exactly the factors that mattered at the cheap ones run there, within the budget."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.analysis.effects import effects
from orchestrator.analysis.load import read_sweep
from orchestrator.grid.expand import expand
from orchestrator.grid.read import read_space
from orchestrator.plan.cost import Cost, write_estimate
from orchestrator.plan.ledger import record, scan
from orchestrator.plan.plan import Plan, Replicate, make_plan, write_plan
from orchestrator.plan.promotion import Effect, affordable, decide, promoted
from orchestrator.plan.show import promotion_lines, show_summary
from orchestrator.report.analyse import analyse
from orchestrator.report.page import write_page
from orchestrator.report.report import Report, exit_code
from orchestrator.report.terminal import render
from orchestrator.run.results import collect
from orchestrator.run.schedule import Schedule
from orchestrator.sweep_folder.design import Promote
from orchestrator.sweep_folder.json_files import read_decisions
from sagasr.io.errors import ConfigError
from sagasr.io.files import read_json, write_whole
from sagasr.training.trial_log import Status, write_status
from tests.orchestrator.sweep_folders import primary

RULE = Promote("improves", {"size": "small"}, {"size": "full"})
BASELINE = {"text": "off", "rolloff": "off", "size": "small"}
LEVELS = [{"text": t, "rolloff": r, "size": "full"} for t in ("off", "caption", "transcript") for r in ("off", "on")]


def waiting(name: str, levels: dict[str, str], seed: int, trial: str) -> Replicate:
    return Replicate(id=name, fingerprint="", cell="", levels=levels, seed=seed, trial=trial, variant="")


WAITING = [waiting(f"{i}-{s}", levels, s, f"t{i}-{s}") for s in (0, 1, 2) for i, levels in enumerate(LEVELS)]
COSTS = {one.trial: 2.0 for one in WAITING}


def said(**words: str) -> list[Effect]:
    known = {"caption": "text", "transcript": "text", "on": "rolloff"}
    return [Effect(known[level], level, word, -0.1) for level, word in words.items()]


def cells(decision) -> set[tuple[str, ...]]:
    return {tuple(levels.values()) for levels in decision.cells}


# ------------------------------------------------------------------------------------------------------------- deciding


def test_exactly_the_improving_levels_go_on_with_their_baselines() -> None:
    effects = said(caption="improves", transcript="no relevant effect", on="harms")
    decision = decide(RULE, BASELINE, effects, WAITING, (0, 1, 2), COSTS)
    assert cells(decision) == {("off", "off", "full"), ("caption", "off", "full")}
    assert decision.factors == ("text",)
    assert (decision.seeds, len(decision.replicates), decision.gpu_hours) == ((0, 1, 2), 6, 12.0)
    both = decide(RULE, BASELINE, said(caption="improves", on="improves"), WAITING, (0, 1), COSTS)
    assert cells(both) == {(t, r, "full") for t in ("off", "caption") for r in ("off", "on")}
    assert both.seeds == (0, 1)


def test_nothing_that_improves_promotes_nothing_and_says_so() -> None:
    decision = decide(
        RULE, BASELINE, said(caption="undecided (about 2 more seeds)", on="harms"), WAITING, (0, 1), COSTS
    )
    assert not decision.cells
    assert decision.reason == "no factor improves at size=small, so nothing runs at size=full"


def test_the_budget_takes_seeds_away_and_below_two_everything() -> None:
    effects = said(caption="improves")  # 2 cells x 2 GPU-hours a seed
    fitting = decide(RULE, BASELINE, effects, WAITING, (0, 1, 2), COSTS, left=9.0, budget=40.0)
    assert (fitting.seeds, fitting.gpu_hours) == ((0, 1), 8.0)
    assert "pay for no more" in fitting.reason
    none = decide(RULE, BASELINE, effects, WAITING, (0, 1, 2), COSTS, left=7.9, budget=40.0)
    assert (none.seeds, none.replicates) == ((), ())
    assert "do not pay for 2 seeds" in none.reason


def test_cells_of_one_training_pay_for_it_once() -> None:
    shared = [waiting(f"r{i}", LEVELS[0], 0, "one") for i in range(3)]
    assert affordable(shared, (0,), {"one": 5.0}, 5.0) == (0,)
    assert affordable(shared, (0,), {"one": 5.0}, 4.9) == ()


@given(
    st.lists(st.sampled_from(["improves", "harms", "undecided (x)", "no relevant effect"]), min_size=3, max_size=3),
    st.one_of(st.none(), st.floats(0, 50)),
    st.permutations(WAITING),
)
def test_a_decision_depends_on_nothing_else_and_never_exceeds_the_budget(words, left, waiting) -> None:
    effects = said(**dict(zip(("caption", "transcript", "on"), words, strict=True)))
    decision = decide(RULE, BASELINE, effects, waiting, (0, 1, 2), COSTS, left)
    same = decide(RULE, BASELINE, effects, WAITING, (0, 1, 2), COSTS, left)
    assert (set(decision.replicates), decision.seeds, decision.reason) == (
        set(same.replicates),
        same.seeds,
        same.reason,
    )
    assert left is None or decision.gpu_hours <= left
    improving = {one.level for one in effects if one.verdict == "improves"}
    assert {level for levels in decision.cells for level in levels.values()} <= {"off", "full", *improving}


# ---------------------------------------------------------------------------------------------------------- in a sweep


WIDTH = {"baseline": "narrow", "levels": {"narrow": {}, "wide": {"model.embed_dim": 128}}}
PROMOTE = {"when": "improves", "from": {"width": "narrow"}, "to": {"width": "wide"}}
FACTORS = {"text": ["off", "caption"], "rolloff": ["off", "on"], "width": WIDTH, "lfr": ["off", "hard"]}


@pytest.fixture
def make(make_grid, tmp_path):
    def made(**changes) -> Plan:
        settings = {"factors": FACTORS, "promote": PROMOTE, "seeds": [0, 1, 2], "early_stopping": {"delta": 0.05}}
        plan = make_plan(read_space(make_grid(**settings | changes), storage=str(tmp_path / "sweeps")))
        write_plan(plan)
        return plan

    return made


def finish(plan: Plan, batch) -> None:
    """End trials: text improves, roll-off does nothing, the wide model improves and doubles what text does."""
    for trial in batch:
        record(plan.paths, trial)
        rng = np.random.default_rng([trial.seed, *map(len, trial.levels.values())])
        noise, wide = rng.normal(0, 0.01), trial.levels["width"] == "wide"
        for variant in trial.variants:
            gain = (trial.levels["text"] != "off") * (1 + wide) + 0.5 * wide + 2 * (variant.levels["lfr"] != "off")
            value = 5 - gain + noise + rng.normal(0, 0.002)
            rows = [{"clip": c, "domain": "speech", "subject": "model", "lsd": value} for c in "ab"]
            path = plan.paths.of(trial.id).scores(variant.id)
            write_whole(path, lambda temporary, rows=rows: pq.write_table(pa.Table.from_pylist(rows), temporary))
        write_status(plan.paths.trial(trial.id), Status(state="done", step=4, steps=4, updated=5.0, gpu_seconds=36.0))


def run(plan: Plan) -> list[dict[str, str]]:
    """Do what the sweep does: hand out trials, end them. Return the levels of each, in turn."""
    ledger = scan(plan)
    waiting = [trial for trial in plan.selected if not ledger.finished(trial) or ledger.held(trial)]
    schedule, levels = Schedule(plan, waiting), []
    while trial := schedule.take():
        finish(plan, [trial])
        levels.append(trial.levels)
        schedule.end(trial.id)
    collect(plan, scan(plan))
    return levels


def test_the_sweep_runs_the_first_stage_then_what_mattered(make) -> None:
    plan = make()
    held = [row for row in plan.replicates if row.levels["width"] == "wide"]
    assert {scan(plan).entries[row.id].state for row in held} == {"held"}
    order = run(plan)
    widths = [levels["width"] for levels in order]
    assert widths == sorted(widths)  # every narrow one before the first wide one
    wide = {tuple(levels.values()) for levels in order if levels["width"] == "wide"}
    assert wide == {("off", "off", "wide"), ("caption", "off", "wide")}
    decision = read_decisions(plan.folder).of(plan.hash)
    assert decision.factors == ("text", "lfr")
    entries = scan(plan).entries
    states = {(row.levels["rolloff"], entries[row.id].state) for row in held if row.seed in decision.seeds}
    assert states == {("off", "done"), ("on", "not needed")}
    assert all(scan(plan).finished(trial) for trial in plan.trials)
    assert run(plan) == []


def test_a_restart_decides_the_same(make) -> None:
    plan = make()
    schedule = Schedule(plan, plan.selected)
    while (trial := schedule.take()) and trial.levels["width"] != "wide":
        finish(plan, [trial])
        schedule.end(trial.id)
    assert trial
    rest = iter(schedule.take, None)
    first = {row.id for each in (trial, *rest) for row in each.replicates}
    kept = (plan.folder / "promotion.json").read_text()
    again = make()
    waiting = [trial for trial in again.selected if not scan(again).finished(trial)]
    assert {row.id for trial in promoted(again, waiting) for row in trial.replicates} == first
    run(again)
    assert (plan.folder / "promotion.json").read_text() == kept


def test_main_effects_rest_on_the_part_that_decided(make, capsys) -> None:
    plan = make()
    run(plan)
    sweep = read_sweep(plan.folder)
    table = effects(sweep)
    assert primary(table, "text")["estimate"] == pytest.approx(-1, abs=0.02)  # not the mean with the wide model's -2
    assert primary(table, "text")["n_runs"] == primary(table, "text")["n_seeds"] * 4
    assert primary(table, "width")["verdict"] == "improves"
    wide = table[(table["family"] == "simple") & (table["with"] == "width=wide") & (table["factor"] == "text")].iloc[0]
    assert wide["estimate"] == pytest.approx(-2, abs=0.05)
    assert not sweep.lost
    assert exit_code(sweep) == 0
    console = Console(width=80, record=True)
    console.print(render(Report(sweep, table)))
    text = " ".join(console.export_text().split())
    assert "text, lfr improve at width=narrow" in text
    assert "not promoted" in text
    page = write_page(Report(sweep, table), plan.folder).read_text()
    assert "Promotion" in page
    assert analyse(plan.folder).effects.equals(table)


def test_a_budget_that_is_raised_later_promotes_more(make) -> None:
    plan = make(budget={"max_gpu_hours": 1e-9}, early_stopping={"policy": "none", "delta": 0.05})
    write_estimate(plan, {trial.id: Cost(1.0, 1.0) for trial in plan.trials})
    assert {levels["width"] for levels in run(plan)} == {"narrow"}
    assert "do not pay" in read_decisions(plan.folder).of(plan.hash).reason
    richer = make(budget={"max_gpu_hours": 100}, early_stopping={"policy": "none", "delta": 0.05})
    assert richer.hash == plan.hash
    assert {levels["width"] for levels in run(richer)} == {"wide"}
    assert run(richer) == []


def test_without_all_cells_nothing_is_promoted(make_grid, tmp_path) -> None:
    grid = make_grid(factors=FACTORS, promote=PROMOTE, seeds=[0, 1])
    plan = make_plan(read_space(grid, storage=str(tmp_path / "s")), [{"text": frozenset({"off"})}])
    assert {levels["width"] for levels in run(plan)} == {"narrow"}
    assert not (plan.folder / "promotion.json").exists()


def test_the_plan_says_what_may_be_promoted(make) -> None:
    plan = make(budget={"max_gpu_hours": 40})
    costs = {trial.id: Cost(3600.0, 0.5) for trial in plan.trials}
    (line,) = promotion_lines(plan, scan(plan), costs)
    assert line.startswith("promote: 8 cells at width=wide wait, at most 12 trainings (6 GPU-hours). Once width=narrow")
    console = Console(width=80, record=True)
    show_summary(plan, scan(plan), console)
    assert "24 held" in console.export_text()
    assert read_json(plan.paths.plan)["promote"] == PROMOTE


def test_other_designs_add_the_cells_to_promote_to(make_grid) -> None:
    space = read_space(make_grid(factors=FACTORS, promote=PROMOTE, design="one-at-a-time"))
    wide = {cell.name for cell in expand(space) if cell.levels["width"] == "wide"}
    assert "text=caption rolloff=off width=wide lfr=off" in wide
    assert len(wide) == 4


@pytest.mark.parametrize(
    ("promote", "words"),
    [
        ({"when": "improves", "from": {"lfr": "off"}, "to": {"lfr": "hard"}}, "lfr is applied at evaluation"),
        ({"when": "improves", "from": {"width": "narrow"}, "to": {"width": "narrow"}}, "at different levels"),
        ({"when": "harms", "from": {"width": "narrow"}, "to": {"width": "wide"}}, "unknown word 'harms'"),
        ({"from": {"width": "narrow"}, "to": {"width": "wide"}}, "expected when, from and to"),
        ({"when": "improves", "from": {"width": "narow"}, "to": {"width": "wide"}}, "did you mean 'narrow'"),
    ],
)
def test_a_promotion_that_cannot_be_is_refused_in_a_line(make_grid, promote, words) -> None:
    with pytest.raises(ConfigError, match=words):
        read_space(make_grid(factors=FACTORS, promote=promote))


def test_an_unreadable_decision_is_named(make, tmp_path: Path) -> None:
    plan = make()
    (plan.folder / "promotion.json").write_text('{"plans": [{"plan_hash": 3}]}')
    from sagasr.io.errors import DataError

    with pytest.raises(DataError, match=r"promotion\.json"):
        scan(plan)
