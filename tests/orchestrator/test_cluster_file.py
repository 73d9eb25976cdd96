"""The shipped cluster file is one that Ray accepts, and opens nothing but SSH."""

import re
from pathlib import Path
from typing import Any

import pytest

from sagasr.files import read_yaml

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return read_yaml(CLUSTER)


def test_ray_accepts_the_file_and_refuses_a_misspelt_key(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))
    with pytest.raises(Exception, match="max_worker_s"):
        validate_config(prepare_config(cluster | {"max_worker_s": 1}))


def test_only_ssh_is_open_and_nothing_listens_on_all_interfaces(cluster: dict[str, Any]) -> None:
    rules = cluster["provider"]["security_group"]["IpPermissions"]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in rules] == [(22, 22)]
    commands = "\n".join(cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"])
    assert "0.0.0.0" not in commands
    assert re.search(r"--dashboard-host=127\.0\.0\.1", commands)


def test_nodes_need_a_token_that_only_its_owner_can_read(cluster: dict[str, Any]) -> None:
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    setup = "\n".join(cluster["setup_commands"])
    assert "RAY_AUTH_MODE=token" in setup
    assert "chmod 600 ~/.ray/auth_token" in setup


def test_trial_drivers_have_their_own_resource_on_the_head(cluster: dict[str, Any]) -> None:
    from orchestrator.worker import DRIVER

    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"][DRIVER] > 0
    assert head["resources"]["CPU"] == 0
