"""Captions to tokens for cross-attention, behind one interface: words learned from the captions, or a frozen T5.

``prepare`` turns strings into a tensor once, outside the training loop; ``forward`` turns that into tokens
[B, L, cond_dim] in which unused positions are exactly zero. Where L is less than ``max_tokens``, so are the rest, which
need not be there: ``sagasr.model.stable_audio.compact`` counts them.
"""

import contextlib
import logging
import shlex
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from sagasr.config import settings as settings
from sagasr.io.errors import DataError
from sagasr.model.words import words_of

# Widths of the encoders that Hugging Face publishes, so that a plan needs none of them.
T5_WIDTHS = {
    "t5-small": 512,
    "t5-base": 768,
    "t5-large": 1024,
    "google-t5/t5-small": 512,
    "google-t5/t5-base": 768,
    "google-t5/t5-large": 1024,
    "google/flan-t5-small": 512,
    "google/flan-t5-base": 768,
    "google/flan-t5-large": 1024,
}
LENGTHS = 16  # texts are as long as the longest of their batch, in multiples of this, so that shapes are few
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")


class TextEncoder(nn.Module):
    """Base of the text encoders."""

    def __init__(self, max_tokens: int, cond_dim: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.cond_dim = cond_dim

    @abstractmethod
    def prepare(self, captions: Sequence[str]) -> Tensor:
        """Return what ``forward`` takes, one row per caption, on the CPU."""

    @abstractmethod
    def forward(self, prepared: Tensor) -> Tensor:
        """Return tokens [B, L, cond_dim]; positions without text are exactly zero, and so are those beyond L."""


class NoText(TextEncoder):
    """Text switched off: the token slots stay, filled with zeros, so that the transformer is the same in every cell."""

    def prepare(self, captions: Sequence[str]) -> Tensor:
        """Return indices [B, L], all of them empty slots."""
        return torch.zeros(len(captions), min(LENGTHS, self.max_tokens), dtype=torch.int64)

    def forward(self, prepared: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros(*prepared.shape[:2], self.cond_dim, device=prepared.device)


class WordEncoder(TextEncoder):
    """One learned vector per word of the training captions; words it does not know are skipped."""

    def __init__(self, vocabulary: Sequence[str], max_tokens: int, cond_dim: int) -> None:
        super().__init__(max_tokens, cond_dim)
        self.index = {word: position for position, word in enumerate(vocabulary, start=1)}
        self.embedding = nn.Embedding(len(vocabulary) + 1, cond_dim, padding_idx=0)

    def prepare(self, captions: Sequence[str]) -> Tensor:
        """Return word indices [B, L], 0 where there is no word; captions longer than L known words are cut."""
        rows = torch.zeros(len(captions), self.max_tokens, dtype=torch.int64)
        for row, caption in zip(rows, captions, strict=True):
            known = [self.index[word] for word in words_of(caption) if word in self.index][: self.max_tokens]
            row[: len(known)] = torch.tensor(known, dtype=torch.int64)
        return rows

    def forward(self, prepared: Tensor) -> Tensor:
        """Return the words' vectors."""
        tokens: Tensor = self.embedding(prepared)
        return tokens


class T5Encoder(TextEncoder):
    """A frozen T5 encoder, loaded at the first ``prepare`` and kept out of parameters and checkpoints.

    Its features are projected only where its width differs from ``cond_dim``, as in stable-audio-tools.
    """

    def __init__(self, model: str, max_tokens: int, cond_dim: int) -> None:
        super().__init__(max_tokens, cond_dim)
        self.model = model
        self.width = T5_WIDTHS.get(model) or int(_read_t5_config(model).d_model)
        self.project = nn.Identity() if self.width == cond_dim else nn.Linear(self.width, cond_dim)
        self.register_buffer("_device", torch.zeros(()), persistent=False)  # follows the model to its device
        self._loaded: tuple[Any, Any] | None = None
        self._stored: Mapping[str, Tensor] = {}
        self._features: dict[str, Tensor] = {}

    def recall(self, stored: Mapping[str, Tensor]) -> None:
        """Take the features [n, width] of these captions from ``stored``; the T5 is loaded only for other captions."""
        self._stored = stored

    def prepare(self, captions: Sequence[str]) -> Tensor:
        """Return features [B, L, width], zero where a caption has ended. Each caption is encoded once."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._stored]
        new = [caption for caption in new if caption not in self._features]
        self._features |= zip(new, self.encode(new), strict=True)
        features = [self._stored[it] if it in self._stored else self._features[it] for it in captions]
        longest = -(-max(map(len, features)) // LENGTHS) * LENGTHS
        prepared = torch.zeros(len(captions), min(longest, self.max_tokens), self.width)
        for row, found in zip(prepared, features, strict=True):
            row[: len(found)] = found[: self.max_tokens]
        return prepared

    def forward(self, prepared: Tensor) -> Tensor:
        """Return the features, projected, with ended positions zero."""
        tokens: Tensor = self.project(prepared) * prepared.ne(0).any(dim=-1, keepdim=True)
        return tokens

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return the features [n, width] of each caption on the CPU, n its tokens (at most ``max_tokens``), unpadded.

        One caption at a time: equal captions give equal bits whatever stands beside them, so they can be kept.
        """
        if not captions:
            return []
        if self._loaded is None:
            self._loaded = _load_t5(self.model, self.width)
        tokenizer, encoder = self._loaded
        device = self._device.device
        encoder = encoder.to(device)
        found = []
        for caption in captions:
            batch = tokenizer([caption], truncation=True, max_length=self.max_tokens, return_tensors="pt").to(device)
            found.append(encoder(**batch).last_hidden_state[0].float().cpu())
        return found


def frozen_t5(encoder: settings.T5, device: str = "cpu") -> T5Encoder:
    """Return a T5 for its features alone, which ``T5Encoder.recall`` takes back. Raises DataError without its files."""
    width = int(_read_t5_config(encoder.model).d_model)
    return T5Encoder(encoder.model, encoder.max_tokens, width).to(device)


def build_text_encoder(text: settings.Text, cond_dim: int, vocabulary: Sequence[str]) -> TextEncoder:
    """Return the encoder of a configuration; ``vocabulary`` is for words. Raises DataError without a T5's files."""
    encoder = text.encoder
    if text.source == "off":
        return NoText(encoder.max_tokens, cond_dim)
    match encoder:
        case settings.Words(max_tokens=max_tokens):
            return WordEncoder(vocabulary, max_tokens, cond_dim)
        case settings.T5(model=model, max_tokens=max_tokens):
            return T5Encoder(model, max_tokens, cond_dim)
        case unknown:
            assert_never(unknown)


def missing_weights(text: settings.Text) -> str | None:
    """Return one line saying what of the text encoder is absent and how to get it; nothing is loaded."""
    if text.source != "off" and isinstance(text.encoder, settings.T5):
        try:
            _read_t5_config(text.encoder.model)
            _check_tokenizer(text.encoder.model)
        except DataError as error:
            return str(error)
    return None


def _remedy(model: str) -> str:
    folder = "a folder with config.json, model.safetensors and tokenizer.json (or spiece.model)"
    if Path(model).is_absolute():
        return f"conditions.text.encoder.model names {folder}, or a published model such as t5-base"
    return (
        f"download it once where there is a network ({shlex.join(['hf', 'download', model])}), or name {folder} in "
        "conditions.text.encoder.model"
    )


def _read_t5_config(model: str) -> Any:
    """Return the published configuration of a T5 from a folder or the local cache; never from the network."""
    from transformers import AutoConfig

    with quietly():
        try:
            config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{model}: no T5 in this folder or in the Hugging Face cache; {_remedy(model)}") from error
    if not hasattr(config, "d_model"):
        raise DataError(f"{model}: a {config.model_type!r} model, not a T5; {_remedy(model)}")
    return config


def _check_tokenizer(model: str) -> None:
    """Raise DataError without tokenizer files: transformers would read every word as unknown and say nothing."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model).is_dir():
        found = any((Path(model) / name).is_file() for name in TOKENIZER_FILES)
    else:
        found = any(isinstance(try_to_load_from_cache(model, name), str) for name in TOKENIZER_FILES)
    if not found:
        raise DataError(f"{model}: has neither {' nor '.join(TOKENIZER_FILES)}; {_remedy(model)}")


def _load_t5(model: str, width: int) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, T5EncoderModel

    if _read_t5_config(model).d_model != width:
        raise DataError(f"{model}: its width is not the {width} published under this name; {_remedy(model)}")
    _check_tokenizer(model)
    with quietly():
        try:
            tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
            encoder, report = T5EncoderModel.from_pretrained(
                model, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            first = str(error).splitlines()[0]
            raise DataError(f"{model}: the T5 model cannot be read ({first}); {_remedy(model)}") from error
    if absent := sorted(report["missing_keys"]):  # transformers would leave these at random
        raise DataError(f"{model}: {len(absent)} weights are missing, the first {absent[0]}; {_remedy(model)}")
    return tokenizer, encoder.requires_grad_(False).eval()


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
