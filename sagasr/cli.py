"""What all commands share: exit codes, one line for what a person can mend, and ``--set``."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sagasr.errors import ConfigError, SagasrError
from sagasr.files import parse_yaml

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run(command: Callable[[], int], interrupted: str = "") -> int:
    """Return the exit code of a command; ``interrupted`` is said when it was. A bug keeps its traceback."""
    try:
        return command()
    except SagasrError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        if interrupted:
            sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def shown(path: Path) -> str:
    """Return a path as one harmless line: names of files may hold line breaks, terminal codes or broken characters."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(path))


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
