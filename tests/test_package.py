"""What is installed: the version from one place, a wheel that holds all it needs, licences that bind nobody."""

import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

import sagasr
from orchestrator.cli.encode import main as encode
from orchestrator.cli.report import report
from orchestrator.cli.sweep import sweep
from sagasr.cli.train import train
from sagasr.cli.upsample import upsample
from tests.licences import COPYLEFT, direct, licence_of

ROOT = Path(__file__).parent.parent
COMMANDS = {"sweep": sweep, "report": report, "encode": encode, "train": train, "upsample": upsample}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_the_version_and_what_completes_it(name, capsys):
    for option in ("--version", "--completion"):
        with pytest.raises(SystemExit) as ended:
            COMMANDS[name]([option])
        assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0] == f"sagasr-{name} {sagasr.__version__}"
    assert f"sagasr-{name}" in told.splitlines()[-1]


def test_bash_completes_an_option(capsys):
    with pytest.raises(SystemExit):
        sweep(["--completion"])
    script = capsys.readouterr().out + 'compgen -W "$(complete -p sagasr-sweep | sed "s/.*-W \'//; s/\'.*//")" -- --pl'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["--plan"], done.stderr


def test_the_version_installed_is_the_one_the_code_states():
    assert version("sagasr") == sagasr.__version__


def test_no_direct_dependency_is_copyleft():
    licences = {name: licence_of(name) for name in direct()}
    assert {name for name, licence in licences.items() if COPYLEFT.search(licence)} == set()
    assert {name for name, licence in licences.items() if licence == "not stated"} == set()


@pytest.mark.slow
def test_a_wheel_plans_the_demo_from_an_empty_folder(tmp_path):
    build = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    source = tmp_path / "source"
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, (os.fsdecode(name) for name in files)):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"sagasr-{sagasr.__version__}-")
    place = tmp_path / "installed"
    venv.create(place, with_pip=True)
    subprocess.run(
        [place / "bin" / "pip", "install", "--no-deps", "--no-index", wheel], capture_output=True, check=True
    )
    packages = next(place.glob("lib/python*/site-packages"))
    assert (packages / "sagasr" / "py.typed").exists()
    assert (packages / "orchestrator" / "py.typed").exists()
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"])  # its dependencies, not its code
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments in (["sagasr-sweep", "--help"], ["sagasr-sweep", "demo", "--plan"], ["sagasr-upsample", "--version"]):
        command = [place / "bin" / arguments[0], *arguments[1:]]
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    where = "import sagasr; print(sagasr.__file__)"
    found = subprocess.run(
        [place / "bin" / "python", "-c", where], cwd=empty, capture_output=True, text=True, check=True
    )
    assert str(place) in found.stdout
    assert list(empty.iterdir()) == []
