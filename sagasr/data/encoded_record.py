"""What is computed of one recording: degraded versions, latents, roll-offs and levels, as one record of a shard.

A record holds numbers only. High and low latents stand together, so that one index crops both. Latents are those of
the whole recording as recorded; the gain that brings a crop to the level at which the model works is stored beside
them and applied when it is drawn. A crop of the latents differs from the latents of the crop within the codec's few
frames of overlap at its two ends.
"""

from pathlib import Path

import numpy as np
import torch

from sagasr.audio.degrade import Draw, degrade, draw_degradation, frozen_degradation
from sagasr.audio.spectrum import rolloff_hz
from sagasr.codec.codec import Codec
from sagasr.config import settings as settings
from sagasr.config.settings import Config
from sagasr.data.measures import STEP, gain_of, latent_moments, mean_power, measure_crops, rms_of, rolloff_features
from sagasr.data.quality import Usable, usable
from sagasr.data.rows import Split
from sagasr.data.shards import Record
from sagasr.io.fingerprint import seed_of


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
        crops = measure_crops(heard, segment)
        rolloffs.append(crops.rolloff_hz)
        gains.append(gain_at(config, crops.rms))
        features.append(rolloff_features(heard))
        latents.append(_encode(codec, low).astype(np.float16))
    gain, exact = np.stack(gains), _encode(codec, high)
    moments = latent_moments(exact, gain**codec.companding, segment // codec.ratio, STEP // codec.ratio)
    power, log_power = mean_power(high)
    return {
        "filter": [draw.family for draw in draws],
        "order": [draw.order for draw in draws],
        "cutoff_hz": [draw.cutoff_hz for draw in draws],
        "rolloff_high_hz": measure_crops(recording.heard, segment).rolloff_hz,
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
