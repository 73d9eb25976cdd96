"""One launch of a sweep: the file that its workers obey (see ``watchdog``), Ray's scratch folder, and the tasks."""

import secrets
import shutil

from orchestrator.plan.plan import Plan, Trial
from orchestrator.run.same_code import code_here
from orchestrator.run.watchdog import ask_to_halt
from orchestrator.run.worker import Task
from sagasr.io.files import write_text


class Launch:
    """Begins when it is made: from then on, what is left of an earlier launch ends itself."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.token = secrets.token_hex(8)
        self.file = plan.paths.launch
        self.scratch = plan.paths.ray
        self.remove_scratch()
        write_text(self.file, self.token)
        plan.storage.send(self.file)

    def halt(self) -> None:
        """Ask all workers of this launch to save and end."""
        ask_to_halt(self.file, self.token)
        self.plan.storage.send(self.file)

    def remove_scratch(self) -> None:
        """Delete what Ray wrote."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def task(self, trial: Trial, store: str) -> Task:
        """Return what the driver of a trial is told."""
        plan, stopping = self.plan, self.plan.space.grid.early_stopping
        return Task(
            trial=trial.id,
            uri=plan.storage.uri,
            folder=str(plan.paths.trial(trial.id)),
            scratch=str(self.scratch),
            store=store,
            sweep=str(self.file),
            launch=self.token,
            config=trial.config,
            variants={variant.id: variant.evaluation for variant in trial.variants},
            runtime=trial.resources,
            metric=stopping.metric,
            maximise=plan.space.metrics[plan.metric] == "higher",
            grace=stopping.grace,
            margin=stopping.margin,
            patience=stopping.patience,
            code=code_here(),
        )
