"""One code in all processes of a sweep: where workers look for it, and whether what they find is what runs here.

Ray would put the working folder first on the path of its workers, and ``python -m`` does so too; a checkout, or merely
a folder ``torch/``, that lies there would then be what trains, while this process plans, names and judges other code.
"""

import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sagasr.io.errors import ConfigError
from sagasr.io.fingerprint import short


class Code(NamedTuple):
    """The code that a machine runs: its name, the folders of our packages there, and the hash of what is in them."""

    host: str
    folders: tuple[str, ...]
    digest: str


def search_path() -> list[str]:
    """Return where this process looks for code, in its order, as whole paths."""
    return [str(Path(folder).absolute()) for folder in sys.path]


@cache
def code_here() -> Code:
    """Return the code of this process, as its files were when it first asked."""
    return Code(*finder()())


def finder() -> Callable[[], tuple[str, tuple[str, ...], str]]:
    """Return a function that finds the code of the process that calls it; pickled, it takes along all that it needs.

    So it also tells of a node on which another version of this module is installed, or none.
    """

    def find() -> tuple[str, tuple[str, ...], str]:
        import hashlib
        import importlib.util
        import socket
        from pathlib import Path

        digest, folders = hashlib.sha256(), []
        for name in ("sagasr", "orchestrator"):
            found = importlib.util.find_spec(name)
            if found and found.origin:
                folder = Path(found.origin).parent
                folders.append(str(folder))
                # A file sagasr.py is none of ours; what lies beside it is nobody's business.
                for file in sorted(folder.rglob("*.py")) if found.submodule_search_locations else ():
                    if file.name.startswith(".") or not file.is_file():
                        continue  # of an editor
                    digest.update(f"{name}/{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
                    digest.update(file.read_bytes())
        return socket.gethostname(), tuple(folders), digest.hexdigest()

    return find


def check_same(mine: Code, others: Iterable[Code]) -> None:
    """Raise ConfigError with a line for each machine whose code is not ``mine``."""
    lines = [_difference(mine, other) for other in dict.fromkeys(others) if other.digest != mine.digest]
    if lines:
        raise ConfigError("\n".join(lines))


def _difference(mine: Code, other: Code) -> str:
    if other[:2] == mine[:2]:
        return f"{_folders(mine)}: the code changed while the sweep ran; the same command goes on with the new one"
    there = f"runs {_folders(other)} ({short(other.digest)})" if other.folders else "has no sagasr"
    return (
        f"node {other.host} {there}, and the sweep {_folders(mine)} ({short(mine.digest)}) on {mine.host}: "
        "other code; install the same version on every node, and restart Ray there"
    )


def _folders(code: Code) -> str:
    return " and ".join(code.folders)
