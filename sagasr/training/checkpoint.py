"""Checkpoints that are complete and verified, or do not exist.

A checkpoint is a folder ``step-00000500`` with tensors in safetensors, everything else in JSON, and a manifest of
hashes written last. It is staged beside its target and renamed whole; nothing in it is ever unpickled.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sagasr.constants import CHECKPOINTS_KEPT
from sagasr.io.errors import DataError, StorageError
from sagasr.io.failpoints import point
from sagasr.io.files import STORAGE_FAULTS, make_folder, read_json, read_text, write_json
from sagasr.io.fingerprint import file_sha256
from sagasr.io.trial_folder import CHECKPOINT

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


def save(tree: Mapping[str, Any], folder: Path, commit: Callable[[], object] = lambda: None) -> None:
    """Write ``tree`` (nested containers, numbers, texts, tensors) as one committed checkpoint folder.

    ``commit`` is called when all is on the disk, just before the rename that makes it count; it may raise. Raises
    TypeError for a value that is none of these, StorageError when the disk is full, read-only or away.
    """
    tensors: dict[str, torch.Tensor] = {}
    state = _flatten(tree, tensors)
    staged = None
    point("checkpoint.begin")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = make_folder(folder.parent, ".staged-")
        save_file(tensors, staged / TENSORS)
        point("checkpoint.tensors")
        write_json(staged / STATE, state)
        hashes = {name: file_sha256(staged / name) for name in (TENSORS, STATE)}
        _sync(staged / TENSORS)
        point("checkpoint.synced")
        write_json(staged / MANIFEST, {"files": hashes})
        _sync(staged)
        commit()
        point("checkpoint.commit")
        _put(staged, folder)
        point("checkpoint.committed")
        _sync(folder.parent)
    except (OSError, SafetensorError, StorageError) as error:
        if remedy := _remedy(error):
            needed = sum(tensor.nbytes for tensor in tensors.values())
            raise StorageError(f"{folder}: {remedy} ({_room(folder, needed)})") from error
        raise
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)


def _put(staged: Path, folder: Path) -> None:
    """Rename into place; what an attempt that died after its own rename left there is moved aside first."""
    if folder.exists():
        old = make_folder(folder.parent, ".staged-")
        folder.replace(old)
        point("checkpoint.aside")
        staged.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        staged.replace(folder)


def _remedy(error: Exception) -> str | None:
    """Return what to do about a disk that refused; safetensors tells its errors from one another by text alone."""
    if isinstance(error, StorageError):
        return str(error).partition(": ")[2]
    named = next((code for code in STORAGE_FAULTS if os.strerror(code) in str(error)), 0)
    return STORAGE_FAULTS.get(getattr(error, "errno", None) or named)


def _room(folder: Path, needed: int) -> str:
    try:
        free = f"{shutil.disk_usage(folder.parent).free / 1e6:,.0f} MB free"
    except OSError:
        free = "the folder cannot be reached"
    return f"{needed / 1e6:,.0f} MB needed, {free}; the previous checkpoint is intact"


def load(folder: Path) -> dict[str, Any]:
    """Return the tree of a committed checkpoint. Raises DataError naming the file that differs from its hash."""
    if problem := problem_of(folder):
        raise DataError(f"{folder}: {problem}")
    tensors = load_file(folder / TENSORS)
    kinds: dict[str, Callable[[Any], Any]]
    kinds = {"tensor": tensors.get, "items": dict, "tuple": tuple, "float": float.fromhex}

    def restored(node: dict[str, Any]) -> Any:
        ((kind, value),) = node.items()
        return kinds[kind](value)

    tree: dict[str, Any] = json.loads(read_text(folder / STATE), object_hook=restored)
    return tree


def problem_of(folder: Path) -> str | None:
    """Return why a checkpoint folder cannot be used, or None when every byte is as written."""
    try:
        for name, digest in read_json(folder / MANIFEST)["files"].items():
            if file_sha256(folder / name) != digest:
                return f"{name} does not match its hash"
    except (DataError, OSError, KeyError, AttributeError, TypeError) as error:
        return f"incomplete ({type(error).__name__})"
    return None


def folder_of(checkpoints: Path, step: int) -> Path:
    """Return the folder of one step's checkpoint."""
    return checkpoints / f"{CHECKPOINT}{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step a checkpoint folder is named after."""
    return int(folder.name.removeprefix(CHECKPOINT))


def newest(checkpoints: Path, say: Callable[[str], object] = lambda text: None) -> Path | None:
    """Return the newest checkpoint that verifies, if any; ``say`` hears of broken ones. Raises DataError if all are."""
    problems: list[str] = []
    for folder in _newest_first(checkpoints):
        if (problem := problem_of(folder)) is None:
            for passed in problems:
                say(f"checkpoint passed over: {passed}; going on from {folder.name}")
            return folder
        problems.append(f"{folder.name}: {problem}")
    if problems:
        raise DataError(
            f"{checkpoints}: no usable checkpoint ({'; '.join(problems)}); remove this folder to train the trial anew"
        )
    return None


def prune(checkpoints: Path) -> None:
    """Delete all but the newest two checkpoints, once the newest verifies, and what dead attempts left staged."""
    folders = _newest_first(checkpoints)
    if folders and problem_of(folders[0]) is None:
        for folder in folders[CHECKPOINTS_KEPT:]:
            (folder / MANIFEST).unlink(missing_ok=True)  # half of a checkpoint is none
            point("checkpoint.prune")
            shutil.rmtree(folder, ignore_errors=True)
    _discard_staged(checkpoints)


def _newest_first(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob(f"{CHECKPOINT}*"), key=step_of, reverse=True)


def discard_after(checkpoints: Path, step: int) -> None:
    """Delete what lies behind the checkpoint that a training goes on from: it was found broken, or never committed."""
    for folder in checkpoints.glob(f"{CHECKPOINT}*"):
        if step_of(folder) > step:
            shutil.rmtree(folder, ignore_errors=True)
    _discard_staged(checkpoints)


def _discard_staged(checkpoints: Path) -> None:
    for stale in checkpoints.glob(".staged-*"):
        shutil.rmtree(stale, ignore_errors=True)


def _flatten(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return ``node`` as JSON, its tensors moved to ``tensors`` under a number; ``load`` is the way back."""
    if isinstance(node, torch.Tensor):
        key = str(len(tensors))
        tensors[key] = node.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(node, Mapping):
        return {"items": [[_flatten(key, tensors), _flatten(value, tensors)] for key, value in node.items()]}
    if isinstance(node, tuple):
        return {"tuple": [_flatten(value, tensors) for value in node]}
    if isinstance(node, list):
        return [_flatten(value, tensors) for value in node]
    if node is None or isinstance(node, (bool, int, str)):
        return node
    if isinstance(node, float):
        return {"float": node.hex()}  # exact, and NaN or infinity survive
    raise TypeError(f"a checkpoint holds numbers, texts and tensors, not {type(node).__name__}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
