"""A trained model at work on a user's own files: ``Upsampler``, and how a recording of any length is cut and joined."""

from sagasr.upsample.upsampler import Settings, Upsampler

__all__ = ["Settings", "Upsampler"]
