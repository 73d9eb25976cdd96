"""How long, how large: 1,000 replicates x 100 clips analysed and reported, and the page of 32 cells x 8 clips.

    python tests/benchmarks/report.py [FOLDER]

Prints seconds of the clock and of the processor, the peak of resident memory and the page's size beside their limits;
exits with 1 when one is exceeded. FOLDER (by default a temporary one) keeps the sweeps that were made.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from sagasr.io.files import write_json
from sagasr.metrics.table import METRICS

RATE = 44_100
STAGES = {"lfr": "eval"}
LARGE = {
    "text": ["off", "caption"], "rolloff": ["off", "on"], "latent_dropout": ["off", "0.1"],
    "lfr": ["off", "hard", "crossfade", "soft", "late"],
}  # fmt: skip
HEARD = {
    "text": ["off", "caption"], "rolloff": ["off", "on"], "latent_dropout": ["off", "0.1"], "size": ["small", "full"],
    "lfr": ["off", "hard"],
}  # fmt: skip
EFFECTS = {"text": -0.08, "rolloff": -0.15, "latent_dropout": 0.004, "size": -0.1, "lfr": -0.03}
LIMITS = {"seconds": 60.0, "processor seconds": 120.0, "GB of memory": 2.0, "MB of page": 15.0}
# The command with its own peak of memory (kB) written last; ru_maxrss would begin with the peak of this process, its
# parent, which made the data.
COMMAND = (
    "import pathlib, sys; from orchestrator.cli.report import report as main; code = main(sys.argv[1:]); "
    "print('peak', pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]); sys.exit(code)"
)


def make_sweep(
    folder: Path, factors: Mapping[str, Sequence[str]], seeds: int, clips: int, heard: int = 0, random: int = 0
) -> Path:
    """Write a finished sweep with known effects: tables, curves, references, distances and, of seed 0, audio."""
    rng = np.random.default_rng(random)
    cells = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    names = [f"{('speech', 'music', 'effects')[i % 3]}-{i:03d}" for i in range(clips)]
    domains = np.array([name.split("-")[0] for name in names])
    hard, gains = rng.normal(0, 0.25, clips), rng.normal(0, 0.06, clips)
    runs, scores, curves, distances, planned = [], [], [], [], []
    for number, levels in enumerate(cells):
        cell = " ".join(f"{factor}={level}" for factor, level in levels.items())
        gain = sum(EFFECTS[name] for name, level in levels.items() if level != factors[name][0])
        train = "".join(level for name, level in levels.items() if STAGES.get(name) != "eval")
        rows = []
        for seed in range(seeds):
            noise = np.random.default_rng([seed, len(train), sum(map(ord, train))]).normal(0, 0.03)
            shift = np.random.default_rng(seed).normal(0, 0.02)
            value = 1.4 + gain + shift + noise + rng.normal(0, 0.004) + hard + rng.normal(0, 0.05, clips)
            value = value + gains * (levels["text"] != "off")
            keys = {"replicate": f"r{number}s{seed}", "cell": cell, "trial": f"{train}{seed}", "seed": seed, **levels}
            table = {name: (value if name.startswith("lsd") else 10 - 3 * value) for name in METRICS}
            scores.append(pd.DataFrame({**keys, "clip": names, "domain": domains, **table}))
            fd = 9 + 4 * gain + rng.normal(0, 0.2)
            runs.append({
                **keys, **{name: float(np.mean(values)) for name, values in table.items()}, "status": "done",
                "reason": "", "fd_spectral": fd, "gpu_seconds": 900.0, "steps": 2_000, "stopped_at_step": None,
                "wall_seconds": 1_000.0 * (3 if levels.get("size") == "full" else 1) * rng.uniform(0.9, 1.1),
            })  # fmt: skip
            distances.append({"replicate": keys["replicate"], "subject": "model", "domain": "all",
                              "metric": "fd_spectral", "value": fd, "n": 400, "clips": clips})  # fmt: skip
            step = np.linspace(100, 2_000, 20)
            for metric, top in (("train/loss", 0.6), ("val/loss", 0.7), ("val/lsd", 2.0)):
                path = top * (step / 100) ** -0.4 + (value.mean() if metric == "val/lsd" else 0) + gain * 0.2
                path = path + rng.normal(0, 0.01, len(step))
                curves.append(pd.DataFrame({"replicate": keys["replicate"], "metric": metric, "step": step.astype(int),
                                            "value": path}))  # fmt: skip
            rows.append({"seed": seed, "replicate": keys["replicate"], "trial": keys["trial"]})
        planned.append({"cell": cell, "levels": levels, "replicates": rows})
    low = [{"subject": subject, "clip": name, "domain": domain, "lsd": base + h, "lsd_hf": base + h}
           for subject, base in (("low", 4.2), ("shaped_noise", 2.1), ("untrained", 2.4))
           for name, domain, h in zip(names, domains, hard, strict=True)]  # fmt: skip
    (folder / "results").mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", {
        "name": folder.name, "question": "Which conditions matter for super-resolution quality?",
        "metric": {"name": "lsd", "better": "lower", "delta": 0.05}, "design": {"kind": "full"},
        "factors": {name: {"baseline": levels[0], "levels": list(levels), "stage": STAGES.get(name, "train")}
                    for name, levels in factors.items()},
        "seeds": list(range(seeds)), "expected_replicates": len(runs), "cells": planned, "plan_hash": "b" * 64,
        "ladder": [{"step": "0", "levels": {}}, {"step": "1", "levels": {"text": "caption"}},
                   {"step": "2", "levels": {"text": "caption", "rolloff": "on"}}],
    })  # fmt: skip
    for name, table in (("replicates", pd.DataFrame(runs)), ("clips", pd.concat(scores)), ("curves", pd.concat(curves)),
                        ("references", pd.DataFrame(low)), ("distances", pd.DataFrame(distances))):  # fmt: skip
        table.to_parquet(folder / "results" / f"{name}.parquet", index=False)
    for name in names[:heard]:
        write_audio(folder / "audio", name, [row["replicates"][0]["replicate"] for row in planned], rng)
    return folder


def write_audio(folder: Path, name: str, replicates: Sequence[str], rng: np.random.Generator) -> None:
    """Write 1.5 s of a falling harmonic sound: whole as high, cut at 4 kHz as low, with other phases as answers."""
    time_s = np.arange(int(1.5 * RATE)) / RATE
    pitch = rng.uniform(110, 330)
    tone = sum(np.sin(2 * np.pi * pitch * k * time_s + rng.uniform(0, 6)) / k for k in range(1, 60))
    high = 0.15 * tone * np.exp(-time_s) + 0.02 * rng.standard_normal(len(time_s)) * np.exp(-3 * (time_s % 0.25))
    spectrum = np.fft.rfft(high)
    hertz = np.fft.rfftfreq(len(high), 1 / RATE)
    low = np.fft.irfft(spectrum * (hertz < 4_000), len(high))
    for kind, sound in (("high", high), ("low", low)):
        _write(folder / kind / f"{name}.flac", sound)
    for place, replicate in enumerate(replicates):
        phase = np.exp(1j * rng.uniform(0, 0.1 + 0.1 * place, len(spectrum)) * (hertz > 4_000))
        _write(folder / replicate / f"{name}.flac", np.fft.irfft(spectrum * phase, len(high)))


def _write(path: Path, sound: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(sound, -0.99, 0.99), RATE, subtype="PCM_16")


def measure(folder: Path) -> dict[str, float]:
    """Run sagasr-report on a folder in a process of its own; return what it took."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, "-c", COMMAND, str(folder)], capture_output=True, text=True)
    taken, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"sagasr-report ended with {done.returncode}:\n{done.stderr}{done.stdout[-2000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(done.stdout.rsplit("peak ", 1)[1])
    return {
        "seconds": taken, "processor seconds": used, "GB of memory": peak * 1024 / 1e9,
        "MB of page": (folder / "report" / "index.html").stat().st_size / 1e6,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Make both sweeps, report them, and print what that took; return 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    folder = parser.parse_args(argv).folder or Path(tempfile.mkdtemp())
    found = {
        "1,000 replicates x 100 clips": measure(make_sweep(folder / "large", LARGE, seeds=25, clips=100)),
        "32 cells x 8 clips heard": measure(make_sweep(folder / "heard", HEARD, seeds=3, clips=12, heard=8)),
    }
    exceeded = 0
    for name, values in found.items():
        for what, value in values.items():
            over = value > LIMITS[what]
            exceeded += over
            sys.stdout.write(
                f"{'OVER' if over else 'ok  '}  {name:<30} {value:8.2f} {what} (at most {LIMITS[what]:g})\n"
            )
    (folder / "measured.json").write_text(json.dumps(found, indent=2))
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
