"""What decides the weights of a training: its configuration, with files of frozen weights by their content."""

from pathlib import Path
from typing import Any

from sagasr.config.settings import Config
from sagasr.config.stages import train_stage
from sagasr.io.errors import DataError
from sagasr.io.fingerprint import content_of, fingerprint

WEIGHTS_REMEDY = (
    "get the frozen weights (hf download stabilityai/stable-audio-open-1.0 --local-dir weights/stable-audio-open-1.0, "
    "once its licence is accepted; "
    "hf download t5-base) and name their files in the configuration; search_spaces/paper.yaml shows how"
)


def identity(config: Config) -> dict[str, Any]:
    """Return what decides the trained weights: the train stage, with files of frozen weights by their content."""
    tree = train_stage(config)
    model, text = tree.get("model", {}), tree.get("conditions", {}).get("text", {})
    if config.model.init == "scratch":
        model.pop("checkpoint", None)  # named, but not used
    for section, key in (
        (model, "checkpoint"),
        (tree["codec"], "checkpoint"),
        (tree["codec"], "config"),
        (text.get("encoder", {}), "model"),
    ):
        if section.get(key):
            section[key] = _content(section[key])
    return {section: keys for section, keys in tree.items() if keys != {}}


def _content(name: str) -> str:
    """Return the sha256 of a file, or of a folder's files; the name itself for a model that is neither."""
    path = Path(name)
    if path.is_file():
        return content_of(path)
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        return fingerprint({str(file.relative_to(path)): _content(str(file)) for file in files})
    if path.is_absolute():
        raise DataError(f"{path}: no such file; {WEIGHTS_REMEDY}")
    return name
