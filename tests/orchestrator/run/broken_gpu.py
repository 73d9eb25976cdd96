"""Trains in workers whose GPUs Ray only believes in, some of which fail, and prints what came of it.

``python -m tests.orchestrator.run.broken_gpu FOLDER GPUS BROKEN… [--share SHARE]``: a Ray of GPUS GPUs, of which those
numbered BROKEN fail in every training. Nothing but the training itself is replaced.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import ray

from orchestrator.cluster import credentials
from orchestrator.run.driver import Lanes, Training
from orchestrator.run.lanes import start_exchange
from orchestrator.run.ray_internals import LOCAL_SETTINGS, apply
from orchestrator.run.worker import Task
from sagasr.config.parsing import parse
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config, Evaluation
from sagasr.training.trial_log import Status, read_status, write_status

BROKEN = "BROKEN_GPUS"


def break_gpus() -> None:
    """Replace the training of this process by one that fails where its GPU is broken."""
    import orchestrator.run.worker

    def train(task: Task, *args: Any) -> None:
        number = os.environ["CUDA_VISIBLE_DEVICES"]
        with (Path(task.folder) / "gpus.txt").open("a") as seen:
            seen.write(f"{number}\n")
        if number in os.environ[BROKEN].split():
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be")
        write_status(Path(task.folder), Status(state="done"))

    orchestrator.run.worker._train = train


def task(folder: Path, name: str, share: float) -> Task:
    config = parse(Config, {"data": {"train": "m.csv", "val": "m.csv"}, "codec": {"kind": "wavelet"}}, "test")
    (folder / "launch").write_text("one")
    return Task(
        trial=name, folder=str(folder / "sweep" / "trials" / name), scratch=str(folder / "ray"), store="",
        config=config, launch="one",
        sweep=str(folder / "launch"), variants={"v": Evaluation()}, runtime=Runtime(gpus_per_worker=share),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("gpus", type=int)
    parser.add_argument("broken", nargs="*")
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    environment = {"env_vars": {BROKEN: " ".join(given.broken)}, "worker_process_setup_hook": break_gpus}
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray refuses to have GPUs that the environment hides
    apply(LOCAL_SETTINGS)
    with credentials(None):
        ray.init(
            address="local", num_cpus=4, num_gpus=given.gpus, include_dashboard=False, runtime_env=environment,
            log_to_driver=False, object_store_memory=150_000_000,
        )  # fmt: skip
        exchange = start_exchange()  # noqa: F841 - which lives as long as its handle
        sys.stdout.write(json.dumps(train_three(given.folder, given.share)))
        ray.shutdown()


def train_three(folder: Path, share: float) -> dict[str, Any]:
    """Train trials one after the other, by two drivers as a sweep has them; return where each ran and how it ended."""
    one, other = Lanes(), Lanes()
    found = {}
    for number, lanes in enumerate((one, other, one)):
        trial = task(folder, f"t{number}", share)
        training = Training(trial, lanes)
        training.start()
        training.join()
        status, seen = read_status(Path(trial.folder)), Path(trial.folder) / "gpus.txt"
        assert status is not None
        gpus = seen.read_text().split() if seen.exists() else []
        found[trial.trial] = {"gpus": gpus, "state": status.state, "reason": status.reason}
    return found


if __name__ == "__main__":
    main()
