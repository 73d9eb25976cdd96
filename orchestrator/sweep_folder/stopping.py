"""What may stop early, in the words of plan, progress and report. Takes ``early_stopping`` as plan.json holds it."""

from collections.abc import Mapping
from typing import Any

from orchestrator.sweep_folder.json_files import MIN_SEEDS

STOPPED = {
    "blocks": "seeds, once every factor is decided",
    "asha": "trials that are behind the others",
    "plateau": "trials that no longer improve",
}
SEARCHES = ("asha", "plateau")  # they stop trials on their values, so those that finish are not a fair sample
FAILURE_RULE = "failure rule: behind its own input, stalled or not finite, a training fails"


def is_search(stopping: Mapping[str, Any]) -> bool:
    """Return whether the policy picks a cell and compares nothing."""
    return stopping.get("policy") in SEARCHES


def search_label(stopping: Mapping[str, Any]) -> str:
    """Return what to know of the results of a search; nothing of other policies."""
    label = f"Search mode ({stopping.get('policy')}): made to pick a cell, not to compare factors."
    return label if is_search(stopping) else ""


def may_stop(stopping: Mapping[str, Any], seeds: int, *, whole: bool = True) -> list[str]:
    """Return what may stop with so many seeds, and the rule that always holds, a line each.

    ``whole``: no cell is left out, so that blocks can be complete.
    """
    policy = stopping.get("policy")
    if policy == "blocks" and not whole:
        first = "early stopping: none with --only, as no block is complete"
    elif policy == "blocks" and seeds <= MIN_SEEDS:
        first = f"early stopping: nothing to stop with {seeds} seed{'s' * (seeds != 1)}"
    else:
        first = f"early stopping ({policy}): {STOPPED[policy]}" if policy in STOPPED else "early stopping: none"
    return [first, FAILURE_RULE] if policy else []
