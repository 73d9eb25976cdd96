"""``sagasr-report``. What is heavy is imported when it is needed."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from sagasr.cli import common as cli
from sagasr.io.errors import ConfigError
from sagasr.io.files import check_writable


def report(arguments: Sequence[str] | None = None) -> int:
    """Run ``sagasr-report`` and return its exit code: 1 when replicates failed or lack, 2 for no sweep's folder."""
    options = _parser().parse(arguments)
    return cli.run(lambda: _report(options))


def _report(options: argparse.Namespace) -> int:
    from orchestrator.analysis.preferences import read_sheet
    from orchestrator.report.analyse import analyse
    from orchestrator.report.forest import write_figure
    from orchestrator.report.page import write_page
    from orchestrator.report.report import exit_code, summary
    from orchestrator.report.terminal import print_report

    folder = options.sweep_dir
    if folder.is_file():
        raise ConfigError(f"{folder}: a file; name the sweep's folder, such as sweeps/demo")
    for file in options.preferences:
        read_sheet(file)  # before anything is written
    for written in (folder / "results" / "effects.parquet", folder / "report" / "index.html"):
        if folder.is_dir():
            check_writable(written)
    answer = analyse(folder, options.preferences)
    if options.json:
        print(json.dumps(summary(answer), indent=2, allow_nan=False), flush=True)
    elif not options.quiet:  # the answer first: to draw the page takes as long again
        print_report(answer)
        print(flush=True)
    page = write_page(answer, folder)
    write_figure(answer, folder)
    if not options.json and not options.quiet:
        print(f"report: {page}")
    return exit_code(answer.sweep)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "sagasr-report",
        "Say which factors matter: verdicts, the ladder and failures of a finished or partial sweep.",
        "example: sagasr-report sweeps/demo",
    )
    add = parser.add_argument
    add("sweep_dir", type=Path, help="folder with plan.json and results/")
    add(
        "--preferences",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="answers of a blind listening test, saved from the page (those in SWEEP_DIR/report/ are found)",
    )
    add("--json", action="store_true", help="print the effects as JSON instead of tables")
    add("--quiet", action="store_true", help="print errors only")
    return parser
