"""The token of a Ray cluster: only its owner reads it, and no cluster without one is joined unless told."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import cluster
from orchestrator.cluster import check_joinable, check_token, credentials, main, on_loopback, token_file
from sagasr.io.errors import ConfigError
from tests.processes import ray_head, write_token

LOCAL = Path(__file__).parents[3] / "orchestrator" / "clusters" / "local.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_empty_token_is_refused_in_one_line(home: Path) -> None:
    write_token("")
    with pytest.raises(ConfigError, match="is empty; remove the file") as refused:
        check_token(token_file())
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user needs root")
def test_a_token_of_another_user_is_refused(home: Path) -> None:
    os.chown(write_token(), 4_321, -1)
    with pytest.raises(ConfigError, match="another user"):
        check_token(token_file())


def join(address: str) -> None:
    with credentials(address):
        assert os.environ["RAY_AUTH_MODE"] in ("token", "disabled")


def test_who_joins_a_cluster_brings_a_token(home: Path) -> None:
    with pytest.raises(ConfigError, match="no token of a Ray cluster") as refused:
        join("auto")
    assert "\n" not in str(refused.value)
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.mark.parametrize("asks", [True, False])
def test_a_cluster_that_asks_for_no_token_is_joined_only_when_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    write_token()
    monkeypatch.setattr(cluster, "resolve", lambda _: "10.0.0.1:6379")
    monkeypatch.setattr(cluster, "admits", lambda _, token: bool(token) or not asks)
    if not asks:
        with pytest.raises(ConfigError, match="runs code on it"):
            join("auto")
    else:
        join("auto")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    if asks:
        with pytest.raises(ConfigError, match="asks for a token; unset RAY_AUTH_MODE=disabled"):
            join("auto")
    else:
        join("auto")


@pytest.mark.cluster
@pytest.mark.slow
def test_a_head_admits_who_has_its_token_and_tells_others_why_not(home: Path) -> None:
    def refused(address: str) -> str:
        with pytest.raises(ConfigError) as error:
            check_joinable(address)
        return str(error.value)

    token = write_token()
    with ray_head() as address:
        check_joinable(address)
        token.write_text("0" * 64)
        assert f"--address {address}: the cluster has another token; copy {token} from its head" in refused(address)
    assert "no Ray cluster answers there" in refused(address)


@pytest.mark.parametrize(("address", "remedy"), [("ray://head:10001", "ray exec"), ("http://head:8265", "HOST:6379")])
def test_addresses_of_other_services_are_refused(home: Path, address: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        join(address)


def test_a_ray_of_ones_own_has_a_secret_that_is_in_no_file_and_gone_afterwards(home: Path) -> None:
    found = []
    for _ in range(2):
        with credentials(None):
            found.append(os.environ["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_TOKEN" not in os.environ
    assert found[0] != found[1]
    assert all(len(secret) == 64 for secret in found)
    assert not (home / ".ray").exists()


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1:6379", True), ("[::1]:6379", True), ("10.0.0.1:6379", False), ("head:6379", False)],
)
def test_loopback_is_told_from_the_rest(address: str, loopback: bool) -> None:
    assert on_loopback(address) is loopback


def test_the_launcher_starts_nothing_with_a_file_that_opens_ports(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "open.yaml"
    file.write_text(LOCAL.read_text().replace("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"))
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cluster", "up", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "every address" in done.stderr
    assert not (home / ".ray").exists()
    assert main(["up"]) == 2
