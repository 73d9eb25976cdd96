"""Ray, started by a process in which others have used it before: a notebook."""

import os
import subprocess
import sys

import pytest

from orchestrator.engine import LOCAL_SETTINGS, allocator

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


SEEN = """
import os, sys
import ray
from orchestrator.engine import connected

def seen():
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["PYTORCH_ALLOC_CONF"]

class Actor:
    def seen(self):
        return seen()

address = None
if sys.argv[1] == "cluster":
    from ray.cluster_utils import Cluster
    address = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1}).address
else:
    os.environ["RAY_OVERRIDE_RESOURCES"] = '{"GPU": 1}'
with connected(address, 2):
    for gpus in (0, 1):
        task = ray.remote(seen).options(num_gpus=gpus).remote()
        print(ray.get(task))
        actor = ray.remote(Actor).options(num_gpus=gpus).remote()
        print(ray.get(actor.seen.remote()))
        ray.kill(actor)
"""


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "cluster"])
def test_who_was_given_no_gpu_sees_none(where: str) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **LOCAL_SETTINGS}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    environment.pop("PYTORCH_ALLOC_CONF", None)
    done = subprocess.run(
        [sys.executable, "-c", SEEN, where], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    none, one = ("", "expandable_segments:True"), ("0", "expandable_segments:True")
    assert done.stdout.splitlines() == [str(none), str(none), str(one), str(one)]


def test_what_a_user_says_of_the_gpus_memory_stays() -> None:
    assert allocator({}) == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert allocator({"PYTORCH_ALLOC_CONF": "a:b"}) == {"PYTORCH_ALLOC_CONF": "a:b"}
    assert allocator({"PYTORCH_CUDA_ALLOC_CONF": "c:d"}) == {"PYTORCH_CUDA_ALLOC_CONF": "c:d"}
