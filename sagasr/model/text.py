"""Captions to tokens for cross-attention, behind one interface: words learned from the captions, or a frozen T5.

``prepare`` turns strings into a tensor once, outside the training loop; ``forward`` turns that into tokens
[B, L, cond_dim] in which unused positions are exactly zero. Where L is less than ``max_tokens``, so are the rest, which
need not be there: ``sagasr.published.stable_audio.compact`` counts them.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sagasr.config import settings
from sagasr.model.words import words_of
from sagasr.published.hugging_face import Published, problem_of, remedy_for

# Widths of the encoders that Hugging Face publishes, so that a plan needs none of them.
T5_WIDTHS = {
    f"{family}-{size}": width
    for family in ("t5", "google-t5/t5", "google/flan-t5")
    for size, width in (("small", 512), ("base", 768), ("large", 1024))
}
LENGTHS = 16  # texts are as long as the longest of their batch, in multiples of this, so that shapes are few
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")


class TextEncoder(nn.Module):
    """Base of the text encoders."""

    def __init__(self, max_tokens: int, cond_dim: int) -> None:
        super().__init__()
        self.max_tokens, self.cond_dim = max_tokens, cond_dim

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
        return self.embedding(prepared)  # type: ignore[no-any-return]


class T5Encoder(TextEncoder):
    """A frozen T5 encoder, loaded at the first ``prepare`` and kept out of parameters and checkpoints.

    Its features are projected only where its width differs from ``cond_dim``, as in stable-audio-tools.
    """

    def __init__(self, model: str, max_tokens: int, cond_dim: int) -> None:
        super().__init__(max_tokens, cond_dim)
        self.model = model
        self.width = T5_WIDTHS.get(model) or _t5_width(model)
        self.project = nn.Identity() if self.width == cond_dim else nn.Linear(self.width, cond_dim)
        self.register_buffer("_device", torch.zeros(()), persistent=False)  # follows the model to its device
        self._loaded: tuple[Any, Any] | None = None
        self._features: dict[str, Tensor] = {}

    def recall(self, stored: Mapping[str, Tensor]) -> None:
        """Take the features [n, width] of these captions from ``stored``; the T5 is loaded only for other captions."""
        self._features = dict(stored)

    def prepare(self, captions: Sequence[str]) -> Tensor:
        """Return features [B, L, width], zero where a caption has ended. Each caption is encoded once."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._features]
        self._features |= zip(new, self.encode(new), strict=True)
        features = [self._features[caption] for caption in captions]
        longest = -(-max(map(len, features)) // LENGTHS) * LENGTHS
        prepared = torch.zeros(len(captions), min(longest, self.max_tokens), self.width)
        for row, feature in zip(prepared, features, strict=True):
            row[: len(feature)] = feature[: self.max_tokens]
        return prepared

    def forward(self, prepared: Tensor) -> Tensor:
        """Return the features, projected, with ended positions zero."""
        return self.project(prepared) * prepared.ne(0).any(dim=-1, keepdim=True)  # type: ignore[no-any-return]

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
        features = []
        for caption in captions:
            batch = tokenizer([caption], truncation=True, max_length=self.max_tokens, return_tensors="pt").to(device)
            features.append(encoder(**batch).last_hidden_state[0].float().cpu())
        return features


def frozen_t5(encoder: settings.T5, device: str = "cpu") -> T5Encoder:
    """Return a T5 for its features alone, which ``T5Encoder.recall`` takes back. Raises DataError without its files."""
    return T5Encoder(encoder.model, encoder.max_tokens, _t5_width(encoder.model)).to(device)


def build_text_encoder(text: settings.Text, cond_dim: int, vocabulary: Sequence[str]) -> TextEncoder:
    """Return the encoder of a configuration; ``vocabulary`` is for words. Raises DataError without a T5's files."""
    encoder = text.encoder
    if text.source == "off":
        return NoText(encoder.max_tokens, cond_dim)
    if isinstance(encoder, settings.Words):
        return WordEncoder(vocabulary, encoder.max_tokens, cond_dim)
    return T5Encoder(encoder.model, encoder.max_tokens, cond_dim)


def missing_weights(text: settings.Text) -> str | None:
    """Return one line saying what of the text encoder is absent and how to get it; nothing is loaded."""
    if text.source == "off" or not isinstance(text.encoder, settings.T5):
        return None
    return problem_of(partial(_readable_t5, text.encoder.model))


def _t5(model: str) -> Published:
    files = "config.json, model.safetensors and tokenizer.json (or spiece.model)"
    return Published(model, "T5", remedy_for(model, "conditions.text.encoder.model", files, "t5-base"))


def _t5_width(model: str) -> int:
    published = _t5(model)
    config = published.config()
    if not hasattr(config, "d_model"):
        raise published.error(f"a {config.model_type!r} model, not a T5")
    return int(config.d_model)


def _readable_t5(model: str, width: int = 0) -> Published:
    """Return a T5 that is here, and a tokenizer, without which transformers reads every word as unknown."""
    published = _t5(model)
    if width not in (0, _t5_width(model)):
        raise published.error(f"its width is not the {width} published under this name")
    if not published.has_any(*TOKENIZER_FILES):
        raise published.error(f"has neither {' nor '.join(TOKENIZER_FILES)}")
    return published


def _load_t5(model: str, width: int) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, T5EncoderModel

    reader = partial(AutoTokenizer.from_pretrained, trust_remote_code=False)
    return _readable_t5(model, width).load(reader, T5EncoderModel)
