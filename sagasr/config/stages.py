"""Which part of a configuration decides what: the weights, their scores, the question that is scored; or nothing.

Some settings do nothing beside some others: configurations that differ only in these give equal results.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sagasr.config.parsing import map_leaves
from sagasr.config.patching import leaves
from sagasr.config.settings import PARTS, T5, Config, Evaluation, OwnCodec
from sagasr.config.strict import Strict

M = TypeVar("M", bound=Strict)


def train_stage(config: Config) -> dict[str, Any]:
    """Return the part of a configuration that decides the weights: no paths, nothing of the eval stage or the clips.

    Values that stand at their defaults are left out: a key that is new and neutral makes no finished training another.
    """
    scored = {name for name in type(config.validation).model_fields if name != "every"}
    left_out: dict[str, Any] = {"data": True, "evaluation": True, "validation": scored}
    tree = config.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    tree = {section: keys for section, keys in tree.items() if keys != {}}  # it differs in what is left out alone
    return _with_sources(tree, trained_parts(config))


def score_stage(config: Config) -> dict[str, Any]:
    """Return the part of a configuration that decides how given weights are scored; defaults are left out."""
    tree: dict[str, Any] = {
        "evaluation": config.evaluation.model_dump(mode="json", exclude_defaults=True),
        "validation": config.validation.model_dump(mode="json", exclude={"every"}, exclude_defaults=True),
    }
    scored, sampler = config.validation, config.evaluation.sampler
    named = [("embedder", scored.distance.embedder), ("sampler", sampler.solver)]
    own = [(family, part) for family, part in named if part not in PARTS[family]]
    return _with_sources(tree, [*own, *(("metric", part) for part in scored.metrics)])


def sampling_of(evaluation: Evaluation) -> Evaluation:
    """Return the setting with everything at its default that acts only after sampling: equal ones share a sampling."""
    return evaluation.model_copy(update={"lfr": "off", "lfr_ratio": "off"})


def scored_on(config: Config) -> dict[str, Any]:
    """Return what decides the question that a model is asked, by dotted key; ``data.val`` decides it by its content.

    Scores of cells that differ here are of different things. All other keys change the answer: how a model is made and
    used. A reference is the recording itself, whatever the codec. What training cuts off reaches no usable clip.
    """
    degradation: dict[str, Any] = {"rolloff_cap": config.degradation.rolloff_cap}
    if config.data.policy == "quarantine":  # clips below it are left out
        degradation["cutoff_hz"] = config.degradation.cutoff_hz[0]
    scored = config.validation.model_dump(mode="json", exclude={"every"})
    return leaves({"audio": {"channels": config.audio.channels}, "validation": scored, "degradation": degradation})


def trained_parts(config: Config) -> list[tuple[str, str]]:
    """Return the family and the name of every part of a user's own that the weights depend on."""
    codec = [("codec", config.codec.part)] if isinstance(config.codec, OwnCodec) else []
    return [*codec, *(("conditioner", part) for part in config.conditions.own)]


def _with_sources(tree: dict[str, Any], own: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return a stage with its parts of a user's own, which count by what their sources say, wherever they lie."""
    if not own:
        return tree
    from sagasr.plugins.parts import sources

    return {**map_leaves(_without_folder, tree), "parts": sources(own)}


def _without_folder(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and ".py:" in value else value


class Idle(NamedTuple):
    """Keys that do nothing, whatever they say, where ``holds``; ``when`` says it in words."""

    keys: tuple[str, ...]
    when: str
    holds: Callable[[Config], bool]


def _where(path: str, value: object, *keys: str) -> Idle:
    return Idle(keys, f"{path} is {value}", lambda config: attrgetter(path)(config) == value)


IDLE = (
    _where("evaluation.lfr", "off", "evaluation.lfr_ratio"),
    _where(
        "conditions.rolloff", "off", "conditions.rolloff_scale", "evaluation.rolloff_target", "evaluation.rolloff_fixed"
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
    _where("conditions.low.dropout", 0, "conditions.low.empty", "evaluation.sampler.guidance.audio"),
    _where("model.init", "scratch", "model.checkpoint"),
    _where("evaluation.weights", "raw", "training.ema.beta", "training.ema.power"),
    _where("training.schedule.power", 0, "training.schedule.gamma"),
)


def acting(config: Config) -> Config:
    """Return a configuration, for comparison alone, with all keys at their defaults that do nothing in it."""
    for key in [key for idle in IDLE if idle.holds(config) for key in idle.keys]:
        config = _at_default(config, key.split("."))
    return config


def _at_default(section: M, path: Sequence[str]) -> M:
    name, *rest = path
    value = _at_default(getattr(section, name), rest) if rest else type(section).model_fields[name].default
    return section.model_copy(update={name: value})
