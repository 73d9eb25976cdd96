"""What the nodes of a Ray answer, before anything trains there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sagasr.io.errors import ConfigError, SagasrError, first_line

ANSWER_S = 180  # in which each node is to answer


def each_node(ask: Callable[..., Any], *arguments: Any) -> Iterator[tuple[str, Any]]:
    """Yield the address of each node with what ``ask`` returns there; one that is lost meanwhile is left out.

    Raises SagasrError naming the nodes that do not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(ask)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        ): node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"]
    }
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    if late:
        names = ", ".join(asked[answer] for answer in late)
        raise SagasrError(f"node {names}: starts no process of ours within {ANSWER_S} s; look at it, or take it out")
    for answer, address in asked.items():
        try:
            yield address, ray.get(answer)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue
        except ray.exceptions.RayError as error:
            raise SagasrError(f"node {address}: runs no process of ours ({first_line(error)})") from error


def check_storage(launch_file: Path, launch: str) -> None:
    """Raise ConfigError naming the nodes that do not see a sweep's folder, by the file of its launch."""
    blind = [address for address, sees in each_node(is_seen, str(launch_file), launch) if not sees]
    if blind:
        raise ConfigError(unseen(f"node {', '.join(blind)}", launch_file.parent))


def is_seen(launch_file: str, launch: str) -> bool:
    """Return whether this machine sees the file of a launch."""
    try:
        return Path(launch_file).read_text(encoding="utf-8").startswith(launch)
    except OSError:
        return False


def unseen(machine: str, folder: Path) -> str:
    """Return the line that says that a machine does not see the folder of a sweep, and what to do."""
    return (
        f"{machine}: does not see the sweep's folder {folder}; keep it in a folder that every node shares, or in a "
        "bucket (--storage s3://bucket/folder)"
    )
