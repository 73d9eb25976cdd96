"""Identity by content: canonical JSON, hashed. Two things with equal fingerprints give equal results."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

# Raise only when the same configuration and data would give other numbers; finished work is then shown as stale.
RESULT_VERSION = 1


def fingerprint(tree: Any) -> str:
    """Return the sha256 hex digest of ``tree`` as canonical JSON (sorted keys, no spaces, 1.0 equal to 1)."""
    return hashlib.sha256(json.dumps(_canonical(tree), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def short(digest: str) -> str:
    """Return the 12 hex digits that people and file names use."""
    return digest[:12]


def file_sha256(path: Path) -> str:
    """Return the sha256 hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_of(path: Path) -> str:
    """Return the ``file_sha256`` of a file, computed once per process as long as its size and time of change stand."""
    status = path.stat()
    return _content_at(path, status.st_size, status.st_mtime_ns)


@cache
def _content_at(path: Path, size: int, changed_ns: int) -> str:
    return file_sha256(path)


def seed_of(*parts: object) -> int:
    """Return a 63-bit seed that depends on ``parts`` alone: the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _canonical(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _canonical(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_canonical(value) for value in node]
    if isinstance(node, float) and node.is_integer():
        return int(node)
    return node
