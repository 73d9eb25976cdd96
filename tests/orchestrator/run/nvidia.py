"""GPUs that are not there, as far as NVIDIA's own tool tells: a real program ``nvidia-smi``, first on the PATH."""

import os
from pathlib import Path

import pytest

QUERY = "--query-gpu=name,memory.total,driver_version,uuid --format=csv,noheader,nounits"
DRIVER = "580.65.06"


def list_gpus(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *gpus: tuple[str, int | str], driver: str = DRIVER
) -> None:
    """Let ``nvidia-smi`` list GPUs by name and MiB, and nothing hide them; torch can use none of them."""
    rows = [f"{name}, {memory}, {driver}, GPU-{number}{number}-uuid" for number, (name, memory) in enumerate(gpus)]
    answer = "\n".join(rows) if gpus else "No devices were found"
    tool = folder / "nvidia" / "nvidia-smi"
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(f'#!/bin/sh\n[ "$*" = "{QUERY}" ] || exit 2\ncat <<END\n{answer}\nEND\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def no_tool(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let there be neither ``nvidia-smi`` nor a GPU."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
