"""The GPU that a worker was given, and which GPUs of a sweep are known to be broken. Loads without torch.

What one driver learns of a GPU, all drivers of the sweep know: it stands in the key-value store of Ray's head.
"""

import contextlib
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from orchestrator.run.ray_internals import forget, remember, remembered

SPACE = "sagasr-broken-gpus"


class Gpu(NamedTuple):
    """A GPU of a node: Ray's names of both."""

    node: str
    number: str

    @classmethod
    def of_this_worker(cls) -> "Gpu | None":
        """Return the GPU that Ray gave this process, or None."""
        import ray

        if not ray.is_initialized():
            return None
        context = ray.get_runtime_context()
        given = context.get_accelerator_ids().get("GPU")
        return cls(context.get_node_id(), given[0]) if given else None

    def broken(self, reason: str) -> str:
        """Return the line that says that this GPU, of the machine of this process, is broken."""
        name = _name()
        return f"GPU {self.number}{f' ({name})' if name else ''} of {socket.gethostname()} is broken: {reason}"


def avoid(sweep: str, gpu: Gpu, reason: str) -> None:
    """Let all drivers of a sweep know that a GPU is broken."""
    remember(SPACE, _key(sweep, gpu), reason)


def forgive(sweep: str, gpu: Gpu) -> None:
    """Let all drivers of a sweep use a GPU again."""
    forget(SPACE, _key(sweep, gpu))


def avoided(sweep: str) -> dict[Gpu, str]:
    """Return the GPUs that are known to be broken, and why."""
    return {Gpu(*key.split("/")[1:]): reason for key, reason in remembered(SPACE, f"{sweep}/")}


def too_few(nodes: Iterable[Mapping[str, Any]], broken: Iterable[Gpu], wanted: float) -> bool:
    """Return whether GPUs of the nodes that live are broken, and fewer sound ones are left than are wanted."""
    living = {node["NodeID"]: node.get("Resources", {}).get("GPU", 0) for node in nodes if node["Alive"]}
    lost = sum(gpu.node in living for gpu in broken)
    return bool(lost and sum(living.values()) - lost < wanted)


def _key(sweep: str, gpu: Gpu) -> str:
    return f"{sweep}/{gpu.node}/{gpu.number}"


def _name() -> str:
    """Return the name of this process's GPU, if it still answers."""
    torch = sys.modules.get("torch")
    with contextlib.suppress(Exception):  # whatever a broken GPU says here is no news
        return str(torch.cuda.get_device_name()) if torch else ""
    return ""
