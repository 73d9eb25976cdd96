"""Commands and servers that tests start: the command of a sweep, ports that stay free, a Ray that others join."""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

SWEEP = [sys.executable, "-c", "import sys; from orchestrator.cli.commands import sweep; sys.exit(sweep())"]
PORTS = range(20_000, 32_000)  # where the system looks for no port of its own: ours stays free until it is used


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def ray_head(*options: str) -> Iterator[str]:
    """Run the head of a Ray cluster that asks for the token in the home folder; yields its address."""
    from orchestrator.run.ray_session import LOCAL_SETTINGS

    short = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a socket's path has 107 bytes
    port = free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", f"--ray-client-server-port={free_port()}", f"--temp-dir={short}", "--num-cpus=1"]
    command += ["--include-dashboard=false", *options]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", **LOCAL_SETTINGS}
    environment.pop("CUDA_VISIBLE_DEVICES", None)  # Ray refuses to have GPUs that the environment hides
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as head:
        try:
            assert any("--block" in line for line in head.stdout or ())
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
    shutil.rmtree(short)
