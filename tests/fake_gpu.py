"""A GPU for tests on a machine without one: what it would be asked to launch, copy, wait for and hold.

``fake_gpu`` is the fake device of sagasr with the attention kernels that a GPU chooses. Backward passes do not run on
it: torch starts a thread for each real device there. What forward passes keep for them does.
"""

import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sagasr
from sagasr.config.settings import Config, downsampling_ratio, latent_channels
from sagasr.data.batches import Batch
from sagasr.model import flow
from sagasr.model.inputs import ConditionInputs
from sagasr.model.saga import build_model
from sagasr.model.text import T5Encoder
from sagasr.plugins.fake_device import DEVICE, fake_cuda, replaced
from sagasr.training.module import SagaModule

PACKAGE = sagasr.__path__[0]
BLOCK = 512  # bytes: the allocator's unit
SYNCS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"}  # some are seen in inference mode alone
COPIES = {"_to_copy", "copy_", "to"}
# Operations that launch nothing: they look at memory that is there, or ask for some.
VIEWS = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze"),
    *("detach", "alias", "split", "split_with_sizes", "unbind", "as_strided", "unfold", "_reshape_alias"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"),
}  # fmt: skip


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Inside, ``cuda`` is a fake GPU: mixed devices raise, attention is fused, and numbers asked for are made up."""
    with (
        replaced(F, "scaled_dot_product_attention", _attention(F.scaled_dot_product_attention)),
        replaced(flow, "schedule", _real(flow.schedule)),
        replaced(torch.Tensor, "numpy", _numpy),
        replaced(torch.Tensor, "tolist", _tolist(torch.Tensor.tolist)),
        fake_cuda(),
        _Numbers(),
    ):
        yield


class _Numbers(TorchDispatchMode):
    """Answers what waits for numbers, which a fake tensor has not: each is 1, and no element is zero."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _name(func)
        if name in ("_local_scalar_dense", "item", "is_nonzero"):
            return 1.0 if args[0].is_floating_point() else 1 if name != "is_nonzero" else True
        if name == "nonzero":
            return args[0].new_empty(args[0].numel(), args[0].ndim, dtype=torch.int64)
        return func(*args, **kwargs or {})


class Log(TorchDispatchMode):
    """Counts kernels by name, and lists copies between host and GPU and syncs, each with the line that asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.copies: list[tuple[str, str]] = []  # ("cpu>cuda", "host.py:68")
        self.syncs: list[tuple[str, str]] = []  # ("_local_scalar_dense", "train.py:250")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _name(func)
        before = _devices((args, kwargs))
        if name in SYNCS and "cuda" in before:
            self.syncs.append((name, _line()))
        out = func(*args, **kwargs or {})
        after = _devices(out)
        if name in COPIES:
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], out)
            if source.device.type != target.device.type:
                self.copies.append((f"{source.device.type}>{target.device.type}", _line()))
        elif "cuda" in before | after and name not in VIEWS:
            self.kernels[name] += 1
        return out


class Memory(TorchDispatchMode):
    """Bytes on the fake GPU: ``now``, of all storages that are alive, and the ``peak``; begins with ``held``."""

    def __init__(self, *held: Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        for found in tree_leaves(out):
            if isinstance(found, Tensor) and found.device.type == "cuda":
                self._see(found)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int) -> None:
        del self._alive[key]
        self.now -= size


class Step:
    """The training step of a configuration on the fake GPU, made inside ``fake_gpu``, in the layout of ``texts``."""

    def __init__(self, config: Config, words: int = 100, tokens: int | None = None) -> None:
        self.config = config
        self.model = build_model(config, vocabulary=tuple(map(str, range(words)))).to(DEVICE)
        self.module = SagaModule(config, self.model)
        self.tokens = tokens or config.conditions.text.encoder.max_tokens

    def batch(self, rows: int, device: torch.device = DEVICE) -> Batch:
        """Return a drawn batch; the device is the host's where its move is to be seen."""
        with device:
            shape = rows, latent_channels(self.config.codec, self.config.audio.channels), self._frames
            high, low, noise = (torch.empty(shape) for _ in range(3))
            masks = (torch.empty(rows, dtype=torch.bool) for _ in range(2))
            inputs = ConditionInputs(self._texts(rows), torch.empty(rows, 2), torch.empty(rows, 2))
            return Batch(high, low, noise, torch.empty(rows), inputs, *masks, torch.empty(rows, dtype=torch.int64))

    @property
    def _frames(self) -> int:
        return self.config.audio.segment // downsampling_ratio(self.config.codec)

    def _texts(self, rows: int) -> Tensor:
        encoder = self.model.conditioner.text
        if isinstance(encoder, T5Encoder):
            return torch.empty(rows, self.tokens, encoder.width)
        return torch.empty(rows, self.tokens, dtype=torch.int64)

    def forward(self, batch: Batch, micro_batches: int = 1) -> Tensor:
        """Return the loss, in the precision of the configuration, as Lightning has it computed."""
        self.module.micro_batches = micro_batches
        with torch.autocast("cuda", torch.bfloat16, enabled=self.config.training.precision != "32-true"):
            return self.module.training_step(batch, 0)


def _numpy(tensor: Tensor, **_: Any) -> np.ndarray:
    """Stand in for ``Tensor.numpy``, which fake tensors do not have."""
    assert tensor.device.type == "cpu", "numpy reads the host's memory alone"
    return np.zeros(tensor.shape, np.float32)


def _tolist(stock: Any) -> Any:
    """Return ``Tensor.tolist`` that tells the numbers of a real tensor, as the times of a sampling are."""

    def tolist(tensor: Tensor) -> Any:
        with torch._C._DisableTorchDispatch():
            return stock(tensor)

    return tolist


def _name(func: Any) -> str:
    return func._schema.name.partition("::")[2]


def _devices(tree: Any) -> set[str]:
    return {found.device.type for found in tree_leaves(tree) if isinstance(found, Tensor)}


def _line() -> str:
    """Return the innermost line of sagasr that is running."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "a test"


def _real(function: Any) -> Any:
    def real(*args: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args)

    return real


def _attention(stock: Any) -> Any:
    """Return attention as a GPU runs it: flash in half precision without a mask, else memory-efficient."""

    def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        if q.device.type != "cuda":
            return stock(q, k, v, attn_mask, **options)
        if attn_mask is None and q.dtype in (torch.bfloat16, torch.float16):
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
        keeps = torch.is_grad_enabled() and any(part.requires_grad for part in (q, k, v))
        bias = None if attn_mask is None else _aligned(attn_mask).expand(*q.shape[:3], k.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, keeps)[0]

    return attend


def _aligned(mask: Tensor) -> Tensor:
    """Return a mask whose rows begin at multiples of 8 numbers, which the kernel wants and torch makes so."""
    keys = mask.shape[-1]
    return F.pad(mask, (0, -keys % 8))[..., :keys] if keys % 8 else mask
