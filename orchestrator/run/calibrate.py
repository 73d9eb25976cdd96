"""How fast this machine trains: a few steps and validations of each kind of training, beside as many as will run.

A calibration is ``sagasr.training.train.train`` like any other, only short, in a temporary folder and on a few
recordings; what its parts took is told by its signs of life. Runs in processes of its own, so that several compete as
trials do.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.plan.capacity import gpus_here, workers_beside
from orchestrator.plan.cost import LOSS_PASSES, Speed, Speeds, kind_of, read_speeds
from orchestrator.plan.plan import Plan, Trial
from orchestrator.run.same_code import search_path
from sagasr.cli.common import BAD_INPUT
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config, Data, Evaluation
from sagasr.config.stages import sampling_of
from sagasr.config.strict import Strict
from sagasr.io.errors import DataError, SagasrError
from sagasr.io.files import write_json, write_text
from sagasr.model.guidance import guidance_branches

STEPS = 12
SAMPLING_STEPS = 4
CLIPS = 32  # sampled at once in a validation: more of them cost in proportion
RECORDINGS = 8
VARIANTS = 4  # scored, of those that a training has


class Task(Strict):
    """One short training."""

    config: Config
    variants: dict[str, Evaluation]
    runtime: Runtime
    folder: str


def calibrate(plan: Plan, trials: Sequence[Trial]) -> None:
    """Time each kind of training among the trials that was not timed before, and remember it beside the storage.

    What trains on a GPU is left out, and named, where there is none. Raises SagasrError for what cannot train.
    """
    known = dict(read_speeds(plan).kinds)
    kinds: dict[str, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault(kind_of(trial), []).append(trial)
    for kind, alike in kinds.items():
        first = alike[0]
        if kind in known:
            continue
        if first.resources.gpus_per_worker and not gpus_here():
            _say(f"size {first.size} trains on a GPU and this machine has none: not timed, its cost stays assumed")
            continue
        beside = min(workers_beside(first.resources), len(alike) * first.resources.workers)
        _say(f"timing a few steps of size {first.size} ({beside} at once)")
        known[kind] = _mean(_time(first, beside))
        write_json(plan.paths.speeds, Speeds(kinds=known).model_dump(mode="json"))


def _mean(speeds: Sequence[Speed]) -> Speed:
    return Speed(**{name: statistics.fmean(getattr(speed, name) for speed in speeds) for name in Speed.model_fields})


def _time(trial: Trial, beside: int) -> list[Speed]:
    """Return the speeds of so many short trainings at once."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, int(trial.resources.cpus_per_worker))),
        "PYTHONPATH": os.pathsep.join(search_path()),
    }
    with tempfile.TemporaryDirectory(prefix="sagasr-calibrate-") as name:
        processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "orchestrator.run.calibrate", _task(trial, Path(name) / str(copy))],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,  # as Ray's workers: Linux shares the CPU among sessions first
            )
            for copy in range(beside)
        ]
        try:
            ended = [process.communicate() for process in processes]
        finally:
            for process in processes:
                process.kill()
        for process, (_, errors) in zip(processes, ended, strict=True):
            if process.returncode == BAD_INPUT:
                raise SagasrError(f"--calibrate: {errors.strip().splitlines()[-1]}")
            if process.returncode < 0:
                raise SagasrError(
                    f"--calibrate: a short training was killed ({signal.Signals(-process.returncode).name}); "
                    "is the memory full?"
                )
            if process.returncode:
                raise RuntimeError(errors)
        return [Speed.model_validate_json(output.splitlines()[-1]) for output, _ in ended]


