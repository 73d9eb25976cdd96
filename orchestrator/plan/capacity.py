"""What this machine, a cluster file or a cluster has, and how many trainings fit at once. Loads without torch."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sagasr.config.runtime import Runtime
from sagasr.io.files import read_yaml
from sagasr.io.machine import cpus_here

ROUNDING = 1e-9  # shares such as 0.1 do not add up to 1 exactly
MIB = 2**20
CLUSTER = Path("cluster.yaml")  # in the current folder
LABEL = "accelerator_type:"  # by which a Ray cluster names its GPUs
# memory in MiB, as nvidia-smi reports it; Ray's label A100 may be either, so it is not here
MEMORY = {
    "A10G": 23_028,
    "L4": 23_034,
    "L40S": 46_068,
    "A100-40G": 40_960,
    "A100-80G": 81_920,
    "H100": 81_559,
    "H200": 143_771,
}
# the GPU of every instance of a family of AWS
FAMILIES = {
    "g5": "A10G",
    "g6": "L4",
    "g6e": "L40S",
    "p4d": "A100-40G",
    "p4de": "A100-80G",
    "p5": "H100",
    "p5e": "H200",
    "p5en": "H200",
}
HERE = "this machine"


class Gpu(NamedTuple):
    """One GPU: its name, its memory in bytes (0: not known), where it is, and its driver's version."""

    name: str
    memory: int
    where: str = HERE
    driver: str = ""


def gpus_here() -> int:
    """Return how many NVIDIA GPUs this process sees."""
    return len(here())


def here() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that this process sees, as the driver's own tool tells them."""
    return _listed(shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES"))


def why_none() -> str:
    """Return why ``here()`` is empty."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible} shows none"
    has_tool = shutil.which("nvidia-smi")
    return "nvidia-smi lists none or fails" if has_tool else "no nvidia-smi, which comes with NVIDIA's driver"


def in_cluster_file(path: Path = CLUSTER) -> tuple[Gpu, ...]:
    """Return a GPU of each kind that a cluster file starts and that is known here. Raises ConfigError for no YAML."""
    types = read_yaml(path).get("available_node_types") if path.is_file() else None
    nodes = [kind for kind in types.values() if isinstance(kind, Mapping)] if isinstance(types, Mapping) else []
    configs = [config for kind in nodes if isinstance(config := kind.get("node_config"), Mapping)]
    instances = dict.fromkeys(str(config.get("InstanceType", "")) for config in configs)
    known = [(FAMILIES[family], name) for name in instances if (family := name.partition(".")[0]) in FAMILIES]
    return tuple(Gpu(gpu, MEMORY[gpu] * MIB, f"{instance} of {path.name}") for gpu, instance in known)


def labelled(resources: Iterable[str]) -> tuple[Gpu, ...]:
    """Return a GPU of each kind that the resources of a Ray cluster are labelled with and that is known here."""
    names = [resource.removeprefix(LABEL) for resource in resources if resource.startswith(LABEL)]
    return tuple(Gpu(name, MEMORY[name] * MIB, "the cluster") for name in names if name in MEMORY)


def smallest(gpus: Iterable[Gpu]) -> Gpu | None:
    """Return the GPU with the least memory, as any training may come to it; None where no memory is known."""
    return min((gpu for gpu in gpus if gpu.memory), key=lambda gpu: gpu.memory, default=None)


@cache
def _listed(tool: str | None, visible: str | None) -> tuple[Gpu, ...]:
    """Return what ``nvidia-smi`` lists of what CUDA_VISIBLE_DEVICES shows."""
    if tool is None or visible == "":
        return ()
    command = [tool, "--query-gpu=name,memory.total,driver_version,uuid", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [row for line in answer.splitlines() if len(row := [word.strip() for word in line.split(",")]) >= 3]
    return tuple(
        Gpu(row[0], int(row[1]) * MIB if row[1].isdecimal() else 0, driver=row[2])  # [N/A] where a CPU shares it
        for row in (rows if visible is None else _visible(rows, visible))
    )


def _visible(rows: Sequence[Any], words: str) -> list[Any]:
    """Return the rows that indices or beginnings of UUIDs name; as for CUDA, an unknown one hides those after it."""
    chosen = []
    for word in map(str.strip, words.split(",")):
        by_uuid = word.startswith("GPU-")
        named = [row for at, row in enumerate(rows) if word == str(at) or (by_uuid and row[-1].startswith(word))]
        if not named:
            break
        chosen.append(named[0])
    return chosen


class Resources(NamedTuple):
    """CPUs and GPUs: what a machine has, or a training takes."""

    cpus: float
    gpus: float

    def holds(self, wanted: "Resources") -> bool:
        """Return whether what is wanted fits in."""
        return wanted.cpus <= self.cpus + ROUNDING and wanted.gpus <= self.gpus + ROUNDING

    def how_many(self, wanted: "Resources") -> int:
        """Return how many of what is wanted fit in beside each other."""
        pairs = zip(self, wanted, strict=True)
        return min(int(available / amount + ROUNDING) for available, amount in pairs if amount)

    def __sub__(self, taken: "Resources") -> "Resources":
        return Resources(self.cpus - taken.cpus, self.gpus - taken.gpus)


def this_machine() -> Resources:
    """Return what this process may use."""
    return Resources(cpus_here(), gpus_here())


def of_all_workers(runtime: Runtime) -> Resources:
    """Return what the workers of a training take together."""
    return Resources(runtime.workers * runtime.cpus_per_worker, runtime.workers * runtime.gpus_per_worker)


def most_at_once(runtimes: Iterable[Runtime], room: Resources) -> int:
    """Return how many of the smallest trainings fit at once; at least one."""
    return max((room.how_many(of_all_workers(runtime)) for runtime in runtimes), default=1) or 1


def workers_beside(runtime: Runtime) -> int:
    """Return how many workers of a training fit beside each other on the same GPU or, without one, the same CPUs."""
    gpus, cpus = runtime.gpus_per_worker, runtime.cpus_per_worker
    each, room = (Resources(0, gpus), Resources(0, 1)) if gpus else (Resources(cpus, 0), Resources(cpus_here(), 0))
    return max(1, room.how_many(each))
