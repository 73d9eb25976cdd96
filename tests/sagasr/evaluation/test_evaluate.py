"""A validation: what does not fit into a GPU's memory is taken in parts, and the loss is computed as a sampling is."""

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from sagasr.codec.codec import Codec, build_codec
from sagasr.config.parsing import parse
from sagasr.config.settings import SIZES, Config, downsampling_ratio
from sagasr.evaluation.evaluate import AtOnce, evaluate, validation_loss
from sagasr.evaluation.validation_set import Validation
from sagasr.io.errors import SagasrError, ValidationMemoryError
from sagasr.model.ema import Ema
from sagasr.model.saga import SagaModel, build_model
from sagasr.published.stable_audio import compile_layers

CLIPS, LENGTH = 9, 4_096
CONFIG = parse(
    Config,
    {
        "data": {"train": "train.csv", "val": "val.csv"},
        "codec": {"kind": "patched", "patch": 64},
        "model": SIZES["tiny"],
        "conditions": {"text": {"source": "off"}},
        "evaluation": {"sampler": {"steps": 2}},
    },
    "test",
)
VARIANTS = {"default": CONFIG.evaluation}
OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: out of memory"),
)


class Small(Codec):
    """A codec on a GPU of so much memory that ``room`` clips fit."""

    def __init__(self, room: int, error: Exception = OUT_OF_MEMORY[0]) -> None:
        super().__init__(build_codec(CONFIG.codec, 1).transform, 1, 64, downsampling_ratio(CONFIG.codec), 1.0)
        self.room, self.error = room, error
        self.sizes: list[int] = []

    def decode(self, latents: Tensor, length: int) -> Tensor:
        self.sizes.append(len(latents))
        if len(latents) > self.room:
            raise self.error
        return super().decode(latents, length)


@pytest.fixture(scope="module")
def clips() -> Validation:
    torch.manual_seed(0)
    names, rolloff = [f"clip{index}" for index in range(CLIPS)], torch.linspace(2_000.0, 6_000.0, CLIPS)
    audio, latents = 0.1 * torch.randn(2, CLIPS, 1, LENGTH), torch.randn(3, CLIPS, 64, LENGTH // 64)
    return Validation(
        names, names, ["noise"] * CLIPS, [""] * CLIPS, *audio, *latents, gain=torch.full((CLIPS,), 2.0),
        cutoff_hz=rolloff, rolloff_low_hz=rolloff, rolloff_high_hz=4 * rolloff - 1_000,
        rolloff_estimated_hz=3 * rolloff, seconds=torch.ones(CLIPS, 2), noise_level=torch.ones(1_025),
        distance=CONFIG.validation.distance,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> SagaModel:
    """A model whose answers depend on its input: no weight is zero."""
    model, generator = build_model(CONFIG), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if (weight == 0).all():
                weight.normal_(std=0.05, generator=generator)
    return model.eval()


def audio_of(model: SagaModel, codec: Codec, clips: Validation, at_once: AtOnce | None = None) -> Tensor:
    return evaluate(model, Ema(model), codec, clips, VARIANTS, at_once=at_once)["default"].audio


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_clips_that_do_not_fit_are_sampled_in_smaller_parts_from_where_it_was(
    model: SagaModel, clips: Validation, error: Exception
) -> None:
    whole = audio_of(model, Small(CLIPS), clips)
    said, small = list[str](), Small(4, error)
    at_once = AtOnce(said.append)
    torch.testing.assert_close(audio_of(model, small, clips, at_once), whole, atol=1e-5, rtol=1e-4)
    assert small.sizes == [9, 4, 4, 1]
    small.sizes.clear()
    audio_of(model, small, clips, at_once)
    assert small.sizes == [4, 4, 1]  # remembered
    assert said == ["9 validation clips at once do not fit into the GPU's memory: 4 from now on"]


def test_a_part_that_fails_late_is_not_lost_and_not_taken_twice(model: SagaModel, clips: Validation) -> None:
    whole = audio_of(model, Small(CLIPS), clips)
    small, said = Small(4), list[str]()
    at_once = AtOnce(said.append)
    at_once.limit = 4
    decode = small.decode

    def shrinking(latents: Tensor, length: int) -> Tensor:
        small.room = 4 if not small.sizes else 1  # another process takes the memory after the first part
        return decode(latents, length)

    small.decode = shrinking  # type: ignore[method-assign]
    torch.testing.assert_close(audio_of(model, small, clips, at_once), whole, atol=1e-5, rtol=1e-4)
    assert small.sizes == [4, 4, 2, 1, 1, 1, 1, 1]
    assert len(said) == 2


def test_a_validation_of_which_not_one_clip_fits_says_so_with_the_remedy(model: SagaModel, clips: Validation) -> None:
    small = Small(0)
    with pytest.raises(
        ValidationMemoryError, match=r"not the step.*2\.00 GiB.*gpus_per_worker.*validation\.segment"
    ) as it:
        audio_of(model, small, clips)
    assert small.sizes == [9, 4, 2, 1]
    assert isinstance(it.value, SagasrError)
    assert "\n" not in str(it.value)


def test_what_a_failed_part_held_is_let_go_before_the_next_is_tried() -> None:
    held: list[weakref.ref[Tensor]] = []

    def work(part: slice) -> int:
        large = torch.zeros(8)
        assert all(it() is None for it in held)
        held.append(weakref.ref(large))
        if part.stop - part.start > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")  # one of its own: an error keeps what its frames hold
        return part.start

    assert AtOnce(lambda text: None).parts(4, 4, work) == [0, 1, 2, 3]
    assert len(held) == 6


def test_other_errors_are_not_taken_for_a_lack_of_memory(model: SagaModel, clips: Validation) -> None:
    small = Small(4, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        audio_of(model, small, clips)
    assert small.sizes == [9]


def test_the_validation_loss_does_the_same(model: SagaModel, clips: Validation) -> None:
    whole, at_once, rows = validation_loss(model, clips), AtOnce(lambda text: None), list[int]()

    def check(module: Any, args: Any) -> None:
        rows.append(len(args[0]))
        if len(args[0]) > 4:
            raise OUT_OF_MEMORY[0]

    handle = model.transformer.register_forward_pre_hook(check)
    try:
        assert validation_loss(model, clips, at_once) == pytest.approx(whole, rel=1e-5)
    finally:
        handle.remove()
    assert rows == [9] + 5 * [4] + 5 * [4] + 5 * [1]
    assert at_once.limit == 4


def test_the_validation_loss_allows_tf32_and_compiles_nothing(model: SagaModel, clips: Validation) -> None:
    twin, seen = copy.deepcopy(model), list[bool]()
    twin.transformer.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32))
    compile_layers(twin.transformer, backend="aot_eager")
    counters.clear()
    assert validation_loss(twin, clips) == validation_loss(model, clips)
    assert not counters["stats"]["unique_graphs"]
    assert seen == [True] * 5
    assert not torch.backends.cuda.matmul.allow_tf32
