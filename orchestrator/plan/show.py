"""The plan as a person reads it: cells, trainings, what is done, shapes, memory, cost, and why. Fits 80 columns."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.formats import count, estimated_duration, with_prefix
from orchestrator.grid.factors import find_level, pairs
from orchestrator.grid.space import STORAGE
from orchestrator.plan.capacity import Gpu, gpus_here
from orchestrator.plan.cost import Cost, elapsed, total
from orchestrator.plan.gpu_memory import shown
from orchestrator.plan.ledger import Entry, Ledger, Left
from orchestrator.plan.plan import Options, Plan, Replicate, Trial
from orchestrator.sweep_folder.design import cell_name
from orchestrator.sweep_folder.json_files import MIN_SEEDS, read_decisions
from orchestrator.sweep_folder.redact import redact
from orchestrator.sweep_folder.stopping import may_stop, search_label
from sagasr.io.errors import ConfigError, did_you_mean
from sagasr.io.states import State
from sagasr.metrics.table import find_metric
from sagasr.model.counts import Counts
from sagasr.model.words import said_of_known

CELLS_SHOWN = 200
GONE = "-"
EXPERIMENT = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
LIBRARIES = (  # variables that decide where libraries look and what they trust
    *("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
BASIS = {
    "assumed": "an order of magnitude, nothing was timed: --calibrate times a few steps first",
    "measured": "as timed on this machine by --calibrate",
    "ended": "as trainings of this sweep that have ended took",
}


def show_plan(
    plan: Plan,
    ledger: Ledger,
    shapes: Mapping[str, Counts],
    costs: Mapping[str, Cost],
    console: Console,
    gpu: Gpu | None = None,
) -> None:
    """Print all that ``--plan`` promises; the memory of trainings on GPUs is compared with that of ``gpu``."""
    show_summary(plan, ledger, console)
    console.print(_factors(plan))
    console.print(_cells(plan, ledger, shapes))
    for cell in plan.left_out:
        console.print(escape(str(cell)), soft_wrap=True)
    if plan.space.ladder:
        console.print(_ladder(plan))
    _show_differences(plan, ledger, console)
    if plan.space.fraction and plan.tree["confounded_with"]:
        console.print("Confounded (this fraction cannot tell them apart):")
        for effect, others in plan.tree["confounded_with"].items():
            console.print(escape(f"  {effect} = {', '.join(others)}"))
    for line in shown(ledger.ahead(plan.selected), shapes, gpu):
        console.print(escape(line))
    show_cost(plan, ledger, costs, console)
    for line in promotion_lines(plan, ledger, costs):
        console.print(escape(line))


def show_summary(plan: Plan, ledger: Ledger, console: Console) -> None:
    """Print what is asked, how much of it there is, and where it stands."""
    space = plan.space
    console.print(f"[bold]{escape(plan.name)}[/bold]  {escape(plan.question)}")
    stopping, known = space.grid.early_stopping, find_metric(plan.metric)
    matters = "no delta says what matters"
    if stopping.delta is not None:
        matters = f"{stopping.delta:g} {known.unit if known else ''}".rstrip() + " matters"
    console.print(
        f"design {space.grid.design}, judged by {plan.metric} ({space.metrics[plan.metric]} is better, {matters})"
    )
    said = plan.tree["early_stopping"]
    for line in filter(None, (*may_stop(said, len(plan.seeds), whole=not plan.is_narrowed), search_label(said))):
        console.print(line)
    trainings, replicates = len(plan.trials), len(plan.replicates)
    cells, seeds = count(len(plan.cells), "cell"), count(len(plan.seeds), "seed")
    console.print(f"{cells} x {seeds} = {count(replicates, 'replicate')}")
    folded = f"; {replicates - trainings} more are read from the same trainings" if replicates > trainings else ""
    most, until = ("at most ", "; stops when every factor is decided") if stops_early(plan) else ("", "")
    console.print(f"{most}{count(trainings, 'training')}{folded}{until}")
    console.print(escape(_state(ledger)))
    if plan.is_narrowed:
        selected = sum(len(trial.replicates) for trial in plan.selected)
        console.print(f"selected now: {selected} of {replicates} replicates")
    for note in (*plan.text_notes, *(said_of_known(source, share) for source, share in plan.known_words.items())):
        console.print(f"note: {note}", highlight=False)
    console.print(f"folder: {escape(str(plan.folder))}", soft_wrap=True)
    if os.environ.get(STORAGE) == plan.space.grid.storage:
        console.print(escape(f"storage: {redact(plan.space.grid.storage)} ({STORAGE})"), soft_wrap=True)
    if plan.tracking_named:
        console.print(escape(f"tracking: {redact(plan.tracking_uri)} ({plan.tracking_named})"), soft_wrap=True)
    for name in filter(os.environ.get, EXPERIMENT):
        console.print(f"{name} is not used: the experiment in MLflow is named as the sweep")
    if given := [name for name in LIBRARIES if os.environ.get(name)]:
        console.print(f"set in the environment, and left to the libraries: {', '.join(given)}")
    for line in (line for listing in plan.listings for line in listing.lines()):
        console.print(escape(line), soft_wrap=True)


def show_cost(
    plan: Plan, ledger: Ledger, costs: Mapping[str, Cost], console: Console, options: Options | None = None
) -> None:
    """Print what remains, what it is predicted to take, and what that rests on."""
    todo = ledger.ahead(plan.selected, held=False)
    if not todo:
        console.print("Nothing is left to do.")
        return
    cost = total(costs[trial.id] for trial in todo)
    options = options or Options()
    here = None if options.address else elapsed(plan, todo, costs, options.max_concurrent)
    parts = [f"{estimated_duration(here)} on this machine"] if here is not None else []
    parts.append(f"{estimated_duration(cost.seconds)} one after another")
    if cost.gpu_hours:
        price = plan.space.grid.budget.price_per_gpu_hour if plan.space.grid.budget else None
        money = f" ({cost.gpu_hours * price:.3g} at {price:g} each)" if price is not None else ""
        parts.append(f"{cost.gpu_hours:.3g} GPU-hours{money}")
    most = "at most " if stops_early(plan) else ""
    parts.append(f"{with_prefix(cost.disk_bytes)}B on disk")
    console.print(f"To do: {most}{count(len(todo), 'training')}: {', '.join(parts)}.")
    console.print(f"  {BASIS[cost.basis]}")
    if not options.address and not cost.gpu_hours and gpus_here():
        console.print("  No training uses this machine's GPU; add 'resources: {default: {gpus_per_worker: 1}}'.")


def promotion_lines(plan: Plan, ledger: Ledger, costs: Mapping[str, Cost]) -> list[str]:
    """Return what may be promoted and what decides it, or what was decided; nothing without ``promote``."""
    rule = plan.space.promote
    if rule is None:
        return []
    if (decision := read_decisions(plan.folder).of(plan.hash)) is not None:
        return [f"promotion: {decision.reason}"]
    trials = [trial for trial in plan.trials if rule.waits(trial.levels)]
    most = total(costs[trial.id] for trial in trials)
    hours = f" ({most.gpu_hours:.3g} GPU-hours)" if most.gpu_hours else ""
    cells = len({row.cell for trial in trials for row in trial.replicates})
    limits = plan.space.grid.budget
    budget = "; never more than the budget allows" if limits and limits.max_gpu_hours is not None else ""
    return [
        f"promote: {count(cells, 'cell')} at {cell_name(rule.target)} wait, at most {count(len(trials), 'training')}"
        f"{hours}. Once {cell_name(rule.source)} is decided, each factor that {rule.when} there runs at "
        f"{cell_name(rule.target)}, alone and with the others, and nothing else does{budget}."
    ]


def stops_early(plan: Plan) -> bool:
    """Return whether looks between the blocks may make the later ones unnecessary."""
    stopping = plan.space.grid.early_stopping
    return stopping.policy == "blocks" and len(plan.seeds) > MIN_SEEDS and not plan.is_narrowed


def _factors(plan: Plan) -> Table:
    table = _table("Factors", "factor", "stage", "levels (baseline first)")
    for name, factor in plan.space.factors.items():
        others = [level for level in factor.levels if level != factor.baseline] or ["nothing to compare it with"]
        table.add_row(escape(name), factor.stage, escape(", ".join([factor.baseline, *others])))
    return table


def _cells(plan: Plan, ledger: Ledger, shapes: Mapping[str, Counts]) -> Table:
    """One line per cell: levels, shapes of a training step, parameters, memory of one worker, how much is done."""
    names = list(plan.space.factors)
    table = _table("Cells", *names, "latents", "tokens", "param", "memory", "done")
    resources = {row.cell: trial.resources for trial in plan.trials for row in trial.replicates}
    rows: dict[str, list[Entry]] = {}
    for row in plan.replicates:
        rows.setdefault(row.cell, []).append(ledger.entries[row.id])
    for cell in plan.cells[:CELLS_SHOWN]:
        shape = shapes[cell.name]
        done = sum(entry.state.finished for entry in rows[cell.name])
        table.add_row(
            *(escape(cell.levels[name]) for name in names),
            "x".join(map(str, shape.latents)),
            "x".join(map(str, shape.tokens[1:])),
            with_prefix(shape.parameters),
            with_prefix(shape.memory_bytes(resources[cell.name])) + "B",
            f"{done}/{len(rows[cell.name])}",
        )
    more = len(plan.cells) - CELLS_SHOWN
    rest = f"… and {more:,} more cells: --json lists all\n" if more > 0 else ""
    table.caption = f"{rest}latents [B,D,N] of a step, text and roll-off tokens [L,C], memory of one worker"
    return table


def _ladder(plan: Plan) -> Table:
    table = _table("Ladder", "step", "against", "what is different")
    steps = {step.step: step for step in plan.space.ladder}
    for step in steps.values():
        before = steps[step.versus].levels if step.versus is not None else plan.space.baseline
        new = {name: level for name, level in step.levels.items() if before[name] != level}
        table.add_row(escape(step.step), escape(step.versus or "-"), escape(cell_name(new) or "the baseline"))
    return table


def _show_differences(plan: Plan, ledger: Ledger, console: Console) -> None:
    """Print, once per reason, which trainings are neither done nor simply missing, and what the grid no longer has."""
    labels: dict[str, list[str]] = {}
    for trial in plan.trials:
        for entry in {entry for row in trial.replicates if (entry := ledger.entries[row.id]).reason}:
            reason = f"{entry.state.mark} {_word(entry.state)} ({entry.reason})"
            labels.setdefault(reason, []).append(_label(trial))
    if ledger.left:
        labels[f"{GONE} no longer in the grid (kept)"] = list(map(_label, ledger.left))
    for reason, trials in labels.items():
        more = f" and {len(trials) - 3} more" if len(trials) > 3 else ""
        console.print(escape(f"{reason}: {'; '.join(trials[:3])}{more}"), soft_wrap=True)


def _state(ledger: Ledger) -> str:
    """Return how many replicates stand where, each state behind its mark, e.g. ``+ 4 new  = 8 done  ~ 2 stale``."""
    states = Counter(entry.state for entry in ledger.entries.values())
    first = [state for state in (State.MISSING, State.DONE, State.STALE) if state in states]
    ranked = [*first, *sorted(states.keys() - set(first))]
    parts = [f"{state.mark} {states[state]} {_word(state)}" for state in ranked]
    gone = [f"{GONE} {count(len(ledger.left), 'training')} no longer in the grid"] if ledger.left else []
    return "  ".join([*parts, *gone])


def _word(state: State) -> str:
    return "new" if state is State.MISSING else state


def _label(trial: Trial | Left) -> str:
    return f"{cell_name(trial.levels)} seed={trial.seed}".strip()


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption_justify = "left"
    for column in columns:
        table.add_column(escape(column), overflow="fold", header_style="bold")
    return table


def explain(plan: Plan, ledger: Ledger, asked: str) -> list[str]:
    """Return a line per replicate asked for by levels, such as ``text=off seed=0``, or an id. Raises ConfigError."""
    asked_for = [row for row in plan.replicates if _is_meant(asked, row.levels, row.seed, (row.id, row.trial))]
    lines = [_line(row, ledger.entries[row.id]) for row in asked_for]
    lines += [
        f"{GONE} {cell_name(left.levels)} seed={left.seed} (trial {left.trial})  no longer in the grid: kept"
        for left in ledger.left
        if _is_meant(asked, left.levels, left.seed, (left.trial,), whole=False)
    ]
    if not lines:
        raise ConfigError(f"--why {asked or repr(asked)}: {_unmeant(plan, ledger, asked)}")
    return lines


def _unmeant(plan: Plan, ledger: Ledger, asked: str) -> str:
    """Return what is wrong with levels or an id that nothing has."""
    known: dict[str, set[str]] = {}
    places: list[Replicate | Left] = [*plan.replicates, *ledger.left]
    for place in places:
        for name, level in {**place.levels, "seed": str(place.seed)}.items():
            known.setdefault(name, set()).add(level)
    wanted = _levels(asked)
    for name, level in wanted.items():
        if name not in known:
            return f"unknown factor {name!r}{did_you_mean(name, known)}"
        if find_level(level, known[name]) is None:
            return f"factor {name!r} has no level {level!r}{did_you_mean(level, known[name])}"
    if wanted:
        return "no cell has all these levels; name fewer of them"
    near = did_you_mean(asked, known) if asked.strip() else ""
    return f"no id begins so; name levels, such as {plan.cells[0].name!r}, or 4 characters or more of an id{near}"


def _line(row: Replicate, entry: Entry) -> str:
    reason = f": {entry.reason}" if entry.reason else ""
    word = "new" if entry == Entry(State.MISSING) else entry.state
    where = f"(replicate {row.id}, trial {row.trial})"
    return f"{entry.state.mark} {row.cell} seed={row.seed} {where}  {word}{reason}"


def _is_meant(asked: str, levels: Mapping[str, str], seed: int, ids: Iterable[str], *, whole: bool = True) -> bool:
    """Return whether levels or a beginning of an id are meant; a trial's folder does not know all factors (whole)."""
    wanted, named = _levels(asked), {**levels, "seed": str(seed)}
    if not wanted:
        return len(asked.strip()) >= 4 and any(name.startswith(asked.strip()) for name in ids)
    shared = wanted.keys() & named.keys()
    known = shared == wanted.keys() if whole else bool(shared)
    return known and all(find_level(wanted[name], [named[name]]) for name in shared)


def _levels(asked: str) -> dict[str, str]:
    return {name: level for name, equals, level in pairs(asked) if equals}
