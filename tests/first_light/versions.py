# ruff: noqa: T201
"""Prints, as one line of JSON, on what first light runs: GPU, driver, versions and the flags that change numbers."""

import json
import os
import platform
import shutil
import subprocess
import warnings
from importlib import metadata
from typing import Any

PACKAGES = (
    "torch", "torchaudio", "triton", "lightning", "transformers", "stable-audio-tools", "numpy", "scipy", "pydantic",
    "soundfile", "ray", "mlflow",
)  # fmt: skip


def main() -> None:
    told: dict[str, Any] = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "compiler": shutil.which("gcc") or shutil.which("cc"),  # Triton needs one
        "packages": {name: version(name) for name in PACKAGES},
        "driver": driver(),
        "gpu": None,
        "torch": version("torch"),
        "cuda": None,
    }
    print(json.dumps(told | (flags() if told["torch"] else {"why": "torch is not installed"})))


def flags() -> dict[str, Any]:
    """Return what torch says of the GPU, or why it sees none, and its flags."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    found = {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return found | (of_gpu() if there else {"why": why([str(it.message) for it in said], torch.version.cuda)})


def of_gpu() -> dict[str, Any]:
    """Return name, memory and abilities of the first GPU, having computed on it."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    ones = torch.ones(256, 256, device="cuda")
    assert float((ones @ ones).sum()) == 256**3
    return {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "bf16": torch.cuda.is_bf16_supported(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }


def why(warned: list[str], built_for: str | None) -> str:
    """Return on one line why torch sees no GPU."""
    if built_for is None:
        return "this torch is built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "CUDA_VISIBLE_DEVICES hides them"
    return " ".join(warned[0].split()) if warned else "torch finds none"


def driver() -> str | None:
    """Return the version of the NVIDIA driver, None where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()[0] if done.stdout.split() else None


def version(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
