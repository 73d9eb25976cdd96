"""One small cell from recordings to scores, against a script written as the public reproduction trains.

The script encodes both clips of every sample at every step, takes batches of 4 and accumulates 16, samples in three
passes and scores with librosa. Both sides are sums of parts measured here: a step costs the same as the next one, and
the whole would take hours on a CPU. Ours pays for all of its encoding and for one validation more, of the untrained
model.
"""

from typing import Any

import torch

from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import Config
from sagasr.data.encode import encode_store
from tests.benchmarks import data
from tests.benchmarks.cached import CHANNELS, Subject
from tests.benchmarks.measure import Row, seconds
from tests.benchmarks.step import step_seconds
from tests.benchmarks.validation import Subject as Validated

STEPS, BATCH, EVERY = 248, 64, 62  # the reproduction validates every 1,000 micro-batches of 4
RECORDINGS, CLIPS, SAMPLER_STEPS = 24, 8, 100
MICRO_BATCH = 4


def against_script(quick: bool) -> Row:
    """Seconds of the whole cell; quality: both validations give the same LSD, `cached` and `step` the same loss."""
    changes: dict[str, Any] = {
        "training.batch_size": BATCH // 8 if quick else BATCH, "training.steps": 1_000, "validation.every": 1_000,
        "validation.clips": 1, "evaluation.sampler.steps": 1,
    }  # fmt: skip
    settings = data.config("tiny" if quick else "small", (3, 3), 8 if quick else CHANNELS, **changes)
    micro = Subject(data.config("small", channels=8 if quick else CHANNELS), MICRO_BATCH)
    validated = {steps: Validated(sampled(settings, steps)) for steps in (1, 3)}
    lsd = validated[3].ours(), validated[3].passes()
    parts_theirs = {
        "step": BATCH // MICRO_BATCH * seconds(lambda: micro.loss(*micro.encoded()).backward()),
        "validation": whole({steps: seconds(it.passes) for steps, it in validated.items()}),
    }
    fresh = settings.model_copy(update={"degradation": settings.degradation.model_copy(update={"variants": 4})})
    encoding = seconds(lambda: encode_store(fresh, data.scratch() / "fresh"))
    ours_step = step_seconds(settings, 20 if torch.cuda.is_available() else 2)
    parts_ours = {
        "step": BATCH / settings.training.batch_size * min(ours_step),
        "validation": whole({steps: seconds(it.ours) for steps, it in validated.items()}),
    }
    validations = STEPS // EVERY
    ours = encoding * RECORDINGS / 3 + STEPS * parts_ours["step"] + (validations + 1) * CLIPS * parts_ours["validation"]
    theirs = STEPS * parts_theirs["step"] + validations * CLIPS * parts_theirs["validation"]
    apart = abs(lsd[0] - lsd[1])
    quality = (f"LSD {apart:.0e} apart; step {parts_ours['step']:.3g} s against {parts_theirs['step']:.3g} s, encoding "
               f"{encoding * RECORDINGS / 3:.3g} s")  # fmt: skip
    return Row([ours], [theirs], "cell", quality, apart < 1e-3)


def sampled(settings: Config, steps: int) -> Config:
    """Return a configuration that validates with so many sampling steps."""
    return parse(Config, patch(settings.model_dump(mode="json"), {"evaluation.sampler.steps": steps}), "benchmark")


def whole(measured: dict[int, float]) -> float:
    """Return what a validation of one clip takes at 100 steps, from what it takes at two smaller numbers of them."""
    (few, least), (more, most) = sorted(measured.items())
    return least + (SAMPLER_STEPS - few) * max(0.0, most - least) / (more - few)
