"""What a container or a job may use of its machine counts, not what the machine has."""

import os
from pathlib import Path

import pytest

from sagasr.io.machine import cpus_here, memory_here

BOUND = len(os.sched_getaffinity(0))
CONTAINERS = {
    "v2": ("0::/", {"cpu.max": "100000 100000", "memory.max": "1000000"}),
    "v2, a job below a slice": (
        "0::/user.slice/job.scope",
        {
            "user.slice/cpu.max": "150000 100000",
            "user.slice/job.scope/cpu.max": "max 100000",
            "user.slice/memory.max": "1000000",
            "user.slice/job.scope/memory.max": "max",
        },
    ),
    "v1, named as the host names it": (
        "3:cpu,cpuacct:/docker/1f\n2:memory:/docker/1f\n1:name=systemd:/docker/1f",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "120000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "1000000",
        },
    ),
    "v1 beside v2": (
        "1:cpu:/job\n2:memory:/job\n0::/",
        {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000", "unified/memory.max": "1000000"},
    ),
    "less than a CPU": ("0::/", {"cpu.max": "50000 100000", "memory.max": "1000000"}),
}
FREE = {
    "v2": ("0::/", {"cpu.max": "max 100000", "memory.max": "max"}),
    "v1": (
        "1:cpu:/\n2:memory:/",
        {
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
    ),
    "more than there is": ("0::/", {"cpu.max": "99900000 100000", "memory.max": "9223372036854771712"}),
    "a quota of another's": ("0::/mine", {"other/cpu.max": "100000 100000", "other/memory.max": "1000000"}),
    "no cgroups": ("", {}),
    "broken": ("0::/", {"cpu.max": "", "memory.max": "x"}),
}


def machine(root: Path, own: str, files: dict[str, str]) -> Path:
    paths = {root / "proc/self/cgroup": own, **{root / "sys/fs/cgroup" / name: files[name] for name in files}}
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n" if text else "")
    return root


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_quota_counts_not_what_the_machine_has(tmp_path: Path, kind: str) -> None:
    root = machine(tmp_path, *CONTAINERS[kind])
    assert cpus_here(root) == 1
    assert memory_here(root) == 1_000_000


@pytest.mark.parametrize("kind", FREE)
def test_without_a_quota_the_process_has_what_it_is_bound_to(tmp_path: Path, kind: str) -> None:
    root = machine(tmp_path, *FREE[kind])
    assert cpus_here(root) == BOUND
    assert memory_here(root) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
