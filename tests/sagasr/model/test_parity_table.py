"""The parity table of sagasr/PARITY.md names code, settings and tests that exist, and leaves no cell empty."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sagasr.config.settings import Config

ROOT = Path(__file__).parents[3]
COLUMNS = ["part", "paper, code", "plan", "where", "test", "deviation"]
PARTS = {
    "clock, path", "time sampler", "number embedding", "nulls", "dropout", "guidance", "sampler", "learning rate",
    "optimiser", "EMA", "low from high", "cutoff", "LFR", "segment", "roll-off, cross-attention", "roll-off, global",
}  # fmt: skip
QUOTED = re.compile(r"`([^`]+)`")


def section(text: str) -> str:
    """Return what stands under the heading, up to the next of its rank; empty without it."""
    found = re.search(r"^## Parity$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def rows(text: str) -> list[dict[str, str]]:
    lines = [line for line in section(text).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert cells[0] == COLUMNS
    assert all(len(row) == len(COLUMNS) for row in cells)
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells[2:]]


def exists(name: str) -> bool:
    """Return whether a dotted name is a setting of ``Config`` or an object of ours."""
    if not name.startswith(("sagasr.", "orchestrator.")):
        return is_setting(name.split("."), Config)
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def is_setting(path: list[str], model: Any) -> bool:
    if not path:
        return True
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or path[0] not in model.model_fields:
        return False
    return is_setting(path[1:], model.model_fields[path[0]].annotation)


@cache
def functions_of(file: str) -> frozenset[str]:
    paths = list((ROOT / "tests").rglob(file))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    return frozenset(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def faults(text: str) -> list[str]:
    """Return what is wrong with the table."""
    found = []
    table = rows(text)
    lacking = PARTS - {row["part"] for row in table}
    if lacking:
        found.append(f"no row for {sorted(lacking)}")
    for row in table:
        found += [f"{row['part']}: {column} is empty" for column in COLUMNS if not row[column]]
        named, tests = QUOTED.findall(row["where"]), QUOTED.findall(row["test"])
        found += [f"{row['part']}: names no {what}" for what, names in (("code", named), ("test", tests)) if not names]
        found += [f"{row['part']}: {name} does not exist" for name in named if not exists(name)]
        for test in tests:
            file, _, function = test.partition("::")
            if function not in functions_of(file):
                found.append(f"{row['part']}: {test} does not exist")
    return found


def test_what_the_parity_table_names_exists() -> None:
    text = (ROOT / "sagasr" / "PARITY.md").read_text(encoding="utf-8")
    assert section(text), "the document has no parity table"
    assert not faults(text)


def test_a_name_that_does_not_exist_would_be_found() -> None:
    head = "## Parity\n\n| " + " | ".join(COLUMNS) + " |\n|---|---|---|---|---|---|\n"
    wrong = "| clock, path | a | b | `sagasr.model.flow.gone`, `training.gone` | `test_flow.py::test_gone` |  |\n"
    pinned = "`test_flow.py::test_training_times_follow_their_distributions_and_rise_together`"
    right = f"| loss | a | b | `sagasr.model.flow.velocity`, `training.ema` | {pinned} | – |\n"
    found = faults(head + wrong + right)
    assert found[0].startswith("no row for")
    assert found[1:] == [
        "clock, path: deviation is empty",
        "clock, path: sagasr.model.flow.gone does not exist",
        "clock, path: training.gone does not exist",
        "clock, path: test_flow.py::test_gone does not exist",
    ]
