"""Secrets stay out of what is written or shown: passwords in URLs, and values whose keys say that they are secret."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
SECRET_KEY = re.compile(r"token|key|secret|passw|credential", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")
_QUERY = re.compile(rf"([?&;][^\s=&#'\"]*(?:{SECRET_KEY.pattern})[^\s=&#'\"]*=)[^\s&#'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return a text with user and password of every URL in it hidden, and secret values of their queries."""
    return _QUERY.sub(rf"\g<1>{HIDDEN}", _USER_INFO.sub(f"{HIDDEN}@", text))


def redact_tree(tree: Any, keys: bool = True) -> Any:
    """Return nested containers with every text redacted, and those texts hidden whose key names a secret.

    Numbers stay: ``max_tokens: 16`` is none. ``keys`` False is for what has factors as keys: ``cond_token: "512"``.
    """
    if isinstance(tree, Mapping):
        return {key: _value(str(key), value, keys) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [redact_tree(value, keys) for value in tree]
    return redact(tree) if isinstance(tree, str) else tree


def plain(text: str, limit: int) -> str:
    """Return a text as any store takes it: redacted, cut, and without NUL or the halves of characters.

    PostgreSQL refuses NUL; names of files that are not UTF-8 hold lone surrogates, which no encoder takes.
    """
    whole = redact(text).encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return whole if len(whole) <= limit else whole[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _value(key: str, value: Any, keys: bool) -> Any:
    hidden = keys and isinstance(value, str) and value and SECRET_KEY.search(key)
    return HIDDEN if hidden else redact_tree(value, keys)
