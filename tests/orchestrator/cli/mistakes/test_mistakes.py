"""The mistakes of mistakes.yaml, each through its real command: exit code 2, a line per fault, nothing left behind."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from orchestrator.cli.encode import main as encode
from orchestrator.cli.report import report
from orchestrator.cli.sweep import sweep
from sagasr.cli.train import train
from sagasr.cli.upsample import upsample
from sagasr.config.patching import patch
from sagasr.io.files import dump_yaml, parse_yaml, read_yaml
from tests.orchestrator.run.nvidia import list_gpus, no_tool
from tests.small import BASE

MISTAKES: list[dict[str, Any]] = parse_yaml(Path(__file__).with_name("mistakes.yaml").read_text(), "mistakes.yaml")
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "sagasr-sweep": sweep,
    "sagasr-report": report,
    "sagasr-encode": encode,
    "sagasr-train": train,
    "sagasr-upsample": upsample,
}
PROGRESS = re.compile(r"checking \d+/\d+")


def noise(*shape: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(shape)


def latin_1(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "manifest.csv").write_bytes("path,split,caption\na.flac,train,caf\xe9\nc.flac,val,y\n".encode("latin-1"))


def cut(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "a.flac").write_bytes((study / "a.flac").read_bytes()[:9_000])


def silent(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(study / "a.flac", np.zeros(20_000), 44_100)


def three_channels(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(study / "a.flac", noise(20_000, 3), 44_100)


def not_finite(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(study / "a.wav", np.full(20_000, np.nan), 44_100, subtype="FLOAT")
    (study / "manifest.csv").write_text("path,split,caption\na.wav,train,x\nc.flac,val,y\n")


def no_nvidia_smi(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_tool(monkeypatch, study)


def no_gpu(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_gpus(monkeypatch, study)


def one_gpu(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_gpus(monkeypatch, study, ("NVIDIA L4", 23_034))


def hidden_gpu(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_gpu(study, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def small_gpu(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_gpus(monkeypatch, study, ("NVIDIA T400", 2_048))


def old_driver(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_gpus(monkeypatch, study, ("NVIDIA L4", 23_034), driver="535.183.01")
    monkeypatch.setattr("torch.version.cuda", "13.0")


def no_cuda(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_gpu(study, monkeypatch)
    monkeypatch.setattr("torch.version.cuda", None)


def lost_gpu(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_gpu(study, monkeypatch)
    monkeypatch.setattr("torch.version.cuda", "13.0")


def a_token(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)


def no_token(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(study / "auth_token"))


def tracked_in_a_folder(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")


def latin_1_grid(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "grid.yaml").write_bytes("question: Gr\xf6\xdfe?\n".encode("latin-1"))


def a_loop(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "manifest.csv").unlink()
    (study / "manifest.csv").symlink_to("manifest.csv")


def a_dead_link(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "dead.yaml").symlink_to("gone.yaml")


def long_storage(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "grid.yaml").write_text((study / "grid.yaml").read_text() + f"storage: {'s' * 300}\n")


def folders(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "study").mkdir()


PREPARATIONS = {
    each.__name__: each
    for each in (
        *(latin_1, cut, silent, three_channels, not_finite, a_token, no_token),
        *(no_nvidia_smi, no_gpu, one_gpu, hidden_gpu, small_gpu, old_driver, no_cuda, lost_gpu),
        *(tracked_in_a_folder, latin_1_grid, a_loop, a_dead_link, long_storage, folders),
    )
}


def prepare(study: Path, mistake: dict[str, Any]) -> None:
    """Make the mistake in a sound study."""
    base, grid = mistake.get("base", {}), mistake.get("grid", {})
    (study / "base.yaml").write_text(dump_yaml(patch(BASE, base)))
    kept = {key: value for key, value in read_yaml(study / "grid.yaml").items() if key not in grid}
    (study / "grid.yaml").write_text(dump_yaml(kept | grid))
    for name, text in mistake.get("write", {}).items():
        (study / name).write_text(text)


def said(mistake: dict[str, Any]) -> list[str]:
    """Return a part of each line that answers."""
    return [mistake["says"]] if isinstance(mistake["says"], str) else mistake["says"]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake["name"])
def test_a_mistake_gets_its_line_and_leaves_nothing(mistake, make_grid, monkeypatch, capfd):
    study = make_grid().parent
    prepare(study, mistake)
    if "make" in mistake:
        PREPARATIONS[mistake["make"]](study, monkeypatch)
    monkeypatch.chdir(study)
    before = {path: path.lstat().st_mtime_ns for path in study.rglob("*")}
    command, *arguments = shlex.split(mistake["run"])
    try:
        code = COMMANDS[command](arguments)
    except SystemExit as ended:
        code = ended.code
    told = capfd.readouterr().err
    lines = [line for line in told.splitlines() if not PROGRESS.fullmatch(line)]
    expected = said(mistake)
    assert code == 2, told
    assert len(lines) == len(expected), told
    for line, words in zip(lines, expected, strict=True):
        assert words in line
        assert len(line.replace(str(study), "")) < 400
    assert {path: path.lstat().st_mtime_ns for path in study.rglob("*")} == before


def test_the_table_is_large_and_no_mistake_is_in_it_twice():
    assert len({mistake["name"] for mistake in MISTAKES}) == len(MISTAKES) >= 50


def test_the_questions_about_grid_files_quote_real_lines():
    document = (Path(__file__).parents[4] / "search_spaces" / "README.md").read_text()
    section = document.split("\n## Questions\n")[1].split("\n## ")[0]
    quoted = re.findall(r"^- `([^`]*)`:", section, re.MULTILINE)
    lines = "\n".join(line for mistake in MISTAKES for line in said(mistake))
    assert quoted
    assert [line for line in quoted if line not in lines] == []
