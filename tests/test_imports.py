"""How modules lean on one another: in no circle, not even by imports inside functions, and in short chains."""

from collections.abc import Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("sagasr", "orchestrator")
DEPTH = {"sagasr": 10, "orchestrator": 10}  # modules in the longest chain of imports at the top of files


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


@cache
def lines_of(module: str) -> list[str]:
    path = ROOT.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text().splitlines()


def is_at_the_top(importer: str, imported: str) -> bool:
    """Return whether a module is imported when the importer is, and not by a function of it."""
    details = graph().get_import_details(importer=importer, imported=imported)
    return any(not lines_of(importer)[detail["line_number"] - 1].startswith(" ") for detail in details)


def imports(package: str) -> Mapping[str, list[str]]:
    """Return what each module of a package imports of it at its top."""
    modules = [name for name in graph().modules if name.split(".")[0] == package]
    return {
        importer: [
            imported
            for imported in graph().find_modules_directly_imported_by(importer)
            if imported.split(".")[0] == package and is_at_the_top(importer, imported)
        ]
        for importer in modules
    }


def longest_chain(imported_by: Mapping[str, list[str]]) -> list[str]:
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter(imported_by).static_order():
        chains[module] = [module, *max((chains[it] for it in imported_by[module]), key=len, default=[])]
    return max(chains.values(), key=len)


def test_no_module_imports_itself_through_others() -> None:
    edges = {name: graph().find_modules_directly_imported_by(name) for name in graph().modules}
    TopologicalSorter(edges).prepare()  # raises CycleError, with the circle


@pytest.mark.parametrize("package", PACKAGES)
def test_chains_of_imports_are_short(package: str) -> None:
    chain = longest_chain(imports(package))
    assert len(chain) <= DEPTH[package], " > ".join(chain)
