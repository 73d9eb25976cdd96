"""What a training leaves beside its checkpoints: an append-only history and a small status. Loads without torch."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from sagasr.config.parsing import parse
from sagasr.config.strict import Strict
from sagasr.io.errors import StorageError
from sagasr.io.failpoints import point
from sagasr.io.files import STORAGE_FAULTS, read_json, write_json, write_text
from sagasr.io.states import State
from sagasr.io.trial_folder import TrialFolder


class Device(Strict):
    """What an attempt computed on, and with which settings: on others its numbers would be others."""

    attempt: int = Field(1, description="the first attempt that computed so")
    name: str = Field(description="of the GPU or, without one, of the processor")
    driver: str = ""
    cuda: str = ""
    torch: str = ""
    precision: str = ""
    matmul: str = Field("", description="of float32: highest, or with TF32 high")
    cudnn_tf32: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        """Return all as one line."""
        known = {"driver": self.driver, "CUDA": self.cuda, "torch": self.torch, "float32 products": self.matmul}
        facts = [self.name, *(f"{name} {value}" for name, value in known.items() if value), self.precision]
        return ", ".join(filter(None, (*facts, "cuDNN with TF32" * self.cudnn_tf32, "compiled" * self.compiled)))


class Status(Strict):
    """What a trial is doing, or how it ended. ``updated`` (seconds since 1970) is its heartbeat."""

    state: State = Field(strict=False)
    reason: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    val_lsd: float | None = None
    attempt: int = 1
    started: float = 0.0
    updated: float = 0.0
    wall_seconds: float = Field(0.0, ge=0, description="training and scoring, summed over attempts")
    gpu_seconds: float = Field(0.0, ge=0, description="wall seconds times GPUs held")
    resumed: int = Field(0, description="the step from which this attempt went on")
    beat: int = Field(0, description="counts heartbeats: what stands still hangs, whatever the clocks say")
    micro_batches: int = Field(1, ge=1, description="parts a batch is taken in, after running out of memory")
    devices: list[Device] = Field([], description="what the attempts computed on, in order, equal ones told once")
    note: str = Field("", description="what happened on the way, e.g. a checkpoint passed over")

    @property
    def device(self) -> str:
        """Return the name of what it computed on; of several, joined by `` + ``."""
        return " + ".join(dict.fromkeys(device.name for device in self.devices))


def read_status(folder: Path) -> Status | None:
    """Return the status of a trial folder, or None when it never started."""
    path = TrialFolder(folder).status
    return parse(Status, read_json(path), str(path)) if path.exists() else None


def write_status(folder: Path, status: Status) -> None:
    """Replace the status of a trial folder, whole."""
    write_json(TrialFolder(folder).status, status.model_dump(mode="json"))


class History:
    """``history.jsonl``, append-only but for ``resume``: lines of ``{"step", "time", "metrics", "variant"?}``."""

    def __init__(self, folder: Path) -> None:
        self.path = TrialFolder(folder).history

    def append(self, step: int, metrics: Mapping[str, float], variant: str | None = None) -> None:
        """Add one record and flush it; metrics that are not finite are left out, never turned into numbers."""
        finite = {name: value for name, value in metrics.items() if value is not None and abs(value) < float("inf")}
        record: dict[str, Any] = {"step": step, "time": round(time.time(), 3), "metrics": finite}
        if variant is not None:
            record["variant"] = variant
        point("history.append")
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(record, allow_nan=False) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            if remedy := STORAGE_FAULTS.get(error.errno or 0):
                raise StorageError(f"{self.path}: {remedy}") from error
            raise
        point("history.appended")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the complete records; a line cut short by a crash is not one."""
        if self.path.exists():
            with self.path.open(encoding="utf-8", errors="replace") as handle:
                for line in handle:
                    try:
                        record = json.loads(line)
                    except ValueError:
                        continue
                    if line.endswith("\n") and isinstance(record, dict):
                        yield record

    def resume(self, step: int) -> None:
        """Keep only the records up to and including ``step``."""
        self._keep(lambda record: record["step"] <= step)

    def drop(self, step: int, prefix: str) -> None:
        """Remove the records of one step whose metrics begin with ``prefix``."""
        self._keep(lambda record: record["step"] != step or not next(iter(record["metrics"]), "").startswith(prefix))

    def _keep(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in self if wanted(record)))
