"""What all commands share: how options are read, exit codes, one line for what a person can mend, and ``--set``."""

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sagasr import __version__
from sagasr.io.errors import ConfigError, SagasrError, nearest, shown
from sagasr.io.files import LOOP, STORAGE_FAULTS, parse_yaml

# Errors of a path that the user named; any other error of the file system is a bug of ours.
PATH_FAULTS = {
    errno.EACCES: "this user may not read or write there; change its permissions, or name another place",
    errno.EPERM: "this user may not read or write there; change its permissions, or name another place",
    errno.ENOTDIR: "a file stands where a folder is needed; name another place",
    errno.EISDIR: "a folder stands where a file is needed; move it away, or name another place",
    errno.EEXIST: "a file stands where a folder is needed; move it away, or name another place",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    errno.ELOOP: LOOP,
    errno.EROFS: STORAGE_FAULTS[errno.EROFS],
}
MAX_SHOWN = 200  # characters of a path in such a line

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Options as all commands take them: never abbreviated, with ``--version``; a fault is one line with a remedy."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        _escape_missing_characters()  # in --help, too
        self.long_options: list[str] = []
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        version = f"%(prog)s {__version__}"
        self.add_argument("--version", action="version", version=version, help="print the version and stop")
        completion = "print what lets bash or zsh complete options: eval it in ~/.bashrc"
        self._completion: Any = self.add_argument("--completion", action="version", help=completion)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument, as argparse does."""
        self.long_options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **settings)

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Return the options. Ends with exit code 2 where an argument is unknown or has no meaning."""
        zsh = '[ -z "$ZSH_VERSION" ] || { autoload -U +X bashcompinit && bashcompinit; }'
        words = " ".join(self.long_options)
        self._completion.version = f"{zsh}\ncomplete -o default -W '{words}' {self.prog}"
        options, unknown = self.parse_known_args(arguments)
        if unknown and unknown[0].startswith("-"):
            hint = nearest(unknown[0].split("=")[0], self.long_options)
            self.error(f"{unknown[0]}: no such option{hint}")
        if unknown:
            self.error(f"{unknown[0]}: one more than is taken; leave it out, or give it a command of its own")
        return options

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line: what is wrong, and where to look."""
        self.exit(BAD_INPUT, f"{self.prog}: {message.removeprefix('argument ')}; see {self.prog} --help\n")


def one_of(*words: str) -> dict[str, Any]:
    """Return the settings of an option that takes one of these words."""

    def check(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(words)}{nearest(text, words)}")
        return text

    return {"type": check, "metavar": f"{{{','.join(words)}}}"}


def positive(text: str) -> int:
    """Return a whole number of at least 1, for ``type=`` of an option."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1 (found {text!r})")
    return int(text)


def run(command: Callable[[], int], interrupted: str = "") -> int:
    """Run a command and return its exit code; ``interrupted`` is printed after Ctrl-C. A bug keeps its traceback."""
    _escape_missing_characters()
    try:
        return command()
    except SagasrError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        if interrupted:
            sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        return INTERRUPTED
    except (OSError, RuntimeError) as error:
        line = _path_fault(error)
        if line is None:
            raise
        sys.stderr.write(f"{line}\n")
        return BAD_INPUT


def _escape_missing_characters() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _path_fault(error: OSError | RuntimeError) -> str | None:
    """Return a line on the path that a file system refuses, or None where the error is of another kind."""
    if not isinstance(error, OSError):
        loop = re.match("Symlink loop from '(.*)'", str(error))  # of Path.resolve, up to Python 3.12
        return f"{shown(Path(loop[1]))}: {LOOP}" if loop else None
    name, fault = error.filename, PATH_FAULTS.get(error.errno or 0)
    if not isinstance(name, (str, bytes)) or not fault:
        return None
    path = shown(Path(os.fsdecode(name)))
    return f"{path if len(path) <= MAX_SHOWN else f'{path[:MAX_SHOWN]}…'}: {fault}"


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Return ``a.b=c`` texts as a patch: values by path, read as YAML. Raises ConfigError."""
    changes: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set {text}: expected KEY=VALUE, e.g. training.steps=2000")
        changes[path] = parse_yaml(value, f"--set {path}")
    return changes
