"""The documents keep their word: commands and Python are run, links lead somewhere, tables name what exists."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest
from pydantic import BaseModel

from orchestrator.grid.factors import STANDARD
from orchestrator.grid.space import GridFile
from sagasr.config.settings import Runtime

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
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
PACKAGES = {
    package: {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    for package in ("orchestrator", "sagasr")
}

# What is added to a command, to make it short; the commands themselves are the documents'.
SHORT = "--set training.steps=4 --set validation.every=4 --set evaluation.sampler.steps=2 --set degradation.variants=1"
RUN = {
    "uv run sagasr-sweep mine.yaml --plan": "",
    "uv run sagasr-sweep mine.yaml": f"{SHORT} --seeds 0 --quiet",
    "uv run sagasr-report sweeps/mine": "",
    "uv run sagasr-sweep mine.yaml --why 'text=caption rolloff=on'": f"{SHORT} --seeds 0",
    "uv run sagasr-sweep mine.yaml --only text=caption,rolloff=on --seeds 0,1,2": f"{SHORT} --plan",
    "uv run sagasr-encode recordings/": "--config search_spaces/tiny.yaml",
    "uv run sagasr-train search_spaces/tiny.yaml --out runs/first --set data.train=shipped --set data.val=shipped": (
        f"{SHORT} --set data.train=recordings --set data.val=recordings"
    ),
    "uv run sagasr-upsample old/ restored/ --checkpoint runs/first --rolloff-target 0.8": "--steps 1",
}
ENCODING, LAB = "tests/orchestrator/cli/test_encode_command.py", "tests/orchestrator/run/test_sweep_anywhere.py"
# What is run by another test or by CI, or wants a machine that no test has: where, and by which words it is known.
ELSEWHERE = {
    "pip install uv && uv run sagasr-sweep search_spaces/demo.yaml": (
        ".ci/run",
        "pip install uv && uv run sagasr-sweep search_spaces/demo.yaml",
    ),
    "uv run pytest": (".ci/run", "uv run pytest"),
    "uv run sagasr-sweep search_spaces/demo.yaml --plan --calibrate": (
        "tests/orchestrator/plan/test_estimate.py",
        '"--plan", "--calibrate"',
    ),
    "uv run sagasr-encode recordings/manifest.csv": (ENCODING, "str(manifest)"),
    "uv run sagasr-encode VCTK-Corpus/ --config small.yaml --workers 8": (ENCODING, '"--workers"'),
    "uv run sagasr-encode train.csv --val val.csv --quarantine": (ENCODING, '"--quarantine"'),
    "uv run sagasr-encode sounds/ --captioner Qwen/Qwen2-Audio-7B": (ENCODING, '"--captioner"'),
    "OMP_NUM_THREADS=1 uv run python -m tests.benchmarks [NAME ...] [--quick]": (
        "tests/sagasr/test_benchmarks.py",
        '"-m", "tests.benchmarks"',
    ),
    "uv run python -m tests.first_light": ("tests/test_first_light.py", "first_light.main("),
    "PYTHONPATH=packages:. python3.12 -m tests.first_light": ("tests/test_first_light.py", "first_light.main("),
    "uv run python -m orchestrator.cluster up cluster.yaml": (LAB, '"orchestrator.cluster", "up"'),
    "uv run ray exec cluster.yaml --tmux 'cd sagasr && sagasr-sweep search_spaces/grid.yaml --address auto --storage "
    "s3://YOUR-BUCKET/sweeps --tracking-uri http://127.0.0.1:5000'": (LAB, '"submit"'),
    "uv run ray attach cluster.yaml -p 5000": ("tests/orchestrator/run/test_cluster_file.py", "port 5000"),
    "uv run python -m orchestrator.cluster down cluster.yaml": (LAB, '"orchestrator.cluster", "down"'),
}
# Wants the network and packages for another machine; tried by hand.
BY_HAND = "uv pip install --target packages "
PYTHON = {  # what a piece of Python takes for granted
    "from sagasr.upsample import": "import numpy as np; samples = np.random.default_rng(0).normal(size=8_000)\n",
}


def blocks(kind: str) -> list[str]:
    """Return the fenced blocks of a kind, of all documents."""
    fenced = [block for text in TEXTS.values() for block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]
    return [block for name, block in fenced if name == kind]


def commands() -> list[str]:
    """Return the commands of all shell blocks, each once, without comments, continued lines joined."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    bare = (" ".join(re.sub(r"\s#\s.*", "", line).split()) for line in lines)
    return list(dict.fromkeys(line for line in bare if line))


