"""How much a codec holds at once: the published Stable Audio autoencoder in its full width, on a GPU that is not there.

Tensors are fake: they have shapes, devices and storages, but no content.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sagasr.codec import codec as codecs
from sagasr.codec.codec import Codec, _MeanAutoencoder, _reach, build_codec
from sagasr.codec.stable_audio_codecs import empty_autoencoder
from sagasr.config.settings import Patched, Pqmf, Wavelet
from sagasr.plugins.fake_device import DEVICE
from tests.fake_gpu import Memory, fake_gpu
from tests.sagasr.model.stable_audio import autoencoder_config

LIMIT = 4e9
TWENTY_MINUTES = 20 * 60 * 44_100


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Codec]:
    """The autoencoder as published: 128 channels, times 1 to 16."""
    tree = autoencoder_config()
    for side in ("encoder", "decoder"):
        tree["model"][side]["config"]["channels"] = 128
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with fake_gpu(), DEVICE:
        model = empty_autoencoder(tmp_path / "config.json")
        yield Codec(_MeanAutoencoder(model, 2), 2, 64, 2_048, 1.0, _reach(model))


@pytest.mark.parametrize("minutes", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_twenty_minutes_of_stereo_pass_the_published_autoencoder_in_four_gigabytes(
    published: Codec, minutes: int
) -> None:
    length = minutes * 60 * 44_100
    limit = LIMIT - 3 * 2 * 4 * (TWENTY_MINUTES - length)  # what is longer lies there three times: given, padded, made
    audio = torch.empty(1, 2, length)
    with Memory(*published.parameters(), audio) as encoding:
        latents = published.encode(audio)
    assert latents.shape == (1, 64, -(-length // 2_048))
    with Memory(*published.parameters(), latents) as decoding:
        assert published.decode(latents, length).shape == audio.shape
    assert 1e9 < encoding.peak < limit
    assert 1e9 < decoding.peak < limit


def test_the_clips_of_a_validation_are_decoded_in_four_gigabytes(
    published: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.empty(32, 64, 128)  # of search_spaces/paper.yaml: 262,144 samples
    with Memory(*published.parameters(), latents) as bounded:
        published.decode(latents, 262_144)
    monkeypatch.setattr(codecs, "AT_ONCE", 2**30)
    with Memory(*published.parameters(), latents) as whole:
        published.decode(latents, 262_144)
    assert bounded.peak < LIMIT < 15e9 < whole.peak


@pytest.mark.parametrize(
    "kind", [Wavelet(kind="wavelet", levels=7), Pqmf(kind="pqmf", bands=64), Patched(kind="patched")]
)
def test_weight_free_codecs_hold_twenty_minutes_of_stereo_as_a_whole(kind: Any) -> None:
    codec = build_codec(kind, 2)
    with fake_gpu(), DEVICE:
        codec.to(DEVICE)
        audio = torch.empty(1, 2, TWENTY_MINUTES)
        with Memory(audio) as encoding:
            latents = codec.encode(audio)
        with Memory(latents) as decoding:
            codec.decode(latents, TWENTY_MINUTES)
    assert max(encoding.peak, decoding.peak) < LIMIT
