"""What a training lacks before it starts: published weights, and parts of a user's own that break their contracts."""

from sagasr.codec import codec
from sagasr.config.settings import Config
from sagasr.metrics import distance
from sagasr.model import pretrained, text
from sagasr.plugins.contracts import check_conditioner, check_metric, check_sampler
from sagasr.plugins.parts import breach


def missing_weights(config: Config) -> list[str]:
    """Return one line for each pretrained part that is absent, with how to get it; nothing is loaded."""
    solver = config.evaluation.sampler.solver
    lines = (
        codec.missing_weights(config.codec, config.audio.channels),
        text.missing_weights(config.conditions.text),
        *(breach(check_conditioner, "conditioner", part) for part in config.conditions.own),
        *(breach(check_metric, "metric", part) for part in config.validation.metrics),
        None if solver == "euler" else breach(check_sampler, "sampler", solver),
        pretrained.missing_weights(config),
        distance.missing_weights(config.validation.distance),
    )
    return [line for line in lines if line is not None]
