"""In which order trials run, and where the results so far are looked at: what they say decides what runs next."""

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from orchestrator.plan.ledger import Ledger, scan, with_spared
from orchestrator.plan.plan import Plan, Trial
from orchestrator.plan.promotion import first_stage, promoted
from orchestrator.run.results import collect
from orchestrator.sweep_folder.json_files import blocks
from sagasr.io.fingerprint import seed_of


class Schedule:
    """Hands out the trials of a sweep one by one.

    By ``blocks``: the first two seeds, then seed by seed, until a look decides. A look is taken as soon as the last
    training of its block has ended; where there is room before that, the next block begins. What a look has made
    unnecessary is not begun, and what has begun of it is to be ended: it has no part in the decision. With cells left
    out by ``--only`` no block can be complete, so no look is taken. A search by ``asha`` judges a trial by those before
    it, so the order is drawn, from a seed that the plan decides. What ``promote`` holds back comes last, if at all.
    """

    def __init__(
        self, plan: Plan, waiting: Sequence[Trial], settle: Callable[[Sequence[Trial]], object] = lambda trials: None
    ) -> None:
        """``settle`` is called before a look, with the trials that have ended: each then has its final status."""
        policy = plan.space.grid.early_stopping.policy
        first = first_stage(plan, waiting)
        self._plan, self._waiting = plan, waiting
        self._looks = policy == "blocks" and not plan.is_narrowed
        self._promotes = bool(plan.space.promote) and not plan.is_narrowed
        self._ahead = deque(_shuffled(plan, first) if policy == "asha" else first)
        self._running: dict[str, Trial] = {}
        self._ended: list[Trial] = []
        self._settle = settle
        self._open = [frozenset(seeds) for seeds in blocks(plan.seeds)] if self._looks else []
        self._advance()

    @property
    def over(self) -> bool:
        """Whether nothing runs, and nothing is left."""
        return not self._ahead and not self._running

    def take(self) -> Trial | None:
        """Return the trial to run next; None where there is none, for now or at all (``over``)."""
        if not self._ahead:
            return None
        trial = self._ahead.popleft()
        self._running[trial.id] = trial
        return trial

    def end(self, trial: str) -> list[Trial]:
        """Note that a trial has ended; return those that run and are not needed any more."""
        self._ended.append(self._running.pop(trial))
        return self._advance()

    def _advance(self) -> list[Trial]:
        """Take the looks that are due, and promote; return the running trials that are not needed any more."""
        unneeded: list[Trial] = []
        due = False
        while self._open and not any(trial.seed in self._open[0] for trial in (*self._ahead, *self._running.values())):
            del self._open[0]
            due = True
        if due and (self._ahead or self._running):
            self._settle(self._ended)
            self._ended = []
            ledger = bring_up_to_date(self._plan)
            self._ahead = deque(trial for trial in self._ahead if not ledger.finished(trial))
            unneeded = [trial for trial in self._running.values() if ledger.finished(trial)]
        if self.over and self._promotes:
            self._promotes, self._open = False, []
            self._settle(self._ended)
            bring_up_to_date(self._plan)
            self._ahead = deque(promoted(self._plan, self._waiting))
        return unneeded


def bring_up_to_date(plan: Plan, run_ids: Mapping[str, str] | None = None) -> Ledger:
    """Write the results tables of what the trial folders hold now, and take the looks that are due by ``blocks``.

    Returns where each replicate stands after the looks. ``run_ids``: the MLflow run by replicate.
    """
    ledger = scan(plan)
    collect(plan, ledger, run_ids)
    if plan.space.grid.early_stopping.policy != "blocks":
        return ledger
    from orchestrator.analysis.interim import take_looks

    take_looks(plan.folder)
    after = with_spared(plan, ledger)
    if after != ledger:  # the tables say which replicates are not needed
        collect(plan, after, run_ids)
    return after


def _shuffled(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    order = list(trials)
    random.Random(seed_of("order", plan.hash)).shuffle(order)
    return order
