"""Which evaluations of the network guidance needs at each sampling step, and their weights. Loads without torch."""

from typing import NamedTuple

from sagasr.config.settings import Conditions, Guidance


class Branch(NamedTuple):
    """One evaluation of the network per sampling step: its weight, and which conditions it sees."""

    weight: float
    low: bool
    text: bool


def guidance_weights(audio: float, text: float) -> tuple[float, float, float]:
    """Return the weights of u(0, 0), u(z, 0) and u(z, c) in the guided velocity; they sum to 1."""
    return 1 - audio, audio - text, text


def guidance_branches(conditions: Conditions, guidance: Guidance) -> tuple[Branch, ...]:
    """Return the network evaluations that guidance needs: equal ones merged, those without weight left out.

    A null that was never trained is replaced by the condition itself, in every branch.
    """
    low_null, text_null = _trained_nulls(conditions)
    effective = _effective(conditions, guidance)
    null, low, full = guidance_weights(effective.audio, effective.text)
    weights: dict[tuple[bool, bool], float] = {}
    for weight, sees_low, sees_text in ((null, False, False), (low, True, False), (full, True, True)):
        seen = (sees_low or not low_null, sees_text or not text_null)
        weights[seen] = weights.get(seen, 0.0) + weight
    return tuple(Branch(weight, *seen) for seen, weight in weights.items() if weight)


def _trained_nulls(conditions: Conditions) -> tuple[bool, bool]:
    """Return whether training shows the model null low latents, and null text."""
    return conditions.low.dropout > 0, conditions.cross_dropout > 0


def _effective(conditions: Conditions, guidance: Guidance) -> Guidance:
    low_null, text_null = _trained_nulls(conditions)
    return Guidance(audio=guidance.audio if low_null else 1.0, text=guidance.text if text_null else 1.0)
