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

from sagasr.io.errors import ConfigError, SagasrError, nearest, shown
from sagasr.io.files import LOOP, STORAGE_FAULTS, parse_yaml

# What a file system says of a path that somebody named or laid out so; anything else it says is a bug of ours.
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
        _spell_what_is_lacking()  # --help, too
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action=_Version, help="print the version and stop")
        self.add_argument(
            "--completion",
            action=_Completion,
            help="print what lets bash or zsh complete options: eval it in ~/.bashrc",
        )

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line: what is wrong, what may be meant, and where to look."""
        message = message.removeprefix("argument ")
        unknown = re.fullmatch(r"unrecognized arguments: (\S+).*", message)
        choice = re.fullmatch(r"(.+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if unknown and not unknown[1].startswith("-"):
            message = f"{unknown[1]}: one more than is taken; leave it out, or give it a command of its own"
        elif unknown:
            options = [option for option in self._option_string_actions if option.startswith("--")]
            message = f"{unknown[1]}: no such option{nearest(unknown[1].split('=')[0], options)}"
        elif choice:
            known = [word.strip(" '") for word in choice[3].split(",")]
            message = f"{choice[1]}: {choice[2]!r} is none of {', '.join(known)}{nearest(choice[2], known)}"
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Saying(argparse.Action):
    """An option that prints something and ends, whatever else is given."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **settings)


class _Version(_Saying):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from sagasr import __version__

        sys.stdout.write(f"{parser.prog} {__version__}\n")
        parser.exit(DONE)


class _Completion(_Saying):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        words = " ".join(option for option in parser._option_string_actions if option.startswith("--"))
        zsh = '[ -z "$ZSH_VERSION" ] || { autoload -U +X bashcompinit && bashcompinit; }'
        sys.stdout.write(f"{zsh}\ncomplete -o default -W '{words}' {parser.prog}\n")
        parser.exit(DONE)


def positive(text: str) -> int:
    """Return a whole number of at least 1, for ``type=`` of an option."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1 (found {text!r})")
    return int(text)


def run(command: Callable[[], int], interrupted: str = "") -> int:
    """Return the exit code of a command; ``interrupted`` is said when it was. A bug keeps its traceback.

    A reader of the output that goes away before the end, such as head, interrupts like Ctrl-C, but in silence.
    """
    _spell_what_is_lacking()
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


def _spell_what_is_lacking() -> None:
    """Let a terminal that lacks a sign, such as one of ASCII, have its number and all the rest."""
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
