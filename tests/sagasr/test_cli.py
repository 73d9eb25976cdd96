"""What all commands share, as a shell sees it."""

import os
import subprocess
import sys

COMMAND = """
import sys
from sagasr import cli
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
