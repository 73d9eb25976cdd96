"""Checks that a test of a user's own part calls: ``check_metric(Loudness())``. Each raises AssertionError."""

from sagasr.plugins.contracts import check_codec, check_conditioner, check_embedder, check_metric, check_sampler

__all__ = ["check_codec", "check_conditioner", "check_embedder", "check_metric", "check_sampler"]
