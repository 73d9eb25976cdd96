"""Reading and writing files: every file appears whole or not at all, and YAML means what a person reads in it."""

import contextlib
import errno
import io
import json
import math
import os
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sagasr.io.errors import ConfigError, DataError, StorageError, nearest
from sagasr.io.failpoints import point

# Errors of a disk that are no bug of ours.
STORAGE_FAULTS = {
    errno.ENOSPC: "no space left on the disk; free some or choose another --storage",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another --storage",
    errno.EROFS: "the file system is read-only; mount it writable or choose another --storage",
    errno.EIO: "the disk answers with an input/output error; check it or choose another --storage",
    **dict.fromkeys((errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN), "the network file system is gone; mount it again"),
}
LOOP = "a link that leads back to itself; let it name a file or folder"
LITTER = ".tmp-"  # prefix of files that are being written
MAX_YAML_BYTES = 1_000_000
MAX_YAML_NODES = 100_000  # aliases of aliases make 4e8 of nine lines


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary)`` beside ``path``, flush it to disk and rename it into place.

    A reader never sees half a file. Raises StorageError when the disk is full, read-only or away; the old file is then
    untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{LITTER}{secrets.token_hex(8)}{path.suffix}")
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # less what the umask keeps back
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        point("file.written")
        temporary.replace(path)
        point("file.renamed")
    except OSError as error:
        if remedy := STORAGE_FAULTS.get(error.errno or 0):
            raise StorageError(f"{path}: {remedy}") from error
        raise
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def make_folder(parent: Path, prefix: str) -> Path:
    """Make a folder of a new name in ``parent``, as open to others as the user's umask says, and return it."""
    folder = parent / f"{prefix}{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a whole copy of it where the file system has no hard links.

    What was there is replaced. Raises FileNotFoundError when the source or the target's folder is not there.
    """
    temporary = target.with_name(f"{LITTER}{secrets.token_hex(8)}")
    try:
        os.link(source, temporary)
        temporary.replace(target)
    except FileNotFoundError:
        raise
    except OSError:
        write_whole(target, lambda copy: shutil.copyfile(source, copy))
    finally:
        temporary.unlink(missing_ok=True)  # two names of one file: replacing one by the other does nothing


def remove_litter(folder: Path, *, deep: bool = True) -> None:
    """Delete the unfinished files of dead processes. Only for the one writer of ``folder``."""
    for path in list(folder.rglob(f"{LITTER}*") if deep else folder.glob(f"{LITTER}*")):
        with contextlib.suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole (see ``write_whole``)."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, tree: Any) -> None:
    """Write ``tree`` as indented JSON, whole. NaN is refused: nothing missing may look like a number."""
    write_text(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """Return the text of a file. Raises OSError, also for a device or a pipe such as /dev/zero."""
    check_ends(path)
    return path.read_text(encoding="utf-8")


def check_ends(path: Path) -> None:
    """Raise OSError for a device or a pipe, which may have no end."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("a device or pipe, which may have no end; name a file")


def check_writable(path: Path) -> None:
    """Raise OSError where a file or folder of this path could not be made, before the work whose result goes there.

    Nothing is written.
    """
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if existing != path and not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
    if not os.access(existing, os.W_OK | (os.X_OK if existing.is_dir() else 0)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))


def on_disk(path: Path) -> Path:
    """Return the path as the disk spells it, or as it is where there is no such file.

    An é is one character or two (Unicode's forms NFC and NFD). They look alike, but most disks take them for different
    names.
    """
    if str(path).isascii() or os.path.exists(path):
        return path
    spelt = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        child = spelt / part
        if not part.isascii() and not os.path.exists(child):
            try:
                child = spelt / _names_in(spelt, spelt.stat().st_mtime_ns).get(same_name(part), part)
            except OSError:
                return path
        spelt = child
    return spelt if os.path.exists(spelt) else path


def same_name(name: str) -> str:
    """Return a name in one Unicode form, so that names which look alike compare equal."""
    return unicodedata.normalize("NFC", name)


