"""What is measured of recordings while they are encoded: levels, roll-offs of every crop, moments of the latents, the
mean high band and a regression that guesses a roll-off. No files are touched here.

Crops begin on multiples of ``STEP`` samples, so that what holds for a crop (roll-off, level) can be measured once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sagasr.audio.spectrum import BIN_HZ, HOP, NUM_BINS, magnitudes, mono, rolloff_bin
from sagasr.constants import NYQUIST

STEP = 2_048  # samples between two crops; a multiple of every codec's frame
TARGET_RMS = 0.1  # of the low version, when levels are normalised
LEAST_RMS = 1e-4  # -80 dBFS: below, a crop counts as silence and is not brought up further
LEAST_POWER = 1e-12  # -120 dB, so that silence has a logarithm
# Features of the roll-off regression: 12 bands of equal ratio between 65 Hz and 22,050 Hz. Bands and penalty are those
# that did best in cross-validation on speech, music and effects: 2.4 kHz of error where the mean alone has 2.8.
BAND_EDGES = np.round(np.geomspace(3, NUM_BINS, 13)).astype(int)
BAND_FLOOR = 1e-4  # of the loudest band; below, a band counts as empty, whatever the filter left there
RIDGE = 0.3  # per training example
_FRAMES = 4_096  # transformed at once, a multiple of STEP / HOP


def rms_of(audio: np.ndarray) -> float:
    """Return the root of the mean square of audio [C, T] without each channel's mean: an offset is not heard.

    The mean alone is left out, not all that lies too low to be heard: a filter would move the level of every recording
    that has bass, and need what stands before the crop.
    """
    return float(np.sqrt(np.var(audio, axis=-1, dtype=np.float64).mean()))


def gain_of(rms: np.ndarray | float) -> np.ndarray:
    """Return the gains for low versions of these levels."""
    return np.asarray(TARGET_RMS / np.maximum(rms, LEAST_RMS))


def measure_crops(audio: np.ndarray, segment: int) -> tuple[np.ndarray, np.ndarray]:
    """Return roll-offs and RMS (as ``rms_of``), each [G], of the crops of ``segment`` samples of audio [C, T].

    G = (T - segment) // STEP + 1.
    """
    crops = (audio.shape[-1] - segment) // STEP + 1
    length = segment // STEP
    blocks, edges = _blocks(mono(audio))
    parts = audio[:, : audio.shape[-1] // STEP * STEP].reshape(len(audio), -1, STEP)
    means, squares = parts.mean(-1, dtype=np.float64), np.square(parts, dtype=np.float64).mean(-1)
    rolloffs, levels = np.empty(crops, np.float32), np.empty(crops, np.float32)
    summed = blocks[: length - 1].sum(0, dtype=np.float64)
    for crop in range(crops):
        summed += blocks[crop + length - 1]
        closing = edges[min(crop + length, len(edges) - 1)]  # the frame centred on the crop's end
        rolloffs[crop] = BIN_HZ * rolloff_bin(torch.from_numpy(summed + closing))
        mean, square = (part[:, crop : crop + length].mean(1) for part in (means, squares))
        levels[crop] = np.sqrt(np.maximum(square - mean**2, 0).mean())
        summed -= blocks[crop]
    return rolloffs, levels


def mean_power(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean power and mean log10 power of audio [C, T] in each of the 1,025 bins."""
    power, log_power, frames = np.zeros(NUM_BINS), np.zeros(NUM_BINS), 0
    for channel in audio:
        for part in magnitudes(channel, at_once=_FRAMES):
            square = part.double().square().numpy()
            power += square.sum(0)
            log_power += np.log10(np.maximum(square, LEAST_POWER)).sum(0)
            frames += len(square)
    return power / frames, log_power / frames


def latent_moments(latents: np.ndarray, weights: np.ndarray, frames: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and mean square [D] of latents [D, N] over all crops, each scaled by its weight [K, G]."""
    share, square = np.zeros(latents.shape[1]), np.zeros(latents.shape[1])
    for crop, column in enumerate(weights.T):
        share[crop * step : crop * step + frames] += column.mean()
        square[crop * step : crop * step + frames] += np.square(column).mean()
    count = weights.shape[1] * frames
    return np.asarray(latents @ share / count), np.asarray(np.square(latents) @ square / count)


def rolloff_features(low: np.ndarray) -> np.ndarray:
    """Return what low [C, T] tells of the lost roll-off: its long-term spectrum in bands, relative to the loudest."""
    summed = np.sum([part.double().sum(0).numpy() for part in magnitudes(mono(low), at_once=_FRAMES)], axis=0)
    bands = np.add.reduceat(summed, BAND_EDGES[:-1]) / np.diff(BAND_EDGES)
    return np.asarray(np.log10(np.maximum(bands / max(bands.max(), 1e-20), BAND_FLOOR)))


def fit_rolloff(features: np.ndarray, rolloff_hz: np.ndarray, groups: Sequence[int]) -> dict[str, Any]:
    """Return a ridge regression from features [n, F] to roll-offs [n] as JSON, with its error on recordings left out.

    ``groups`` says which examples come from one recording. ``error_hz`` is the mean absolute error in tenfold
    cross-validation, ``constant_error_hz`` that of always answering the mean.
    """
    fold = np.asarray(groups) % 10
    errors, constant = np.empty(len(rolloff_hz)), np.empty(len(rolloff_hz))
    for number in np.unique(fold):
        inside, outside = fold != number, fold == number
        if not inside.any():
            inside = outside
        errors[outside] = _answer(_ridge(features[inside], rolloff_hz[inside]), features[outside]) - rolloff_hz[outside]
        constant[outside] = rolloff_hz[inside].mean() - rolloff_hz[outside]
    fitted = {key: value.tolist() for key, value in _ridge(features, rolloff_hz).items()}
    return fitted | {"error_hz": float(np.abs(errors).mean()), "constant_error_hz": float(np.abs(constant).mean())}


def estimate_rolloff(regression: dict[str, Any], features: np.ndarray, rolloff_low_hz: float) -> float:
    """Return the roll-off guessed for the high version of a low one, from its features; never below its own."""
    fitted = {key: np.asarray(regression[key]) for key in ("centre", "scale", "weights", "mean")}
    guess = float(_answer(fitted, features[None])[0])
    return min(max(guess, rolloff_low_hz), NYQUIST)


def _ridge(features: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    centre, scale = features.mean(0), np.maximum(features.std(0), 1e-6)
    x = (features - centre) / scale
    penalty = RIDGE * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ (target - target.mean()))
    return {"centre": centre, "scale": scale, "weights": weights, "mean": np.asarray(target.mean())}


def _answer(fitted: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    return np.asarray((features - fitted["centre"]) / fitted["scale"] @ fitted["weights"] + fitted["mean"])


def _blocks(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return magnitudes summed over blocks of STEP samples [n, F], and the single frames at which the blocks begin."""
    per_block = STEP // HOP
    blocks, edges = [], []
    for part in magnitudes(signal, at_once=_FRAMES):
        whole = len(part) // per_block * per_block
        blocks.append(part[:whole].reshape(-1, per_block, NUM_BINS).sum(1))
        edges.append(part[::per_block])
    return torch.cat(blocks).numpy(), torch.cat(edges).numpy()
