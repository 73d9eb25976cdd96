"""`python -m orchestrator.cluster`: Ray's cluster launcher for files that it has checked, and what a sweep may join.

Whoever reaches the ports of a Ray cluster without a token runs code on it. So a cluster file that opens ports or makes
no token is refused, and a sweep joins no cluster without a token, unless the user allows it.

Private API of Ray, checked against 2.60.0: ``_read_environment_anew``, ``resolve`` and ``admits``.
"""

import contextlib
import ipaddress
import os
import re
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sagasr.io.errors import ConfigError, SagasrError
from sagasr.io.files import read_yaml

USAGE = """\
usage: python -m orchestrator.cluster up|down|exec|submit|attach|... CLUSTER.yaml [...]

Ray's cluster launcher (`ray up --help`) for a file that opens nothing but SSH and makes a token. `down` also stops the
workers of a list of machines, which `ray down` leaves running.
examples:
  uv run python -m orchestrator.cluster up cluster.yaml
  uv run python -m orchestrator.cluster exec cluster.yaml 'sagasr-sweep grid.yaml'
  uv run python -m orchestrator.cluster down cluster.yaml
"""
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
ADDRESS = "RAY_ADDRESS"
EVERYWHERE = re.compile(r"0\.0\.0\.0|\[?::\]?(?![\w:])|INADDR_ANY")
SSH = 22
PROBE_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb of Ray's launcher on a cluster file and return its exit code; 2 when nothing was started."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) < 2 or words[0].startswith("-"):
        sys.stderr.write(USAGE)
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    verb, file, *rest = words
    try:
        cluster = read_yaml(Path(file))
        if problems := problems_of(cluster):
            raise ConfigError("\n".join(f"{file}: {problem}" for problem in problems))
    except SagasrError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    ray = [sys.executable, "-P", "-m", "ray.scripts.scripts"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    if verb == "down" and (cluster.get("provider") or {}).get("type") == "local":  # Ray stops only the head
        subprocess.run([*ray, "exec", file, _stop_workers(cluster)], env=environment, check=False)
    return subprocess.run([*ray, verb, file, *rest], env=environment, check=False).returncode


def problems_of(cluster: Mapping[str, Any]) -> list[str]:
    """Return what a cluster file leaves open to strangers by mistake, one line each."""
    provider, setup = cluster.get("provider") or {}, "\n".join(cluster.get("setup_commands") or [])
    group = provider.get("security_group") or {}
    problems = []
    if provider.get("type") == "aws" and not group:
        problems.append("provider.security_group: name the ports that are open, of which there is one: 22")
    for rule in group.get("IpPermissions") or []:
        if (ports := (rule.get("FromPort"), rule.get("ToPort"))) != (SSH, SSH):
            problems.append(f"provider.security_group: ports {ports[0]} to {ports[1]} are open; open 22 (SSH) alone")
    for key in (key for key in cluster if key.endswith("commands")):
        problems += [f"{key}: {problem}" for command in cluster[key] or [] for problem in _open_services(command)]
    if "~/.ray/auth_token" not in (cluster.get("cluster_synced_files") or []):
        problems.append('cluster_synced_files: no token goes to the workers; add "~/.ray/auth_token"')
    if "~/.ray/auth_token" not in "\n".join(cluster.get("head_setup_commands") or []):
        problems.append("head_setup_commands: nobody makes the token; copy the command of the shipped cluster.yaml")
    if f"{MODE}=token" not in setup:
        remedy = f"add one that puts `export {MODE}=token` into ~/.bashrc"
        problems.append(f"setup_commands: Ray would not ask for the token; {remedy}")
    if "chmod 600 ~/.ray/auth_token" not in "\n".join(cluster.get("worker_setup_commands") or []):
        problems.append("worker_setup_commands: others could read the token; add `chmod 600 ~/.ray/auth_token`")
    return problems


def _open_services(command: str) -> Iterator[str]:
    if EVERYWHERE.search(command):
        yield f"listens on every address ({command.strip()[:60]} …); name 127.0.0.1"
    if "ray start --head" in command and "--dashboard-host=127.0.0.1" not in command:
        yield "the dashboard runs code for its visitors; add --dashboard-host=127.0.0.1 to `ray start`"
    if re.search(r"mlflow\s+(server|ui)", command) and "--host 127.0.0.1" not in command:
        yield "the tracking server has no password; add --host 127.0.0.1"


def _stop_workers(cluster: Mapping[str, Any]) -> str:
    """Return the command by which the head stops Ray on the workers of a list of machines."""
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 -o LogLevel=ERROR"
    login = f"ssh {options} -i ~/ray_bootstrap_key.pem {cluster['auth']['ssh_user']}@$host"
    stop = "bash --login -i -c '\"'\"'ray stop'\"'\"' >/dev/null 2>&1"
    hosts = " ".join(map(str, cluster["provider"]["worker_ips"]))
    return f"for host in {hosts}; do {login} '{stop}' & done; wait"


def token_file() -> Path:
    """Return where Ray looks for the token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def check_token(path: Path) -> Path:
    """Return a token's file, closed to others if it was open to them. Raises ConfigError where it cannot be trusted."""
    try:
        status = path.stat()
    except OSError as error:
        remedy = "copy the file from its head, or name it in RAY_AUTH_TOKEN_PATH"
        raise ConfigError(f"{path}: no token of a Ray cluster; {remedy}") from error
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path}: the token of the Ray cluster belongs to another user; remove it")
    if not status.st_size:
        raise ConfigError(f"{path}: the token of the Ray cluster is empty; remove the file, and `ray up` makes another")
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o600)
    return path


