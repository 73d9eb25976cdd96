"""Verdicts and numbers as the report writes them."""

from orchestrator import formats

VERDICTS = ("improves", "harms", "no relevant effect", "undecided", "not estimable")
KINDS = ("better", "worse", "same", "open", "none")  # classes in page.css, in the order of VERDICTS


def word_of(verdict: object) -> str:
    """Return the verdict without its explanation."""
    return next((word for word in VERDICTS if str(verdict).startswith(word)), VERDICTS[-1])


def kind_of(verdict: object) -> str:
    """Return the class of a verdict in page.css."""
    return KINDS[VERDICTS.index(word_of(verdict))]


def remark_of(verdict: object) -> str:
    """Return the text in brackets behind the verdict."""
    text = str(verdict)
    return text[text.index("(") + 1 : -1] if "(" in text and text.endswith(")") else ""


def minus(text: str) -> str:
    """Return the number with a true minus sign."""
    return text.replace("-", "−")


def number(value: object, form: str = ".3g") -> str:
    """Return the number for the page; an en dash for a missing one."""
    return minus(formats.number(value, form, missing="–"))
