"""What is counted of a training step is what a real step on the meta device has."""

import pytest

from sagasr.config import Config, Runtime, parse, patch
from sagasr.counts import count, speaks_for_itself
from sagasr.model import shapes
from tests import own_parts

BASE = {
    "data": {"train": "a.csv", "val": "a.csv"},
    "codec": {"kind": "pqmf", "bands": 64},
    "audio": {"segment": 8192},
    "conditions": {"text": {"source": "caption", "encoder": {"kind": "words"}}},
    "model": {"embed_dim": 128, "depth": 3, "num_heads": 2, "cond_dim": 128},
    "training": {"batch_size": 3},
}
WIDE = {"model.embed_dim": 256, "model.num_heads": 4, "model.depth": 1}
CASES = {
    "tiny": {},
    "wide, few key heads": {**WIDE, "model.cond_dim": 64, "training.batch_size": 2},
    "nothing to say": {"conditions.text.source": "off", "conditions.rolloff": "off"},
    "long texts": {"conditions.text.encoder.max_tokens": 40, "audio.segment": 16384},
    "prepended": {"conditions.rolloff_route": "prepend", "conditions.seconds": "on"},
    "prepended, off": {"conditions.rolloff_route": "prepend", "conditions.rolloff": "off"},
    "modulated": {"model.time_route": "adaLN", "conditions.seconds": "on"},
    "modulated, prepended": {"model.time_route": "adaLN", "conditions.rolloff_route": "prepend"},
    "stereo": {"audio.channels": 2, "codec": {"kind": "wavelet", "levels": 5}},
    "of the user's own": {
        "codec": {"kind": "own", "part": f"{own_parts.__file__}:Folded", "ratio": 32, "latent_channels": 32},
        "conditions.own": [f"{own_parts.__file__}:Brightness"],
    },
    "patched": {"codec": {"kind": "patched", "patch": 128}, "model.preconditioning": "level"},
}


def config(**changes) -> Config:
    return parse(Config, patch(BASE, changes), "test")


@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_a_step_on_the_meta_device(case):
    made = config(**CASES[case])
    counted, built = count(made, words=57), shapes(made, words=57)
    assert counted.latents == built["latents"]
    assert counted.tokens == built["cross_attention"]
    assert counted.parameters == built["parameters"]
    assert counted.state_bytes == built["training_bytes"]
    assert counted.activation_bytes == pytest.approx(built["activation_bytes"], rel=0.05)


def test_several_workers_share_the_activations_and_each_holds_the_states():
    counted = count(config(**{"training.batch_size": 4}), words=0)
    assert counted.memory_bytes(Runtime(workers=4)) == counted.state_bytes + counted.activation_bytes // 4
    sharded = counted.memory_bytes(Runtime(workers=4, sharded=True))
    assert sharded == counted.state_bytes // 4 + max(counted.activation_bytes // 4, 4 * counted.parameters)


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions.text.encoder": {"kind": "t5", "model": "t5-base"}},
        {"codec": {"kind": "stable-audio", "checkpoint": "/a", "config": "/b"}},
        {"validation.distance": {"embedder": "clap"}},
        {
            "model": {"init": "pretrained", "checkpoint": "/a", "latents": "raw"},
            "codec": {"kind": "stable-audio", "checkpoint": "/a", "config": "/b"},
        },
    ],
)
def test_what_files_of_weights_decide_is_not_counted(changes):
    assert speaks_for_itself(config())
    assert not speaks_for_itself(config(**changes))


def test_a_t5_that_is_switched_off_need_not_be_there():
    assert speaks_for_itself(config(**{"conditions.text": {"source": "off", "encoder": {"kind": "t5"}}}))
