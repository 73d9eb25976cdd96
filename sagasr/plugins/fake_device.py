"""A GPU that is not there: tensors of device cuda that have shapes and a place but no numbers.

Built of torch's internals, checked against torch 2.14.1: FakeTensorMode, which refuses tensors of two devices as a GPU
does, and what it lacks: modules that move in place, and autocast. Nothing is computed, so whatever looks at a number
fails with another error.
"""

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import _lru_cache_wrapper
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)


def fake_mode() -> FakeTensorMode:
    """Return a mode for ``fake_cuda`` and ``fake_copy``; only tensors of one mode meet."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def fake_cuda(mode: FakeTensorMode | None = None) -> Iterator[None]:
    """Inside, ``cuda`` is a fake device, every new tensor is fake, and mixing devices raises ``is_misplaced``."""
    with ExitStack() as inside:
        for owner, name, value in (
            (nn.Module, "_apply", _move),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (fake_tensor, "init_gpu_context", lambda device: None),  # a real GPU, if there is one, stays untouched
        ):
            inside.enter_context(replaced(owner, name, value))
        inside.enter_context(mode or fake_mode())
        inside.enter_context(_Unknown())
        inside.callback(lambda: forget(own for name, own in [*sys.modules.items()] if name.startswith("sagasr.")))
        yield


def fake_copy(part: Any, mode: FakeTensorMode) -> Any:
    """Return a deep copy of an object whose tensors are fake ones, where the real ones are; they take no memory."""
    with FakeCopyMode(mode):
        return copy.deepcopy(part)


def is_misplaced(error: BaseException) -> bool:
    """Return whether an error says that tensors which meet are not on one device."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("two different devices", "on the same device", "same device type")
    )


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, ``owner`` has ``value`` under ``name``."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def forget(modules: Iterable[ModuleType]) -> None:
    """Empty the caches of modules: a tensor that was kept inside has no numbers outside."""
    for value in [value for module in [*modules] for value in vars(module).values()]:
        if isinstance(value, _lru_cache_wrapper):
            value.cache_clear()
        elif isinstance(value, dict):
            for key in [key for key, item in value.items() if isinstance(item, FakeTensor)]:
                del value[key]


class _Unknown(TorchDispatchMode):
    """Forgets the number of a fake tensor of one element where it moves: torch would move that to a real GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::_to_copy", "aten::to", "aten::copy_"):
            for given in args:
                if isinstance(given, FakeTensor):
                    given.constant = None
        return func(*args, **kwargs or {})


def _move(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Stand in for ``Module._apply``, which cannot exchange the memory of a fake tensor: its device is set instead."""
    for child in self.children() if recurse else ():
        child._apply(fn)
    for store in (self._parameters, self._buffers):
        for name, tensor in store.items():
            if tensor is not None:
                store[name] = _moved(tensor, fn(tensor.detach()))
    return self


def _moved(tensor: Any, new: Any) -> Any:
    if isinstance(tensor, FakeTensor) and tensor.dtype == new.dtype:
        tensor.fake_device = new.device  # the same object, as with real tensors: averages and optimisers hold it
        return tensor
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
