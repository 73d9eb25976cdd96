"""What sagasr uses of torch beyond its public interface, checked against torch 2.14.1.

The fake GPU of ``sagasr.plugins.fake_device`` stands on further internals, which only it needs. After an update of
torch, tests/sagasr/model/test_model.py, test_ema.py, training/test_sharding.py and test_devices.py judge these.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


def lerp_(starts: Sequence[Tensor], ends: Sequence[Tensor], share: float) -> None:
    """Move tensors towards others by a share, in place and in few kernels."""
    torch._foreach_lerp_(list(starts), list(ends), share)


def fused_attention(*args: Any, **kwargs: Any) -> Any:
    """Return attention in the fused form, which the meta device knows under this name only."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **kwargs)[0]


def storage_id(tensor: Tensor) -> int:
    """Return what tells storages apart on the meta device, where all addresses are 0."""
    return int(tensor.untyped_storage()._cdata)


def map_tensors(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return nested containers with each tensor changed."""
    return tree_map_only(Tensor, change, tree)


def begin_sharding(model: Any) -> None:
    """Let a sharded model take itself for the whole, before one of its layers is called and does."""
    model._get_fsdp_state()._lazy_init()


def compile_or_run_eagerly(module: nn.Module, backend: str) -> None:
    """Compile a module in place at its first call; what cannot be compiled then runs as it is, in all of torch."""
    torch._dynamo.config.suppress_errors = True
    module.compile(backend=backend)


def to_be_compiled(model: nn.Module) -> bool:
    """Return whether parts of a model are compiled when they are first used."""
    return any(part._compiled_call_impl is not None for part in model.modules())


def has_compiled() -> bool:
    """Return whether anything could be compiled in this process so far; without a C compiler nothing can."""
    from torch._dynamo.utils import counters  # loads slowly

    return bool(counters["stats"]["unique_graphs"])
