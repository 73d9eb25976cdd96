"""Patches on configuration trees: dotted paths that are set, opened, compared, and made absolute."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagasr.io.errors import ConfigError
from sagasr.io.files import LOOP, on_disk

SHIPPED_RECORDINGS = "shipped"  # in `data`, in place of a path
DATA_KEYS = ("data.train", "data.val")
FILE_KEYS = ("codec.checkpoint", "codec.config", "model.checkpoint")
PART_KEYS = (
    "validation.metrics",
    "validation.distance.embedder",
    "evaluation.sampler.solver",
    "codec.part",
    "conditions.own",
)
MODEL_KEYS = ("conditions.text.encoder.model", "validation.distance.model")


def patch(tree: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of ``tree`` with dotted paths set in turn, e.g. ``{"evaluation.sampler.steps": 25}``.

    Paths and nested sub-trees may be mixed; a mapping value is merged into what stands there, unless it names another
    ``kind``, which replaces it.
    """
    result: dict[str, Any] = json.loads(json.dumps(tree))
    for path, value in (item for each in changes for item in each.items()):
        *parents, leaf = path.split(".")
        node = result
        for key in parents:
            child = node.get(key)
            if not isinstance(child, dict):
                child = node[key] = {}
            node = child
        old = node.get(leaf)
        if isinstance(value, Mapping):
            keep = old if isinstance(old, dict) and value.get("kind", old.get("kind")) == old.get("kind") else {}
            node[leaf] = patch(keep, value)
        else:
            node[leaf] = json.loads(json.dumps(value))
    return result


def located(tree: Mapping[str, Any], folder: Path, prefix: str = "") -> dict[str, Any]:
    """Return a tree with its files made absolute, taken as relative to ``folder``; ``shipped`` data are ours."""
    absolute: dict[str, Any] = {}
    for key, value in tree.items():
        word = "null" if key is None else str(key)  # YAML reads the key null as none; the check of keys then names it
        path = f"{prefix}{word}"
        if isinstance(value, Mapping):
            absolute[word] = located(value, folder, f"{path}.")
        elif path in PART_KEYS and isinstance(value, list):
            absolute[word] = [_file(path, part, folder) for part in value]
        else:
            absolute[word] = _file(path, value, folder)
    return absolute


def _file(key: str, value: Any, folder: Path) -> Any:
    if key in PART_KEYS and isinstance(value, str) and value.isprintable():
        return _part(key, value, folder)
    if key not in (*DATA_KEYS, *FILE_KEYS, *MODEL_KEYS) or not isinstance(value, str) or not value:
        return value
    if not value.isprintable():
        raise ConfigError(f"{key}: {value!r} is no name of a file; remove what cannot be printed")
    if key in DATA_KEYS and value == SHIPPED_RECORDINGS:
        return str(Path(__file__).parents[1] / "recordings" / "manifest.csv")
    if key in MODEL_KEYS and not os.path.exists(folder / value):
        return value  # the name of a published model
    return str(_absolute(key, folder / value))


def _absolute(key: str, path: Path) -> Path:
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(f"{key}: {path}: {LOOP}") from error
    return on_disk(path).resolve()


def _part(key: str, part: str, folder: Path) -> str:
    """Return a part of a user's own with the file it lies in made absolute; ``my:Class`` is in my.py where that is."""
    module, colon, name = part.rpartition(":")
    file = folder / (module if module.endswith(".py") else f"{module}.py")
    return f"{_absolute(key, file)}:{name}" if colon and (module.endswith(".py") or file.is_file()) else part


def leaves(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a patch as ``{dotted path: value}`` with all sub-trees opened."""
    opened: dict[str, Any] = {}
    for key, value in changes.items():
        path = f"{prefix}{key}"
        opened |= leaves(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return opened


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between the ``leaves`` of two trees, e.g. ``training.steps 600 -> 800``."""

    def shown(value: Any) -> str:
        return "(absent)" if value is None else str(value)

    return [
        f"{key} {shown(then.get(key))} -> {shown(now.get(key))}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]


def nested(path: str, other: str) -> bool:
    """Return whether one of two dotted paths is the other, or lies in it."""
    return f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")
