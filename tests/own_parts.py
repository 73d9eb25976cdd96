"""Parts of a user's own, as a user writes them: a file beside the grid, which imports nothing of ours."""

import torch


class Loudness:
    """How much louder the estimate is than the high clip, either way."""

    name, unit, better = "loudness", "dB", "lower"

    def score(self, high, estimate, cutoff_hz):
        """Return the level difference of an estimate [C, T] and its high clip [C, T]; None for silence."""
        levels = high.square().mean(), estimate.square().mean()
        return None if min(levels) == 0 else abs(10 * float(torch.log10(levels[1] / levels[0])))


class Levels:
    """The RMS in ten stretches of a window."""

    name = "levels"

    def embed(self, windows):
        """Return vectors [n, 10] of windows [n, T]."""
        return torch.stack([part.square().mean(1).sqrt() for part in windows.tensor_split(10, dim=1)], dim=1)


class Midpoint:
    """Steps along the velocity half-way."""

    def sample(self, velocity_at, noise, times):
        """Return the end of the path from ``noise`` over the falling ``times``."""
        point = noise
        for now, then in zip(times.tolist(), times.tolist()[1:], strict=False):
            half = point + (then - now) / 2 * velocity_at(point, now)
            point = point + (then - now) * velocity_at(half, (now + then) / 2)
        return point


class Folded:
    """Samples folded into latents, as many as a frame has."""

    def __init__(self, channels):
        self.channels = channels

    def encode(self, audio):
        """Return latents [B, 32 * C, T / 32] of audio [B, C, T]."""
        return audio.unflatten(-1, (-1, 32)).movedim(-1, 2).flatten(1, 2)

    def decode(self, latents):
        """Return audio [B, C, 32 * N] of latents [B, 32 * C, N]."""
        return latents.unflatten(1, (self.channels, 32)).movedim(2, -1).flatten(-2)


class Brightness:
    """How fast the low audio changes, beside how loud it is."""

    size = 1

    def describe(self, low):
        """Return numbers [B, 1] of low audio [B, C, T]."""
        change, level = (part.square().mean((1, 2)).sqrt() for part in (low.diff(), low))
        return (change / (level + 1e-6) - 0.5)[:, None]
