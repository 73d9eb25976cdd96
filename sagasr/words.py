"""The words of captions: what the learned text encoder has vectors for. Loads without torch."""

import re
from collections.abc import Iterable

WORD = re.compile(r"\w+(?:['’]\w+)*")


def words_of(caption: str) -> list[str]:
    """Return the words of a caption in order, in lower case."""
    return WORD.findall(caption.lower())


def vocabulary_of(captions: Iterable[str]) -> tuple[str, ...]:
    """Return every word of the captions once, sorted."""
    return tuple(sorted({word for caption in captions for word in words_of(caption)}))
