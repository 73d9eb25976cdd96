"""A laboratory on one machine: hosts with addresses, processes, names and homes of their own, and an SSH server each.

Every host is a set of Linux namespaces (network, processes, mounts, names). They share the machine's files, as hosts
do that mount one network file system; private are the home, Ray's folder of temporary files and the shared memory.
The wire between them is a bridge in one more network namespace: nothing that is sent can leave the laboratory.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from sagasr.io.files import dump_yaml, read_yaml
from tests.processes import SLOWLY

NEEDED = ("unshare", "nsenter", "setpriv", "ip", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
SHARED_MEMORY = "300m"  # of each host
BOOT_S = 180.0
HOME = "/srv"  # each host's own, at the same place on each, where Ray's launcher looks for it
ROOT = Path(__file__).parents[3]

BOOT = """
set -e
mount --bind {root}/passwd /etc/passwd
mount --bind {root}/home {home}
mkdir -p /tmp/ray && mount --bind {root}/ray /tmp/ray
mount -t tmpfs -o size={memory} tmpfs /dev/shm
hostname {name}
while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add {address}/24 dev eth0
ip link set eth0 up
exec /usr/sbin/sshd -D -e -f /dev/null -o HostKey={key} -o AuthorizedKeysFile={key}.pub -o PidFile=none \\
    -o StrictModes=no -o UsePAM=no -o PermitRootLogin=yes -o PasswordAuthentication=no -o MaxStartups=100
"""


def missing() -> str:
    """Return why no laboratory can be built on this machine, or an empty text."""
    if os.geteuid():
        return "network namespaces need root"
    absent = [tool for tool in NEEDED if not shutil.which(tool)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    trial = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return "" if trial.returncode == 0 else "namespaces are not allowed here"


@dataclass
class Host:
    """One machine of the laboratory. ``pid`` is its first process as the outside sees it."""

    name: str
    address: str
    root: Path
    process: subprocess.Popen
    pid: int

    @property
    def home(self) -> Path:
        """The home of the host, as the outside sees it."""
        return self.root / "home"

    def command(self, *words: str) -> list[str]:
        """Return the command that runs ``words`` on the host."""
        inside = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid"]
        return [*inside, "env", f"HOME={HOME}", *words]

    def run(self, *words: str, **options: object) -> subprocess.CompletedProcess:
        """Run ``words`` on the host to their end."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, **options)  # type: ignore[call-overload]

    def cut_the_power(self) -> None:
        """End every process of the host at once."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Lab:
    """Hosts on one wire; a context manager that leaves nothing behind."""

    folder: Path
    hosts: dict[str, Host] = field(default_factory=dict)
    wire: subprocess.Popen | None = None

    @property
    def key(self) -> Path:
        """The private key that every host lets in."""
        return self.folder / "key"

    def __enter__(self) -> "Lab":
        self.folder.mkdir(parents=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.wire = subprocess.Popen(_mortal("unshare", "--net", "sleep", "infinity"))
        _wait(lambda: _own_network(self.wire.pid))
        self._on_the_wire("link", "add", "wire", "type", "bridge")
        self._on_the_wire("link", "set", "wire", "up")
        return self

    def __exit__(self, *error: object) -> None:
        for host in self.hosts.values():
            host.cut_the_power()
        if self.wire:
            self.wire.kill()
            self.wire.wait()

    def add(self, name: str, address: str) -> Host:
        """Start a host and return it once its SSH server answers."""
        root = self.folder / name
        (root / "home").mkdir(parents=True)
        (root / "ray").mkdir()
        accounts = Path("/etc/passwd").read_text().splitlines()
        own = [":".join([*line.split(":")[:5], HOME, "/bin/bash"]) for line in accounts if _is_root(line)]
        (root / "passwd").write_text("\n".join([*own, *(line for line in accounts if not _is_root(line))]) + "\n")
        script = BOOT.format(root=root, home=HOME, name=name, address=address, key=self.key, memory=SHARED_MEMORY)
        spaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (root / "boot.log").open("w") as log:
            process = subprocess.Popen(_mortal("unshare", *spaces, "bash", "-c", script), stdout=log, stderr=log)
        _wait(lambda: _children(process.pid))
        (pid,) = _children(process.pid)
        _wait(lambda: _own_network(pid))
        end = f"to-{name}"
        self._on_the_wire("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._on_the_wire("link", "set", end, "master", "wire", "up")
        host = self.hosts[name] = Host(name, address, root, process, pid)
        _wait(lambda: "listening" in (root / "boot.log").read_text())
        return host

    def _on_the_wire(self, *words: str) -> None:
        assert self.wire
        subprocess.run(["nsenter", "--target", str(self.wire.pid), "--net", "ip", *words], check=True)


def cluster_file(lab: Lab, head: Host, workers: list[Host], grid: Path, storage: Path) -> Path:
    """Write the shipped file for these machines, with a grid and a storage of ours, and one CPU of each worker.

    Trainings pause at every step, so that there is time to fail in.
    """
    shipped = (ROOT / "orchestrator" / "clusters" / "local.yaml").read_text().replace("/shared/sweeps", str(storage))
    (lab.folder / "shipped.yaml").write_text(shipped)
    file = read_yaml(lab.folder / "shipped.yaml")
    file["file_mounts"]["~/grid.yaml"] = str(grid)
    file["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    file["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.key)}
    variables = {**SLOWLY, "RAY_worker_niceness": "0"}
    slowly = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    for key, less in (("head_start_ray_commands", "--num-cpus=0"), ("worker_start_ray_commands", "--num-cpus=1")):
        file[key] = [command.replace("ray start", f"{slowly} ray start {less}") for command in file[key]]
    for host in (head, *workers):  # the dependencies are installed already: the setup command finds that out
        environment = host.home / "sagasr" / ".venv"
        environment.mkdir(parents=True)
        for part in Path(sys.prefix).iterdir():
            (environment / part.name).symlink_to(part)
        (environment / "installed.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    path = lab.folder / "lab.yaml"
    path.write_text(dump_yaml(file))
    return path


def launcher(desk: Host, *words: str) -> list[str]:
    """Return the command that runs ``words`` at the desk, in the checkout."""
    return desk.command("sh", "-c", f'cd {ROOT} && exec "$@"', "sh", *words)


def _mortal(*words: str) -> list[str]:
    """Return the command, to be killed when this process dies, however it dies."""
    return ["setpriv", "--pdeathsig", "KILL", *words]


def _is_root(account: str) -> bool:
    return account.startswith("root:")


def _own_network(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait(condition) -> None:
    end = time.monotonic() + BOOT_S
    while not condition():
        assert time.monotonic() < end, "the laboratory did not start"
        time.sleep(0.02)
