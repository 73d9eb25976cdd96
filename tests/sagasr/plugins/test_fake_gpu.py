"""Training, validation, encoding and upsampling on a GPU that is not there: where tensors lie, copies and syncs.

The configurations cover each codec with each kind of text, each route of the roll-off, both ways of the time, and both
precisions at least once.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensor

from sagasr.audio.spectrum import window
from sagasr.codec.codec import Codec, build_codec
from sagasr.codec.stable_audio_codecs import empty_autoencoder
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import Config
from sagasr.evaluation.evaluate import LOSS_TIMES, generate, validation_loss
from sagasr.evaluation.validation_set import Validation
from sagasr.model.inputs import ConditionInputs
from sagasr.plugins.fake_device import DEVICE, is_misplaced
from sagasr.training.facts import Facts
from sagasr.upsample.upsampler import Settings, Upsampler
from tests import own_parts
from tests.fake_gpu import Log, Step, fake_gpu
from tests.sagasr.model.stable_audio import autoencoder_config

CLIPS, ROWS, SEGMENT = 3, 4, 8_192
BASE = {
    "data": {"train": "a.csv", "val": "a.csv"},
    "audio": {"segment": SEGMENT},
    "conditions": {"text": {"source": "caption", "encoder": {"kind": "words"}}},
    "model": {"embed_dim": 128, "depth": 1, "num_heads": 2, "cond_dim": 128},
    "training": {"batch_size": ROWS},
    "validation": {"segment": SEGMENT, "clips": CLIPS},
    "evaluation": {"sampler": {"steps": 2}},
}
WORDS = {}
T5 = {"conditions.text.encoder": {"kind": "t5", "model": "t5-base", "max_tokens": 32}}
NO_TEXT = {"conditions.text.source": "off"}
HALVES = {"training.precision": "bf16-mixed"}
OOBLECK = {"codec": {"kind": "stable-audio", "checkpoint": "", "config": ""}}  # files of a test's own
OWN = {
    "codec": {"kind": "own", "part": f"{own_parts.__file__}:Folded", "ratio": 32, "latent_channels": 32},
    "conditions.own": [f"{own_parts.__file__}:Brightness"],
}
CASES = {
    "pqmf, words, both": {"codec": {"kind": "pqmf", "bands": 64}} | WORDS,
    "wavelet stereo, T5, cross, halves": {
        **{"codec": {"kind": "wavelet", "levels": 5}, "audio.channels": 2, "conditions.rolloff_route": "cross"},
        **(T5 | HALVES),
    },
    "patched, no text, global, modulated, seconds": {
        **{"codec": {"kind": "patched", "patch": 64}, "conditions.rolloff_route": "global"},
        **{"model.time_route": "adaLN", "conditions.seconds": "on", "model.preconditioning": "level"},
        **NO_TEXT,
    },
    "autoencoder stereo, T5, prepended, seconds, halves": {
        **(OOBLECK | T5 | HALVES | {"audio.channels": 2}),
        **{"conditions.rolloff_route": "prepend", "conditions.seconds": "on"},
    },
    "autoencoder mono, words, both, modulated": OOBLECK | WORDS | {"model.time_route": "adaLN"},
    "own codec and condition, no text, prepended, halves": {
        **(OWN | NO_TEXT | HALVES | {"conditions.rolloff_route": "prepend"}),
    },
}
COPIES_OF_A_SAMPLING = 9  # low latents, noise, text, roll-off, seconds, gain; weights of the branches; audio back
SYNCS_OF_A_SAMPLING = 1  # which rows have a text to attend to


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the files of an autoencoder that is small."""
    folder = tmp_path_factory.mktemp("autoencoder")
    config, checkpoint = folder / "model_config.json", folder / "model.safetensors"
    config.write_text(json.dumps(autoencoder_config()))
    save_file({name: value.contiguous() for name, value in empty_autoencoder(config).state_dict().items()}, checkpoint)
    return {"codec.checkpoint": str(checkpoint), "codec.config": str(config)}


@pytest.fixture(params=CASES)
def config(request: pytest.FixtureRequest, weights: dict[str, str]) -> Config:
    tree = patch(BASE, CASES[request.param])
    return parse(Config, patch(tree, weights) if "autoencoder" in request.param else tree, "test")


def clips_of(config: Config, codec: Codec) -> Validation:
    """Return validation clips on the host, as a store has them."""
    channels, frames = config.audio.channels, SEGMENT // codec.ratio
    audio, latents = torch.zeros(CLIPS, channels, SEGMENT), torch.zeros(CLIPS, codec.latent_channels, frames)
    values = torch.ones(CLIPS)
    names = [f"clip {number}" for number in range(CLIPS)]
    return Validation(
        ids=names, names=names, domains=names, text=names, high=audio, low=audio, high_latents=latents,
        low_latents=latents, noise=latents, gain=values, cutoff_hz=values, rolloff_low_hz=values,
        rolloff_high_hz=values, rolloff_estimated_hz=values, seconds=torch.ones(CLIPS, 2), noise_level=values,
        distance=config.validation.distance,
    )  # fmt: skip


def know_texts(step: Step) -> None:
    """Give a T5 the features of the clips' texts, as a store does."""
    if hasattr(step.model.conditioner.text, "recall"):
        features = {f"clip {number}": torch.ones(3 + number, 768) for number in range(CLIPS)} | {"": torch.ones(1, 768)}
        step.model.conditioner.text.recall(features)


