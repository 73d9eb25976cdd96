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
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from sagasr.io.errors import ConfigError, did_you_mean
from sagasr.io.files import check_ends

# What a class of each family has. Entry points stand in the group sagasr.<family>s.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "metric": ("name", "unit", "better", "score"),
    "embedder": ("name", "embed"),
    "sampler": ("sample",),
    "codec": ("encode", "decode"),
    "conditioner": ("size", "describe"),
}

FAULTS = (Exception, SystemExit)  # what code of a user's own may raise: a script that ends itself, too


def load(family: str, part: str, *given: Any) -> Any:
    """Return a new object of the class ``part``; a codec is given the channels. Raises ConfigError on faults."""
    class_ = _class_of(family, part)
    try:
        return class_(*given)
    except FAULTS as error:
        raise ConfigError(f"{family} {part}: cannot be made ({_one_line(error)})") from error


def identity(family: str, part: str) -> str:
    """Return the sha256 of the source in which the class is written. Raises ConfigError saying what it lacks."""
    source = inspect.getsourcefile(_class_of(family, part))
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""


def sources(parts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the identity of each (family, part), by its name without the folder in which it lies."""
    return {f"{family} {Path(part).name}": identity(family, part) for family, part in parts}


def breach(check: Callable[..., None], family: str, part: str, *given: Any, **stated: Any) -> str | None:
    """Return one line saying how a part breaks its contract. Raises ConfigError where it cannot even be made."""
    return _breach(identity(family, part), check, family, part, given, tuple(stated.items()))


@cache
def _breach(
    source: str, check: Callable[..., None], family: str, part: str, given: tuple[Any, ...], stated: tuple[Any, ...]
) -> str | None:
    made = load(family, part, *given)
    try:
        check(made, **dict(stated))
    except FAULTS as error:
        text = str(error) if isinstance(error, AssertionError) else ""
        return f"{family} {part}: {text or f'breaks down in {check.__name__} ({_one_line(error)})'}".splitlines()[0]
    return None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _class_of(family: str, part: str) -> Any:
    class_ = _find(family, part)
    if missing := [name for name in NEEDS[family] if not hasattr(class_, name)]:
        raise ConfigError(f"{family} {part}: {class_.__name__} has no {', '.join(missing)}; see sagasr.testing")
    return class_


def _find(family: str, part: str) -> Any:
    module_name, colon, class_name = part.rpartition(":")
    offered = {} if colon else {point.name: point for point in entry_points(group=f"sagasr.{family}s")}
    if not colon and part not in offered:
        raise ConfigError(
            f"{family} {part!r}: no installed package offers it{did_you_mean(part, offered)}; "
            f"name a class of your own as my_{family}.py:Class"
        )
    try:
        if not colon:
            return offered[part].load()
        module = _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except FAULTS as error:
        raise ConfigError(f"{family} {part}: cannot be imported ({_one_line(error)})") from error
    class_ = getattr(module, class_name, None)
    if not inspect.isclass(class_):
        known = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise ConfigError(f"{family} {part}: no class {class_name!r} there{did_you_mean(class_name, known)}")
    return class_


def _from_file(path: Path) -> ModuleType:
    """Return a file as a module of a name of its own, which says what is in it: one that changed is imported anew."""
    check_ends(path)
    name = f"sagasr_part_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]}"
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
