"""How much a codec holds at once: the published Stable Audio autoencoder in its full width, on a GPU that is not there.

Tensors are fake: they have shapes, devices and storages, but no content.
"""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sagasr import codec as codecs
from sagasr.codec import Codec, _MeanAutoencoder, _reach, build_codec
from sagasr.config import Patched, Pqmf, Wavelet
from sagasr.transforms import empty_autoencoder
from tests.sagasr.stable_audio import autoencoder_config

LIMIT = 4e9
TWENTY_MINUTES = 20 * 60 * 44_100


class Peak(TorchDispatchMode):
    """The most bytes that the tensors made inside hold at one time, those ``given`` included."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.live: dict[int, weakref.ref[Any]] = {}
        self.now = self.bytes = 0
        for tensor in given:
            self.see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.see(tensor)
        return out

    def see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.live:
            self.live[key] = weakref.ref(storage, lambda gone: self.forget(key, size))
            self.now += size
            self.bytes = max(self.bytes, self.now)

    def forget(self, key: int, size: int) -> None:
        del self.live[key]
        self.now -= size


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Codec]:
    """The autoencoder as published: 128 channels, times 1 to 16."""
    tree = autoencoder_config()
    for side in ("encoder", "decoder"):
        tree["model"][side]["config"]["channels"] = 128
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with FakeTensorMode(), torch.device("cuda"):
        model = empty_autoencoder(tmp_path / "config.json")
        yield Codec(_MeanAutoencoder(model, 2), 2, 64, 2_048, 1.0, _reach(model))


@pytest.mark.parametrize("minutes", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_twenty_minutes_of_stereo_pass_the_published_autoencoder_in_four_gigabytes(
    published: Codec, minutes: int
) -> None:
    length = minutes * 60 * 44_100
    limit = LIMIT - 3 * 2 * 4 * (TWENTY_MINUTES - length)  # what is longer lies there three times: given, padded, made
    audio = torch.empty(1, 2, length)
    with Peak(*published.parameters(), audio) as encoding:
        latents = published.encode(audio)
    assert latents.shape == (1, 64, -(-length // 2_048))
    with Peak(*published.parameters(), latents) as decoding:
        assert published.decode(latents, length).shape == audio.shape
    assert 1e9 < encoding.bytes < limit
    assert 1e9 < decoding.bytes < limit


def test_the_clips_of_a_validation_are_decoded_in_four_gigabytes(
    published: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.empty(32, 64, 128)  # of search_spaces/paper.yaml: 262,144 samples
    with Peak(*published.parameters(), latents) as bounded:
        published.decode(latents, 262_144)
    monkeypatch.setattr(codecs, "AT_ONCE", 2**30)
    with Peak(*published.parameters(), latents) as whole:
        published.decode(latents, 262_144)
    assert bounded.bytes < LIMIT < 15e9 < whole.bytes


@pytest.mark.parametrize(
    "kind", [Wavelet(kind="wavelet", levels=7), Pqmf(kind="pqmf", bands=64), Patched(kind="patched")]
)
def test_weight_free_codecs_hold_twenty_minutes_of_stereo_as_a_whole(kind: Any) -> None:
    codec = build_codec(kind, 2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        audio = torch.empty(1, 2, TWENTY_MINUTES)
        with Peak(audio) as encoding:
            latents = codec.encode(audio)
        with Peak(latents) as decoding:
            codec.decode(latents, TWENTY_MINUTES)
    assert max(encoding.bytes, decoding.bytes) < LIMIT