def sampled(config: Config, codec: Codec, steps: int) -> Log:
    """Return what a GPU is asked in a sampling of so many steps and the decoding of its audio."""
    step = Step(config)
    know_texts(step)
    sampler = config.evaluation.sampler.model_copy(update={"steps": steps})
    evaluation, clips = config.evaluation.model_copy(update={"sampler": sampler}), clips_of(config, codec)
    codec.to(DEVICE)
    with Log() as log:
        audio = generate(step.model.eval(), codec, clips, evaluation)
    assert audio.shape == clips.high.shape
    assert audio.device.type == "cpu"
    return log


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_training_step_stays_on_the_gpu(config, micro_batches):
    with fake_gpu():
        step = Step(config, tokens=16)
        batch = step.batch(ROWS)
        with Log() as log:
            loss = step.forward(batch, micro_batches)
            step.module.ema.update()
        step.module.ema.update()
    assert loss.device == DEVICE
    assert log.kernels.total() > 20
    assert (log.copies, log.syncs) == ([], [])
    assert {it.device for it in step.module.ema.weights().values()} == {DEVICE}
    assert {it.device for it in (*step.model.parameters(), *step.model.buffers())} == {DEVICE}


def test_a_validation_loss_waits_for_its_sums_alone(config):
    codec = build_codec(config.codec, config.audio.channels)
    with fake_gpu():
        step = Step(config)
        know_texts(step)
        with Log() as log:
            validation_loss(step.model.eval(), clips_of(config, codec))
    assert len(log.syncs) == len(LOSS_TIMES)
    assert {line.partition(":")[0] for _, line in log.syncs} == {"evaluate.py"}
    assert len(log.copies) <= 6  # high, low, noise, text, roll-off and seconds


def test_a_sampling_copies_and_waits_as_often_whatever_its_steps(config):
    codecs = [build_codec(config.codec, config.audio.channels) for _ in range(2)]
    with fake_gpu():
        one, more = (sampled(config, codec, steps) for codec, steps in zip(codecs, (1, 2), strict=True))
    assert one.copies == more.copies
    assert one.syncs == more.syncs
    assert len(one.copies) <= COPIES_OF_A_SAMPLING, one.copies
    assert len(one.syncs) <= SYNCS_OF_A_SAMPLING, one.syncs


def test_a_codec_moves_as_a_whole_and_codes_on_the_gpu(config):
    channels = config.audio.channels
    codec = build_codec(config.codec, channels)
    with fake_gpu():
        codec.to(DEVICE)
        audio = torch.zeros(2, channels, SEGMENT, device=DEVICE)
        with Log() as log:
            latents = codec.encode(audio)
            again = codec.decode(latents, SEGMENT)
    assert {it.device for it in (*codec.parameters(), *codec.buffers())} <= {DEVICE}
    assert (latents.device, again.device, again.shape) == (DEVICE, DEVICE, audio.shape)
    assert (log.copies, log.syncs) == ([], [])


@pytest.mark.parametrize("config", [case for case in CASES if "autoencoder" not in case], indirect=True)
def test_a_recording_is_upsampled(config):
    facts = Facts(vocabulary=(), rolloff_regression={})
    noise = np.random.default_rng(0).normal(size=(1, 2 * SEGMENT)).astype(np.float32)
    codec = build_codec(config.codec, config.audio.channels)
    with fake_gpu():
        step = Step(config)
        know_texts(step)
        upsampler = Upsampler(config, facts, step.model, codec.to(DEVICE))
        with Log() as log:
            high = upsampler.upsample(noise, 44_100, Settings(rolloff_target=0.9, cutoff_hz=4_000.0, lfr="off"))
    assert high.shape == noise.shape
    assert log.kernels.total() > 20


def step_with(fault) -> tuple[Log, Exception | None]:
    """Take a forward pass in which ``fault`` is given the seconds."""

    def look(_: object, given: tuple[ConditionInputs]) -> None:
        fault(given[0].seconds)

    with fake_gpu():
        step = Step(parse(Config, patch(BASE, CASES["pqmf, words, both"]), "test"))
        step.model.conditioner.register_forward_pre_hook(look)
        with Log() as log:
            try:
                step.forward(step.batch(ROWS))
            except RuntimeError as error:
                return log, error
    return log, None


def test_one_tensor_made_on_the_host_is_found():
    _, error = step_with(lambda seconds: seconds * torch.ones(2))
    assert error is not None
    assert is_misplaced(error)


def test_one_number_that_is_asked_for_is_found():
    log, error = step_with(lambda seconds: seconds.max().item())
    assert error is None
    assert [name for name, _ in log.syncs] == ["_local_scalar_dense"]


def test_one_tensor_copied_on_the_way_is_found():
    log, error = step_with(lambda seconds: seconds.add(torch.ones(2).to(DEVICE)))
    assert error is None
    assert [way for way, _ in log.copies] == ["cpu>cuda"]


def test_nothing_of_a_fake_gpu_is_kept_beyond_it():
    window.cache_clear()
    with fake_gpu():
        assert isinstance(window(torch.float32, torch.device("cpu")), FakeTensor)
    kept = window(torch.float32, torch.device("cpu"))
    assert not isinstance(kept, FakeTensor)
    assert float(kept.max()) == 1
