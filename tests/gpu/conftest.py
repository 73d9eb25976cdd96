"""Every test here is a function of a device: of the CPU among the long tests, of the GPU with ``-m gpu``."""

from pathlib import Path

import pytest
import torch

from tests.benchmarks import data
from tests.gpu.subjects import THREADS


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Return ``cpu`` or ``cuda``."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    torch.set_num_threads(THREADS)
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where recordings, codecs and stores of these tests lie; each is made once."""
    folder = tmp_path_factory.mktemp("gpu")
    data.work_in(str(folder))
    return folder
