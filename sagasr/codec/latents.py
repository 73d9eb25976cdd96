"""How latents are normalised: a value that stores, codecs and models exchange."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class LatentNorm(NamedTuple):
    """Mean and standard deviation of each latent channel, and its level in a typical clip once normalised; all [D].

    The level is the geometric mean over clips of the channel's RMS: far below 1 where few loud clips make the variance.
    """

    mean: Tensor
    std: Tensor
    level: Tensor

    @classmethod
    def identity(cls, channels: int) -> "LatentNorm":
        """Return the norm that changes nothing."""
        return cls(torch.zeros(channels), torch.ones(channels), torch.ones(channels))

    def seen_as(self, latents: Literal["normalised", "raw"]) -> "LatentNorm":
        """Return the norm itself, or, for raw latents, the one that changes nothing and knows their level."""
        if latents == "normalised":
            return self
        return LatentNorm.identity(len(self.std))._replace(level=self.level * self.std)

    def apply(self, latents: Tensor) -> Tensor:
        """Return latents [B, D, N] with zero mean and unit variance per channel."""
        return (latents - self.mean[:, None]) / self.std[:, None]

    def invert(self, latents: Tensor) -> Tensor:
        """Return what ``apply`` was given."""
        return latents * self.std[:, None] + self.mean[:, None]
