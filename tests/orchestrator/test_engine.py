"""Ray, started by a process in which others have used it before: a notebook."""

import os
import subprocess
import sys

import pytest

AFTER_OTHERS = """
import ray
from orchestrator.engine import connected
from sagasr.errors import ConfigError
ray.init(address="local", num_cpus=1, include_dashboard=False)
try:
    with connected(None, 1):
        print("joined")
except ConfigError as error:
    print(error)
assert ray.is_initialized()
ray.shutdown()
with connected(None, 2, {"thing": 3}):
    found = ray.cluster_resources()
    print(found["CPU"], found["thing"], ray.get(ray.remote(lambda: 4).remote()))
print(ray.is_initialized())
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_ray_starts_where_it_was_imported_and_used_without_a_token_before() -> None:
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}  # of a cluster that this is not meant for
    done = subprocess.run(
        [sys.executable, "-c", AFTER_OTHERS], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "this process is connected to a Ray already; call ray.shutdown() first", "2.0 3.0 4", "False",
    ]  # fmt: skip
