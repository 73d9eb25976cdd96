"""Trainings are held against the GPUs that are here or that a cluster file names, and told what would make them fit."""

import re
import subprocess
from collections import namedtuple

import pytest
from rich.console import Console

from orchestrator.api import Sweep
from orchestrator.plan.capacity import FAMILIES, HERE, MEMORY, MIB, Gpu, here, in_cluster_file, labelled, smallest
from orchestrator.plan.cost import machine
from orchestrator.plan.gpu_memory import check_memory, needs, planned_gpu, remedies
from orchestrator.plan.plan import Options
from orchestrator.plan.preflight import ready
from sagasr.io.errors import ConfigError
from sagasr.io.files import dump_yaml, parse_yaml
from tests.orchestrator.run.nvidia import DRIVER, list_gpus, no_tool
from tests.processes import SWEEP, ray_head, write_token

Properties = namedtuple("Properties", ["name", "total_memory"])
MANY = {"training.batch_size": 8_192}  # rows, whose activations are most of what is held
TWO = ("NVIDIA L4", 23_034), ("NVIDIA L40S", 46_068)


@pytest.fixture
def planned(make_grid, tmp_path, monkeypatch):
    """Return what plans the test grid for GPUs, with resources of the default size."""
    monkeypatch.chdir(tmp_path)

    def plan(settings=None, **resources):
        grid = make_grid(resources={"default": {"gpus_per_worker": 1, **resources}})
        return Sweep(grid, storage=tmp_path / "sweeps", settings={"training.batch_size": 16, **(settings or {})}).plan()

    return plan


def most(planned, parts: int = 1) -> int:
    """Return what the neediest cell holds."""
    resources = planned.plan.trials[0].resources
    return max(counts.memory_bytes(resources, parts) for counts in planned.shapes.values())


def held_against(planned, memory: int) -> None:
    check_memory(planned.plan, planned.plan.trials, planned.shapes, Gpu("Tiny", memory, "a cluster"))


def text_of(planned) -> str:
    console = Console(width=80, record=True)
    planned.show(console)
    return console.export_text()


# ---------------------------------------------------------------------------------------------------- which there are


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, [0, 1]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("0,7,1", [0]),  # as for CUDA, what follows an unknown one is hidden
        ("GPU-11", [1]),
        ("GPU-11-uuid, GPU-00-uuid", [1, 0]),
        ("GPU-2", []),
        ("MIG-11", []),
    ],
)
def test_the_gpus_here_are_those_that_the_environment_shows(visible, seen, monkeypatch, tmp_path):
    list_gpus(monkeypatch, tmp_path, *TWO)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert here() == tuple(Gpu(TWO[n][0], TWO[n][1] * MIB, "this machine", DRIVER) for n in seen)
    assert machine(gpu=True) == ([TWO[n][0] for n in seen] or ["no GPU"])[0]


def test_a_tool_that_fails_or_does_not_know_the_memory_is_no_error(monkeypatch, tmp_path):
    list_gpus(monkeypatch, tmp_path, ("NVIDIA GB10", "[N/A]"))
    assert [gpu.memory for gpu in here()] == [0]
    assert smallest(here()) is None
    list_gpus(monkeypatch, tmp_path / "none")
    assert here() == ()
    (tmp_path / "broken").mkdir()
    list_gpus(monkeypatch, tmp_path / "broken", *TWO)
    (tmp_path / "broken" / "nvidia" / "nvidia-smi").write_text("#!/bin/sh\necho has failed; exit 9\n")
    assert here() == ()


def test_a_cluster_file_names_the_gpus_of_the_instances_that_are_known(tmp_path):
    path = tmp_path / "cluster.yaml"

    def named(*instances):
        kinds = {f"kind{n}": {"node_config": {"InstanceType": one}} for n, one in enumerate(instances)}
        path.write_text(dump_yaml({"available_node_types": kinds}))
        return in_cluster_file(path)

    assert in_cluster_file(path) == ()
    found = named("m6i.2xlarge", "g6e.12xlarge", "p5.48xlarge")
    assert [(gpu.name, gpu.where) for gpu in found] == [
        ("L40S", "g6e.12xlarge of cluster.yaml"),
        ("H100", "p5.48xlarge of cluster.yaml"),
    ]
    assert smallest(found).name == "L40S"
    assert named("m6i.2xlarge", "x9.large") == ()
    for other in (
        "provider: {type: local}\n",
        "available_node_types: [a, b]\n",
        "available_node_types: {a: 1, b: {}}\n",
    ):
        path.write_text(other)
        assert in_cluster_file(path) == ()


