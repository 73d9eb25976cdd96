"""Every shipped cluster file is one that Ray accepts, opens nothing but SSH, and asks for a token."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import problems_of
from orchestrator.grid.read import read_space
from orchestrator.plan.capacity import in_cluster_file, smallest
from orchestrator.plan.plan import make_plan
from orchestrator.plan.preflight import preflight
from sagasr.io.files import read_yaml

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "cluster.yaml", *sorted((ROOT / "orchestrator" / "clusters").glob("*.yaml"))]
GRIDS = [path for path in sorted((ROOT / "search_spaces").glob("*.yaml")) if "factors" in read_yaml(path)]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_yaml(request.param)


@pytest.fixture
def aws() -> dict[str, Any]:
    return read_yaml(ROOT / "cluster.yaml")


def commands_of(cluster: dict[str, Any], kind: str) -> str:
    return "\n".join(cluster[f"{kind}_start_ray_commands"])


def test_every_file_with_a_provider_is_among_those_tested() -> None:
    inside = [path for part in ("*.yaml", "orchestrator/**/*.yaml", "search_spaces/*.yaml") for path in ROOT.glob(part)]
    assert {path for path in inside if re.search(r"^provider:", path.read_text(), re.M)} == set(FILES)


def test_ray_accepts_the_file_and_refuses_a_misspelt_key(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))
    with pytest.raises(Exception, match="max_worker_s"):
        validate_config(prepare_config(cluster | {"max_worker_s": 1}))


def test_nothing_is_open_but_ssh_and_nodes_ask_for_a_token(cluster: dict[str, Any]) -> None:
    assert problems_of(cluster) == []
    assert "0.0.0.0" not in str(cluster)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("provider.security_group.IpPermissions", [{"FromPort": 8265, "ToPort": 8265}], "8265"),
        ("provider.security_group.IpPermissions", [{"FromPort": 22, "ToPort": 6379}], "6379"),
        ("head_start_ray_commands", ["ray start --head --dashboard-host=0.0.0.0"], "every address"),
        ("head_start_ray_commands", ["ray start --head --dashboard-host=::"], "every address"),
        ("head_start_ray_commands", ["ray start --head --port=6379"], "dashboard"),
        ("head_start_ray_commands", ["mlflow server --port 5000"], "tracking server"),
        ("setup_commands", [], "token"),
        ("worker_setup_commands", [], "chmod 600"),
        ("head_setup_commands", [], "nobody makes the token"),
        ("cluster_synced_files", [], "auth_token"),
    ],
)
def test_a_file_that_opens_more_is_refused(aws: dict[str, Any], path: str, value: Any, said: str) -> None:
    *parents, last = path.split(".")
    node = aws
    for parent in parents:
        node = node[parent]
    node[last] = value
    assert any(said in problem for problem in problems_of(aws))


def test_a_node_type_of_its_own_group_is_not_needed_but_a_group_is(aws: dict[str, Any]) -> None:
    del aws["provider"]["security_group"]
    assert any("security_group" in problem for problem in problems_of(aws))


def test_the_head_is_on_demand_and_the_workers_are_spot_machines_that_come_and_go(aws: dict[str, Any]) -> None:
    types = aws["available_node_types"]
    head, gpu = types[aws["head_node_type"]], types["gpu"]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gpu["min_workers"] == 0 < gpu["max_workers"]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Amazon's interface, answered inside this process."""
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        yield


@pytest.mark.slow
def test_what_amazon_is_asked_for_exists_and_lets_in_ssh_alone(cloud: None, aws: dict[str, Any]) -> None:
    import boto3
    from ray.autoscaler._private.aws.config import _configure_security_group
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    config = prepare_config(aws)
    found = AWSNodeProvider.fillout_available_node_types_resources(config)["available_node_types"]["gpu"]["resources"]
    assert (found["CPU"], found["GPU"]) == (48, 4)

    client = boto3.client("ec2", region_name=aws["provider"]["region"])
    subnet = client.describe_subnets()["Subnets"][0]["SubnetId"]
    for kind in config["available_node_types"].values():
        kind["node_config"]["SubnetIds"] = [subnet]
    _configure_security_group(config)
    (group,) = client.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["sagasr-ssh-only"]}])[
        "SecurityGroups"
    ]
    from_outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule.get("Ipv6Ranges")]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in from_outside] == [(22, 22, "tcp")]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda path: path.name)
def test_every_cell_of_a_shipped_grid_fits_the_gpus_of_the_shipped_cluster(grid: Path) -> None:
    gpu = smallest(in_cluster_file(ROOT / "cluster.yaml"))
    assert gpu is not None
    plan = make_plan(read_space(grid))
    shapes = preflight(plan.cells, grid.name, build=())
    too_large = {
        row.cell: f"{needed / 1e9:.3g} GB, {gpu.name} has {allowed / 1e9:.3g} GB for it"
        for trial in plan.trials
        for row in trial.replicates
        if (needed := shapes[row.cell].memory_bytes(trial.resources))
        > (allowed := gpu.memory * trial.resources.gpus_per_worker)
        > 0
    }
    assert too_large == {}


def test_the_grids_for_the_cluster_name_gpus() -> None:
    named = {
        grid.name for grid in GRIDS if any(one.gpus_per_worker for one in read_space(grid).grid.resources.values())
    }
    assert {"grid.yaml", "ladder.yaml"} <= named
