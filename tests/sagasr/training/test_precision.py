"""TF32 on a GPU: never in a codec, always in sampling, and whatever was set before is set again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sagasr.audio.files import read_audio
from sagasr.codec.codec import Codec, build_codec
from sagasr.codec.precision import exact, fast
from sagasr.config.settings import Wavelet
from sagasr.metrics.score import Reference, score_many

SHIPPED = Path(__file__).parents[3] / "sagasr/recordings"


def flags() -> tuple[Any, ...]:
    """What torch is told, in its older words and in its newer."""
    conv: Any = torch.backends.cudnn
    cuda = torch.backends.cuda.matmul
    return (
        torch.backends.cudnn.allow_tf32, cuda.allow_tf32, torch.get_float32_matmul_precision(),
        conv.conv.fp32_precision, conv.rnn.fp32_precision, cuda.fp32_precision,
    )  # fmt: skip


EXACT, FAST = (False, False, "highest"), (True, True, "high")


@pytest.fixture(params=["off", "on", "default"])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[Any, ...]]:
    """The flags as the surroundings set them, and as torch does."""
    if request.param != "default":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = request.param == "on"
    yield flags()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False


class Reader(nn.Module):
    """A codec that notes the flags under which it works."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, ...]] = []

    def encode(self, given: Tensor) -> Tensor:
        self.found.append(flags())
        return given

    decode = encode


def test_a_codec_never_computes_in_tf32(before: tuple[Any, ...]) -> None:
    reader = Reader()
    codec = Codec(reader, 1, 1, 1, 1.0)
    codec.decode(codec.encode(torch.zeros(1, 1, 8)), 8)
    assert [found[:3] for found in reader.found] == [EXACT, EXACT]
    assert flags() == before


@pytest.mark.parametrize(("context", "inside"), [(exact, EXACT), (fast, FAST)])
def test_flags_are_restored_after_a_failure(before: tuple[Any, ...], context: Any, inside: Any) -> None:
    def fail() -> None:
        with context, context:
            assert flags()[:3] == inside
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert flags() == before


def test_threads_that_encode_at_once_restore_them_together(before: tuple[Any, ...]) -> None:
    together, seen = Barrier(2), list[tuple[Any, ...]]()

    def encode(leaves_first: bool) -> None:
        with exact:
            together.wait()
            if not leaves_first:
                together.wait()
                seen.append(flags())
        if leaves_first:
            together.wait()

    threads = [Thread(target=encode, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0][:3] == EXACT
    assert flags() == before


def test_settings_in_torchs_newer_words_are_kept() -> None:
    convolutions: Any = torch.backends.cudnn
    convolutions.conv.fp32_precision = "ieee"  # from here on the older words alone cannot even be read
    try:
        reader = Reader()
        Codec(reader, 1, 1, 1, 1.0).encode(torch.zeros(1, 1, 8))
        assert reader.found[0][:3] == EXACT
        assert (convolutions.conv.fp32_precision, convolutions.rnn.fp32_precision) == ("ieee", "tf32")
    finally:
        convolutions.allow_tf32 = True


def tf32(values: Tensor) -> Tensor:
    """Return float32 rounded to the 10 bits behind the point that TF32 keeps."""
    bits = values.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def rounded(convolution: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda given, weight, *args, **kwargs: convolution(tf32(given), tf32(weight), *args, **kwargs)


def test_tf32_would_move_the_lsd_of_an_exact_codec_more_than_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = build_codec(Wavelet(kind="wavelet", levels=7), 1)
    files = sorted(SHIPPED.glob("*/*.flac"))[:30:10]
    clips = torch.stack([torch.from_numpy(read_audio(file, 1)[:, :32_768].copy()) for file in files])
    references = [Reference(clip, 4_000.0, 4_000.0) for clip in clips]

    def error() -> float:
        rows = score_many(references, codec.decode(codec.encode(clips), clips.shape[-1]))
        return sum(row["lsd"] or 0.0 for row in rows) / len(rows)

    assert error() < 0.001
    for name in ("conv1d", "conv_transpose1d"):
        monkeypatch.setattr(nn.functional, name, rounded(getattr(nn.functional, name)))
    assert error() > 0.05
