"""What a user can mend: commands print it as one line and exit with 2. All else is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable
from pathlib import Path

# What CUDA and its libraries say, in small letters, where a GPU's memory does not suffice.
GPU_MEMORY = (
    "out of memory",
    "alloc_failed",  # cuBLAS, cuFFT, cuSOLVER, cuDNN
    "allocation_failed",  # cuDNN 9
    "cublas_status_not_initialized",  # no room for its workspace, where several processes share a GPU
    "unable to find an engine to execute this computation",  # cuDNN: no algorithm fits into what is left
    "unable to find a valid cudnn algorithm",
)


class SagasrError(Exception):
    """Base of all errors that name a file or key and a remedy."""


class ConfigError(SagasrError):
    """A grid, configuration or manifest says something that cannot be meant."""


class DataError(SagasrError):
    """A recording, checkpoint or encoded store cannot be used."""


class ValidationMemoryError(SagasrError):
    """A GPU's memory does not hold the validation of even one clip; the training step may fit well."""


class StorageError(DataError):
    """A disk is full, read-only or away: what failed now may work later."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error that says something, or else the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a clause such as ``; did you mean 'rolloff'?``, or the list of what would have been accepted."""
    known = sorted(map(str, known))
    return nearest(word, known) or (f"; known: {', '.join(known)}" if known else "")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a clause such as ``; did you mean 'rolloff'?``, or nothing where no known word is near."""
    close = difflib.get_close_matches(str(word), sorted(map(str, known)), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(text: Path | str) -> str:
    """Return a text as one harmless line: names of files may hold line breaks, terminal codes or broken characters."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(text))
