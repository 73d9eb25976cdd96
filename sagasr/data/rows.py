"""What is known of a recording before it is read: one row of a manifest, or one file of a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "val"]
Source = Literal["off", "transcript", "caption"]
SPLITS: tuple[Split, ...] = ("train", "val")
NO_DOMAIN = "unknown"  # of rows without one
MAX_TEXT = 10_000  # characters; no caption is longer, a mis-quoted file easily is
MAX_FAULTS = 100  # lines shown; the rest is counted


@dataclass(frozen=True, slots=True)
class Row:
    """One recording. ``path`` is as written, ``file`` where it lies; texts are "" where there is none."""

    line: int
    path: str
    file: Path
    caption: str = ""
    transcript: str = ""
    split: str = ""
    domain: str = NO_DOMAIN
    licence: str = ""
    sha256: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def meaning(self) -> list[str]:
        """What is said of the recording, as far as it enters results."""
        return [self.caption, self.transcript, self.domain]

    def text(self, source: Source) -> str:
        """Return what a model with this text source is told."""
        return text_of(self, source)


def text_of(recording: Any, source: Source) -> str:
    """Return what a model with this text source is told of what has a caption and a transcript."""
    return "" if source == "off" else str(getattr(recording, source))


def is_no_name(path: str) -> bool:
    """Whether a path holds what no list of files can: line ends, control codes, bytes that are not UTF-8."""
    return has_control_characters(path) or "\n" in path or "\r" in path


def has_control_characters(text: str) -> bool:
    """Whether a text holds what no name or caption does: NUL, escape codes, lone surrogates. Line ends are fine."""
    return any((mark < " " and mark not in "\t\r\n") or mark == "\x7f" or "\ud800" <= mark <= "\udfff" for mark in text)
