"""What we use of Ray beyond its public interface is there, in the version that is installed."""

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest
from ray.exceptions import WorkerCrashedError
from ray.job_config import JobConfig
from ray.train import ScalingConfig
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

from orchestrator.run import ray_internals


def test_the_installed_ray_is_the_one_that_was_looked_at() -> None:
    assert version("ray") == ray_internals.CHECKED_WITH


def test_the_workers_of_a_job_look_for_code_where_we_do() -> None:
    assert callable(JobConfig._runtime_env_has_working_dir)
    job = ray_internals.job_config(["/first", "/second"])
    assert job._runtime_env_has_working_dir()
    assert job._py_driver_sys_path == ["/second", "/first"]  # each is put before those that came earlier


def test_a_ray_is_started_in_a_folder_that_is_named() -> None:
    import ray

    assert "_temp_dir" in inspect.getsource(ray.init)


# Another thread's allocations set the collector off between the last step of Ray's end and its return.
LATE = """
import gc, signal, threading
from orchestrator.run.ray_session import connected

class Late:
    def __init__(self, worker):
        self.worker = worker
    def __getattr__(self, name):
        return getattr(self.worker, name)
    def shutdown_driver(self):
        self.worker.shutdown_driver()
        gc.set_threshold(700, 10, 10)
        collecting = threading.Thread(target=lambda: [[number] for number in range(1_000_000)])
        collecting.start()
        collecting.join()

class Cycle:
    pass

signal.signal(signal.SIGTERM, signal.default_int_handler)
with connected(None, 1):
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    import ray
    import ray._private.worker
    gc.set_threshold(0)
    cycle = Cycle()
    cycle.itself, cycle.reference = cycle, ray.put(1)
    del cycle
    worker = ray._private.worker.global_worker
    worker.core_worker = Late(worker.core_worker)
print("ended")
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_ray_ends_without_this_process_where_references_to_its_objects_are_left() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trainer_is_made_without_the_helpers_that_ask_a_dashboard_and_serve_data(workers: int) -> None:
    Trainer, _ = ray_internals.trainer(workers, 1.0)
    made = Trainer(print, scaling_config=ScalingConfig(num_workers=workers))
    names = {type(callback).__name__ for callback in made._create_default_callbacks()}
    assert {"BackendSetupCallback", "AcceleratorSetupCallback"} <= names
    assert not {"PlacementGroupCleanerCallback", "DatasetsCallback"} & names


def test_a_group_of_workers_is_made_by_a_function_that_can_name_it() -> None:
    from ray.train.v2._internal.execution.worker_group import worker_group

    assert "pg = placement_group(" in inspect.getsource(worker_group.WorkerGroup._create_placement_group)
    start = ray_internals.on_start(str, "lane-1")
    assert {"before_worker_group_start", "after_worker_group_start"} <= set(dir(type(start).__base__))


def test_what_a_worker_raised_is_told_from_the_loss_of_another() -> None:
    cause, loss = ValueError("why"), WorkerCrashedError()
    raised, losses = ray_internals.worker_errors(
        WorkerGroupError("failed", {0: UserExceptionWithTraceback(cause, traceback_str=""), 1: loss})
    )
    assert raised == [cause]
    assert losses == [loss]


@pytest.mark.parametrize("name", ["_internal_kv_put", "_internal_kv_get", "_internal_kv_list", "_internal_kv_del"])
def test_the_key_value_store_of_the_head_is_there(name: str) -> None:
    from ray.experimental import internal_kv

    assert "namespace" in inspect.signature(getattr(internal_kv, name)).parameters
