# ruff: noqa: T201
"""Log-spectral distances per clip on one core: ours against librosa's transform and numpy, in one run, on equal clips.

    OMP_NUM_THREADS=1 uv run python -m tests.benchmarks.lsd

Times are processor time, in turn for each clip, and each pair of rows is void unless its numbers agree within 1e-6.
"""

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import sagasr
from sagasr.audio.degrade import Draw, degrade
from sagasr.audio.files import read_audio
from sagasr.audio.spectrum import cutoff_bin
from sagasr.metrics import METRICS, Reference

SAMPLES = 65_536  # 1.5 s, what a validation scores by default
CUTOFF_HZ = 4_000.0
FAMILY = ("lsd", "lsd_lf", "lsd_hf", "lsd_ssr")
ROUNDS = 9
TOLERANCE = 1e-6


def main() -> None:
    """Print one table: median, spread, and how many times as fast as librosa."""
    torch.set_num_threads(1)
    pairs = [
        pair_of(path) for path in sorted(Path(sagasr.__file__).parent.joinpath("recordings").rglob("*.flac"))[::12]
    ]
    known = [Reference(high, CUTOFF_HZ) for high, _ in pairs]
    sides: dict[str, Callable[[int], object]] = {
        "librosa + numpy": lambda place: with_librosa(*(audio[0].numpy() for audio in pairs[place])),
        "ours, high clip new": lambda place: Reference(pairs[place][0], CUTOFF_HZ).score(pairs[place][1], FAMILY),
        "ours, high clip known": lambda place: known[place].score(pairs[place][1], FAMILY),
        f"ours, all {len(METRICS)} metrics": lambda place: known[place].score(pairs[place][1]),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(ROUNDS + 1):
        for place in range(len(pairs)):
            for name, side in sides.items():
                began = time.process_time()
                side(place)
                if turn:  # the first round warms up
                    times[name].append(1e3 * (time.process_time() - began))
    print(f"{len(pairs)} clips of {SAMPLES:,} samples, {ROUNDS} rounds, one core ({platform.machine()})")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "librosa")))
    slowest = statistics.median(times["librosa + numpy"])
    print(f"{'lsd, lsd_lf, lsd_hf, lsd_ssr of one clip':42}{'ms':>8}{'10-90 %':>16}{'times':>8}")
    for name, found in times.items():
        tenths = statistics.quantiles(found, n=10)
        middle = statistics.median(found)
        print(f"{name:42}{middle:8.2f}{tenths[0]:9.2f} -{tenths[-1]:5.2f}{slowest / middle:8.1f}")
    worst = max(difference(known[place], *pairs[place]) for place in range(len(pairs)))
    verdict = "equal" if worst <= TOLERANCE else "VOID"
    print(f"largest difference from double precision: {worst:.1e} ({verdict}, at most {TOLERANCE:.0e})")


def pair_of(path: Path) -> tuple[Tensor, Tensor]:
    """Return a recording [1, T] and a stand-in for a prediction: its low band with noise above."""
    high = read_audio(path, 1)[:, :SAMPLES]
    low = degrade(high, Draw("chebyshev1", 8, CUTOFF_HZ))
    noise = np.random.default_rng(0).standard_normal(high.shape)
    return torch.from_numpy(high), torch.from_numpy(low + 1e-3 * noise).float()


def with_librosa(high: NDArray[np.floating], estimate: NDArray[np.floating]) -> dict[str, float]:
    """Return the four distances of clips [T], each definition written out."""
    cutoff = cutoff_bin(CUTOFF_HZ)
    target, found = (np.maximum(magnitude(audio, 512) ** 2, 1e-8) for audio in (high, estimate))
    squared = np.log10(target / found) ** 2
    scores = {
        "lsd": root_mean(squared),
        "lsd_lf": root_mean(squared[:cutoff]),
        "lsd_hf": root_mean(squared[cutoff:]),
    }
    target, found = (magnitude(audio, 441) for audio in (high, estimate))
    return scores | {"lsd_ssr": root_mean(np.log10(target**2 / (found + 1e-12) ** 2 + 1e-12) ** 2)}


def magnitude(audio: NDArray[np.floating], hop: int) -> NDArray[np.floating]:
    """Return the magnitudes [F, N]."""
    found: NDArray[np.floating] = np.abs(librosa.stft(audio, n_fft=2_048, hop_length=hop))
    return found


def root_mean(squared: NDArray[np.floating]) -> float:
    return float(np.sqrt(squared.mean(0)).mean())


def difference(reference: Reference, high: Tensor, estimate: Tensor) -> float:
    """Return by how much the four distances differ from those of librosa in double precision."""
    ours = reference.score(estimate, FAMILY)
    exact = with_librosa(high[0].double().numpy(), estimate[0].double().numpy())
    return max(abs(float(ours[name] or 0.0) - exact[name]) for name in FAMILY)


if __name__ == "__main__":
    main()
