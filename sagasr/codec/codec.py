"""Audio to latents and back, behind one interface: weight-free transforms or the Stable Audio autoencoder.

Latents here are companded but not normalised; ``LatentNorm`` brings each channel to zero mean and unit variance, with
statistics that the encoded store measures over the training set. On a GPU a codec computes in full float32, without
TF32, and takes a bounded amount of audio at once, however long a recording is or large a batch.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagasr.codec.precision import exact
from sagasr.codec.stable_audio_codecs import STABLE_AUDIO_REMEDY, build_autoencoder, build_transform, check_autoencoder
from sagasr.config import settings
from sagasr.config.settings import downsampling_ratio, latent_channels
from sagasr.constants import SAMPLE_RATE
from sagasr.io.errors import DataError
from sagasr.plugins.contracts import check_codec
from sagasr.plugins.parts import breach, load
from sagasr.published.hugging_face import problem_of

AT_ONCE = 2**19  # samples of audio over all rows: the autoencoder takes 3 KB for each


class Codec(nn.Module):
    """A frozen pair of ``encode`` and ``decode``; equal audio always gives equal latents.

    What holds more than ``AT_ONCE`` samples goes in groups of rows, and rows longer than that in pieces where ``reach``
    says on how many frames to each side a frame depends at most. Pieces equal the whole but for rounding.
    """

    def __init__(
        self,
        transform: Any,
        channels: int,
        latent_channels: int,
        ratio: int,
        companding: float,
        reach: int | None = None,
    ) -> None:
        super().__init__()
        self.transform, self.channels, self.latent_channels = transform, channels, latent_channels
        self.ratio, self.companding, self.reach = ratio, companding, reach
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Codec":
        """Stay in evaluation mode: the codec is never trained."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """Return latents [B, D, ceil(T / ratio)] of audio [B, C, T]; the end is padded with silence."""
        padded = F.pad(audio, (0, -audio.shape[-1] % self.ratio))
        try:
            with exact:
                return _compand(self._bounded(self.transform.encode, padded, self.ratio, 1), self.companding)
        except RuntimeError as error:
            if "Padding size" in str(error):
                raise DataError(f"audio of {audio.shape[-1]} samples is too short for this codec") from error
            raise

    @torch.no_grad()
    def decode(self, latents: Tensor, length: int) -> Tensor:
        """Return audio [B, C, length] of latents [B, D, N]; ``length`` is at most N * ratio."""
        with exact:
            audio = self._bounded(self.transform.decode, _compand(latents, 1 / self.companding), 1, self.ratio)
        if length > audio.shape[-1]:
            raise ValueError(f"{latents.shape[-1]} frames decode to {audio.shape[-1]} samples, not {length}")
        return audio[..., :length]

    def _bounded(self, change: Callable[[Tensor], Tensor], given: Tensor, before: int, after: int) -> Tensor:
        """Return ``change(given)``, bounded at once; a frame has so many positions ``before`` and ``after`` it."""
        most, frames = AT_ONCE // self.ratio, given.shape[-1] // before
        if len(given) * frames <= most:
            return change(given)
        rows = given.split(max(1, most // frames))
        if self.reach is None or frames <= most:
            return torch.cat([change(part) for part in rows])
        reach = self.reach
        spans = [(first, min(first + most - 2 * reach, frames)) for first in range(0, frames, most - 2 * reach)]

        def piece(row: Tensor, first: int, last: int) -> Tensor:
            start = max(0, first - reach)
            changed = change(row[..., start * before : (last + reach) * before])
            return changed[..., (first - start) * after : (last - start) * after]

        return torch.cat([torch.cat([piece(row, *span) for span in spans], dim=-1) for row in rows])


class _MeanAutoencoder(nn.Module):
    """The Stable Audio autoencoder without its sampling: the mean of the bottleneck. Mono audio goes in twice."""

    def __init__(self, model: Any, channels: int) -> None:
        super().__init__()
        self.model, self.channels = model, channels

    def encode(self, audio: Tensor) -> Tensor:
        stereo = audio.expand(-1, self.model.in_channels, -1) if audio.shape[1] == 1 else audio
        mean, _ = self.model.encode(stereo, skip_bottleneck=True).chunk(2, dim=1)
        return mean  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        audio: Tensor = self.model.decode(latents)
        return audio.mean(dim=1, keepdim=True) if self.channels == 1 else audio


def build_codec(codec: settings.Codec, channels: int) -> Codec:
    """Return the codec of a configuration for audio of 1 or 2 channels. Raises DataError without usable weights."""
    expected = latent_channels(codec, channels), downsampling_ratio(codec)
    if isinstance(codec, settings.OwnCodec):
        return Codec(load("codec", codec.part, channels), channels, *expected, codec.companding)
    if not isinstance(codec, settings.StableAudio):
        return Codec(build_transform(codec, channels), channels, *expected, codec.companding)
    model = build_autoencoder(Path(codec.checkpoint), Path(codec.config))
    stated = model.latent_dim, model.downsampling_ratio
    if stated != expected or model.sample_rate != SAMPLE_RATE or model.in_channels < channels:
        raise DataError(
            f"{codec.config}: {stated[0]} latents every {stated[1]} samples of {model.in_channels}-channel audio at "
            f"{model.sample_rate} Hz; wanted {expected[0]} every {expected[1]} at {SAMPLE_RATE} Hz; "
            f"{STABLE_AUDIO_REMEDY}"
        )
    return Codec(_MeanAutoencoder(model, channels), channels, *expected, companding=1.0, reach=_reach(model))


def _reach(model: Any) -> int | None:
    """Return on how many frames to each side a frame depends, 10 as published; None for layers such as attention."""
    if type(model.encoder).__name__ != "OobleckEncoder" or type(model.decoder).__name__ != "OobleckDecoder":
        return None
    return max(_span(model.encoder.modules()), _span(reversed([*model.decoder.modules()])))


def _span(layers: Iterable[nn.Module]) -> int:
    """Return the frames to each side that convolutions see, in their order from the audio to the latents."""
    seen, step = 0, 1  # samples beside the one in the middle, and those from one position of a layer to the next
    for layer in layers:
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            seen += (layer.kernel_size[0] - 1) * layer.dilation[0] * step
            step *= layer.stride[0]
    return math.ceil(seen / (2 * step))


def missing_weights(codec: settings.Codec, channels: int) -> str | None:
    """Return one line on what of the codec is absent or unfit. Raises ConfigError for a class that cannot be made."""
    if isinstance(codec, settings.OwnCodec):
        stated = {"ratio": codec.ratio, "latent_channels": codec.latent_channels, "linear": codec.linear}
        return breach(check_codec, "codec", codec.part, channels, channels=channels, **stated)
    if isinstance(codec, settings.StableAudio):
        for key, path in (("checkpoint", codec.checkpoint), ("config", codec.config)):
            if not Path(path).is_file():
                return f"{path}: codec.{key} is not there; {STABLE_AUDIO_REMEDY}"
        return problem_of(lambda: check_autoencoder(Path(codec.checkpoint), Path(codec.config)))
    return None


def _compand(values: Tensor, power: float) -> Tensor:
    """Return sign(x) |x|**power: below 1, quiet latents are brought closer to loud ones."""
    return values if power == 1 else values.sign() * values.abs() ** power
