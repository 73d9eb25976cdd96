"""Checkpoints of others: found under whatever they are wrapped in, compared in full with what wants them, then copied.

A published or trainer-written file holds several parts (transformer, conditioners, autoencoder), each under a prefix
that tells how often it was wrapped. A part is recognised by its own keys, so no list of prefixes is kept. Nothing is
unpickled: a torch file is read with ``weights_only``, tensors and plain containers alone.
"""

import os
import pickle
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sagasr.io.errors import DataError, first_line

LEAST_MATCH = 0.99  # of the parameters, in both directions

Corner = tuple[slice, ...]


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint: all shapes at once, values when they are asked for."""

    path: Path
    shapes: Mapping[str, torch.Size]
    read: Callable[[str], Tensor]


class Fit(NamedTuple):
    """How one part of a checkpoint fits a module: what is loaded from where, and what is left on either side.

    ``corners`` says which part of a wider weight of ours a loaded one fills; the rest of that weight becomes zero.
    """

    part: str
    prefix: str
    sources: Mapping[str, str]
    corners: Mapping[str, Corner]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    new: tuple[str, ...]
    misshapen: tuple[str, ...]
    parameters: int  # that we want loaded
    matched: int
    offered: int  # by the checkpoint, under the prefix

    @property
    def line(self) -> str:
        """One line with the counts."""
        extra = f", {len(self.corners)} widened with zeros" if self.corners else ""
        new = f", {len(self.new)} new (not in such checkpoints)" if self.new else ""
        return (
            f"{self.part}: {len(self.sources)} weights matched{extra} ({self.matched:,} of {self.parameters:,} "
            f"parameters, {share(self.matched, self.parameters)}), {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected{new}; under {self.prefix or '(no prefix)'!r}"
        )


def open_weights(path: Path, remedy: str) -> Weights:
    """Return the tensors of a safetensors or torch file, or of its ``state_dict``. Raises DataError with one line."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint; {remedy}")
    try:
        if path.suffix == ".safetensors":
            file = safe_open(path, framework="pt", device="cpu")
            shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return Weights(path, shapes, file.get_tensor)
        if not zipfile.is_zipfile(path):
            raise ValueError("cut off, or no torch file")
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = tree.get("state_dict", tree) if isinstance(tree, dict) else None
        if not isinstance(state, dict):
            raise ValueError("holds no state_dict")
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds more than tensors and is not opened, as it could run code; write its state_dict alone "
            f"(or a .safetensors); {remedy}"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable checkpoint ({first_line(error)}); {remedy}") from error
    return Weights(path, {name: value.shape for name, value in tensors.items()}, tensors.__getitem__)


def fit(
    part: str,
    wanted: Mapping[str, torch.Size],
    weights: Weights,
    corners: Mapping[str, Corner] | None = None,
    names: Mapping[str, str] | None = None,
    new: Collection[str] = (),
) -> Fit:
    """Return how ``weights`` fits a module's ``wanted`` shapes, under the prefix that fits best.

    ``corners``: where a narrower weight may stand in a wider one of ours. ``names``: what the checkpoint calls our key.
    ``new``: keys that such checkpoints never hold. Between copies that fit alike an averaged one (``ema``) is taken.
    """
    corners, names = corners or {}, names or {}
    theirs = {names.get(key, key): key for key in wanted if key not in new}
    prefix = _best_prefix({name: wanted[key] for name, key in theirs.items()}, weights.shapes)
    sources, used, missing, misshapen = {}, {}, [], []
    for name, key in theirs.items():
        shape = weights.shapes.get(prefix + name)
        if shape is None:
            missing.append(key)
        elif shape == wanted[key]:
            sources[key] = prefix + name
        elif key in corners and shape == torch.empty(wanted[key], device="meta")[corners[key]].shape:
            sources[key], used[key] = prefix + name, corners[key]
        else:
            misshapen.append(f"{key} is {tuple(shape)} there and {tuple(wanted[key])} here")
    known = {prefix + name for name in theirs}
    unexpected = tuple(name for name in weights.shapes if name.startswith(prefix) and name not in known)
    return Fit(
        part=part,
        prefix=prefix,
        sources=sources,
        corners=used,
        missing=tuple(missing),
        unexpected=unexpected,
        new=tuple(key for key in wanted if key in new),
        misshapen=tuple(misshapen),
        parameters=sum(wanted[key].numel() for key in theirs.values()),
        matched=sum(wanted[key].numel() for key in sources),
        offered=sum(weights.shapes[name].numel() for name in {*sources.values(), *unexpected}),
    )


def check_fit(fitted: Fit, weights: Weights, remedy: str) -> None:
    """Raise DataError, one line with the file, for another shape, or for under 99 % of the parameters."""
    if fitted.misshapen:
        more = f" (and {len(fitted.misshapen) - 1} more)" if len(fitted.misshapen) > 1 else ""
        why = f"of another size than the {fitted.part} that is configured: {fitted.misshapen[0]}{more}"
    elif fitted.matched < LEAST_MATCH * fitted.parameters:
        why = f"{fitted.line}; at least {LEAST_MATCH:.0%} must match (first without a match: {fitted.missing[0]})"
    else:
        return
    raise DataError(f"{weights.path}: {why}; {remedy}")


def copy_weights(module: nn.Module, fitted: Fit, weights: Weights) -> None:
    """Copy into ``module`` what fits. Raises DataError for weights that are NaN or infinite."""
    state = module.state_dict()
    with torch.no_grad():
        for key, name in fitted.sources.items():
            value, target = weights.read(name), state[key]
            if not torch.isfinite(value).all():
                raise DataError(f"{weights.path}: {name} holds NaN or infinite values; get the file anew")
            if key in fitted.corners:
                target.zero_()
                target = target[fitted.corners[key]]
            target.copy_(value)
    announce(weights.path, fitted.line)


@cache
def announce(path: Path, line: str) -> None:
    """Print what was loaded: once per process, and by one of several that train together."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{path.name}: {line}\n")


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of each entry of a module's state."""
    return {key: value.shape for key, value in module.state_dict().items()}


def share(part: int, whole: int) -> str:
    """Return a share in percent that reads 100 only where nothing lacks."""
    return "100 %" if part == whole else f"{min(99.99, 100 * part / whole):.2f} %"


def _best_prefix(wanted: Mapping[str, torch.Size], shapes: Mapping[str, torch.Size]) -> str:
    """Return the prefix under which most of the parameters stand; exact shapes count double."""
    matched: Counter[str] = Counter()
    for full, shape in shapes.items():
        pieces = full.split(".")
        for start in range(len(pieces)):
            name = ".".join(pieces[start:])
            if name in wanted:
                matched[full.removesuffix(name)] += shape.numel() * (2 if shape == wanted[name] else 1)
    return max(matched, key=lambda prefix: (matched[prefix], "ema_model." in prefix, -len(prefix)), default="")
