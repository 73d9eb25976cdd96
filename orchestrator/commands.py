"""The commands ``sagasr-sweep`` and ``sagasr-report``. What is heavy is imported when it is needed."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sagasr import cli
from sagasr.cli import DONE, INTERRUPTED, SOME_FAILED
from sagasr.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.plan import Plan

EXAMPLES = """\
examples:
  sagasr-sweep demo.yaml                        run the demo: minutes on two CPU cores
  sagasr-sweep my.yaml --plan                   what would run, and what it would cost
  sagasr-sweep my.yaml --why 'text=caption seed=0'    done, new, stale (which field changed), failed or gone
  sagasr-sweep my.yaml --only 'text=caption,lfr=hard' --seeds 0,1
  sagasr-sweep my.yaml --set training.steps=2000 --address auto

The same command again resumes: what is finished is kept, the rest goes on from its last checkpoint.
exit codes: 0 all there, 1 some replicates failed, 2 bad input (nothing started), 130 interrupted (resumable)
"""


def sweep(arguments: Sequence[str] | None = None) -> int:
    """Run ``sagasr-sweep`` and return its exit code."""
    options = _parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to end is an interruption too
    return cli.run(lambda: _sweep(options))


def report(arguments: Sequence[str] | None = None) -> int:
    """Run ``sagasr-report`` and return its exit code."""
    from orchestrator.report.command import main

    return int(main(arguments) or 0)


def _sweep(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    from orchestrator import space as spaces
    from orchestrator.ledger import refused, scan
    from orchestrator.mirror import fetch
    from orchestrator.overview import show_cost, show_plan, show_summary
    from orchestrator.plan import Options, make_plan
    from orchestrator.preflight import check_disk, costs_of, preflight, total
    from orchestrator.redact import redact_tree
    from orchestrator.why import explain

    settings = cli.parse_settings(options.set)
    if options.tracking_uri:
        settings["tracking.uri"] = options.tracking_uri
    grid = spaces.find_grid(options.grid)
    space = spaces.read_space(grid, settings=settings, seeds=options.seeds, storage=options.storage)
    plan = make_plan(space, spaces.parse_only(options.only, space.factors))
    fetch(plan.uri, plan.folder)
    ledger = scan(plan)
    if options.why:
        for line in explain(plan, ledger, options.why):
            print(line)
        return DONE
    shapes = preflight(plan.cells, str(grid))
    costs = costs_of(plan.trials, shapes)
    console = Console(quiet=options.quiet, highlight=False)
    if options.json:
        print(json.dumps(redact_tree(plan.tree, keys=False), indent=2, allow_nan=False))
        return DONE
    if options.plan:
        show_plan(plan, ledger, shapes, costs, console)
        for kind, changes in refused(plan, ledger).items():
            console.print(escape(f"needs --allow {kind}: {'; '.join(changes[:3])}"), soft_wrap=True)
        return DONE
    plan = _check_changes(plan, refused(plan, ledger), options.allow)
    show_summary(plan, ledger, console)
    show_cost(plan, ledger, costs, console)
    waiting = [trial for trial in plan.selected if not ledger.finished(trial)]
    check_disk(plan.folder, waiting, shapes)
    todo = total(costs[trial.id] for trial in waiting)
    _check_budget(space.budget.max_gpu_hours if space.budget else None, todo.gpu_hours, options.yes)

    from orchestrator.execute import run
    from orchestrator.promotion import write_estimate

    write_estimate(plan.folder, costs)
    outcome = run(plan, Options(options.address, options.max_concurrent, options.quiet))
    _answer(plan, console)
    if outcome.interrupted:
        return INTERRUPTED
    return SOME_FAILED if outcome.failed else DONE


def _answer(plan: "Plan", console: "Console") -> None:
    """Print the results tables, and once, at the end, where everything is."""
    from orchestrator.mirror import send_results
    from orchestrator.published import publish, to_compare
    from orchestrator.redact import redact
    from orchestrator.report.command import report
    from orchestrator.report.page import write_page
    from orchestrator.report.terminal import best_cell, paper_cell, print_report

    if not (plan.paths.results / "replicates.parquet").exists():
        return
    answer = report(plan.folder)
    print_report(answer.sweep, answer.effects, console, answer.notes, answer.preferences)
    page = write_page(answer.sweep, answer.effects, answer.notes, plan.folder, preferences=answer.preferences)
    best = best_cell(answer.sweep) if len(answer.sweep.runs) else {}
    cells = [plan.space.baseline, best, paper_cell(answer.sweep), *(step.levels for step in plan.space.ladder)]
    links = publish(plan, page, answer.effects, to_compare(answer.sweep.runs, [one for one in cells if one]))
    send_results(plan.uri, plan.folder)
    console.print(f"\nreport: {page}", soft_wrap=True)
    console.print(f"tables: {plan.paths.results}", soft_wrap=True)
    console.print(f"listen: {plan.folder / 'audio'}", soft_wrap=True)
    if not plan.tracking_uri.startswith(("http://", "https://")):
        console.print(f"curves: mlflow ui --backend-store-uri {redact(plan.tracking_uri)}", soft_wrap=True)
    for line in links:
        console.print(line, soft_wrap=True, markup=False)


def _check_changes(plan: "Plan", changes: dict[str, list[str]], allowed: Sequence[str]) -> "Plan":
    """Return the plan, with the changes it was allowed noted. Raises DataError naming those that were not."""
    from dataclasses import replace

    refused = [
        f"{change}; undo it, or go on with --allow {kind}"
        for kind, found in changes.items()
        if kind not in allowed
        for change in found
    ]
    if refused:
        raise DataError("\n".join(refused))
    return replace(plan, allowed=tuple(change for found in changes.values() for change in found))


def _check_budget(limit: float | None, needed: float, agreed: bool) -> None:
    """Ask, or refuse, before more is spent than the grid allows. Raises ConfigError."""
    if limit is None or needed <= limit or agreed:
        return
    question = f"This may take {needed:.3g} GPU-hours; the grid's budget is {limit:g}. Go on? [y/N] "
    if not (sys.stdin.isatty() and input(question).strip().lower() in ("y", "yes")):
        raise ConfigError(
            f"budget.max_gpu_hours: about {needed:.3g} GPU-hours are needed and {limit:g} are allowed; "
            "raise it, select less with --only or --seeds, or agree with --yes"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sagasr-sweep",
        description="Which design choices really matter? Plan, run and resume an ablation sweep from one grid file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("grid", metavar="GRID", help="the grid file, or the name of one that is shipped (demo, grid, ladder)")
    add("--plan", action="store_true", help="print what would be done, its shapes, memory and cost, and stop")
    add("--why", metavar="CELL", help="say of a cell or an id why it is done, new, stale, failed or gone")
    add("--json", action="store_true", help="print plan.json and stop")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="replace a setting, e.g. training.steps=2000")
    add("--seeds", type=_seeds, metavar="0,1,2", help="run these seeds in place of the grid's")
    add(
        "--only",
        metavar="FACTOR=LEVEL",
        action="append",
        default=[],
        help="run only such cells; a comma means and, again means or",
    )
    add(
        "--storage",
        metavar="DIR",
        help="folder or URI (s3://…) for all sweeps, seen by every node (default: the grid's, else ./sweeps)",
    )
    add("--tracking-uri", metavar="URI", help="MLflow server or database (default: a sqlite file in the storage)")
    add("--address", metavar="ADDRESS", help="Ray cluster to join, e.g. auto (default: start a local one)")
    add("--max-concurrent", type=_positive, metavar="N", help="most trainings at once (default: as many as fit)")
    add(
        "--allow",
        action="append",
        default=[],
        choices=("data", "code", "versions"),
        help="go on although recordings, the code of results or libraries changed (kept in plan.json)",
    )
    add("--yes", action="store_true", help="go on without asking, whatever the budget")
    add("--quiet", action="store_true", help="print errors only")
    return parser


def _seeds(text: str) -> list[int]:
    try:
        return [_whole(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 0,1,2 (found {text!r})") from error


def _positive(text: str) -> int:
    try:
        number = _whole(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1 (found {text!r})")
    return number


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(text)
    return int(text)
