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
