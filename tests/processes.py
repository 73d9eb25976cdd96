"""What tests start: commands, children of their own process, servers on ports that stay free, a Ray to be joined."""

import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SWEEP = [sys.executable, "-c", "import sys; from orchestrator.cli.sweep import sweep; sys.exit(sweep())"]
# Variables of a sweep whose trainings pause at every step: time to be struck in, which costs no processor any.
SLOWLY = {"SAGASR_FAULTS": '[{"point":"train.step","visit":0,"do":"pause"}]'}
LIMIT_S = 600.0  # of a machine that is busy with other things; what fails is told sooner
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


def forked(work: Callable[[], object]) -> int:
    """Do ``work`` in a child that need not import again what is imported here; return how it ended.

    The work's number, 0 for none, 1 for an exception; negative for the signal that ended it.
    """
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            code = int(work() or 0)  # type: ignore[call-overload]
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:  # noqa: BLE001 - the child must never return into the parent's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked_command(command: Callable[[], int], folder: Path, more_bytes: int) -> subprocess.CompletedProcess[str]:
    """Give a command in ``folder``, in a child that may take so much more memory; return what it said, and its code."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")

    def work() -> int:
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_AS, (taken + more_bytes, resource.RLIM_INFINITY))
        for name, file in (("stdout", out), ("stderr", err)):
            os.dup2(file.fileno(), getattr(sys, f"__{name}__").fileno())
            setattr(sys, name, file)
        code = command()
        out.flush()
        return code

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = forked(work)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess((), code, out.read(), err.read())


def wait_for(
    condition: Callable[[], Any],
    what: str,
    process: "subprocess.Popen[Any] | None" = None,
    log: Path = Path(os.devnull),
    limit_s: float = LIMIT_S,
) -> Any:
    """Return the first true answer. Raises AssertionError, with the log, where the process ends or none comes."""
    end = time.monotonic() + limit_s
    while not (answer := condition()):
        assert process is None or process.poll() is None, (
            f"{what}: ended by itself ({process.returncode}), {log.read_text()}"
        )
        assert time.monotonic() < end, f"{what}: not within {limit_s:g} s"
        time.sleep(0.05)
    return answer


def write_token(token: str = "ab" * 32) -> Path:
    """Write the token of a Ray cluster where Ray looks for it, as the head of one does; return the file."""
    file = Path(os.environ["HOME"]) / ".ray" / "auth_token"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text(token)
    file.chmod(0o600)
    return file


@contextmanager
def ray_head(*options: str) -> Iterator[str]:
    """Run the head of a Ray cluster that asks for the token in the home folder; yields its address."""
    from orchestrator.run.ray_internals import LOCAL_SETTINGS

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
