"""Parts of a user's own: classes named in a configuration, or offered by an installed package as entry points.

``my_metric.py:Loudness`` (a file, relative to the one that names it), ``package.module:Class``, or the name of an entry
point in the group of its family. Nothing else is ever imported, and nothing before it is used. What a part computes
counts as what its file says: its content is part of the identity of every result that it enters.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from sagasr.errors import ConfigError, did_you_mean

# What a class of each family has. Entry points stand in the group sagasr.<family>s.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "metric": ("name", "unit", "better", "score"),
    "embedder": ("name", "embed"),
    "sampler": ("sample",),
}


def load(family: str, part: str) -> Any:
    """Return a new object of the class that ``part`` names. Raises ConfigError saying what it lacks."""
    found = _class_of(family, part)
    missing = [name for name in NEEDS[family] if not hasattr(found, name)]
    if missing:
        raise ConfigError(f"{family} {part}: {found.__name__} has no {', '.join(missing)}; see sagasr.testing")
    try:
        return found()
    except Exception as error:  # whatever code of a user's own may raise
        raise ConfigError(f"{family} {part}: cannot be made ({type(error).__name__}: {error})") from error


def identity(family: str, part: str) -> str:
    """Return the sha256 of the source in which the class is written."""
    source = inspect.getsourcefile(_class_of(family, part))
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""


@cache
def _class_of(family: str, part: str) -> Any:
    module_name, colon, class_name = part.rpartition(":")
    if not colon:
        return _installed(family, part)
    try:
        module = _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except Exception as error:  # whatever code of a user's own may raise
        raise ConfigError(f"{family} {part}: cannot be imported ({type(error).__name__}: {error})") from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        known = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise ConfigError(f"{family} {part}: no class {class_name!r} there{did_you_mean(class_name, known)}")
    return found


def _installed(family: str, part: str) -> Any:
    offered = {point.name: point for point in entry_points(group=f"sagasr.{family}s")}
    if part not in offered:
        raise ConfigError(
            f"{family} {part!r}: no installed package offers it{did_you_mean(part, offered)}; "
            f"name a class of your own as my_{family}.py:Class"
        )
    return offered[part].load()


def _from_file(path: Path) -> ModuleType:
    """Return a file as a module of a name of its own, under which other processes can find it again."""
    name = f"sagasr_part_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
