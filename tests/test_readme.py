"""Every command and every piece of Python in the documents is run, in the order in which a reader meets them."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks

BIN = Path(sys.executable).parent
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
    "s3://YOUR-BUCKET/sweeps --tracking-uri http://127.0.0.1:5000'": (LAB, 'ray, "exec"'),
    "uv run ray attach cluster.yaml -p 5000": ("tests/orchestrator/run/test_cluster_file.py", "port 5000"),
    "uv run python -m orchestrator.cluster down cluster.yaml": (LAB, '"orchestrator.cluster", "down"'),
}
# Wants the network and packages for another machine; tried by hand.
BY_HAND = "uv pip install --target packages "
PYTHON = {  # what a piece of Python takes for granted
    "from sagasr.upsample import": "import numpy as np; samples = np.random.default_rng(0).normal(size=8_000)\n",
}


def commands() -> list[str]:
    """Return the commands of all shell blocks, each once, without comments, continued lines joined."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    bare = (" ".join(re.sub(r"\s#\s.*", "", line).split()) for line in lines)
    return list(dict.fromkeys(line for line in bare if line))


def grid(name: str) -> str:
    (found,) = [block for block in blocks("yaml") if block.startswith(f"name: {name}\n")]
    return found


def test_every_command_is_run_here_or_elsewhere() -> None:
    named = [*RUN, *ELSEWHERE]
    unnamed = [command for command in commands() if command not in named]
    assert [command for command in unnamed if not command.startswith(BY_HAND)] == []
    assert [command for command in named if command not in commands()] == []
    for command, (where, words) in ELSEWHERE.items():
        assert words in (ROOT / where).read_text(encoding="utf-8"), command


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
