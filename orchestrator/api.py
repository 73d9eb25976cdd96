"""A sweep in Python: defined, planned, run, resumed and analysed. The commands are this, and nothing beside it.

Loads neither torch nor ray before they are needed.
"""

import base64
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape

from orchestrator.grid.factors import parse_only
from orchestrator.grid.read import find_grid, parse_space, read_space
from orchestrator.grid.space import SearchSpace
from orchestrator.plan.capacity import Gpu
from orchestrator.plan.cost import Cost, costs_of, total
from orchestrator.plan.gpu_memory import check_memory, planned_gpu
from orchestrator.plan.ledger import Ledger, lost, refused, scan
from orchestrator.plan.plan import Options, Plan, make_plan, tracking_uri
from orchestrator.plan.preflight import check_tracking, preflight, ready
from orchestrator.plan.show import explain, show_cost, show_plan, show_summary
from orchestrator.storage.folder import SweepFolder
from sagasr.io.errors import ConfigError, DataError
from sagasr.model.counts import Counts

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from orchestrator.report.report import Report
    from orchestrator.run.sweep import Outcome

Change = Literal["data", "code", "versions"]
WRITTEN_HERE = Path("grid")  # stands for the file of a grid that was given as keys, in this folder


@dataclass(frozen=True, repr=False)
class Planned:
    """What a sweep will do, what of it is done, and by cell and trial what it will take. Shows itself in a notebook."""

    plan: Plan
    ledger: Ledger
    shapes: Mapping[str, Counts]
    costs: Mapping[str, Cost]
    on_cluster: bool = False  # not on this machine's GPUs

    @property
    def tree(self) -> dict[str, Any]:
        """The content of plan.json."""
        return self.plan.tree

    @property
    def refused(self) -> dict[str, list[str]]:
        """The changes since the last run that ``run`` goes on with only when it is allowed to, by kind."""
        return refused(self.plan, self.ledger)

    @property
    def cells(self) -> "pd.DataFrame":
        """One row per cell and seed: a column per factor, ``seed``, ``trial``, ``state`` and its ``reason``."""
        import pandas as pd

        states = self.ledger.entries
        return pd.DataFrame(
            {**row.levels, "seed": row.seed, "trial": row.trial}
            | {"state": states[row.id].state, "reason": states[row.id].reason}
            for row in self.plan.replicates
        )

    def show(self, console: Console) -> None:
        """Print what ``sagasr-sweep --plan`` prints."""
        show_plan(self.plan, self.ledger, self.shapes, self.costs, console, self._gpu)
        for kind, changes in self.refused.items():
            console.print(escape(f"needs --allow {kind}: {'; '.join(changes[:3])}"), soft_wrap=True)

    @property
    def _gpu(self) -> Gpu | None:
        return planned_gpu(self.ledger.ahead(self.plan.selected), self.on_cluster)

    def check_memory(self) -> None:
        """Raise ConfigError for cells that do not fit a GPU of this machine, or of the cluster file in this folder."""
        check_memory(self.plan, self.ledger.ahead(self.plan.selected), self.shapes, self._gpu)

    def check_tracking(self) -> None:
        """Raise ConfigError for a tracking URI that somebody named and nothing can be behind; no server is asked."""
        if self.plan.tracking_named:
            check_tracking(self.plan.tracking_uri, self.plan.folder.parent, self.plan.tracking_named)

    def allowing(self, kinds: Iterable[str]) -> Plan:
        """Return the plan, with the changes it was allowed noted. Raises DataError naming those that were not."""
        changes = [(kind, change) for kind, lines in self.refused.items() for change in lines]
        faults = [f"{change}; undo it, or go on with --allow {kind}" for kind, change in changes if kind not in kinds]
        if faults:
            raise DataError("\n".join(faults))
        return replace(self.plan, allowed=tuple(f"{kind}: {change}" for kind, change in changes))

    def __repr__(self) -> str:
        return f"<Planned {self.plan.name}: {len(self.plan.cells)} cells, {len(self.plan.trials)} trainings>"

    def _repr_html_(self) -> str:
        return _html(self.show)


