"""Features of texts beside a store: each caption encoded once, at its true length, and mapped by all trainings.

    <store>/texts-<12 hex digits>.arrow     one row per unique caption or transcript: float32 features [n, width]

The name is the identity of the frozen encoder: the content of its files, and the longest text that it reads. A store
without such a file is complete; trainings then encode texts by themselves.
"""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from sagasr.config import settings
from sagasr.data.store import Store, read_records, views, write_arrow
from sagasr.io.errors import DataError
from sagasr.io.fingerprint import content_of, fingerprint, short
from sagasr.model.text import T5Encoder, TextEncoder, frozen_t5
from sagasr.published.hugging_face import file_of

SCHEMA = pa.schema([("text", pa.string()), ("width", pa.int32()), ("features", pa.large_list(pa.float32()))])
PER_PART = 4_096  # texts encoded between two files from which a killed run goes on
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json", "spiece.model")


def embed_texts(store: Store, text: settings.Text) -> Path | None:
    """Write the features of all texts of a store, and return their file; None for encoders that learn theirs.

    Texts that another store below the same root has are taken over, and those of a run that was killed on its way. Of
    several processes that do the same, each may write. Raises DataError without the encoder's weights.
    """
    if text.source == "off" or not isinstance(text.encoder, settings.T5):
        return None
    path = _file(store.path, text.encoder)
    if path.exists():
        return path
    entries = [*store.train.entries, *store.clips]
    texts = sorted({getattr(entry, source) for entry in entries for source in ("caption", "transcript")})
    parts = store.path / f".{path.stem}"
    known: dict[str, Tensor] = {}
    for other in sorted([*store.path.parent.glob(f"*/{path.name}"), *parts.glob("*.arrow")]):
        with contextlib.suppress(DataError):  # a part that another process, which has finished, has just removed
            known |= _read(other)
    new = [caption for caption in texts if caption not in known]
    encoder = frozen_t5(text.encoder, "cuda" if torch.cuda.is_available() else "cpu")
    for start in range(0, len(new), PER_PART):
        some = new[start : start + PER_PART]
        known |= zip(some, encoder.encode(some), strict=True)
        part = parts / f"{short(fingerprint(some))}.arrow"
        _write(part, some, known)
        with contextlib.suppress(DataError):  # removed likewise
            known |= _read(part)  # mapped, no longer in memory
    _write(path, texts, known)
    shutil.rmtree(parts, ignore_errors=True)
    return path


def recall_texts(encoder: TextEncoder, store: Store, text: settings.Text) -> None:
    """Give an encoder what ``embed_texts`` wrote for it, if it did; what is missing it then encodes by itself."""
    if not isinstance(encoder, T5Encoder) or not isinstance(text.encoder, settings.T5):
        return
    if any(store.path.glob("texts-*.arrow")) and (path := _file(store.path, text.encoder)).exists():
        encoder.recall(_read(path))


def _write(path: Path, texts: Sequence[str], features: Mapping[str, Tensor]) -> None:
    rows = ({"text": text, "width": features[text].shape[-1], "features": features[text].numpy()} for text in texts)
    write_arrow(path, SCHEMA, rows)


def _read(path: Path) -> Mapping[str, Tensor]:
    rows = list(read_records(path, SCHEMA))
    features = views([row["features"].reshape(-1, row["width"]) for row in rows])
    return {row["text"]: feature for row, feature in zip(rows, features, strict=True)}


def _file(store: Path, encoder: settings.T5) -> Path:
    return store / f"texts-{short(fingerprint([_content(encoder.model), encoder.max_tokens]))}.arrow"


def _content(model: str) -> dict[str, str]:
    """Return the hashes of an encoder's files, in a folder or in the local cache of published models."""
    files = {name: file_of(model, name) for name in WEIGHTS}
    hashes = {name: content_of(path) for name, path in files.items() if path}
    if not hashes:
        raise DataError(f"{model}: no text encoder in this folder or in the Hugging Face cache")
    return hashes
