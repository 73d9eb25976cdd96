"""Frozen models of Hugging Face, from a folder or the local cache: found, checked and loaded. No network is asked."""

import contextlib
import logging
import shlex
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagasr.io.errors import DataError, first_line


@dataclass(frozen=True)
class Published:
    """A published model, or a folder with one. ``kind`` and ``remedy`` are for errors: what it is, how to get it."""

    model: str
    kind: str
    remedy: str

    def error(self, why: str) -> DataError:
        """Return the error of one line that names the model and the remedy."""
        return DataError(f"{self.model}: {why}; {self.remedy}")

    def config(self) -> Any:
        """Return the published configuration. Raises DataError where there is none."""
        from transformers import AutoConfig

        with quietly():
            try:
                return AutoConfig.from_pretrained(self.model, local_files_only=True, trust_remote_code=False)
            except (OSError, ValueError, KeyError) as error:
                raise self.error(f"no {self.kind} in this folder or in the Hugging Face cache") from error

    def has_any(self, *names: str) -> bool:
        """Return whether one of these files is there."""
        return any(file_of(self.model, name) for name in names)

    def load(self, reader: Callable[..., Any], network: Any, dtype: Any = None) -> tuple[Any, Any]:
        """Return what prepares the input, made by ``reader``, and the frozen network. Raises DataError."""
        import torch
        from safetensors import SafetensorError

        with quietly():
            try:
                prepare = reader(self.model, local_files_only=True)
                loaded, report = network.from_pretrained(
                    self.model,
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=dtype or torch.float32,
                    output_loading_info=True,
                )
            except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
                raise self.error(f"the {self.kind} cannot be read ({first_line(error)})") from error
        # Transformers would leave these at random.
        if absent := sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"])):
            raise self.error(f"{len(absent)} weights are missing, the first {absent[0]}")
        return prepare, loaded.requires_grad_(False).eval()


def remedy_for(model: str, key: str, files: str, example: str) -> str:
    """Return how to get a model that the configuration names under ``key``: download it, or name a folder."""
    if Path(model).is_absolute():
        return f"{key} names a folder with {files}, or a published model such as {example}"
    command = shlex.join(["hf", "download", model])
    return f"download it once where there is a network ({command}), or name a folder with {files} in {key}"


def file_of(model: str, name: str) -> Path | None:
    """Return where a file of a model lies, in its folder or in the Hugging Face cache; None where it is absent."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    with contextlib.suppress(ValueError):  # no published model can be called so
        cached = try_to_load_from_cache(model, name)
        if isinstance(cached, str):
            return Path(cached)
    return None


def problem_of(check: Callable[[], object]) -> str | None:
    """Return the line of the DataError that ``check`` raises, or None."""
    try:
        check()
    except DataError as error:
        return str(error)
    return None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    disabled = logging.root.manager.disable
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
