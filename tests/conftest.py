"""Settings of the whole suite, made before anything imports torch."""

import os

import pytest

# Two test processes of two threads each on two cores spend their time waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray would give its workers way to all others: beside tests that compute they would stand still.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs unless ``-m gpu`` asks for them: bits are compared, and trainings forked, as only a CPU can.

    What a test starts inherits the setting, workers of xdist and of Ray too.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