@contextlib.contextmanager
def credentials(address: str | None) -> Iterator[None]:
    """Let this process join the cluster at ``address``, or start a Ray of its own (None), for the block.

    A Ray of its own asks for a secret that is in no file. Raises ConfigError for a cluster that asks for no token,
    unless RAY_AUTH_MODE=disabled says that it may, and where this process is connected to a Ray already.
    """
    before = {name: os.environ[name] for name in (MODE, TOKEN) if name in os.environ}
    os.environ.setdefault(MODE, "token")
    if address is None and os.environ[MODE] != "disabled":
        os.environ.setdefault(TOKEN, secrets.token_hex(32))
    try:
        _read_environment_anew()
        if address is not None:
            check_joinable(address)
        yield
    finally:
        for name in (MODE, TOKEN):
            os.environ.pop(name, None)
        os.environ.update(before)


def _read_environment_anew() -> None:
    """Let Ray forget the mode and the token that it read when this process imported or started it before."""
    import ray
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    if ray.is_initialized():
        raise ConfigError("this process is connected to a Ray already; call ray.shutdown() first")
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def check_joinable(address: str) -> None:
    """Raise ConfigError, before anything is written, for a cluster that this process cannot or should not join.

    A cluster without a token may be joined on this machine, and elsewhere where RAY_AUTH_MODE=disabled allows it.
    """
    if address.startswith("ray://"):
        raise ConfigError(f"{_named(address)}: start the sweep on the cluster, with `ray exec` and --address auto")
    if "://" in address:
        raise ConfigError(f"{_named(address)}: name the head as HOST:6379, or auto")
    open_to_all = os.environ.get(MODE) == "disabled"
    token = "" if open_to_all else os.environ.get(TOKEN) or check_token(token_file()).read_text().strip()
    if (head := resolve(address)) is None:
        raise ConfigError(f"{_named(address)}: no Ray cluster runs on this machine; --address local starts one")
    try:
        anyone, ours = admits(head, ""), bool(token) and admits(head, token)
    except ConnectionError as error:
        raise ConfigError(f"{_named(address)}: no Ray cluster answers there ({error})") from error
    if not anyone and open_to_all:
        raise ConfigError(f"{_named(address)}: the cluster asks for a token; unset {MODE}=disabled")
    if not anyone and not ours:
        raise ConfigError(f"{_named(address)}: the cluster has another token; copy {token_file()} from its head")
    if anyone and not open_to_all and not on_loopback(head):
        raise ConfigError(
            f"{_named(address)}: the cluster asks for no token, so whoever reaches it runs code on it; "
            f"start it with {MODE}=token, or set {MODE}=disabled here if you trust all who reach it"
        )


def cluster_of(address: str | None) -> str | None:
    """Return which cluster to join: as told, else as the environment says, as Ray itself does; "local" is none."""
    address = address or os.environ.get(ADDRESS) or "local"
    return None if address == "local" else address


def _named(address: str) -> str:
    """Return how a fault names a cluster's address: as it was told."""
    return f"{ADDRESS}={address}" if os.environ.get(ADDRESS) == address else f"--address {address}"


def resolve(address: str) -> str | None:
    """Return host:port of a cluster's head, or None when there is no cluster."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address(address)  # type: ignore[no-any-return]
    except (ConnectionError, RuntimeError, ValueError):
        return None


def on_loopback(address: str) -> bool:
    """Return whether no other machine can reach host:port."""
    try:
        return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:
        return False


def admits(address: str, token: str) -> bool:
    """Return whether the head at host:port answers to this token ("": none). Raises ConnectionError if none answers."""
    import grpc  # type: ignore[import-untyped]

    bearer = [("authorization", f"Bearer {token}")] if token else []
    try:
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=PROBE_S, metadata=bearer)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return False
        raise ConnectionError(error.code().name) from error
    return True


if __name__ == "__main__":
    sys.exit(main())
