"""The contracts that parts of a user's own keep, as checks: a sweep runs them, and ``sagasr.testing`` offers them.

Each raises AssertionError saying what does not hold. Those that meet tensors on a GPU (codec, conditioner, sampler) are
tried on one that is not there; what cannot be tried so is left to the real one.
"""

import contextlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sagasr.constants import SAMPLE_RATE


def check_metric(metric: Any) -> None:
    """A metric scores one estimate [C, T] of a high clip [C, T]: the same again, better for the better, never NaN."""
    assert metric.name.isidentifier(), f"name {metric.name!r} is a column: letters, digits and _ only"
    assert metric.better in ("lower", "higher"), f"better is {metric.better!r}, not 'lower' or 'higher'"
    assert isinstance(metric.unit, str), "unit is a word, '' where there is none"
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 2):
        high = 0.1 * torch.randn(channels, SAMPLE_RATE, generator=generator)
        original = high.clone()
        worse = high + 0.1 * torch.randn(channels, SAMPLE_RATE, generator=generator)
        same, far = metric.score(high, high, 4_000.0), metric.score(high, worse, 4_000.0)
        for value in (same, far):
            assert value is None or (isinstance(value, float) and math.isfinite(value)), f"found {value!r}, no number"
        assert metric.score(high, worse, 4_000.0) == far, "equal clips have unequal scores"
        assert torch.equal(high, original), "the clip was changed"
        if same is not None and far is not None:
            sign = 1 if metric.better == "lower" else -1
            assert sign * same <= sign * far, "the clip itself scores worse than noise over it"
        silence = metric.score(torch.zeros_like(high), high, 4_000.0)
        assert silence is None or math.isfinite(silence), "silence has a score that is no number; return None"


def check_embedder(embedder: Any) -> None:
    """An embedder makes finite vectors [n, D] of windows [n, T], each from its own window alone, silence too."""
    assert embedder.name.isidentifier(), f"name {embedder.name!r} ends a column: letters, digits and _ only"
    windows = 0.1 * torch.randn(3, SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    windows[2] = 0
    vectors = embedder.embed(windows)
    assert vectors.shape[:1] == (3,) == vectors.shape[:-1], f"found shape {list(vectors.shape)}, not [3, D]"
    assert bool(vectors.isfinite().all()), "a vector holds something that is no number"
    assert torch.equal(embedder.embed(windows), vectors), "equal windows have unequal vectors"
    alone = embedder.embed(windows[1:2])
    assert torch.allclose(alone[0], vectors[1], atol=1e-4), "a vector depends on the other windows"


def check_sampler(sampler: Any) -> None:
    """A sampler follows ``velocity_at(point, t)`` from noise at t = 1 to data at t = 0, nearer with more steps."""
    on_gpu = _OnGpu(sampler)
    noise = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))

    def velocity_at(point: torch.Tensor, t: float) -> torch.Tensor:
        assert point.shape == noise.shape, f"asked for the velocity of a point of shape {list(point.shape)}"
        return point  # dx/dt = x: from x(1) to x(0) = x(1) / e

    errors = []
    for steps in (8, 64):
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        end = sampler.sample(velocity_at, noise.clone(), times)
        assert end.shape == noise.shape, f"the end has shape {list(end.shape)}, not that of the noise"
        assert end.dtype == noise.dtype, f"the end is {end.dtype}, not the noise's {noise.dtype}"
        errors.append(float((end - noise / math.e).abs().max()))
    assert errors[1] < errors[0] / 4 or errors[1] < 1e-4, (
        f"eight times the steps leave {errors[1]:.2g} of {errors[0]:.2g}"
    )
    few = torch.linspace(1, 0, 9, dtype=torch.float64)
    on_gpu.check(lambda part, device: part.sample(lambda point, t: point, noise.to(device), few), "noise")