def _task(trial: Trial, folder: Path) -> str:
    """Write what a process is to do; return the file's path. One of several workers stands for all, alone."""
    config, runtime = trial.config, trial.resources
    clips, rows = min(CLIPS, config.validation.clips), max(1, config.training.batch_size // runtime.workers)
    task = Task(
        config=config.model_copy(
            update={
                "data": _few(config.data, folder / "data", clips),
                "training": config.training.model_copy(update={"steps": STEPS, "batch_size": rows}),
                "validation": config.validation.model_copy(update={"every": STEPS, "clips": clips}),
            }
        ),
        variants={variant.id: _short(variant.evaluation) for variant in trial.variants[:VARIANTS]},
        runtime=runtime.model_copy(update={"workers": 1, "checkpoint_every": STEPS}),
        folder=str(folder),
    )
    path = folder / "task.json"
    write_text(path, task.model_dump_json())
    return str(path)


def _short(evaluation: Evaluation) -> Evaluation:
    return evaluation.model_copy(update={"sampler": evaluation.sampler.model_copy(update={"steps": SAMPLING_STEPS})})


def _few(data: Data, folder: Path, clips: int) -> Data:
    """Return manifests of a few recordings, spread evenly over the data, as links in ``folder``."""
    from sagasr.data.splits import checked_rows

    folder.mkdir(parents=True)
    paths = {}
    for split, wanted in (("train", RECORDINGS), ("val", clips)):
        rows, problems, _ = checked_rows(data, split)  # type: ignore[arg-type]
        if problems:
            raise DataError("\n".join(problems))
        chosen = rows[:: max(1, len(rows) // wanted)][:wanted]
        lines = []
        for number, row in enumerate(chosen):
            name = f"{split}-{number}{row.file.suffix}"
            (folder / name).symlink_to(row.file.resolve())
            texts = {"caption": row.caption, "transcript": row.transcript, "domain": row.domain}
            lines.append(json.dumps({"path": name, **texts}))
        paths[split] = str(folder / f"{split}.jsonl")
        write_text(Path(paths[split]), "\n".join(lines) + "\n")
    return Data(**paths, policy=data.policy)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


# ---------------------------------------------------------------------------------------------- the short training


class Timeline:
    """When a short training showed life: after it began, sampling steps, a validation's end, steps, and so on again."""

    def __init__(self) -> None:
        self.pulses: list[float] = []
        self.validated: list[tuple[int, float]] = []  # how many pulses there were when a validation had ended, and when

    def pulse(self) -> None:
        self.pulses.append(_now())

    def report(self, metrics: Mapping[str, float]) -> None:
        self.validated.append((len(self.pulses), _now()))

    @property
    def steps(self) -> list[float]:
        """When each training step had ended."""
        first = self.validated[0][0] if self.validated else len(self.pulses)
        return self.pulses[first : first + STEPS]


def measure(task: Task) -> Speed:
    """Run one short training and return what its parts took."""
    from sagasr.data.encode import encode_store
    from sagasr.data.store import Store
    from sagasr.model.saga import build_model
    from sagasr.training.harness import Harness
    from sagasr.training.train import train

    config, folder, life = task.config, Path(task.folder), Timeline()
    build_model(config)  # imports what a process that has trained before has imported
    began = time.monotonic()
    path = encode_store(config, folder / "encoded")
    encoded = time.monotonic()
    store = Store.open(path)
    harness = Harness(
        accelerator="gpu" if task.runtime.gpus_per_worker else "cpu",
        report=life.report,
        pulse=life.pulse,
    )
    launched = time.monotonic()
    train(config, folder / "trial", path, task.variants, task.runtime, harness)
    ended, clips = _now(), len(store.clips)
    branches = [
        len(guidance_branches(config.conditions, sampling.sampler.guidance))
        for sampling in dict.fromkeys(map(sampling_of, task.variants.values()))
    ]
    recordings = len(store.train.entries) + clips
    return Speed(
        **_speed(life, launched, ended, clips, branches, len(task.variants)), encode=(encoded - began) / recordings
    )


def _speed(
    life: Timeline, launched: float, ended: float, clips: int, branches: Sequence[int], variants: int
) -> dict[str, float]:
    """Return what the parts of a training took, from its signs of life. ``branches``: of each sampling, in order.

    Warm-up of the first step and the first validation is counted once.
    """
    steps, (_, first), (pulses, last) = life.steps, life.validated[0], life.validated[-1]
    step = (steps[-1] - steps[0]) / (len(steps) - 1)
    sampled = [at for at in life.pulses if steps[-1] < at < last]
    parts = [sampled[begin : begin + SAMPLING_STEPS] for begin in range(0, len(sampled), SAMPLING_STEPS)]
    between = sum(part[-1] - part[0] for part in parts)  # however the clips were parted: all but their first steps
    forward = between / (SAMPLING_STEPS - 1) / (clips * sum(branches))
    validation, saved = last - steps[-1], life.pulses[pulses]
    score = (validation / clips - forward * (LOSS_PASSES + SAMPLING_STEPS * sum(branches))) / variants
    warming = (first - life.pulses[0] - validation) + (steps[0] - first - step)
    return {
        "step": step,
        "forward": forward,
        "score": max(score, 0.0),
        "once": max(warming, 0.0) + (ended - saved),
        "save": saved - last,
        "start": life.pulses[0] - launched,
    }


def _now() -> float:
    """Return the time when everything that was asked of a GPU is done."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.monotonic()


if __name__ == "__main__":
    os.nice(15)  # as Ray's workers are
    try:
        sys.stdout.write(
            measure(Task.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))).model_dump_json()
        )
    except SagasrError as error:
        _say(str(error))
        sys.exit(BAD_INPUT)
