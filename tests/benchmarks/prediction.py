# ruff: noqa: T201
"""What ``--calibrate`` predicts of a training against what the training then takes, in processor time of one process.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.prediction [--grid search_spaces/demo.yaml] [--set training.steps=80 …]

Both sides are timed by the processor, not by the wall, so that a busy machine does not count; what neighbours on the
same core take from each other is left in. The recordings are encoded before.
"""

import argparse
import tempfile
import time
from pathlib import Path

time.monotonic = time.process_time  # before anything else takes the clock

from orchestrator.api import Sweep  # noqa: E402
from orchestrator.plan.cost import assumed, disk_bytes, seconds_of  # noqa: E402
from orchestrator.run.calibrate import Task, _task, measure  # noqa: E402
from sagasr.cli import common as cli  # noqa: E402
from sagasr.data.encode import encode_store  # noqa: E402
from sagasr.training.harness import Harness  # noqa: E402
from sagasr.training.train import train  # noqa: E402
from sagasr.training.trial_log import read_status  # noqa: E402


def main() -> None:
    """Print one line: predicted, took, and the ratio of both, for the last training of the grid's first seed."""
    parser = argparse.ArgumentParser(description="predicted against taken")
    parser.add_argument("--grid", default="search_spaces/demo.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planned = Sweep(options.grid, settings=cli.parse_settings(options.set), storage=folder / "sweeps").plan()
        trial = next(one for one in reversed(planned.plan.trials) if one.seed == planned.plan.seeds[0])
        counts = planned.shapes[trial.replicates[0].cell]
        speed = measure(Task.model_validate_json(Path(_task(trial, folder / "short")).read_text(encoding="utf-8")))
        store = encode_store(trial.config, folder / "encoded")
        variants = {variant.id: variant.evaluation for variant in trial.variants}
        train(trial.config, folder / "trial", store, variants, trial.resources, Harness(accelerator="cpu"))
        status = read_status(folder / "trial")
        assert status is not None
        written = sum(path.stat().st_size for path in (folder / "trial").rglob("*") if path.is_file())
    predicted, took = seconds_of(trial, speed), status.wall_seconds
    print(speed)
    print(
        f"predicted {predicted:.1f} s (without calibration {seconds_of(trial, assumed(trial, counts)):.1f} s), "
        f"took {took:.1f} s: {took / predicted:.2f} times; disk {disk_bytes(trial, counts) / 1e6:.1f} MB, "
        f"{written / 1e6:.1f} MB written"
    )


if __name__ == "__main__":
    main()