@lru_cache(maxsize=64)
def _names_in(folder: Path, changed_ns: int) -> dict[str, str]:
    return {same_name(path.name): path.name for path in folder.iterdir()}


def read_json(path: Path) -> Any:
    """Return the parsed JSON file. Raises DataError naming the file when it is missing or broken."""
    try:
        text = read_text(path)
        tree = json.loads(text)
        if r"\ud" in text.lower():
            json.dumps(tree, ensure_ascii=False).encode()  # refuses half a surrogate pair
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    return tree


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML 1.2 file: ``off`` is a word, ``1e-4`` a number, duplicate keys an error.

    Top-level keys that begin with ``x-`` are left out: they hold what the file's anchors name. Raises ConfigError with
    file and line for everything a person can get wrong.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_YAML_BYTES} bytes; this is not a configuration file")
        text = read_text(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file{like(path)}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: a folder; name the file") from error
    except (OSError, UnicodeDecodeError) as error:
        remedy = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise ConfigError(f"{path}: cannot be read as text ({error}){remedy}") from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        kind = {type(None): "nothing", list: "a list"}.get(type(tree), "a single value")
        raise ConfigError(f"{path}: expected 'key: value' lines at the top level, found {kind}")
    return {key: value for key, value in tree.items() if not str(key).startswith("x-")}


def like(path: Path) -> str:
    """Return a clause such as ``; did you mean 'grid.yaml'?`` for a file that is not there, or nothing."""
    if os.path.islink(path):
        return f"; it is a link to {str(path.readlink())!r}, which leads nowhere"
    if not os.path.isdir(path.parent):
        return f"; there is no folder {path.parent}"
    return nearest(path.name, (other.name for other in path.parent.iterdir() if other.suffix and other != path))


def parse_yaml(text: str, source: str) -> Any:
    """Return the tree in YAML 1.2 ``text``; ``source`` names it in errors. Raises ConfigError."""
    try:
        tree = YAML(typ="safe", pure=True, plug_ins=[]).load(text)
        nodes = [tree]
        for node in nodes:  # which grows meanwhile
            nodes += [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list) else []
            if len(nodes) > MAX_YAML_NODES:
                raise ValueError("too deeply nested or too large for a configuration (aliases expanded)")
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        problem = f"not valid YAML: {error.problem or error.context}"
        if isinstance(error, DuplicateKeyError):
            first = (error.problem or "duplicate key").splitlines()[0]
            problem = f"{first.replace('found duplicate key', 'duplicate key')}; remove one of the two"
        raise ConfigError(f"{source}: line {line}: {problem}") from error
    except (YAMLError, ValueError, RecursionError, TypeError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{source}: not valid YAML: {first}") from error
    if fault := odd_value(tree):
        raise ConfigError(f"{source}: {fault}")
    return tree


def odd_value(tree: Any, path: str = "") -> str | None:
    """Return a line on the first value or key that JSON cannot hold, or None: our files are kept as JSON."""
    where, inside = (f"{path}: ", f"{path}.") if path else ("", "")
    if isinstance(tree, (dict, list, tuple)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            if not isinstance(key, (str, int, float, type(None))):
                return f"{where}a {_kind(key)} as a key: {key!r:.80}; write a word"
            if fault := odd_value(value, f"{inside}{key}"):
                return fault
        return None
    if isinstance(tree, float) and not math.isfinite(tree):
        return f"{where}{tree} is no finite number; give one"
    if isinstance(tree, (str, int, float, type(None))):
        return None
    remedy = "write a list" if isinstance(tree, (set, frozenset)) else "put it in quotes to mean the word"
    return f"{where}{str(tree)[:80]} is read as a {_kind(tree)}; {remedy}"


def _kind(value: Any) -> str:
    return "list" if isinstance(value, (list, tuple)) else type(value).__name__


def dump_yaml(tree: Any) -> str:
    """Return ``tree`` as block-style YAML that ``parse_yaml`` reads back equal."""
    yaml = YAML(typ="safe", pure=True, plug_ins=[])
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()
