"""What a training computed on: the device, and the settings by which another device would give other numbers."""

import functools
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from sagasr.torch_internals import has_compiled, to_be_compiled
from sagasr.training.trial_log import Device

DRIVER = Path("/proc/driver/nvidia/version")
CPUS = Path("/proc/cpuinfo")


def device_of(device: torch.device, model: torch.nn.Module, precision: str, attempt: int = 1) -> Device:
    """Return the facts of an attempt to train ``model`` on ``device``, with the settings as they are now."""
    gpu = device.type == "cuda"
    return Device(
        attempt=attempt,
        name=torch.cuda.get_device_name(device) if gpu else cpu_name(),
        driver=driver_version() if gpu else "",
        cuda=str(torch.version.cuda or "") if gpu else "",
        torch=str(torch.__version__),
        precision=precision,
        matmul=torch.get_float32_matmul_precision(),
        cudnn_tf32=bool(gpu and torch.backends.cudnn.allow_tf32),
        compiled=to_be_compiled(model) and has_compiled(),
    )


def with_device(known: Sequence[Device], new: Device) -> list[Device]:
    """Return the devices of all attempts, where one that goes on as the one before did is not told again."""
    earlier = [device for device in known if device.attempt != new.attempt]
    if earlier and earlier[-1] == new.model_copy(update={"attempt": earlier[-1].attempt}):
        return earlier
    return [*earlier, new]


@functools.cache
def driver_version() -> str:
    """Return the version of NVIDIA's driver, or an empty text."""
    version = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", DRIVER.read_text()) if DRIVER.exists() else None
    return version[1] if version else ""


@functools.cache
def cpu_name() -> str:
    """Return what this machine calls its processor."""
    name = re.search(r"^model name\s*:\s*(.+)$", CPUS.read_text(), re.MULTILINE) if CPUS.exists() else None
    return name[1].strip() if name else platform.processor() or platform.machine()
