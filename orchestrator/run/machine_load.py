"""How busy the machine of a training is, in a small append-only file of its folder, under MLflow's names.

A thread of its own looks, so that neither the training nor what watches over it waits for a GPU that does not answer.
"""

import contextlib
import ctypes
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

EVERY_S = 10.0  # between two samples at first, as MLflow has it …
SHARE = 0.01  # … and then so much of the time since: a day has about 600 samples
JOIN_S = 1.0  # in which a thread ends that no GPU keeps waiting
STAT, MEMORY = Path("/proc/stat"), Path("/proc/meminfo")


@contextlib.contextmanager
def sampled(file: Path) -> Iterator[None]:
    """Append samples to a file, one a line, while the block goes on; a machine that tells nothing adds none."""
    over = threading.Event()
    thread = threading.Thread(target=_sample, args=(file, over), name="machine load", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(JOIN_S)


def _sample(file: Path, over: threading.Event) -> None:
    began, before = time.monotonic(), _cpu_ticks()
    while not over.wait(max(EVERY_S, SHARE * (time.monotonic() - began))):
        now = _cpu_ticks()
        metrics = {"cpu_utilization_percentage": _busy(before, now), **_memory(), **_gpu()}
        before = now
        known = {name: round(value, 1) for name, value in metrics.items() if value >= 0}
        record = {"time": round(time.time(), 3), "metrics": known}
        with contextlib.suppress(OSError), file.open("a", encoding="utf-8") as handle:  # no room is told elsewhere
            if known and not over.is_set():
                handle.write(json.dumps(record) + "\n")


def _cpu_ticks() -> tuple[int, int]:
    """Return how long all cores together were idle, and how long they were there, since the machine began."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)
    return 0, 0


def _busy(before: tuple[int, int], now: tuple[int, int]) -> float:
    idle, all_of_it = now[0] - before[0], now[1] - before[1]
    return 100 * (1 - idle / all_of_it) if all_of_it > 0 else -1.0


def _memory() -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError, LookupError):
        lines = dict(line.split(":") for line in MEMORY.read_text().splitlines())
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        used = total - free
        return {"system_memory_usage_megabytes": used / 1e6, "system_memory_usage_percentage": 100 * used / total}
    return {}


def _gpu() -> dict[str, float]:
    """Return what the GPU of this process does, once the training uses it."""
    torch = sys.modules.get("torch")
    found: dict[str, float] = {}
    with contextlib.suppress(Exception):  # whatever a broken GPU says here is no news
        if torch and torch.cuda.is_initialized():
            free, total = torch.cuda.mem_get_info(0)
            used = total - free
            found |= {"memory_usage_megabytes": used / 1e6, "memory_usage_percentage": 100 * used / total}
            found |= _of_driver(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    return {f"gpu_0_{name}": value for name, value in found.items()}


def _of_driver(uuid: str) -> dict[str, float]:
    """Ask NVIDIA's driver, through the library that comes with it, for what torch does not know."""
    nvml, device = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
    rates, milliwatts = (ctypes.c_uint * 2)(), ctypes.c_uint()
    found: dict[str, float] = {}
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)):
        return found
    if not nvml.nvmlDeviceGetUtilizationRates(device, ctypes.byref(rates)):
        found["utilization_percentage"] = float(rates[0])
    if not nvml.nvmlDeviceGetPowerUsage(device, ctypes.byref(milliwatts)):
        found["power_usage_watts"] = milliwatts.value / 1_000
    return found