def test_the_table_is_what_amazon_says_of_every_instance_of_a_family():
    instances = pytest.importorskip("moto.ec2.models.instance_types").INSTANCE_TYPES
    seen = set()
    for name, instance in instances.items():
        family = name.partition(".")[0]
        if family in FAMILIES:
            seen.add(family)
            (gpu,) = instance["GpuInfo"]["Gpus"]
            assert gpu["Name"] == FAMILIES[family].partition("-")[0], name
            assert gpu["MemoryInfo"]["SizeInMiB"] == pytest.approx(MEMORY[FAMILIES[family]], rel=0.02), name
    assert seen == set(FAMILIES)


def test_a_cluster_s_labels_name_its_gpus_but_for_those_that_may_be_either():
    labels = ["CPU", "GPU", "accelerator_type:H100", "accelerator_type:A100", "accelerator_type:L4"]
    assert [gpu.name for gpu in labelled(labels)] == ["H100", "L4"]


# -------------------------------------------------------------------------------------------------- whether it fits


def test_a_byte_decides(planned):
    for share in (1, 0.5):
        found = planned(gpus_per_worker=share)
        needed = int(most(found) / share)
        held_against(found, needed)
        with pytest.raises(ConfigError, match=r"cell '.*' and [1-3] more: .* needed, .*Tiny \(a cluster\) has"):
            held_against(found, needed - 2)


def test_all_cells_of_a_training_are_counted(planned):
    found = planned()
    (need,) = needs(found.plan.trials, found.shapes, Gpu("Tiny", 1))
    assert need.misfits == len(found.plan.cells) == 2 * len({trial.levels["text"] for trial in found.plan.trials})


@pytest.mark.parametrize("share", [0.1, 0.5, 1])
@pytest.mark.parametrize("fraction", [0.99, 0.6, 0.3])
def test_whatever_the_refusal_says_to_change_makes_it_fit(planned, share, fraction):
    refused = planned(MANY, gpus_per_worker=share)
    memory = int(fraction * most(refused) / share)
    with pytest.raises(ConfigError) as error:
        held_against(refused, memory)
    _, told = str(error.value).split("; ", 1)
    for way in told.split(", or "):
        if lines := re.fullmatch(r"write (.*) in resources\.default", way):
            changed = planned(MANY, **{"gpus_per_worker": share, **parse_yaml(f"{{{lines[1]}}}", "told")})
        else:
            (rows,) = re.fullmatch(r"lower training\.batch_size to (\d+) in the base", way).groups()
            changed = planned({"training.batch_size": int(rows)}, gpus_per_worker=share)
        held_against(changed, memory)
    assert ("gpus_per_worker: " in told, "sharded: true" in told or "workers: " in told) == (share < 1, True)


def test_no_remedy_wants_more_gpus_than_this_machine_has(planned, monkeypatch, tmp_path):
    list_gpus(monkeypatch, tmp_path, *TWO)
    refused = planned(MANY, gpus_per_worker=1)
    for part, workers in ((0.9, "workers: 2"), (0.2, None)):
        (need,) = needs(refused.plan.trials, refused.shapes, Gpu("Tiny", int(part * most(refused)), HERE))
        told = ", or ".join(remedies(need, "resources.default"))
        assert re.findall(r"workers: \d+", told) == ([workers] if workers else [])


def test_a_plan_for_more_gpus_than_this_machine_has_says_so(planned, monkeypatch, tmp_path):
    list_gpus(monkeypatch, tmp_path, *TWO)
    text = text_of(planned(workers=4, gpus_per_worker=1))
    assert "on each of 4: fits, but 2 GPUs here\n" in text


def test_more_workers_than_rows_are_refused(planned):
    with pytest.raises(ConfigError, match=r"resources: 9 workers of size custom share a batch of 8; give at most one"):
        planned({"training.batch_size": 8}, workers=9, gpus_per_worker=1).check_memory()


