"""The documents that come with the code, and the fenced blocks in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
# In the order in which a reader meets them: what a command needs was made by one before it.
DOCUMENTS = [
    "README.md",
    "search_spaces/README.md",
    "orchestrator/README.md",
    "orchestrator/analysis/README.md",
    "sagasr/README.md",
    "sagasr/PARITY.md",
    "tests/README.md",
    "tests/gpu/README.md",
]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}


def blocks(kind: str, *documents: str) -> list[str]:
    """Return the fenced blocks of a kind, of all documents or of those named."""
    texts = [TEXTS[name] for name in documents or DOCUMENTS]
    fenced = [block for text in texts for block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]
    return [block for name, block in fenced if name == kind]
