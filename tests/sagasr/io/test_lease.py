"""A folder has one writer: living owners are named, dead ones replaced, and who was replaced writes no more."""

import contextlib
import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagasr.io import lease
from sagasr.io.errors import DataError
from sagasr.io.files import LITTER, read_json, write_json

HOLD = (
    "import sys, time; from pathlib import Path; from sagasr.io import lease\n"
    "held = lease.acquire(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease.json"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and expiry in fractions of a second."""
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "EXPIRES_S", 0.6)


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def elsewhere(path: Path, **changes: object) -> lease.Owner:
    """Write the lease of a process on another machine."""
    owner = lease.me().model_copy(update={"host": "far", "boot": "other/1", "pid": 7, **changes})
    write_json(path, owner.model_dump())
    return owner


@contextlib.contextmanager
def beating(path: Path) -> Iterator[threading.Event]:
    """Touch a lease as its owner would, by a clock of no meaning, until the end of the block or of the event."""
    over = threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if over.wait(0.05):
                return
            os.utime(path, ns=(0, count))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield over
    finally:
        over.set()
        thread.join()


def test_a_living_owner_is_named_and_kept_and_a_killed_one_is_replaced_at_once(path: Path) -> None:
    other = holder(path)
    try:
        with pytest.raises(DataError, match=f"host {socket.gethostname()}, process {other.pid}, since 20"):
            lease.acquire(path)
        other.send_signal(signal.SIGSTOP)  # a process that is stopped still owns what it holds
        with pytest.raises(DataError):
            lease.acquire(path)
    finally:
        other.kill()
        other.wait()
    told: list[str] = []
    with lease.held(path, say=told.append) as mine:
        mine.check()
    assert not path.exists()
    assert "its process is gone" in told[0]


def test_a_process_that_took_the_number_of_a_dead_owner_is_not_that_owner(path: Path) -> None:
    write_json(path, lease.me().model_copy(update={"ticks": 1}).model_dump())
    lease.acquire(path, say=str).release()


def test_an_owner_from_before_a_restart_of_the_machine_is_replaced_once_it_was_silent(path: Path, short: None) -> None:
    write_json(path, lease.me().model_copy(update={"boot": "earlier/4026531836"}).model_dump())
    told: list[str] = []
    lease.acquire(path, say=told.append).release()
    assert "silent for" in told[0]


def test_of_another_machine_of_the_same_name_a_beat_is_life(path: Path, short: None) -> None:
    elsewhere(path, host=socket.gethostname())
    with beating(path), pytest.raises(DataError, match=f"host {socket.gethostname()}, process 7"):
        lease.acquire(path)


def test_of_another_machine_silence_is_waited_for_and_a_beat_is_life(path: Path, short: None) -> None:
    elsewhere(path, started=time.time() + 86_400)  # its clock is a day ahead, which is nobody's business
    began, told = time.monotonic(), list[str]()
    lease.acquire(path, say=told.append).release()
    assert time.monotonic() - began > 0.5
    assert "silent for" in told[0]

    elsewhere(path)
    with beating(path), pytest.raises(DataError, match="host far, process 7"):
        lease.acquire(path)


def test_who_falls_silent_while_it_is_waited_for_is_replaced(path: Path, short: None) -> None:
    elsewhere(path)
    told: list[str] = []
    with beating(path) as over:
        threading.Timer(0.4, over.set).start()
        lease.acquire(path, wait_s=60, say=told.append).release()
    assert "silent for" in told[0]


def test_who_was_replaced_finds_out_and_writes_no_more(path: Path, short: None) -> None:
    lost = threading.Event()
    mine = lease.acquire(path, on_lost=lost.set)
    elsewhere(path)
    with pytest.raises(lease.Lost, match="host far"):
        mine.check()
    assert lost.wait(5)
    mine.release()
    assert read_json(path)["host"] == "far"  # what is another's is left alone


def test_a_successor_ends_a_frozen_predecessor_on_its_machine(path: Path) -> None:
    other = holder(path)
    other.send_signal(signal.SIGSTOP)
    with lease.held(path, wait_s=10, replace=True, say=str):
        assert other.wait(10) == -signal.SIGKILL


def test_who_wakes_after_it_was_replaced_leaves_the_lease_of_its_successor(
    path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, lost = threading.Event(), threading.Event()
    check = lease.Lease.check

    def check_and_freeze(mine: lease.Lease) -> None:
        """Be replaced between the look at the lease and what is done then."""
        check(mine)
        if not replaced.is_set():
            elsewhere(path)
            replaced.set()

    monkeypatch.setattr(lease.Lease, "check", check_and_freeze)
    mine = lease.acquire(path, on_lost=lost.set)
    assert replaced.wait(5)
    assert lost.wait(5)
    assert read_json(path)["host"] == "far"
    mine.release()
    assert read_json(path)["host"] == "far"


@pytest.mark.parametrize("links", [True, False])
def test_the_owner_beats_by_touching_the_file_it_made(
    path: Path, short: None, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_link)
    with lease.held(path):
        made, content = path.stat(), read_json(path)
        wait_for_change(path, made.st_mtime_ns)
        wait_for_change(path, path.stat().st_mtime_ns)
        assert path.stat().st_ino == made.st_ino
        assert read_json(path) == content
        assert content["pid"] == os.getpid()
    assert not path.exists()


def refuse_link(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "no links here")


def wait_for_change(path: Path, before: int) -> None:
    deadline = time.monotonic() + 5
    while path.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_many_that_come_at_once_one_gets_it(path: Path) -> None:
    for left in [lease.me().model_copy(update={"ticks": 1}).model_dump()] * 12:  # by a dead process
        write_json(path, left)
        assert_one_of_many_gets(path)


def test_of_many_that_find_a_torn_lease_one_gets_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TORN_S", 0.05)
    for _ in range(10):
        path.write_text('{"host": "fa')
        assert_one_of_many_gets(path)


def test_who_died_while_taking_over_blocks_nobody(path: Path) -> None:
    dead = lease.me().model_copy(update={"ticks": 1})
    write_json(path, dead.model_dump())
    write_json(path.with_name(f"{LITTER}{path.name}-{dead.token}"), {**dead.model_dump(), "token": "of the guard"})
    assert_one_of_many_gets(path)
    assert not list(path.parent.iterdir())


def assert_one_of_many_gets(path: Path) -> None:
    got: list[lease.Lease] = []
    refused: list[DataError] = []

    def come() -> None:
        try:
            got.append(lease.acquire(path, say=str))
        except DataError as error:
            refused.append(error)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].check()
    got[0].release()


def test_a_lease_cut_short_by_a_crash_belongs_to_nobody(path: Path) -> None:
    path.write_text('{"host": "fa')
    lease.acquire(path, say=str).release()