@dataclass(frozen=True, repr=False)
class Answer:
    """What a sweep has found so far. Shows its tables and its forest plot in a notebook."""

    report: "Report"
    page: Path

    @property
    def effects(self) -> "pd.DataFrame":
        """The columns of results/effects.parquet: every contrast with its intervals and verdict."""
        return self.report.effects

    def show(self, console: Console) -> None:
        """Print the tables that end a sweep."""
        from orchestrator.report.terminal import print_report

        print_report(self.report, console)

    def forest(self) -> "Figure":
        """Return the forest plot: each factor's effect on the metric that decides, with its 95 % intervals."""
        from orchestrator.report.forest import figure

        return figure(self.report)

    def __repr__(self) -> str:
        return f"<Answer {self.report.sweep.name}: {len(self.report.effects)} contrasts, {self.page}>"

    def _repr_html_(self) -> str:
        picture = io.BytesIO()
        self.forest().savefig(picture, format="png", dpi=110)
        return f'{_html(self.show)}<img src="data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}">'


class Sweep:
    """One sweep: a grid with its folder of results.

    ``grid`` is a grid file, the name of a shipped one, or its keys as a mapping; ``keys`` replace or make up its keys
    (``Sweep(name="mine", base="tiny.yaml", data={...}, factors={...})``). ``settings`` are dotted paths of the
    configuration (``{"training.steps": 200}``), ``only`` conditions such as ``"text=caption,rolloff=on"``. Paths are
    relative to the file, or to the working folder where there is none. Raises SagasrError naming every fault.
    """

    def __init__(
        self,
        grid: "str | Path | Mapping[str, Any] | None" = None,
        /,
        *,
        settings: Mapping[str, Any] | None = None,
        only: str | Sequence[str] = (),
        **keys: Any,
    ) -> None:
        if settings is not None and not isinstance(settings, Mapping):
            expected = "dotted paths with values, {'training.steps': 200}"
            raise ConfigError(f"settings: expected {expected} (found {settings!r})")
        keys, settings = _plain(keys), _plain(settings)
        if grid is None or isinstance(grid, Mapping):
            self.space: SearchSpace = parse_space({**_plain(grid or {}), **keys}, WRITTEN_HERE, settings=settings)
        else:
            self.space = read_space(find_grid(str(grid)), settings=settings, **keys)
        self._only = parse_only([only] if isinstance(only, str) else only, self.space.factors)
        self._storage = SweepFolder.of(self.space.grid.storage, self.space.grid.name)

    @property
    def folder(self) -> Path:
        """Where everything of the sweep lies."""
        return self._storage.path

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps its runs."""
        return tracking_uri(self.space, self._storage)

    @cached_property
    def _fetched(self) -> SweepFolder:
        """The folder, brought up to date when it is first needed."""
        self._storage.fetch()
        return self._storage

    @cached_property
    def _resolved(self) -> Plan:
        """The plan, made when it is first needed: that reads every recording."""
        plan = make_plan(self.space, self._only)
        return replace(plan, storage=self._fetched)

    def plan(self, *, calibrate: bool = False, address: str | None = None) -> Planned:
        """Return what would run and what it would cost; nothing is written. With ``address``, on a cluster.

        To ``calibrate``, a few steps of each kind of training run on this machine first; the storage remembers them.
        """
        from orchestrator.cluster import cluster_of

        return replace(self._planned(build=False, calibrating=calibrate), on_cluster=cluster_of(address) is not None)

    def _planned(self, *, build: bool, calibrating: bool) -> Planned:
        plan = self._resolved
        ledger = scan(plan)
        todo = ledger.ahead(plan.selected)
        if build and not todo:  # nothing will run: no shape is needed, nor the time that torch takes
            return Planned(plan, ledger, {}, {})
        cells = {row.cell for trial in todo for row in trial.replicates}
        shapes = preflight(plan.cells, str(self.space.source), build=cells if build else ())
        if calibrating:
            from orchestrator.run.calibrate import calibrate

            calibrate(plan, ledger.ahead(plan.selected, held=False))
        return Planned(plan, ledger, shapes, costs_of(plan, shapes, ledger))

    def why(self, cell: str) -> list[str]:
        """Return a line on each replicate of a cell or an id: done, new, stale (what changed), failed or gone."""
        return explain(self._resolved, scan(self._resolved), cell)

    def run(
        self,
        *,
        address: str | None = None,
        max_concurrent: int | None = None,
        allow: Iterable[Change] = (),
        quiet: bool = False,
        agreed: bool = False,
        calibrate: bool = False,
        console: Console | None = None,
    ) -> "Outcome":
        """Run what is missing and return how it ended. Once more goes on where an interruption or a failure left off.

        ``allow`` goes on although recordings, the code of results or libraries changed; ``agreed`` spends more than the
        grid's budget; ``calibrate`` as for ``plan``. Raises SagasrError, before anything of the sweep is written or
        started, for what cannot be meant.
        """
        from orchestrator.cluster import ADDRESS, check_joinable, cluster_of
        from orchestrator.run.sweep import run
        from orchestrator.tracking.client import check_server

        console = console or Console(quiet=quiet, highlight=False, emoji=False)
        if not address and (address := cluster_of(address)):
            console.print(f"Ray cluster: {address} ({ADDRESS})", soft_wrap=True, markup=False)
        address = cluster_of(address)
        planned = self._planned(build=True, calibrating=calibrate)
        plan, options = planned.allowing(allow), Options(address, max_concurrent, console.quiet)
        show_summary(plan, planned.ledger, console)
        show_cost(plan, planned.ledger, planned.costs, console, options)
        waiting = planned.ledger.ahead(plan.selected, held=False)
        held = [trial for trial in plan.selected if planned.ledger.held(trial) and not plan.is_narrowed]
        ready(plan, waiting, planned.shapes, options, held)
        _check_budget(self.space, total(planned.costs[trial.id] for trial in waiting).gpu_hours, agreed)
        if address and waiting:
            check_joinable(address)
        if waiting and (warning := check_server(plan)):
            console.print(warning, soft_wrap=True, markup=False)
        return run(plan, options, planned.costs, planned.shapes)

    def analyse(self) -> Answer:
        """Judge what is there, write results/effects.parquet and the page, and return the answer."""
        from orchestrator.report.analyse import analyse
        from orchestrator.report.forest import write_figure
        from orchestrator.report.page import write_page

        folder = self._fetched.path
        report = analyse(folder)
        page = write_page(report, folder)
        write_figure(report, folder)
        return Answer(report, page)

    def publish(self, answer: Answer, register: str = "") -> list[str]:
        """Send the answer to the tracking server and the storage; return a line with each place to see it.

        The models of the baseline and of the best cell go with it; ``register`` names the best in MLflow's registry.
        """
        from orchestrator.analysis.cells import best_cell, paper_cell
        from orchestrator.tracking.publish import publish, to_compare

        sweep = answer.report.sweep
        cells = [self.space.baseline, best_cell(sweep), paper_cell(sweep), *(step.levels for step in self.space.ladder)]
        runs = to_compare(sweep.runs, list(filter(None, cells)))
        named = {"baseline": cells[0], "best": cells[1]}
        roles = {role: rows[0] for role, cell in named.items() if cell and (rows := to_compare(sweep.runs, [cell]))}
        plan = self._resolved
        for trial in plan.trials:
            if any(row.id in roles.values() for row in trial.replicates):
                self._storage.fetch_checkpoint(trial.id)
        links = publish(plan, answer.page, answer.effects, runs, roles, register)
        try:
            self._storage.publish_results(lost)
        except DataError as error:
            links.append(f"not sent: {error}")
        return links

    @property
    def effects(self) -> "pd.DataFrame":
        """Every contrast with its estimate, intervals and verdict, judged now."""
        return self.analyse().effects

    @property
    def replicates(self) -> "pd.DataFrame":
        """One row per cell and seed: factors, metrics, status, cost."""
        return self._table("replicates")

    @property
    def clips(self) -> "pd.DataFrame":
        """One row per replicate and clip."""
        return self._table("clips")

    @property
    def curves(self) -> "pd.DataFrame":
        """One row per replicate, step and metric."""
        return self._table("curves")

    def _table(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        path = self._fetched.paths.table(name)
        if not path.exists():
            raise DataError(f"{path}: no such file; run the sweep first")
        return pd.read_parquet(path)


def _plain(value: Any) -> Any:
    """Return a value of Python as one of a grid file: several as a list, NumPy's numbers as numbers, others as text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (str, int, float, type(None))):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(map(_plain, value)) if isinstance(value, Sequence) else str(value)


def _check_budget(space: SearchSpace, needed: float, agreed: bool) -> None:
    """Ask, or refuse where nobody can be asked, before more is spent than the grid allows. Raises ConfigError."""
    limit = space.grid.budget.max_gpu_hours if space.grid.budget else None
    if limit is None or needed <= limit or agreed:
        return
    question = f"This may take {needed:.3g} GPU-hours; the grid's budget is {limit:g}. Go on? [y/N] "
    if not (sys.stdin.isatty() and input(question).strip().lower() in ("y", "yes")):
        raise ConfigError(
            f"budget.max_gpu_hours: about {needed:.3g} GPU-hours are needed and {limit:g} are allowed; "
            "raise it, select less with --only or --seeds, or agree with --yes"
        )


def _html(show: Any) -> str:
    console = Console(record=True, file=io.StringIO(), width=110, highlight=False, emoji=False)
    show(console)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
