"""The documents speak of what exists: links, modules, tests, packages, keys and factors."""

import ast
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import unquote

import pytest
from pydantic import BaseModel

from orchestrator.grid.expand import expand
from orchestrator.grid.factors import STANDARD
from orchestrator.grid.read import parse_space
from orchestrator.grid.space import GridFile
from sagasr.config.runtime import Runtime
from sagasr.io.files import parse_yaml
from sagasr.metrics.table import METRICS
from tests.documents import DOCUMENTS, ROOT, TEXTS, blocks

PACKAGES = {
    package: {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    for package in ("orchestrator", "sagasr")
}


def test_no_document_is_forgotten() -> None:
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) - {"sagasr/recordings/LICENCES.md"} == set(DOCUMENTS)


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 220


def test_modules_that_are_run_exist() -> None:
    modules = {name for text in TEXTS.values() for name in re.findall(r"python[\d.]* -m ([\w.]+)", text)}
    assert len(modules) > 5
    assert sorted(name for name in modules if find_spec(name) is None) == []


# ---------------------------------------------------------------------------------------------------------------- links


def heading_ids(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(document: str, text: str) -> Iterator[str]:
    """Yield links, and paths in backticks, that lead to no file or heading. ``document`` is the path of the text."""
    folder = (ROOT / document).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = folder / unquote(file) if file else ROOT / document
        if "://" in link:
            continue
        if not target.exists():
            yield f"{document}: {link} does not exist"
        elif anchor and anchor not in heading_ids(target.read_text(encoding="utf-8") if file else text):
            yield f"{document}: {link} names no heading"
    for path in re.findall(r"`((?:sagasr|orchestrator|search_spaces|tests|\.ci)/[\w./-]*)`", text):
        if not (ROOT / path).exists():
            yield f"{document}: {path} does not exist"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    assert list(dead_links(document, TEXTS[document])) == []


def test_a_dead_link_would_be_found() -> None:
    text = "# A heading\n[a](gone.md) [b](#a-heading) [c](#gone) [d](README.md#gone) [e](https://a.b/c) `tests/gone.py`"
    assert list(dead_links("README.md", text)) == [
        "README.md: gone.md does not exist",
        "README.md: #gone names no heading",
        "README.md: README.md#gone names no heading",
        "README.md: tests/gone.py does not exist",
    ]


def test_tests_that_are_named_exist() -> None:
    exist = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert sorted(set(re.findall(r"\btest_\w+\b", TEXTS["tests/README.md"])) - exist) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_in_the_folders_that_documents_say(package: str) -> None:
    named = {pair for text in TEXTS.values() for pair in re.findall(rf"`(\w+)` in `({package}/\w+)/`", text)}
    assert len(named) >= 2
    for name, folder in named:
        sources = [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")]
        assert any(re.search(rf"\b{name}\b", source) for source in sources), f"{name} in {folder}"


# ------------------------------------------------------------------------------------------------- what the tables name


def picture() -> dict[str, str]:
    """Return the part of the architecture's picture that shows a package, by package; folders stand in brackets."""
    (drawing,) = [block for block in blocks("") if "[grid]" in block]
    above, below = re.split(r"^sagasr: .*$", drawing, flags=re.M)
    return {"orchestrator": above, "sagasr": below}


def imports(package: str, folder: str) -> set[str]:
    """Return the folders of a package that a folder imports, anywhere in its modules."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / package / folder).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {node.module.split(".")[1] for node in nodes if (node.module or "").startswith(f"{package}.")}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_shows_the_folders_that_exist(package: str) -> None:
    assert set(re.findall(r"\[(\w+)\]", picture()[package])) == PACKAGES[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_of_the_picture_are_imports(package: str) -> None:
    arrows = re.findall(r"\[(\w+)\] *─+► *(?=\[(\w+)\])", picture()[package])
    assert len(arrows) >= 4
    for start, end in arrows:
        assert start in imports(package, end) or end in imports(package, start), f"{start} ──► {end}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_packages_document_maps_its_folders(package: str) -> None:
    above = TEXTS[f"{package}/README.md"].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)/` \|", above, re.M)
    assert sorted(rows) == sorted(PACKAGES[package])


def test_the_picture_is_small() -> None:
    assert len("".join(picture().values()).splitlines()) <= 25


def keys(model: type[BaseModel]) -> set[str]:
    """Return the keys of a model and of the models below it."""
    fields = model.model_fields.items()
    named = {field.alias or name for name, field in fields}
    types = [kind for _, field in fields for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))]
    below = [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return named.union(*map(keys, below))


def test_the_grid_file_is_explained_key_by_key() -> None:
    known = keys(GridFile) | keys(Runtime)
    assert {"gpus_per_worker", "max_gpu_hours", "patience", "ladder"} <= known
    text = TEXTS["search_spaces/README.md"]
    assert sorted(key for key in known if not re.search(rf"`{key}`|\b{key}: ", text)) == []


def test_the_standard_factors_are_listed_with_their_levels() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXTS["search_spaces/README.md"].split("## Factors")[1], re.M))
    for name, factor in STANDARD.items():
        assert re.findall(r"`([^`]+)`", rows[name]) == list(factor.levels), name


def test_the_metrics_are_listed_as_they_are_defined() -> None:
    cells = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in TEXTS["sagasr/README.md"].splitlines() if "|" in line[:1]]
    rows = {name: [cell.replace("\\|", "|") for cell in rest] for name, *rest in cells}
    for name, metric in METRICS.items():
        _, *described = rows[f"`{name}`"]
        assert described == [metric.better, metric.definition, metric.identity, metric.silence], name


SOUND = """
name: example
base: tiny.yaml
data: {train: shipped, val: shipped}
factors: {text: [off, caption], rolloff: [off, on], lfr: [off, hard, crossfade], size: [small, full]}
"""


def test_what_is_shown_of_a_grid_file_is_accepted() -> None:
    shown = blocks("yaml", "README.md", "search_spaces/README.md")
    assert len(shown) >= 6
    for block in shown:
        tree = parse_yaml(SOUND, "sound") | parse_yaml(block, "shown")
        assert expand(parse_space(tree, ROOT / "search_spaces" / "example.yaml")), block
