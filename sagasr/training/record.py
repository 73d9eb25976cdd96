"""The status and the history of a training in its folder: its heartbeat, its curves, how it ended, and on what it ran.

On another device, or with other settings of it, a training would compute other numbers.
"""

import functools
import logging
import math
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config
from sagasr.io.states import State
from sagasr.torch_internals import has_compiled, to_be_compiled
from sagasr.training.harness import Harness, TrainResult
from sagasr.training.trial_log import Device, History, Status, read_status, write_status

HEARTBEAT_S = 1.0
NOT_COMPILED = "its layers could not be compiled, so that it is slower: a C compiler and Python's headers are needed"
DRIVER, CPUS = Path("/proc/driver/nvidia/version"), Path("/proc/cpuinfo")
logger = logging.getLogger(__name__)


class TrialRecord:
    """Writes status.json and history.jsonl. Times are summed over the attempts of a training."""

    def __init__(self, config: Config, out: Path, runtime: Runtime, harness: Harness) -> None:
        self.config, self.out, self.runtime, self.harness = config, out, runtime, harness
        self.history = History(out)
        before = read_status(out) or Status(state=State.RUNNING, started=time.time())
        self._began = time.monotonic()
        self.status = Status(
            state=State.RUNNING,
            steps=config.training.steps,
            attempt=harness.attempt,
            started=before.started,
            wall_seconds=before.wall_seconds,
            gpu_seconds=before.gpu_seconds,
            micro_batches=harness.micro_batches,
            devices=before.devices,
            note=before.note,
        )
        self._earlier = self.status
        self._beaten, self._step = -math.inf, 0

    def update(self, **changes: Any) -> None:
        """Change fields of the status; the next heartbeat writes them."""
        self.status = self.status.model_copy(update=changes)

    def append(self, step: int, metrics: Mapping[str, float], variant: str | None = None) -> None:
        """Append to the history, unless another process has taken over."""
        self.harness.fence()
        self.history.append(step, metrics, variant)

    def note_device(self, device: torch.device, module: torch.nn.Module) -> None:
        """Record what this attempt computes on, and once it should have been, whether it was compiled."""
        facts = device_of(device, module, self.config.training.precision, self.harness.attempt)
        self.update(devices=with_device(self.status.devices, facts))
        if to_be_compiled(module) and not facts.compiled:
            self.say_once(NOT_COMPILED)

    def say_once(self, text: str) -> None:
        """Note what one attempt after the other would say."""
        if text not in self.status.note:
            self.say(text)

    def say(self, text: str) -> None:
        """Note what happened on the way, in the log and in the status."""
        logger.warning(text)
        self.update(note="; ".join(filter(None, (self.status.note, text)))[-500:])

    def beat(self, step: int, force: bool = False) -> None:
        """Refresh status.json, at most once a second: the trial's heartbeat."""
        self.harness.pulse()
        self._step = step
        now = time.monotonic()
        if is_rank_zero() and (force or now - self._beaten >= HEARTBEAT_S):
            self._beaten = now
            self._write(State.RUNNING, "", step)

    def end(self, state: State, reason: str) -> TrainResult:
        """Record how the training ended."""
        step = self.status.steps if state is State.DONE else self._step  # one that was only scored took no step
        if is_rank_zero():
            self._write(state, reason, step)
        return TrainResult(state, reason, step)

    def _write(self, state: State, reason: str, step: int) -> None:
        spent = time.monotonic() - self._began
        gpus = self.runtime.workers * self.runtime.gpus_per_worker
        self.update(
            state=state,
            reason=reason,
            step=step,
            updated=time.time(),
            beat=self.status.beat + 1,
            wall_seconds=self._earlier.wall_seconds + spent,
            gpu_seconds=self._earlier.gpu_seconds + spent * gpus,
        )
        self.harness.fence()
        write_status(self.out, self.status)


def is_rank_zero() -> bool:
    """Return whether this process is the first, or the only, worker of its training."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def device_of(device: torch.device, model: torch.nn.Module, precision: str, attempt: int = 1) -> Device:
    """Return the facts of an attempt to train ``model`` on ``device``, with the settings as they are now."""
    gpu = device.type == "cuda"
    return Device(
        attempt=attempt,
        name=torch.cuda.get_device_name(device) if gpu else cpu_name(),
        driver=_named(DRIVER, r"Kernel Module.*?(\d+\.[\d.]+)") if gpu else "",
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


def cpu_name() -> str:
    """Return what this machine calls its processor."""
    return _named(CPUS, r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine()


@functools.cache
def _named(path: Path, pattern: str) -> str:
    name = re.search(pattern, path.read_text(), re.MULTILINE) if path.exists() else None
    return name[1].strip() if name else ""
