"""The words of captions: what the learned text encoder has vectors for. Loads without torch.

A word is what stands between spaces and signs. Scripts that are written without spaces have no such thing, so there
each character with its marks counts as one.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import cache

FEW = 0.5  # below this share of known words, what is said of texts rests on little
# Scripts in which a line may break between characters, or wherever a dictionary finds a word (Unicode line breaking,
# classes ID, CJ and SA). Korean, Tibetan and Ethiopic separate their words or syllables.
SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"  # Tai Le, New Tai Lue, Tai Tham, Tai Viet
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Chinese characters
    "\u3040-\u3130\u31a0-\u31bf\u31f0-\u31ff"  # Hiragana, Katakana, Bopomofo
    "\ua000-\ua4cf"  # Yi
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # rarer kana and Chinese characters
)
WIDE = re.compile("[\uff00-\uffef]+")  # Latin letters and kana in the width of Chinese characters, or half of it


def words_of(caption: str) -> list[str]:
    """Return the words of a caption in order, in lower case; equal for the two ways to write an accent."""
    text = unicodedata.normalize("NFC", WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), caption))
    return list(_word().findall(text.lower()))


def vocabulary_of(captions: Iterable[str]) -> tuple[str, ...]:
    """Return every word of the captions once, sorted."""
    return tuple(sorted({word for caption in captions for word in words_of(caption)}))


def known_share(captions: Iterable[str], vocabulary: Collection[str], most: int) -> float:
    """Return the share of words that a model knows, of a caption the first ``most``; 1 where there are none."""
    known, words = set(vocabulary), [words_of(caption) for caption in captions]
    told = sum(min(most, sum(word in known for word in caption)) for caption in words)
    return told / total if (total := sum(map(len, words))) else 1.0


def said_of_known(source: str, share: float) -> str:
    """Return the sentence on validation texts of which few words are known."""
    return (
        f"text={source}: of the words of the validation texts a model knows only {share:.0%}, so a verdict on text "
        "says little; the others are in no training text, or beyond conditions.text.encoder.max_tokens"
    )


@cache
def _word() -> re.Pattern[str]:
    """Return what a word looks like: marks, as vowels in Hindi or Thai, belong to the letter before."""
    marks = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    marks = re.sub("[\ufe00-\ufe0f]", "", marks) + "\u200c\u200d"  # without variants of signs, with joiners
    letter = rf"(?:[^\W{SPACELESS}][{marks}]*)"
    return re.compile(rf"(?=\w)[{SPACELESS}][{marks}]*|{letter}+(?:['’]{letter}+)*")
