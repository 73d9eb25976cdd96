"""What this process may use of its machine: CPUs and memory, no more than the cgroups of a container or job allow."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def cpus_here(root: Path = ROOT) -> int:
    """Return how many CPUs this process may use: those that it is bound to, and at most its quota, rounded down."""
    quotas = []
    for folder in _cgroups("cpu", root):
        words = _words(folder / "cpu.max")
        words = words or [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdecimal() for word in words):  # max, or -1: no quota
            quotas.append(int(words[0]) // max(1, int(words[1])))
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    return max(1, min([bound, *quotas]))


def memory_here(root: Path = ROOT) -> int:
    """Return how many bytes of memory this process may use."""
    limits = []
    for folder in _cgroups("memory", root):
        words = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        limits += [int(word) for word in words if word.isdecimal()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders whose limits hold for this process, of cgroups v1 and v2: its own, and all above.

    In a container the own may be named as the host names it, and not be there; then the topmost is the container's.
    """
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for top in {controllers, controller} if controllers else {"", "unified"}:
            own = Path(path.lstrip("/"))
            yield from (mounts / top / folder for folder in (own, *own.parents))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
