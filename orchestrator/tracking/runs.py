"""The runs of one sweep on an MLflow server: one parent run, one run per replicate, found again by their tags."""

import contextlib
import logging
import platform
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from getpass import getuser
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import Plan, Replicate, Trial
from orchestrator.sweep_folder.redact import plain
from orchestrator.tracking.client import connect, find_experiment, search_runs
from orchestrator.tracking.describe import NAME_LENGTH, TAG_LENGTH, About, Descriptions, of_sweep, source_tags, texts
from orchestrator.tracking.points import Offsets, Point, milliseconds
from sagasr.io.fingerprint import short
from sagasr.io.machine import cpus_here

logger = logging.getLogger(__name__)


class SweepRuns:
    """A connection to the server, for one sweep. Raises whatever the client raises.

    A server can create a run although its answer is lost. Of two runs of one replicate one is deleted.
    """

    def __init__(self, plan: Plan, offsets: Offsets, tags: Mapping[str, str]) -> None:
        self.plan, self.offsets, self.tags = plan, offsets, tags
        self.client = connect(plan.tracking_uri)
        self.experiment = find_experiment(self.client, plan)
        self.descriptions = Descriptions(plan)
        self._runs: dict[str, Any] = {}  # by replicate
        runs_of = defaultdict(list)
        for run in search_runs(self.client, self.experiment, "replicate"):
            runs_of[run.data.tags["sagasr.replicate"]].append(run)
        for replicate, runs in runs_of.items():
            entry = offsets.of(replicate)
            run = self._only(runs, entry.get("run"))
            self._runs[replicate] = run
            sent = {name: value for name, (_, value) in entry.get("sent", {}).items()}
            if entry.get("run") != run.info.run_id or sent != run.data.metrics:  # the server has something else
                offsets.set(replicate, {"run": run.info.run_id})
        parent = self._find_parent()
        self.parent = str(parent.info.run_id)
        self._plan_sent = parent.data.tags.get("sagasr.plan", "")

    def of(self, trial: Trial, row: Replicate, about: About, started: float) -> str:
        """Return the run of a replicate, found or created. A new run names the deleted one that it replaces.

        A run whose params name levels as they are no longer called is replaced too: MLflow never changes a param.
        """
        if row.id in self._runs and about.is_renamed(self._runs[row.id]):
            self.client.delete_run(self._runs.pop(row.id).info.run_id)
        if row.id not in self._runs:
            before = self.offsets.of(row.id).get("run")
            tags = {
                "sagasr.replicate": row.id,
                "sagasr.trial": trial.id,
                "sagasr.variant": row.variant,
                "sagasr.fingerprint": row.fingerprint,
                "sagasr.fingerprint.trial": trial.fingerprint,
                "sagasr.fingerprint.data": trial.data,
                "mlflow.parentRunId": self.parent,
                **about.tags,
                **({"sagasr.replaces": before} if before else {}),
            }
            run = self._create("replicate", about.name, tags, start_time=milliseconds(started))
            self._runs[row.id] = run
            self.offsets.set(row.id, {"run": run.info.run_id, "sent": {}})
        return str(self._runs[row.id].info.run_id)

    def params(self, row: Replicate, about: About) -> dict[str, str]:
        """Return the params to send: the levels always, of the other settings those that the run lacks."""
        known = self._runs[row.id].data.params
        return {name: value for name, value in about.settings.items() if name not in known} | dict(about.levels)

    def describe(self, trial: Trial, row: Replicate, about: About) -> None:
        """Bring the name of a replicate's run and its recordings up to date."""
        run = self._runs[row.id]
        if run.info.run_name != about.name:
            self.client.update_run(run.info.run_id, name=about.name)
        self.client.log_inputs(run.info.run_id, self.descriptions.inputs(trial, about))

    def points(self, run: str) -> list[Point]:
        """Return every point that the server has of a run: one request per curve."""
        return [
            Point(name, point.value, point.timestamp, point.step)
            for name in self.client.get_run(run).data.metrics
            for point in self.client.get_metric_history(run, name)
        ]

    def send_plan(self) -> None:
        """Send the grid and the plan where the parent run lacks them."""
        known = short(self.plan.hash)
        if self._plan_sent != known:
            self.client.log_artifact(self.parent, str(self.plan.paths.grid))
            self.client.log_artifact(self.parent, str(self.plan.paths.plan))
            self.client.set_tag(self.parent, "sagasr.plan", known)
            self._plan_sent = known

    def _find_parent(self) -> Any:
        """Return the run of the sweep, found or created: running, with the question, code and machine of today.

        Its params are those of the first command, its tags follow the grid.
        """
        from mlflow.entities import Param

        params = of_sweep(self.plan)
        tags = {"mlflow.note.content": self.plan.question, **source_tags(self.plan)}
        tags |= {f"sagasr.{name}": value for name, value in params.items()}
        if parents := search_runs(self.client, self.experiment, "sweep"):
            parent = self._only(parents)
            for key, value in self._tags("sweep", tags).items():
                if parent.data.tags.get(key) != value:
                    self.client.set_tag(parent.info.run_id, key, value)
            self.client.update_run(parent.info.run_id, status="RUNNING")
        else:
            parent = self._create("sweep", self.plan.name, tags)
        if missing := [Param(*item) for item in params.items() if item[0] not in parent.data.params]:
            self.client.log_batch(parent.info.run_id, params=missing)
        return parent

    def _create(self, kind: str, name: str, tags: Mapping[str, str], **settings: Any) -> Any:
        tags = self._tags(kind, tags)
        return self.client.create_run(self.experiment, tags=tags, run_name=plain(name, NAME_LENGTH), **settings)

    def _tags(self, kind: str, tags: Mapping[str, str]) -> dict[str, str]:
        tags = {"sagasr.kind": kind, "sagasr.sweep": self.plan.name, **tags, **self.tags}
        return texts(tags, TAG_LENGTH)

    def _only(self, runs: Sequence[Any], known: str | None = None) -> Any:
        """Return the run that was written to, or else the oldest, and delete the others."""
        chosen = next((run for run in runs if run.info.run_id == known), runs[0])
        for run in runs:
            if run is not chosen:
                self.client.delete_run(run.info.run_id)
        return chosen


def environment_tags() -> dict[str, str]:
    """Return what is recorded of the user, the machine and the code: commit, versions, hardware."""
    tags = {
        "sagasr.version": version("sagasr"),
        "sagasr.python": platform.python_version(),
        "sagasr.torch": version("torch"),
        "sagasr.hardware": f"{platform.machine()}, {cpus_here()} CPUs",
    }
    with contextlib.suppress(KeyError, OSError):  # a user without a name
        tags["mlflow.user"] = getuser()
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        tags["mlflow.source.git.commit"] = commit
    except (OSError, subprocess.SubprocessError):
        logger.debug("not a git checkout; no commit is recorded")
    return tags
