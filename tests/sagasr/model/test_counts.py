"""What is counted of a training step is what a real step on the meta device has."""

from functools import cache
from pathlib import Path

import pytest
import torch

from sagasr.codec.codec import AT_ONCE
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.runtime import Runtime
from sagasr.config.settings import SIZES, Config, StableAudio
from sagasr.io.files import read_yaml
from sagasr.model.counts import AUTOENCODER, CONTEXT, DECODING, T5, count, counts_of, speaks_for_itself
from sagasr.model.meta_step import shapes
from sagasr.published.stable_audio import load_stock
from tests import own_parts
from tests.fake_gpu import Memory, Step, fake_gpu
from tests.sagasr.model.stable_audio import autoencoder_tree

SEARCH_SPACES = Path(__file__).parents[3] / "search_spaces"

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
    "in halves": {"training.precision": "bf16-mixed"},
    "in halves, modulated": {"training.precision": "bf16-mixed", "model.time_route": "adaLN"},
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


def test_a_batch_in_parts_keeps_the_activations_of_one_part_and_has_no_more_parts_than_rows():
    counted = count(config(**{"training.batch_size": 6}), words=0)
    row = counted.activation_bytes // 6
    parts = {n: counted.memory_bytes(Runtime(workers=2), n) - counted.state_bytes for n in (1, 2, 3, 8)}
    assert parts == {1: 3 * row, 2: 2 * row, 3: row, 8: row}


def test_halves_keep_less_and_a_copy_of_the_weights():
    whole, halves = (count(config(**{"training.precision": name}), words=0) for name in ("32-true", "bf16-mixed"))
    assert 0.5 < halves.activation_bytes / whole.activation_bytes < 0.6
    assert (whole.copy_bytes, halves.copy_bytes) == (0, 2 * halves.parameters)


def step_peak(made: Config, rows: int, depth: int) -> tuple[int, int]:
    """Return the parameters of a model of that depth, and the most bytes of a forward pass with its batch."""
    made = made.model_copy(update={"model": made.model.model_copy(update={"depth": depth})})
    with fake_gpu():
        step = Step(made)
        held = sum(weight.numel() for weight in step.model.parameters())
        with Memory(*step.model.parameters()) as memory:
            before = memory.now
            loss = step.forward(step.batch(rows))
            assert loss.requires_grad  # what is kept for the backward pass is kept until here
        return held, memory.peak - before


@cache
def decoding_peak() -> tuple[int, int]:
    """Return the bytes of Stable Audio Open's autoencoder, and the most that decoding adds."""
    module = load_stock("stable_audio_tools.models.autoencoders")
    with fake_gpu():
        tree = {"sample_rate": 44_100, "model": autoencoder_tree(channels=128)}
        autoencoder = module.create_autoencoder_from_config(tree).requires_grad_(False).to("cuda")
        with Memory(*autoencoder.parameters()) as memory:
            held = memory.now
            autoencoder.decode(torch.empty(1, 64, AT_ONCE // autoencoder.downsampling_ratio, device="cuda"))
        return held, memory.peak - held


def test_what_decoding_takes_is_that_of_the_published_autoencoder():
    held, decoded = decoding_peak()
    assert (held, decoded) == (pytest.approx(AUTOENCODER, rel=0.02), pytest.approx(DECODING, rel=0.05))


@pytest.mark.parametrize(
    ("base", "size", "rows", "workers"),
    [
        ("small", "small", 64, 1),
        ("small", "full", 16, 4),
        ("paper", "full", 256, 1),
        ("plan", "small", 64, 1),
        ("plan", "full", 64, 1),
    ],
)
def test_memory_is_the_peak_on_a_fake_gpu(base, size, rows, workers):
    tree = read_yaml(SEARCH_SPACES / f"{base}.yaml") | {"data": {"train": "a.csv", "val": "a.csv"}}
    made = parse(Config, patch(tree, {"model": {**tree["model"], **SIZES[size]}}), base)
    (one, least), (two, more) = (step_peak(made, rows, depth) for depth in (1, 2))  # layers are alike
    parameters, step = (first + (made.model.depth - 1) * (then - first) for first, then in ((one, two), (least, more)))
    held, decoded = decoding_peak() if isinstance(made.codec, StableAudio) else (0, 0)
    reads = T5 if made.conditions.text.encoder.kind == "t5" else 0  # not run here: texts are as a store keeps them
    peak = 5 * 4 * parameters + max(step, decoded) + held + reads
    found = shapes(made)
    counted = counts_of(
        made, found["latents"], found["cross_attention"], found["parameters"], found["activation_bytes"]
    )
    assert counted.parameters == parameters
    assert counted.memory_bytes(Runtime(workers=workers)) == pytest.approx(peak, rel=0.12)
    on_gpu = counted.memory_bytes(Runtime(workers=workers, gpus_per_worker=1))
    assert on_gpu == counted.memory_bytes(Runtime(workers=workers)) + CONTEXT


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
