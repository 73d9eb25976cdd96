"""Settings that do nothing beside some others: configurations that differ only in these give equal results."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from sagasr.config.settings import T5, Config
from sagasr.config.strict import Strict

M = TypeVar("M", bound=Strict)


class Idle(NamedTuple):
    """Keys that do nothing, whatever they say, where ``holds``; ``when`` says it in words."""

    keys: tuple[str, ...]
    when: str
    holds: Callable[[Config], bool]


IDLE = (
    Idle(("evaluation.lfr_ratio",), "evaluation.lfr is off", lambda c: c.evaluation.lfr == "off"),
    Idle(
        ("conditions.rolloff_scale", "evaluation.rolloff_target", "evaluation.rolloff_fixed"),
        "conditions.rolloff is off",
        lambda c: c.conditions.rolloff == "off",
    ),
    Idle(  # prepend has a token of its own for the time, with roll-off or without
        ("conditions.rolloff_route",),
        "conditions.rolloff is off",
        lambda c: c.conditions.rolloff == "off" and c.conditions.rolloff_route != "prepend",
    ),
    Idle(
        ("evaluation.rolloff_fixed",),
        "evaluation.rolloff_target is not fixed",
        lambda c: c.evaluation.rolloff_target != "fixed",
    ),
    Idle(
        ("conditions.text.dropout",),
        "conditions.text.source is off",
        lambda c: c.conditions.text.source == "off" and not c.conditions.own,
    ),
    Idle(  # the number of its slots stays
        ("conditions.text.encoder.model",),
        "conditions.text.source is off",
        lambda c: c.conditions.text.source == "off" and isinstance(c.conditions.text.encoder, T5),
    ),
    Idle(
        ("evaluation.sampler.guidance.text",),
        "no text is ever dropped in training (conditions.text)",
        lambda c: not c.conditions.cross_dropout,
    ),
    Idle(
        ("conditions.low.empty", "evaluation.sampler.guidance.audio"),
        "conditions.low.dropout is 0",
        lambda c: not c.conditions.low.dropout,
    ),
    Idle(("model.checkpoint",), "model.init is scratch", lambda c: c.model.init == "scratch"),
    Idle(
        ("training.ema.beta", "training.ema.power"),
        "evaluation.weights is raw",
        lambda c: c.evaluation.weights == "raw",
    ),
    Idle(("training.schedule.gamma",), "training.schedule.power is 0", lambda c: not c.training.schedule.power),
)


def acting(config: Config) -> Config:
    """Return a configuration with all keys at their defaults that do nothing in it: equal ones give equal results.

    For comparison alone: a fingerprint is of what is written.
    """
    for key in [key for idle in IDLE if idle.holds(config) for key in idle.keys]:
        config = _at_default(config, key.split("."))
    return config


def _at_default(section: M, path: Sequence[str]) -> M:
    name, *rest = path
    value = _at_default(getattr(section, name), rest) if rest else type(section).model_fields[name].default
    return section.model_copy(update={name: value})
