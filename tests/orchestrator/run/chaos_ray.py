"""Real sweeps on Ray whose processes are killed on purpose: workers, drivers, raylets, servers, sweeps.

``campaign`` strikes in a seeded order until it has struck often enough; each sweep is then let go on to its end and
compared with one that ran undisturbed without Ray: in a single process, or by two workers in two.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from tests.orchestrator.run import chaos
from tests.processes import LIMIT_S, SLOWLY, SWEEP, free_port, wait_for

STEPS, SAVED, HANG_S = 400, 10, 20.0
ALONE: dict[str, Any] = {"resources": {"default": {"checkpoint_every": SAVED, "hang_seconds": HANG_S}}}
PAIR: dict[str, Any] = {  # one training, by two workers
    "steps": 200,
    "factors": {"lfr": ["off", "hard"]},
    "resources": {"default": {**ALONE["resources"]["default"], "workers": 2}},
}


class Strike(NamedTuple):
    """One kill: what was hit, at which step of which trial, the steps that had to be done again, seconds to recover.

    ``survived``: its sweep ended like the calm one.
    """

    kind: str
    step: int
    lost: int
    seconds: float
    survived: bool = False


class Lab:
    """A sweep of two trainings on Ray in a folder, its processes, and its tracking server if it has one."""

    def __init__(self, folder: Path, *, served: bool, **changes: Any) -> None:
        self.folder, self.storage = folder, folder / "sweeps"
        self.grid = grid_of(folder / "study", **changes)
        self.process: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.served = served
        self.log = folder / "sweep.log"
        self.beats: dict[Path, list[tuple[int, int]]] = {}
        if served:
            self.serve()
            wait_for(self.served_again, "a tracking server")  # a sweep that has no runs yet is refused without it

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.served else f"sqlite:///{self.storage / 'mlflow.db'}"

    def serve(self) -> None:
        """Start the tracking server, on the same database as before."""
        (self.folder / "server").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "server" / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.server = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def served_again(self) -> bool:
        """Return whether the tracking server answers."""
        with contextlib.suppress(OSError), urlopen(f"{self.uri}/health", timeout=10) as answer:
            return bool(answer.status == 200)
        return False

    def start(self, command: Sequence[str] = SWEEP) -> None:
        """Give the same command (again)."""
        command = [*command, str(self.grid), "--storage", str(self.storage), "--tracking-uri", self.uri]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | SLOWLY, stdout=log, stderr=log, start_new_session=True
            )

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def close(self) -> None:
        for process in (self.process, self.server):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    # ------------------------------------------------------------------------------------------------- what is going on

    def trials(self) -> list[Path]:
        return sorted((self.storage / "chaos" / "trials").glob("*/status.json"))

    def statuses(self) -> dict[Path, dict[str, Any]]:
        found = {}
        for path in self.trials():
            try:
                found[path.parent] = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
        return found

    def moving(self) -> tuple[Path, dict[str, Any]] | None:
        """Return a trial that is training, has saved, and is far from its end: its heart was heard to beat."""
        for folder, status in self.statuses().items():
            beats = self.beats.setdefault(folder, [])
            if (status["attempt"], status["beat"]) not in beats:
                beats.append((status["attempt"], status["beat"]))
            beating = len({beat for attempt, beat in beats if attempt == status["attempt"]}) > 1
            far = committed(folder) >= SAVED and status["step"] < status["steps"] - 3 * SAVED
            if beating and far and status["state"] == "running" and beats[-1] == (status["attempt"], status["beat"]):
                return folder, status
        return None

    def processes(self) -> Iterator[tuple[int, str]]:
        """Yield the number and name of each process that the sweep has started, directly or not."""
        assert self.process is not None
        parents: dict[int, int] = {}
        names: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    number = int(entry.name)
                    parents[number] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    names[number] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except (OSError, ValueError):
                    continue
        for number in parents:
            ancestor = number
            while ancestor in parents and ancestor != self.process.pid:
                ancestor = parents[ancestor]
            if ancestor == self.process.pid and number != self.process.pid:
                yield number, names[number]

    def one(self, *words: str) -> int | None:
        """Return the number of a process whose name holds one of the words."""
        return next(iter(self.all(*words)), None)

    def all(self, *words: str) -> list[int]:
        """Return the numbers of the processes whose name holds one of the words."""
        return [number for number, name in self.processes() if any(word in name for word in words)]


def grid_of(folder: Path, steps: int = STEPS, **changes: Any) -> Path:
    """Write the study: long enough to be struck, saved often."""
    longer = chaos.SETTINGS | {"training.steps": steps, "validation.every": steps // 3}
    return chaos.write_grid(folder, longer, **{**ALONE, **changes})


def committed(folder: Path) -> int:
    """Return the step of a trial's newest checkpoint."""
    found = folder.glob("checkpoints/step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in found), default=-1)


# -------------------------------------------------------------------------------------------------------------- strikes


def worker_of(folder: Path) -> int:
    return int(json.loads((folder / ".worker.json").read_text())["pid"])


def _signal(find: Callable[[Lab, Path], int | None], number: int) -> Callable[[Lab, Path], None]:
    def strike(lab: Lab, folder: Path) -> None:
        victim = find(lab, folder)
        assert victim is not None, "no such process"
        os.kill(victim, number)

    return strike


def _sweep(lab: Lab, folder: Path) -> None:
    assert lab.process is not None
    lab.process.kill()
    lab.process.wait()
    lab.start()


def _raylet(lab: Lab, folder: Path) -> None:
    victim = next((number for number, name in lab.processes() if name.split(" ")[0].endswith("raylet/raylet")), None)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    assert lab.process is not None
    lab.process.wait(LIMIT_S)  # nothing is left to run on: the sweep ends by itself
    assert lab.process.returncode != 0
    lab.start()


def _server(lab: Lab, folder: Path) -> None:
    assert lab.server is not None
    os.killpg(lab.server.pid, signal.SIGKILL)
    lab.server.wait()
    time.sleep(2)
    lab.serve()


STRIKES: dict[str, Callable[[Lab, Path], None]] = {
    "worker: SIGKILL": _signal(lambda lab, folder: worker_of(folder), signal.SIGKILL),
    "worker: SIGTERM (spot notice)": _signal(lambda lab, folder: worker_of(folder), signal.SIGTERM),
    "worker: SIGSTOP (frozen)": _signal(lambda lab, folder: worker_of(folder), signal.SIGSTOP),
    # Tune wraps the class of the drivers in one that it calls so.
    "trial driver: SIGKILL": _signal(lambda lab, folder: lab.one("ray::_Inner"), signal.SIGKILL),
    "controller of a lane: SIGKILL": _signal(lambda lab, folder: lab.one("ray::TrainController"), signal.SIGKILL),
    "exchange: SIGKILL": _signal(lambda lab, folder: lab.one("ray::Exchange"), signal.SIGKILL),
    "raylet: SIGKILL": _raylet,
    "sweep: SIGKILL": _sweep,
    "tracking server: SIGKILL": _server,
}
STRIKES_ON_PAIR: dict[str, Callable[[Lab, Path], None]] = {
    "one of two workers: SIGKILL": _signal(
        lambda lab, folder: next(one for one in lab.all("ray::RayTrainWorker") if one != worker_of(folder)),
        signal.SIGKILL,
    ),
    "controller of two workers: SIGKILL": _signal(lambda lab, folder: lab.one("ray::TrainController"), signal.SIGKILL),
}


def strike(lab: Lab, kind: str) -> Strike | None:
    """Hit a sweep that is training, and wait until the trial that was hit trains again; None if it ended before."""
    moving = wait_for(lambda: lab.moving() or not lab.running(), "a trial that trains")
    if moving is True:
        assert all(one["state"] == "done" for one in lab.statuses().values()), lab.log.read_text()[-2_000:]
        return None
    folder, before = moving[0], lab.statuses()
    lab.beats.clear()
    pair = lab.all("ray::RayTrainWorker") if kind in STRIKES_ON_PAIR else []  # the lanes of other trials live on
    began = time.monotonic()
    (STRIKES | STRIKES_ON_PAIR)[kind](lab, folder)
    if kind.startswith("tracking"):
        return Strike(kind, before[folder]["step"], 0, 0.0)

    def again() -> tuple[Path, dict[str, Any]] | None:
        """Return the trial that was hit, begun again: of drivers it cannot be told beforehand.

        One that was hit at its last steps may have none left to take, or may have ended before it noticed.
        """
        for one, now in lab.statuses().items():
            goes_on = now["step"] > now["resumed"] or now["state"] == "done"
            if now["attempt"] > before.get(one, now)["attempt"] and goes_on:
                return one, now
        return None if lab.running() else (folder, lab.statuses()[folder])

    hit, now = wait_for(again, f"a trial after {kind}")
    seconds = round(time.monotonic() - began, 1)
    assert not [one for one in pair if Path(f"/proc/{one}").exists()], f"a worker outlived {kind}"
    return Strike(kind, before[hit]["step"], max(0, before[hit]["step"] - now["resumed"]), seconds)


@contextmanager
def lab(folder: Path, *, served: bool, **changes: Any) -> Iterator[Lab]:
    """Yield a lab whose processes are gone afterwards."""
    made = Lab(folder, served=served, **changes)
    try:
        yield made
    finally:
        made.close()


def calm_state(folder: Path, workers: int) -> dict[str, Any]:
    """Return the outcome of the undisturbed sweep, run without Ray in as many processes as a training has workers."""
    grid = grid_of(folder / "study", **(ALONE if workers == 1 else PAIR))

    def work() -> dict[str, Any]:
        if workers == 1:
            chaos.sweep(grid, folder / "calm", tracked=False)
        else:
            train_by_two(grid, folder / "calm")
        return state(grid, folder / "calm")

    status, found = chaos.forked(work)
    assert status == 0
    return dict(found)


def train_by_two(grid: Path, storage: Path) -> None:
    """Train the only trial of a grid in this process and a child, which gloo connects; write the tables."""
    from orchestrator.plan.ledger import record, scan
    from orchestrator.run.results import collect
    from orchestrator.run.worker import encode
    from sagasr.training.harness import Harness
    from sagasr.training.train import train

    plan = chaos.plan_of(grid, storage)
    (trial,) = plan.trials
    record(plan.paths, trial)
    _, store = chaos.forked(lambda: encode(trial.config.model_dump_json(), str(storage / "encoded")))
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    rank = int(os.fork() == 0)
    os.environ.update(group, LOCAL_RANK=str(rank))
    variants = {variant.id: variant.evaluation for variant in trial.variants}
    harness = Harness(strategy="ddp", devices=2)
    train(trial.config, plan.paths.trial(trial.id), Path(store), variants, trial.resources, harness)
    if rank:
        os._exit(0)
    collect(plan, scan(plan))


def state(grid: Path, storage: Path) -> dict[str, Any]:
    return chaos.state_of(grid, storage, tracked=False)


def campaign(folder: Path, kinds: list[str], workers: int = 1) -> dict[str, Any]:
    """Strike sweeps whose trainings have so many workers in the order given; let the last one end and compare."""
    if not kinds:
        return {"strikes": [], "sweeps": 0, "faults": []}
    chaos.import_all()
    folder.mkdir(parents=True, exist_ok=True)
    calm = calm_state(folder, workers)
    alone = workers == 1
    struck: list[Strike] = []
    faults: list[str] = []
    waiting, sweeps = list(kinds), 0
    while waiting:
        sweeps += 1
        place = folder / f"sweep-{sweeps}"
        shutil.copytree(folder / "study", place / "study")
        with lab(place, served=alone, **(ALONE if alone else PAIR)) as here:
            here.start()
            hits: list[Strike] = []
            while waiting and (one := strike(here, waiting[0])):
                hits.append(one)
                waiting.pop(0)
                sys.stderr.write(f"{one}\n")
            assert here.process is not None
            while here.process.wait(LIMIT_S) != 0:
                here.start()
            if here.served:
                wait_for(here.served_again, "a tracking server")
                here.start()  # once more, for what the server has missed
                assert here.process.wait(LIMIT_S) == 0
            found = state(here.grid, here.storage)
            wrong = [key for key in calm if key != "litter" and calm[key] != found.get(key)]
            wrong += [f"MLflow: {fault}" for fault in tracked_faults(here)]
            faults += [f"sweep {sweeps}: {fault}" for fault in wrong]
            struck += [hit._replace(survived=not wrong) for hit in hits]
    return {"strikes": [one._asdict() for one in struck], "sweeps": sweeps, "faults": faults}


def tracked_faults(here: Lab) -> list[str]:
    """Return what MLflow has twice or not at all, compared with the tables."""
    import pyarrow.parquet as pq

    from orchestrator.tracking.client import connect

    client = connect(here.uri)
    experiment = client.get_experiment_by_name("chaos").experiment_id
    runs = [run for run in client.search_runs([experiment]) if "sagasr.replicate" in run.data.tags]
    names = [run.data.tags["sagasr.replicate"] for run in runs]
    faults = [f"{name} has {names.count(name)} runs" for name in set(names) if names.count(name) > 1]
    curves = pq.read_table(here.storage / "chaos" / "results" / "curves.parquet").to_pylist()
    wanted: dict[tuple[str, str], list[int]] = {}
    for row in curves:
        wanted.setdefault((row["replicate"], row["metric"]), []).append(row["step"])
    for run in runs:
        for (replicate, metric), steps in wanted.items():
            if replicate == run.data.tags["sagasr.replicate"]:
                points = [point.step for point in client.get_metric_history(run.info.run_id, metric)]
                if sorted(points) != sorted(steps):
                    faults.append(f"{replicate} {metric}: {len(points)} points of {len(steps)}")
    return faults + [f"{name} has no run" for name in {name for name, _ in wanted} - set(names)]


def drawn(kills: int, seed: int, workers: int = 1) -> list[str]:
    """Return so many kinds of strikes in a seeded order, each at least once if there are enough."""
    rng = random.Random(seed)
    known = list(STRIKES if workers == 1 else STRIKES_ON_PAIR)
    kinds = rng.sample(known, len(known))
    return (kinds + [rng.choice(known) for _ in range(kills)])[:kills]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=12, help="so many; each kind at least once, if there are enough")
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2), help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = drawn(options.kills, options.seed, options.workers)
    sys.stdout.write(json.dumps(campaign(options.folder, kinds, options.workers), indent=2) + "\n")


if __name__ == "__main__":
    main()
