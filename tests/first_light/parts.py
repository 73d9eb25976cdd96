"""What first light consists of, on a machine with a GPU and on one without."""

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.first_light.running import ROOT, Part

PRODUCT = (
    "torch", "torchaudio", "lightning", "transformers", "safetensors", "sentencepiece", "numpy", "scipy", "pandas",
    "pyarrow", "pydantic", "ruamel.yaml", "soundfile", "rich", "stable_audio_tools", "einops",
    "pywt",
)  # fmt: skip
TESTS = (*PRODUCT, "pytest", "pytorch_lightning", "einops_exts", "alias_free_torch")
ROWS = (*TESTS, "librosa", "ema_pytorch")
TRAIN = (sys.executable, "-c", "import sys; from sagasr.cli.train import train; sys.exit(train())")
SHIPPED = ("data.train=shipped", "data.val=shipped")
TWO_STEPS = ("training.steps=2", "validation.clips=2", "evaluation.sampler.steps=2")
SHRUNK = (
    "audio.segment=8192", "validation.segment=8192", "training.batch_size=4",
    "model.embed_dim=128", "model.depth=2", "model.num_heads=2", "model.cond_dim=128",
)  # fmt: skip
LIMITS = {
    "step-gpu": 80, "validation-gpu": 80, "cached-gpu": 60, "step-gpu-256": 80, "fused-gpu": 60, "cell-gpu": 90,
    "cached-gpu-full": 90, "step-gpu-full": 120,
}  # fmt: skip


def versions() -> Part:
    """Return the part that looks at the machine."""
    return Part("versions", (sys.executable, "-m", "tests.first_light.versions"), 90, (), versions_in)


def parts_on_gpu(out: Path, scratch: Path) -> list[Part]:
    """Return the parts for a machine with a GPU, the most important first."""
    return [
        suite("gpu-tests", "gpu", 220, "tests/gpu", out),
        training("tiny", 80, scratch),
        training("small", 80, scratch, "training.steps=60"),
        *map(row, LIMITS),
    ]


def parts_on_cpu(out: Path, scratch: Path) -> list[Part]:
    """Return the parts for a machine without a GPU."""
    fake = "tests/sagasr/plugins/test_fake_gpu.py"
    return [
        training("tiny", 90, scratch, *TWO_STEPS),
        training("small", 90, scratch, *TWO_STEPS, *SHRUNK),
        *([suite("fake-gpu", "not gpu", 120, fake, out)] if (ROOT / fake).exists() else []),
        suite("gpu-tests-on-cpu", "not gpu", 200, "tests/gpu", out),
    ]


def suite(name: str, marks: str, limit: float, path: str, out: Path) -> Part:
    """Return a run of tests."""
    results = out / f"{name}.xml"
    results.unlink(missing_ok=True)
    command = (sys.executable, "-m", "pytest", path, "-vv", "-m", marks, f"--junitxml={results}")  # the log has names
    return Part(name, command, limit, TESTS, lambda said: cases_in(results))


def training(name: str, limit: float, scratch: Path, *changes: str) -> Part:
    """Return a training of a shipped configuration on the shipped recordings."""
    settings = [word for change in (*SHIPPED, *changes) for word in ("--set", change)]
    command = (*TRAIN, f"search_spaces/{name}.yaml", "--out", str(scratch / name), *settings)
    return Part(f"train-{name}", command, limit, PRODUCT, training_in)


def row(name: str) -> Part:
    """Return one row of the benchmarks."""
    return Part(name, (sys.executable, "-m", "tests.benchmarks", name), LIMITS[name], ROWS, row_in)


def versions_in(said: list[str]) -> tuple[str, Any]:
    """Return what ``tests.first_light.versions`` printed, the most telling of it as text."""
    try:
        facts = json.loads(said[-1])
        return (
            f"{facts['gpu'] or 'no GPU'}, driver {facts['driver']}, torch {facts['torch']}, CUDA {facts['cuda']}",
            facts,
        )
    except (IndexError, KeyError, ValueError):
        return last(said), None


def cases_in(results: Path) -> tuple[str, Any]:
    """Return how many tests passed, the names of those that did not, and the seconds of each."""
    if not results.exists():
        return "no test ran", None
    found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    seconds = {}
    for case in ElementTree.parse(results).iter("testcase"):
        states = {child.tag for child in case}
        name = case.get("name", "")
        found["failed" if states & {"failure", "error"} else "skipped" if "skipped" in states else "passed"].append(
            name
        )
        seconds[name] = float(case.get("time", 0))
    counts = ", ".join(f"{len(names)} {state}" for state, names in found.items() if names) or "no test ran"
    return ": ".join(filter(None, (counts, ", ".join(found["failed"])))), {**found, "seconds": seconds}


def training_in(said: list[str]) -> tuple[str, Any]:
    """Return how a training ended, and the lines of its scores."""
    validations = [line for line in said if line.startswith("step ")]
    ended = next((line.partition(";")[0] for line in said if " at step " in line), last(said))
    return "; ".join([ended, *validations[-1:]]), said[-6:]


def row_in(said: list[str]) -> tuple[str, Any]:
    """Return what stands in the row beside its name."""
    rows = [line for line in said if line.startswith("| `")]
    if not rows:
        return last(said), None
    cells = [cell.strip() for cell in rows[-1].strip("|").split("|")]
    return ", ".join(filter(None, cells[1:])), cells


def last(said: list[str]) -> str:
    """Return the last line that says anything."""
    return next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
