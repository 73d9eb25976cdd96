"""A model whose weights are divided among workers ("fully sharded"): shards made whole, and whole tensors divided."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sagasr.torch_internals import begin_sharding


def shard(model: nn.Module, layers: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Leave each worker of ``mesh`` its share of the weights; a layer's are gathered when it is used, and let go."""
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Return whether this process holds but its share of the model's weights."""
    return isinstance(model, FSDPModule)


def whole(value: Any) -> Any:
    """Return a tensor gathered from all workers, each of which has to ask; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def divided_like(example: Tensor, value: Any) -> Any:
    """Return this worker's share of a whole tensor that is divided as ``example`` is; anything else as it is."""
    if not isinstance(example, DTensor) or not isinstance(value, Tensor) or value.shape != example.shape:
        return value
    return distribute_tensor(value.to(example.device), example.device_mesh, example.placements)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, every worker holds all weights of a sharded model, as they are at the start; each has to enter."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if isinstance(model, FSDPModule):  # else a layer that is called before the model takes itself for the whole
        begin_sharding(model)
    for part in shards:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in shards:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)
