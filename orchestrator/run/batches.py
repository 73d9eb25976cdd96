"""In which order trials run, and where the results so far are looked at: what they say decides what runs next."""

import random
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.plan.ledger import Ledger, scan, with_spared
from orchestrator.plan.plan import Plan, Trial
from orchestrator.plan.promotion import first_stage, promoted
from orchestrator.run.results import collect
from orchestrator.sweep_folder.json_files import blocks
from sagasr.io.fingerprint import seed_of


def schedule(plan: Plan, waiting: Sequence[Trial]) -> Iterator[list[Trial]]:
    """Yield the trials in batches; one batch ends before the next begins, so that a look at the results fits between.

    By ``blocks``: the first two seeds, then seed by seed, until a look decides. With cells left out by ``--only`` no
    block can be complete, so no look is taken. A search by ``asha`` judges a trial by those before it, so the order is
    drawn, from a seed that the plan decides. Trials that ``promote`` holds back come last, if they are to run.
    """
    first = first_stage(plan, waiting)
    if plan.space.grid.early_stopping.policy == "blocks" and not plan.is_narrowed:
        yield from _block_by_block(plan, first)
    elif first:
        yield _shuffled(plan, first) if plan.space.grid.early_stopping.policy == "asha" else first
    if plan.space.promote and not plan.is_narrowed:
        bring_up_to_date(plan)
        if batch := promoted(plan, waiting):
            yield batch


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


def _block_by_block(plan: Plan, trials: Sequence[Trial]) -> Iterator[list[Trial]]:
    for seeds in blocks(plan.seeds):
        block = [trial for trial in trials if trial.seed in seeds]
        if block:
            ledger = bring_up_to_date(plan)
            needed = [trial for trial in block if not ledger.finished(trial)]
            if not needed:
                return
            yield needed


def _shuffled(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    order = list(trials)
    random.Random(seed_of("order", plan.hash)).shuffle(order)
    return order
