"""What a training says it computed on."""

from pathlib import Path

import pytest
import torch

from sagasr.torch_internals import to_be_compiled
from sagasr.training.record import cpu_name, device_of, with_device
from sagasr.training.trial_log import Device, Status, read_status, write_status

H200 = Device(attempt=1, name="NVIDIA H200", driver="580.65.06", cuda="13.0", torch="2.14.1", precision="bf16-mixed",
              matmul="highest", cudnn_tf32=True, compiled=True)  # fmt: skip


def test_on_a_cpu_its_name_and_the_settings_are_known() -> None:
    found = device_of(torch.device("cpu"), torch.nn.Linear(2, 2), "32-true", attempt=3)
    assert found.name == cpu_name() != ""
    assert (found.attempt, found.precision, found.torch) == (3, "32-true", torch.__version__)
    assert (found.driver, found.cuda, found.cudnn_tf32, found.compiled) == ("", "", False, False)


def test_the_precision_of_products_is_that_of_the_moment() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert device_of(torch.device("cpu"), torch.nn.Linear(2, 2), "32-true").matmul == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_model_says_whether_it_is_to_be_compiled() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert not to_be_compiled(model)
    model[0].compile(backend="eager")
    assert to_be_compiled(model)


def test_an_attempt_that_goes_on_as_the_one_before_is_not_told_again() -> None:
    later = H200.model_copy(update={"attempt": 2})
    assert with_device([], H200) == [H200]
    assert with_device([H200], later) == [H200]
    begun = later.model_copy(update={"compiled": False})  # known only once a step was taken
    assert with_device(with_device([H200], begun), later) == [H200]
    other = later.model_copy(update={"name": "NVIDIA L4"})
    assert with_device([H200], other) == [H200, other]


def test_a_status_names_every_device_once_and_comes_back_from_its_file(tmp_path: Path) -> None:
    again = H200.model_copy(update={"attempt": 3, "driver": "590.1"})
    status = Status(state="done", devices=[H200, H200.model_copy(update={"attempt": 2, "name": "NVIDIA L4"}), again])
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert status.device == "NVIDIA H200 + NVIDIA L4"
    (tmp_path / "status.json").write_text('{"state": "done"}')  # of an older training
    old = read_status(tmp_path)
    assert old is not None
    assert (old.devices, old.device) == ([], "")


@pytest.mark.parametrize("part", ["NVIDIA H200", "driver 580.65.06", "CUDA 13.0", "bf16-mixed", "TF32", "compiled"])
def test_a_device_is_told_in_one_line(part: str) -> None:
    assert part in str(H200)
