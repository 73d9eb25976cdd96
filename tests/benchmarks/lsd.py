"""Log-spectral distances per clip: ours against librosa's transform and numpy, on equal clips."""

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
from sagasr.metrics.score import Reference
from tests.benchmarks.measure import Row, in_turn

SAMPLES = 65_536  # 1.5 s, what a validation scores by default
CUTOFF_HZ = 4_000.0
FAMILY = ("lsd", "lsd_lf", "lsd_hf", "lsd_ssr")
TOLERANCE = 1e-6


def one(quick: bool) -> Row:
    """The one LSD of a prediction, the high clip's spectrum known, as it is in every validation but the first."""
    return _row(quick, ("lsd",))


def family(quick: bool) -> Row:
    """All four LSDs of a prediction."""
    return _row(quick, FAMILY)


def _row(quick: bool, names: tuple[str, ...]) -> Row:
    paths = sorted(Path(sagasr.__file__).parent.joinpath("recordings").rglob("*.flac"))
    pairs = [pair_of(path) for path in paths[:: 48 if quick else 12]]
    known = [Reference(high, CUTOFF_HZ) for high, _ in pairs]

    def ours() -> None:
        for reference, (_, estimate) in zip(known, pairs, strict=True):
            reference.score(estimate, names)

    def theirs() -> None:
        for high, estimate in pairs:
            with_librosa(high[0].numpy(), estimate[0].numpy(), names)

    fast, slow = in_turn(ours, theirs, 3 if quick else 15)
    worst = max(difference(reference, *pair, names) for reference, pair in zip(known, pairs, strict=True))
    return Row([it / len(pairs) for it in fast], [it / len(pairs) for it in slow], "clip of 1.5 s",
               f"{worst:.0e} from double precision", worst < TOLERANCE)  # fmt: skip


def pair_of(path: Path) -> tuple[Tensor, Tensor]:
    """Return a recording [1, T] and a stand-in for a prediction: its low band with noise above."""
    high = read_audio(path, 1)[:, :SAMPLES]
    low = degrade(high, Draw("chebyshev1", 8, CUTOFF_HZ))
    noise = np.random.default_rng(0).standard_normal(high.shape)
    return torch.from_numpy(high), torch.from_numpy(low + 1e-3 * noise).float()


def librosa_lsd(high: NDArray[np.floating], estimate: NDArray[np.floating]) -> float:
    """Return the LSD of clips [T]."""
    return with_librosa(high, estimate, ("lsd",))["lsd"]


def with_librosa(
    high: NDArray[np.floating], estimate: NDArray[np.floating], names: tuple[str, ...] = FAMILY
) -> dict[str, float]:
    """Return distances of clips [T], each definition written out."""
    cutoff = cutoff_bin(CUTOFF_HZ)
    target, found = (np.maximum(magnitude(audio, 512) ** 2, 1e-8) for audio in (high, estimate))
    squared = np.log10(target / found) ** 2
    scores = {"lsd": root_mean(squared)}
    if names == FAMILY:
        scores |= {"lsd_lf": root_mean(squared[:cutoff]), "lsd_hf": root_mean(squared[cutoff:])}
        target, found = (magnitude(audio, 441) for audio in (high, estimate))
        scores["lsd_ssr"] = root_mean(np.log10(target**2 / (found + 1e-12) ** 2 + 1e-12) ** 2)
    return scores


def magnitude(audio: NDArray[np.floating], hop: int) -> NDArray[np.floating]:
    """Return the magnitudes [F, N]."""
    found: NDArray[np.floating] = np.abs(librosa.stft(audio, n_fft=2_048, hop_length=hop))
    return found


def root_mean(squared: NDArray[np.floating]) -> float:
    return float(np.sqrt(squared.mean(0)).mean())


def difference(reference: Reference, high: Tensor, estimate: Tensor, names: tuple[str, ...]) -> float:
    """Return by how much the distances differ from those of librosa in double precision."""
    ours = reference.score(estimate, names)
    exact = with_librosa(high[0].double().numpy(), estimate[0].double().numpy(), names)
    return max(abs(float(ours[name] or 0.0) - exact[name]) for name in names)