def test_what_no_line_can_mend_wants_a_larger_gpu(planned):
    with pytest.raises(ConfigError, match=r"; choose a smaller size, shorter clips .audio.segment. or larger GPUs$"):
        held_against(planned(), 1_000)


# ---------------------------------------------------------------------------------------------------- what is told


def test_a_plan_says_of_each_size_what_it_needs_and_that_it_fits(planned, monkeypatch, tmp_path):
    list_gpus(monkeypatch, tmp_path, *TWO)
    found = planned(gpus_per_worker=0.25)
    text = text_of(found)
    assert "GPU memory: NVIDIA L4, 24.2 GB (this machine)" in text
    assert re.search(r"size custom needs [\d.e-]+ GB of 6\.04 GB \(0\.25 of it\): fits\n", text)
    found.check_memory()


def test_a_plan_without_a_gpu_is_held_against_the_cluster_file_of_the_folder(planned, monkeypatch, tmp_path):
    list_gpus(monkeypatch, tmp_path)
    write = {"available_node_types": {"gpu": {"node_config": {"InstanceType": "g6e.12xlarge"}}}}
    (tmp_path / "cluster.yaml").write_text(dump_yaml(write))
    found = planned(workers=4, sharded=True)
    assert "GPU memory: L40S, 48.3 GB (g6e.12xlarge of cluster.yaml)" in text_of(found)
    assert "GB of 48.3 GB on each of 4: fits" in text_of(found)
    list_gpus(monkeypatch, tmp_path / "here", TWO[0])
    assert planned_gpu(found.plan.trials).name == "NVIDIA L4"
    assert planned_gpu(found.plan.trials, on_cluster=True).name == "L40S"


def test_a_plan_that_knows_no_gpu_says_so_and_refuses_nothing(planned, monkeypatch, tmp_path):
    no_tool(monkeypatch, tmp_path)
    found = planned({"training.batch_size": 2**20})
    text = text_of(found)
    assert "GPU memory: not compared; no GPU is known here or from a cluster.yaml here\n" in text
    found.check_memory()
    assert "GPU memory" not in text_of(planned(gpus_per_worker=0))


# ------------------------------------------------------------------------------------------------- before it begins


def test_torch_is_asked_where_there_is_no_tool(planned, monkeypatch, tmp_path):
    no_tool(monkeypatch, tmp_path)
    found = planned()
    for memory, fits in ((2 * most(found), True), (most(found) // 2, False)):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda _, m=memory: Properties("Slim", m))
        if fits:
            ready(found.plan, found.plan.trials, found.shapes, Options())
        else:
            with pytest.raises(ConfigError, match=r"Slim \(this machine\) has"):
                ready(found.plan, found.plan.trials, found.shapes, Options())


def test_a_gpu_that_torch_can_use_is_taken_whatever_its_driver(planned, monkeypatch, tmp_path):
    list_gpus(monkeypatch, tmp_path, TWO[0], driver="470.1")  # as with NVIDIA's packages for old drivers
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    found = planned()
    ready(found.plan, found.plan.trials, found.shapes, Options())


def test_what_waits_for_the_others_must_fit_too(planned, monkeypatch, tmp_path):
    list_gpus(monkeypatch, tmp_path, TWO[0])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    found = planned({"training.batch_size": 2**20})
    first = planned(gpus_per_worker=0).plan.trials
    ready(found.plan, first, found.shapes, Options())
    with pytest.raises(ConfigError, match=r"NVIDIA L4 \(this machine\) has"):
        ready(found.plan, first, found.shapes, Options(), held=found.plan.trials)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_cluster_whose_gpus_are_too_small_is_told_when_it_is_joined(make_grid, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    write_token()
    grid = make_grid(resources={"default": {"gpus_per_worker": 1}})
    with ray_head("--num-gpus=1", '--resources={"accelerator_type:L4": 1}') as address:
        sweep = [*SWEEP, str(grid), "--address", address, "--set", f"training.batch_size={2**18}", "--quiet"]
        done = subprocess.run(sweep, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "GB needed, L4 (the cluster) has 24.2 GB; lower training.batch_size to " in done.stderr
