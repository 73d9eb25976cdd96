"""What a recording must be to be learnt from or scored, and what is computed of it, as one record of a shard.

Refused beside what ``sagasr.audio.files`` refuses: silence, a constant, channels that cancel where they are mixed to
mono, and recordings so band-limited that no cutoff of the configuration would leave anything to restore.

A record holds numbers only. High and low latents stand together, so that one index crops both. Latents are those of
the whole recording as recorded; the gain that brings a crop to the level at which the model works is stored beside
them and applied when it is drawn. A crop of the latents differs from the latents of the crop within the codec's few
frames of overlap at its two ends.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sagasr.audio.degrade import Draw, degrade, draw_degradation, frozen_degradation
from sagasr.audio.files import as_heard, decode, oddities
from sagasr.audio.spectrum import CANCELS_DB, cancelled_db, cancels, rolloff_hz
from sagasr.codec.codec import Codec
from sagasr.config import settings
from sagasr.config.settings import Config
from sagasr.constants import SAMPLE_RATE
from sagasr.data.measures import STEP, gain_of, latent_moments, mean_power, measure_crops, rms_of, rolloff_features
from sagasr.data.rows import Split
from sagasr.data.store import Record
from sagasr.io.errors import DataError
from sagasr.io.fingerprint import seed_of

SILENCE_RMS = 1e-5  # -100 dBFS, after removing a constant offset
FADE = 220  # samples, 5 ms


class Usable(NamedTuple):
    """What is encoded of a recording: ``high`` [C, T], padded to a whole segment, ``start`` and ``samples`` (without
    padding) saying which part of ``total_samples`` it is; ``heard``, the same without the recording's offset, by which
    it is measured; and what is unusual about it.
    """

    high: np.ndarray
    heard: np.ndarray
    start: int
    samples: int
    total_samples: int
    rolloff_hz: float
    notes: tuple[str, ...]


def usable(config: Config, split: Split, file: Path) -> Usable:
    """Return what is encoded of a file: all of it for training, its loudest stretch for validation. Raises DataError.

    Everything that decides whether the recording can be used is looked at here, and nothing of it depends on other
    recordings.
    """
    sound = decode(file)
    audio, notes = as_heard(sound, config.audio.channels), oddities(sound)
    if (peak := float(max(audio.max(), -audio.min()))) > 1:
        notes.append(f"reaches {peak:.3g}, beyond full scale; it is used as it is, and players will clip it")
    cancelling = _cancelling(config, file, sound.samples)
    notes += [cancelling] if cancelling else []
    del sound  # at another rate or number of channels it is a second recording in memory
    total, offset = audio.shape[-1], audio.mean(-1, keepdims=True, dtype=np.float64).astype(np.float32)
    if split == "train":
        start, length, segment = 0, total, config.audio.segment
    else:
        length = segment = config.validation.segment
        start = _loudest(audio - offset, segment)
    if float(np.std(audio[:, start : start + length], axis=-1).max()) < SILENCE_RMS:
        raise DataError(f"{file}: silent; remove it from the manifest")
    samples = min(length, total - start)
    high, heard = (_cut(audio, start, samples, segment, of) for of in (np.zeros_like(offset), offset))
    del audio
    rolloff = rolloff_hz(heard)
    if config.degradation.rolloff_cap * rolloff < (least := config.degradation.cutoff_hz[0]):
        raise DataError(
            f"{file}: its roll-off is {rolloff:,.0f} Hz{cancelling and f' ({cancelling})'}, so nothing is left to "
            f"restore above a cutoff of {least:,.0f} Hz; remove it from the manifest, or lower degradation.cutoff_hz"
        )
    if samples < segment:
        seconds = f"{samples / SAMPLE_RATE:.2f} s of {segment / SAMPLE_RATE:.2f} s"
        notes.append(f"shorter than a segment ({seconds}); it ends in silence")
    if split == "val" and (cutoff := config.degradation.rolloff_cap * rolloff) < config.validation.cutoff_hz:
        notes.append(f"its roll-off is {rolloff:,.0f} Hz, so it is scored at a cutoff of {cutoff:,.0f} Hz")
    return Usable(high, heard, start, samples, total, rolloff, tuple(notes))


def _cancelling(config: Config, file: Path, samples: np.ndarray) -> str:
    """Return what is to be said of channels [C, T] that cancel, or nothing. Raises DataError where next to nothing is
    left of them.
    """
    if not cancels(samples):
        return ""
    if config.audio.channels > 1:
        return "its two channels cancel in their mean, so its roll-offs are those of the louder one"
    if (lost_db := cancelled_db(samples)) >= CANCELS_DB:
        raise DataError(
            f"{file}: its two channels cancel: mixed to mono it is {lost_db:.0f} dB quieter; invert one of them, or "
            "set audio.channels to 2"
        )
    return "its two channels cancel in the upper half of their band, which is lost where they are mixed to mono"


def _cut(audio: np.ndarray, start: int, length: int, least: int, offset: np.ndarray) -> np.ndarray:
    """Return a stretch of audio [C, T] less an offset [C, 1], padded to ``least`` samples.

    It is faded where it was cut: a sudden end is a click, which reaches Nyquist.
    """
    whole = np.zeros((len(audio), max(length, least)), np.float32)
    sound = np.subtract(audio[:, start : start + length], offset, out=whole[:, :length])
    ramp = np.sin(np.linspace(0, np.pi / 2, FADE, dtype=np.float32)) ** 2
    if start > 0:
        sound[:, :FADE] *= ramp
    if start + length < audio.shape[-1]:
        sound[:, -FADE:] *= ramp[::-1]
    return whole


def _loudest(audio: np.ndarray, length: int) -> int:
    """Return where the stretch of ``length`` samples with the most energy begins."""
    if audio.shape[-1] <= length:
        return 0
    energy = np.concatenate([[0.0], np.square(audio, dtype=np.float64).sum(0).cumsum()])
    return int(np.argmax(energy[length:] - energy[:-length]))


def record_of(config: Config, codec: Codec, split: Split, sha256: str, recording: Usable) -> Record:
    """Return the record of a recording: a function of its content and of ``corpus.record_settings``."""
    record = _train(config, codec, sha256, recording) if split == "train" else _val(config, codec, recording)
    common = {
        "id": sha256,
        "samples": recording.samples,
        "rolloff_hz": recording.rolloff_hz,
        "notes": list(recording.notes),
    }
    return common | record


def _train(config: Config, codec: Codec, sha256: str, recording: Usable) -> Record:
    """Return K degraded versions beside the high one, a value per possible crop, and a share of the statistics."""
    high, segment = recording.high, config.audio.segment
    seeds = [seed_of("degradation", sha256, variant) for variant in range(config.degradation.variants)]
    draws = [draw_degradation(config.degradation, recording.rolloff_hz, seed) for seed in seeds]
    rolloffs, gains, features, latents = [], [], [], []
    for draw in draws:  # one at a time: an hour of audio takes gigabytes
        low, heard = _lows(recording, draw)
        rolloffs_hz, rms = measure_crops(heard, segment)
        rolloffs.append(rolloffs_hz)
        gains.append(gain_at(config, rms))
        features.append(rolloff_features(heard))
        latents.append(_encode(codec, low).astype(np.float16))
    gain, exact = np.stack(gains), _encode(codec, high)
    moments = latent_moments(exact, gain**codec.companding, segment // codec.ratio, STEP // codec.ratio)
    power, log_power = mean_power(high)
    return {
        "filter": [draw.family for draw in draws],
        "order": [draw.order for draw in draws],
        "cutoff_hz": [draw.cutoff_hz for draw in draws],
        "rolloff_high_hz": measure_crops(recording.heard, segment)[0],
        "rolloff_low_hz": np.stack(rolloffs),
        "gain": gain.astype(np.float32),
        "high": exact.astype(np.float16),
        "low": np.stack(latents),
        "moments": np.stack(moments),
        "features": np.stack(features),
        "power": (power * np.square(gain).mean()).astype(np.float32),
        "log10_power": (log_power + 2 * np.log10(gain).mean()).astype(np.float32),
    }


def _val(config: Config, codec: Codec, recording: Usable) -> Record:
    """Return the frozen pair, as audio and as latents."""
    high = recording.high
    draw = frozen_degradation(config.validation, config.degradation, recording.rolloff_hz)
    low, heard = _lows(recording, draw)
    return {
        "start": recording.start,
        "total_samples": recording.total_samples,
        "filter": [draw.family],
        "order": [draw.order],
        "cutoff_hz": [draw.cutoff_hz],
        "rolloff_low_hz": rolloff_hz(heard),
        "gain": clip_gain(config, heard),
        "features": rolloff_features(heard),
        "high_audio": high,
        "low_audio": low,
        "high": _encode(codec, high).astype(np.float16),
        "low": _encode(codec, low).astype(np.float16),
    }


def low_of(config: Config, file: Path) -> np.ndarray:
    """Return the low audio [C, T] of a validation recording's scored stretch. Raises DataError."""
    recording = usable(config, "val", file)
    return _lows(recording, frozen_degradation(config.validation, config.degradation, recording.rolloff_hz))[0]


def _lows(recording: Usable, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Return low [C, T], and low without its offset, which is not heard and sets no level.

    The offset passes every low-pass, so it is put back rather than filtered: its ends would ring.
    """
    heard = degrade(recording.heard, draw)
    return heard + (recording.high - recording.heard), heard


def clip_gain(config: Config, low: np.ndarray) -> float:
    """Return the gain at which a model of this configuration is given low [C, T]; its output is divided by it."""
    return float(gain_at(config, rms_of(low)))


def gain_at(config: Config, rms: np.ndarray | float) -> np.ndarray:
    """Return the gains of low versions of these levels; 1 for a codec whose latents do not scale, as Stable Audio's."""
    codec = config.codec
    scales = codec.linear if isinstance(codec, settings.OwnCodec) else not isinstance(codec, settings.StableAudio)
    return gain_of(rms) if scales else np.ones_like(rms)


def _encode(codec: Codec, audio: np.ndarray) -> np.ndarray:
    device = next((buffer.device for buffer in codec.buffers()), torch.device("cpu"))
    device = next((weight.device for weight in codec.parameters()), device)
    return codec.encode(torch.from_numpy(audio)[None].to(device))[0].cpu().numpy()
