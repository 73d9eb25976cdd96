"""Which evaluations of the network guidance needs at each sampling step, and their weights. Loads without torch."""

from typing import NamedTuple

from sagasr.config.settings import Conditions, Guidance


class Branch(NamedTuple):
    """One evaluation of the network per sampling step: its weight, and which conditions it sees."""

    weight: float
    low: bool
    text: bool


def guidance_branches(conditions: Conditions, guidance: Guidance) -> tuple[Branch, ...]:
    """Return the network evaluations that guidance needs: equal ones merged, those without weight left out.

    Those of u(0, 0), u(z, 0) and u(z, c) weigh 1 - s_a, s_a - s_t and s_t. A null that was never trained is replaced by
    the condition itself, in every branch.
    """
    low_null, text_null = conditions.low.dropout > 0, conditions.cross_dropout > 0
    audio, text = guidance.audio if low_null else 1.0, guidance.text if text_null else 1.0
    weights: dict[tuple[bool, bool], float] = {}
    for weight, sees_low, sees_text in ((1 - audio, False, False), (audio - text, True, False), (text, True, True)):
        seen = (sees_low or not low_null, sees_text or not text_null)
        weights[seen] = weights.get(seen, 0.0) + weight
    return tuple(Branch(weight, *seen) for seen, weight in weights.items() if weight)
