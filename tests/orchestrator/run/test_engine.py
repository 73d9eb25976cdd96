"""Ray, started by a process in which others have used it before: a notebook."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from orchestrator.run import ray_session as engine
from orchestrator.run.ray_internals import LOCAL_SETTINGS
from orchestrator.run.ray_session import allocator
from sagasr.io.errors import SagasrError

AFTER_OTHERS = """
import importlib.util, os, sys
import ray  # before our settings are made
from orchestrator.run.ray_session import connected
from sagasr.io.errors import ConfigError

def where():
    names = ("sagasr", "orchestrator", "torch", "numpy", "mlflow")
    return [sys.executable] + [importlib.util.find_spec(name).origin for name in names]

ray.init(address="local", num_cpus=1, include_dashboard=False)
try:
    with connected(None, 1):
        print("joined")
except ConfigError as error:
    print(error)
assert ray.is_initialized()
ray.shutdown()
os.environ.update(TMPDIR=sys.argv[1], HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
told = []
with connected(None, 2, say=told.append):
    found = ray.cluster_resources()
    print(found["CPU"], ray.get(ray.remote(where).remote()) == where())
print(ray.is_initialized())
print(*told, sep="\\n")
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_ray_starts_where_it_was_used_before_and_what_the_environment_says_of_others_does_not_hurt(
    tmp_path: Path,
) -> None:
    """In a notebook in which others have used Ray without a token, in a folder with packages of our names, with a
    cluster that this is not meant for, a proxy that is dead, and a temporary folder too long for a socket's path. It
    was started by `uv run`: left to itself, Ray would copy the working folder and install an environment there.
    """
    for name in ("sagasr", "orchestrator", "torch", "mlflow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    for name in ("ray.py", "numpy.py"):
        (tmp_path / name).touch()
    long = tmp_path / ("x" * 100)
    long.mkdir()
    # As an installed command: the working folder is not where this process looks for code.
    command = [sys.executable, "-P", "-c", AFTER_OTHERS, str(long)]
    (tmp_path / "run").write_text(f"import subprocess, sys\nsys.exit(subprocess.run({command!r}).returncode)\n")
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}  # who calls us has decided that it does not count
    done = subprocess.run(
        ["uv", "run"],  # a process of Python that is called so
        executable=sys.executable,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *lines, moved = done.stdout.splitlines()
    assert lines == ["this process is connected to a Ray already; call ray.shutdown() first", "2.0 True", "False"]
    assert moved.startswith(f"TMPDIR: {long}/ray is too long for the path of a socket, by ")
    assert not Path(moved.removesuffix(" until this ends").rpartition(" ")[2]).exists()


def test_where_ray_cannot_keep_its_sockets_another_folder_is_found_or_the_reason_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(engine, "ROOM", len(str(tmp_path)) + 20)
    monkeypatch.setenv("TMPDIR", "/absent")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with engine._folder(told.append) as folder:
        assert folder == f"{tmp_path}/ray"
    assert told == []
    monkeypatch.setenv("RAY_TMPDIR", str(file))
    monkeypatch.setattr(engine, "SHORT", (str(tmp_path),))
    with engine._folder(told.append) as folder:
        assert Path(folder).parent == tmp_path
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert not Path(folder).exists()
    assert told == [
        f"RAY_TMPDIR: {file}/ray may not be written by this user; "
        f"Ray's sockets and logs are in {folder} until this ends"
    ]
    monkeypatch.setattr(engine, "SHORT", (str(file),))
    with pytest.raises(SagasrError, match="name a folder of yours in RAY_TMPDIR"), engine._folder(told.append):
        pass


def test_a_path_that_is_short_enough_is_short_enough_for_ray() -> None:
    """Ray checks the path that it makes: of the longest folder that we take, with the largest number of a process."""
    longest = "/" + "x" * (engine.ROOM - 1)
    session = f"session_{datetime(2026, 12, 31, 23, 59, 59, 999_999):%Y-%m-%d_%H-%M-%S_%f}_{2**22}"
    from ray._private.utils import validate_socket_filepath

    validate_socket_filepath(f"{longest}/{session}/sockets/plasma_store.1")
    assert engine._unfit(Path(longest + "x")).startswith("is too long")


SEEN = """
import os, sys
import ray
from orchestrator.run.ray_session import connected

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
