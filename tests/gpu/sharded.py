# ruff: noqa: T201
"""A sharded training with one worker, in a process of its own as Ray Train starts it: interrupted, then resumed.

    python -m tests.gpu.sharded DEVICE SCRATCH OUT

Prints the states, the step from which it went on, and by how many times the weights' bytes a checkpoint raises the
GPU's memory (0 on a CPU).
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment

from sagasr.io.signals import Halt
from sagasr.training.module import ShardedStrategy
from sagasr.training.trial_log import read_status
from tests.benchmarks import data
from tests.gpu.subjects import config_of, trained


def main(device: str, scratch: str, out: str) -> None:
    data.work_in(scratch)
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")  # as Ray Train does
    config, shares = config_of("tiny", device, **{"training.steps": 4}), []
    states = []
    for halts in (True, False):
        strategy = ShardedStrategy()

        def halt(strategy: ShardedStrategy = strategy, halts: bool = halts) -> Halt | None:
            if strategy.lightning_module.trainer.global_step != 2 or not halts:  # type: ignore[union-attr]
                return None
            shares.append(share_of_a_save(strategy, Path(out) / "measured"))
            return Halt("asked")

        ended = trained(config, device, Path(out), strategy=strategy, environment=TorchElasticEnvironment(), halt=halt)
        states.append(ended.state)
    print(json.dumps({"states": states, "resumed": read_status(Path(out)).resumed, "save": shares[0]}))  # type: ignore[union-attr]
    torch.distributed.destroy_process_group()


def share_of_a_save(strategy: ShardedStrategy, path: Path) -> float:
    """Return the rise of the GPU's memory during a save, in weights' bytes."""
    module = strategy.lightning_module
    assert module is not None
    if module.device.type == "cpu":
        module.trainer.save_checkpoint(path)
        return 0.0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    module.trainer.save_checkpoint(path)
    return (torch.cuda.max_memory_allocated() - before) / sum(weight.nbytes for weight in module.model.parameters())


def alone() -> dict[str, str]:
    """Return the environment of the only worker of a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "alone"}
    return {**os.environ, **one, **place}


if __name__ == "__main__":
    main(*sys.argv[1:])
