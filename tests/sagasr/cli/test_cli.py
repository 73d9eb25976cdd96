"""What all commands share, as a shell sees it."""

import errno
import os
import subprocess
import sys

import pytest

from sagasr.cli import common as cli

COMMAND = """
import sys
from sagasr.cli import common as cli
def command():
    for number in range(3):
        print(number, flush=True)
    return cli.DONE
sys.exit(cli.run(command, interrupted="interrupted"))
"""


def test_a_command_whose_reader_has_gone_did_not_do_everything() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", COMMAND], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (PermissionError(errno.EACCES, "", "manifest.csv"), "manifest.csv: this user may not read or write there; "),
        (OSError(errno.EROFS, "", "report"), "report: the file system is read-only; "),
        (FileExistsError(errno.EEXIST, "", "report"), "report: a file stands where a folder is needed; move it away"),
        (IsADirectoryError(errno.EISDIR, "", "table"), "table: a folder stands where a file is needed; "),
        (RuntimeError("Symlink loop from 'loop'"), "loop: a link that leads back to itself; "),
    ],
)
def test_what_a_file_system_refuses_is_one_line(raised, said, capsys) -> None:
    def command() -> int:
        raise raised

    assert cli.run(command) == cli.BAD_INPUT
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("bug", [FileNotFoundError(errno.ENOENT, "", "x"), OSError(errno.ENOTDIR, ""), RuntimeError()])
def test_a_bug_keeps_its_traceback(bug) -> None:
    def command() -> int:
        raise bug

    with pytest.raises(type(bug)):
        cli.run(command)


@pytest.mark.parametrize(
    "program",
    [
        "import sys; from sagasr.cli import common as cli; sys.exit(cli.run(lambda: print('Größe') or 0))",
        "from sagasr.cli import common as cli; cli.Parser('Größe', '', '').parse(['--version'])",
    ],
)
def test_a_terminal_without_a_sign_gets_the_rest(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Gr\\xf6\\xdfe")
