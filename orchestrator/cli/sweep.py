"""``sagasr-sweep``. What is heavy is imported when it is needed."""

import argparse
import json
import re
import shlex
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sagasr.cli import common as cli
from sagasr.cli.common import DONE, INTERRUPTED, SOME_FAILED

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.api import Sweep

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
    options = _parser().parse(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM interrupts like Ctrl-C
    return cli.run(lambda: _sweep(options))


def _sweep(options: argparse.Namespace) -> int:
    from rich.console import Console

    from orchestrator.api import Sweep
    from orchestrator.sweep_folder.redact import redact_tree

    settings = cli.parse_settings(options.set)
    if options.tracking_uri:
        settings["tracking.uri"] = options.tracking_uri
    keys = {key: value for key in ("seeds", "storage") if (value := getattr(options, key)) is not None}
    sweep = Sweep(options.grid, settings=settings, only=options.only, **keys)
    console = Console(quiet=options.quiet, highlight=False, emoji=False)
    if options.why is not None:
        for line in sweep.why(options.why):
            print(line)
        return DONE
    if options.json or options.plan:
        planned = sweep.plan(calibrate=options.calibrate and not options.json, address=options.address)
        if options.json:
            print(json.dumps(redact_tree(planned.tree, keys=False), indent=2, allow_nan=False))
        else:
            planned.show(console)
        planned.check_tracking()
        planned.check_memory()
        return DONE
    outcome = sweep.run(
        address=options.address,
        max_concurrent=options.max_concurrent,
        allow=options.allow,
        agreed=options.yes,
        calibrate=options.calibrate,
        console=console,
    )
    print_answer(sweep, console, options.register or "")
    return INTERRUPTED if outcome.interrupted else SOME_FAILED if outcome.failed else DONE


def print_answer(sweep: "Sweep", console: "Console", register: str = "") -> None:
    """Print the results tables, and once, at the end, where everything is; ``register`` the best cell's model."""
    from orchestrator.analysis.cells import best_trial
    from orchestrator.sweep_folder.redact import redact

    if not (sweep.folder / "results" / "replicates.parquet").exists():
        return
    answer = sweep.analyse()
    answer.show(console)
    links = sweep.publish(answer, register)
    lines = [f"\nreport: {answer.page}", f"tables: {sweep.folder / 'results'}", f"listen: {sweep.folder / 'audio'}"]
    if trial := best_trial(answer.report.sweep):
        command = shlex.join(["sagasr-upsample", "IN", "OUT", "--checkpoint", str(sweep.folder / "trials" / trial)])
        lines.append(f"best model: {command}")
    if not sweep.tracking_uri.startswith(("http://", "https://")):
        command = shlex.join(["mlflow", "ui", "--backend-store-uri", redact(sweep.tracking_uri)])
        lines.append(f"curves: {command}")
    for line in (*lines, *links):
        console.print(line, soft_wrap=True, markup=False)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "sagasr-sweep",
        "Which design choices really matter? Plan, run and resume an ablation sweep from one grid file.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("grid", metavar="GRID", help="the grid file, or the name of one that is shipped (demo, grid, ladder)")
    add("--plan", action="store_true", help="print what would be done, its shapes, memory and cost, and stop")
    calibrate = "time a few steps of each kind of training on this machine first, so that the cost is measured"
    add("--calibrate", action="store_true", help=calibrate)
    add("--why", metavar="CELL", help="say of a cell or an id why it is done, new, stale, failed or gone")
    add("--json", action="store_true", help="print plan.json and stop")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="replace a setting, e.g. training.steps=2000")
    add("--seeds", type=_seeds, metavar="0,1,2", help="run these seeds in place of the grid's")
    only = "run only such cells; a comma means and, again means or"
    add("--only", metavar="FACTOR=LEVEL", action="append", default=[], help=only)
    storage = "folder or URI (s3://…) of all sweeps, seen by every node (default: the grid's, SAGASR_STORAGE, ./sweeps)"
    add("--storage", metavar="DIR", help=storage)
    add("--tracking-uri", metavar="URI", help="MLflow server or database (default: a sqlite file in the storage)")
    add("--register", type=_name, metavar="NAME", help="register the best cell's model in MLflow as NAME")
    add("--address", metavar="ADDRESS", help="Ray cluster to join, e.g. auto; local: none (default: RAY_ADDRESS)")
    add("--max-concurrent", type=cli.positive, metavar="N", help="most trainings at once (default: as many as fit)")
    allow = "go on although recordings, the code of results or libraries changed (kept in plan.json)"
    add("--allow", action="append", default=[], **cli.one_of("data", "code", "versions"), help=allow)
    add("--yes", action="store_true", help="go on without asking, whatever the budget")
    add("--quiet", action="store_true", help="print errors only")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w. -]+", text):
        raise argparse.ArgumentTypeError(f"expected letters, digits, blanks and any of . _ - (found {text!r})")
    return text


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 0,1,2 (found {text!r})")
    return list(map(int, parts))