def grid(name: str) -> str:
    (found,) = [block for block in blocks("yaml") if block.startswith(f"name: {name}\n")]
    return found


def test_no_document_is_forgotten() -> None:
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) - {"sagasr/recordings/LICENCES.md"} == set(DOCUMENTS)


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 220


def test_every_command_is_run_here_or_elsewhere() -> None:
    named = [*RUN, *ELSEWHERE]
    unnamed = [command for command in commands() if command not in named]
    assert [command for command in unnamed if not command.startswith(BY_HAND)] == []
    assert [command for command in named if command not in commands()] == []
    for command, (where, words) in ELSEWHERE.items():
        assert words in (ROOT / where).read_text(encoding="utf-8"), command


ARRIVING = {"tests.simulation"}  # orchestrator.analysis.simulate, until it has moved there


def test_modules_that_are_run_exist() -> None:
    modules = {name for text in TEXTS.values() for name in re.findall(r"python[\d.]* -m ([\w.]+)", text)}
    assert len(modules) > 5
    assert sorted(name for name in modules - ARRIVING if find_spec(name) is None) == []


# ----------------------------------------------------------------------------------------------------------------- links


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


# -------------------------------------------------------------------------------------------------- what the tables name


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
    below = [
        part for field in model.model_fields.values() for part in (field.annotation, *_arguments(field.annotation))
    ]
    models = [part for part in below if isinstance(part, type) and issubclass(part, BaseModel)]
    return set(model.model_fields).union(*map(keys, models))


def _arguments(annotation: object) -> tuple[object, ...]:
    return getattr(annotation, "__args__", ())


def test_the_grid_file_is_explained_key_by_key() -> None:
    text = TEXTS["search_spaces/README.md"]
    known = keys(GridFile) | set(Runtime.model_fields)
    assert {"gpus_per_worker", "max_gpu_hours", "patience", "ladder"} <= known
    assert sorted(key for key in known if not re.search(rf"`{key}`|^\| `{key}`|[{{,] ?{key}: ", text, re.M)) == []


def test_the_standard_factors_are_listed_with_their_levels() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXTS["search_spaces/README.md"].split("## Factors")[1], re.M))
    for name, factor in STANDARD.items():
        assert re.findall(r"`([^`]+)`", rows[name]) == list(factor.levels), name


# --------------------------------------------------------------------------------------------------------- run for real


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_the_commands_do_what_the_documents_say(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    for folder in ("recordings", "old"):
        (tmp_path / folder).mkdir()
    shipped = sorted((ROOT / "sagasr" / "recordings").glob("*/*.flac"), key=lambda path: path.stat().st_size)
    for path in shipped[:6]:
        shutil.copy(path, tmp_path / "recordings")
        (tmp_path / "recordings" / f"{path.stem}.txt").write_text("a dog barks")
    shutil.copy(shipped[0], tmp_path / "old")
    (tmp_path / "mine.yaml").write_text(grid("mine"))

    for command in (command for command in commands() if command in RUN):
        program, *words = shlex.split(command.removeprefix("uv run ") + " " + RUN[command])
        done = subprocess.run([BIN / program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "sweeps" / "mine" / "report" / "index.html").exists()
    assert (tmp_path / "sweeps" / "mine" / "report" / "effects.svg").exists()
    assert len(list((tmp_path / "restored").iterdir())) == 1
    for code in blocks("python"):
        given = next((text for start, text in PYTHON.items() if start in code), "")
        done = subprocess.run(
            [sys.executable, "-c", given + code], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