def check_codec(codec: Any, *, ratio: int, latent_channels: int, channels: int = 1, linear: bool = True) -> None:
    """A codec makes latents [B, D, T / ratio] of audio [B, C, T], each frame of its surroundings alone, and goes back.

    The facts beside it are those that the configuration states.
    """
    on_gpu, audio = _OnGpu(codec), _tones(channels, 65_536)
    original, frames = audio.clone(), audio.shape[-1] // ratio
    latents = codec.encode(audio)
    expected = [len(audio), latent_channels, frames]
    assert list(latents.shape) == expected, (
        f"audio {list(audio.shape)} has latents {list(latents.shape)}, not the {expected} that ratio and "
        "latent_channels state"
    )
    assert latents.dtype == audio.dtype, f"latents are {latents.dtype}, not the audio's {audio.dtype}"
    assert torch.equal(audio, original), "the audio was changed"
    assert bool(codec.encode(torch.zeros_like(audio)).isfinite().all()), "latents of silence are no numbers"
    assert torch.equal(codec.encode(audio), latents), "equal audio has unequal latents"
    size = float(latents.square().mean().sqrt())
    alone = codec.encode(audio[1:])
    assert float((alone[0] - latents[1]).abs().max()) <= 1e-3 * size, "latents depend on the other rows of the batch"
    twice = float((codec.encode(2 * audio) - 2 * latents).square().mean().sqrt())
    assert not linear or twice <= 0.01 * size, "twice the audio has not twice the latents; state linear: false"

    given = latents.clone()
    decoded = codec.decode(latents)
    assert decoded.shape == audio.shape, f"decoded to {list(decoded.shape)}, not to the audio's {list(audio.shape)}"
    assert torch.equal(latents, given), "the latents were changed"
    error = (decoded - audio).square().mean() / audio.square().mean()
    assert bool(error < 1), "what is decoded is further from the audio than silence is"

    half = audio.shape[-1] // 2  # training crops the latents of whole recordings, whatever is heard before
    audio[..., :half] *= 4
    there, here = codec.encode(audio)[..., half // ratio :], codec.encode(audio[..., half:])
    edge = min(16, here.shape[-1] // 4)
    moved = float((here - there)[..., edge:-edge].square().mean().sqrt())
    assert moved <= 0.1 * size, "a crop of the latents is not what the crop has: they depend on what lies far off"
    on_gpu.check(lambda part, device: part.encode(audio.to(device)), "audio")
    on_gpu.check(lambda part, device: part.decode(latents.to(device)), "latents")


def check_conditioner(conditioner: Any) -> None:
    """A conditioner says ``size`` numbers of about -1 to 1, [B, size], of low audio [B, C, T], each row for itself."""
    on_gpu, size = _OnGpu(conditioner), conditioner.size
    assert isinstance(size, int), f"size is {size!r}, not how many numbers it says"
    for channels, length in ((1, SAMPLE_RATE), (2, 8_192)):
        low = torch.cat([_tones(channels, length), torch.zeros(1, channels, length)])
        original, numbers = low.clone(), conditioner.describe(low)
        shape = list(numbers.shape)
        assert shape == [3, size], f"says {shape} of audio {list(low.shape)}, not [3, {size}]"
        assert bool(numbers.isfinite().all()), "says something that is no number; of silence, too, it has to"
        assert float(numbers.abs().max()) <= 10, f"says {float(numbers.abs().max()):.3g}; bring it to about -1 to 1"
        assert torch.equal(low, original), "the audio was changed"
        assert torch.equal(conditioner.describe(low), numbers), "says something else of equal audio"
        alone = conditioner.describe(low[1:2])
        assert torch.allclose(alone[0], numbers[1], atol=1e-4), "what it says depends on the other rows of the batch"
    on_gpu.check(lambda part, device: part.describe(low.to(device)).to(device), "audio")


class _OnGpu:
    """A copy of a part as it is before its first use, to be used on a GPU that is not there."""

    def __init__(self, part: Any) -> None:
        from sagasr.plugins.fake_device import fake_copy, fake_mode  # seldom needed and slow to import

        self.mode, self.home = fake_mode(), sys.modules.get(type(part).__module__)
        self.part: Any = None
        with contextlib.suppress(Exception):  # what cannot be copied is not tried
            self.part = fake_copy(part, self.mode)

    def check(self, use: Callable[[Any, torch.device], torch.Tensor], given: str) -> None:
        """Raise AssertionError if a use mixes devices or answers from another; any other failure proves nothing."""
        from sagasr.plugins.fake_device import DEVICE, fake_cuda, forget, is_misplaced

        if self.part is None:
            return
        error, answered = None, DEVICE
        try:
            with fake_cuda(self.mode), torch.no_grad():
                if isinstance(self.part, torch.nn.Module):
                    self.part.to(DEVICE)
                answered = use(self.part, DEVICE).device
        except Exception as failed:  # noqa: BLE001 - whatever a user's own code raises
            error = failed
        folder = Path(getattr(self.home, "__file__", None) or "/").parent
        modules = [*sys.modules.values()]
        beside = [module for module in modules if Path(getattr(module, "__file__", None) or "").parent == folder]
        forget([*beside, *filter(None, [self.home])])  # a fake tensor kept in one of these would meet a real one
        assert error is None or not is_misplaced(error), (
            f"mixes a tensor on the CPU with {given} on cuda{self._line(error)};"
            f" make or move it to the device of the {given}"
        )
        assert answered == DEVICE, (
            f"answers on the {answered.type} to {given} on cuda; answer on the device of the {given}"
        )

    def _line(self, error: BaseException | None) -> str:
        source = self.home and inspect.getsourcefile(self.home)
        frames = traceback.extract_tb(error.__traceback__ if error else None)
        lines = [frame.lineno for frame in frames if frame.filename == source]
        return f" (line {lines[-1]})" if lines else ""


def _tones(channels: int, length: int) -> torch.Tensor:
    """Return two rows of tones and a little noise [2, C, length], all channels different."""
    generator = torch.Generator().manual_seed(0)
    hertz = torch.rand(2, channels, 4, 1, generator=generator) * 2_000 + 200
    phase = 2 * math.pi * hertz * torch.arange(length) / SAMPLE_RATE
    return 0.05 * phase.sin().sum(2) + 0.005 * torch.randn(2, channels, length, generator=generator)
