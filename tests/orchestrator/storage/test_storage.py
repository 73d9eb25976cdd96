"""Storages by URI, on an S3 server of this machine: nothing half written is read, nothing is lost with a machine."""

import errno
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from orchestrator.storage import claims, mirror
from orchestrator.storage import remote as storage
from orchestrator.storage.claims import claimed
from orchestrator.storage.folder import SweepFolder, check_folder
from orchestrator.storage.mirror import Mirror, mirrored, send_store, shared_store
from orchestrator.storage.remote import LAUNCH, Remote, check_storage, open_storage
from orchestrator.sweep_folder.paths import SweepPaths
from sagasr.io import lease
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import write_whole
from sagasr.training.checkpoint import load, save
from sagasr.training.trial_log import Status, read_status, write_status
from tests.orchestrator.storage.s3_server import BUCKET, serving

pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with serving() as environment:
        yield environment


@pytest.fixture
def bucket(
    server: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> str:
    """The URI of an empty place; the environment says how it is reached."""
    for name, value in {**server, "SAGASR_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    open_storage.cache_clear()
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture(params=["s3", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    if request.param == "s3":
        return open_storage(request.getfixturevalue("bucket"))
    from pyarrow.fs import LocalFileSystem

    return Remote(LocalFileSystem(), str(tmp_path / "remote"), "file")


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URI of an empty place on this disk."""
    monkeypatch.setenv("SAGASR_CACHE", str(tmp_path / "cache"))
    open_storage.cache_clear()
    return f"file://{tmp_path}/remote"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def train(folder: Path, steps: int, state: str = "running") -> None:
    """Leave behind what a training does: history, the last two checkpoints, status."""
    with (folder / "history.jsonl").open("a") as history:
        history.write(f'{{"step": {steps}}}\n')
    write(folder / f"checkpoints/step-{steps:08d}/tensors.safetensors", f"tensors {steps}" * 10)
    write(folder / f"checkpoints/step-{steps:08d}/state.json", f"state {steps}")
    write(folder / f"checkpoints/step-{steps:08d}/manifest.json", f"manifest {steps}")
    for old in sorted((folder / "checkpoints").glob("step-*"))[:-2]:
        shutil.rmtree(old)
    write_status(folder, Status(state=state, step=steps))


# ---------------------------------------------------------------------------------------------------------- objects


def test_objects_are_written_read_listed_copied_and_removed(place: Remote, tmp_path: Path) -> None:
    place.write("a/b.txt", b"first")
    place.write("a/b.txt", b"second")
    assert place.read("a/b.txt") == b"second"
    assert place.read("a/c.txt") is None
    big = tmp_path / "big"
    big.write_bytes(os.urandom(11 << 20))  # more than one part
    assert place.upload(big, "big")
    assert not place.upload(tmp_path / "absent", "absent")
    assert {name: found.size for name, found in place.list().items()} == {"a/b.txt": 6, "big": 11 << 20}
    assert place.download("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == big.read_bytes()
    assert not place.download("absent", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    place.delete("big")
    place.delete("big")
    assert list((place / "a").list()) == ["b.txt"]


def test_a_storage_that_cannot_be_used_is_refused_in_one_line(bucket: str) -> None:
    check_storage(open_storage(bucket))
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        open_storage("attic://bucket")
    with pytest.raises(ConfigError, match="does the bucket exist") as refused:
        check_storage(open_storage("s3://nobody-made-this/x"))
    assert "\n" not in str(refused.value)


def test_keys_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="environment") as refused:
        open_storage("s3://AKIAME:hush@bucket/x")
    assert "hush" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
def test_a_folder_of_others_or_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "mine"
    folder.mkdir(parents=True)
    check_folder(folder)
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod o-w"):
        check_folder(folder)
    folder.chmod(0o755)
    folder.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="everybody may replace"):
        check_folder(folder)
    folder.parent.chmod(0o1777)
    check_folder(folder)
    os.chown(folder, 4_321, -1)
    with pytest.raises(ConfigError, match="another user"):
        check_folder(folder)


# ------------------------------------------------------------------------------------------------------- one writer


def test_a_place_has_one_holder_who_is_named(place: Remote) -> None:
    with claimed(place), pytest.raises(DataError, match=f"process {os.getpid()}"), claimed(place):
        pass
    with claimed(place):
        pass
    assert [name for name in place.list() if name.endswith(".claim")] == []


def test_of_many_who_claim_at_once_one_holds(place: Remote) -> None:
    held: list[int] = []
    start, done = threading.Barrier(5), threading.Barrier(5)

    def contend(number: int) -> None:
        start.wait()
        try:
            with claimed(place):
                held.append(number)
                done.wait(30)
        except DataError:
            done.wait(30)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_the_claim_of_a_dead_process_is_taken_over(place: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = lease.me().model_copy(update={"pid": ended.pid})
    place.write(".claims/dead.claim", gone.model_dump_json().encode())
    with claimed(place):
        pass
    elsewhere = lease.me().model_copy(update={"host": "elsewhere", "boot": "another"})
    place.write(".claims/far.claim", elsewhere.model_dump_json().encode())
    time.sleep(1.1)  # the earlier of the two, by a clock of whole seconds
    with pytest.raises(DataError, match="elsewhere"), claimed(place):
        pass
    monkeypatch.setattr(claims, "CLAIM_EXPIRES_S", 2.0)
    time.sleep(2.1)
    with claimed(place):
        pass


def test_who_was_asleep_while_its_place_was_taken_over_finds_out(
    place: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "CLAIM_EXPIRES_S", 0.4)
    lost = threading.Event()
    with claimed(place, lost.set):
        assert not lost.wait(0.5)
        (claim,) = [name for name in place.list() if name.endswith(".claim")]
        place.delete(claim)  # as its successor does
        assert lost.wait(30)


# ------------------------------------------------------------------------------------------------ a worker's folder


def test_another_machine_goes_on_from_the_storage_alone(place: Remote, tmp_path: Path) -> None:
    first = Mirror(tmp_path / "one", place)
    first.pull()
    for steps in (10, 20, 30):
        train(first.folder, steps)
        first.push()
    write(first.folder / ".1234.json", "half")
    first.push()

    second = Mirror(tmp_path / "two", place)
    second.pull()
    assert [path.name for path in sorted((tmp_path / "two/checkpoints").iterdir())] == [
        "step-00000020",
        "step-00000030",
    ]
    assert (tmp_path / "two/history.jsonl").read_text().count("\n") == 3
    assert read_status(tmp_path / "two") == read_status(tmp_path / "one")
    assert not (tmp_path / "two/.1234.json").exists()


def test_a_checkpoint_cut_short_on_its_way_does_not_exist(place: Remote, tmp_path: Path) -> None:
    first = Mirror(tmp_path / "one", place)
    first.pull()
    train(first.folder, 10)
    first.push()
    place.write("checkpoints/step-00000020/tensors.safetensors", b"all of them")
    second = Mirror(tmp_path / "two", place)
    second.pull()
    assert [path.name for path in (tmp_path / "two/checkpoints").iterdir()] == ["step-00000010"]


def test_what_others_rely_on_is_sent_before_them(
    place: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    upload, put = Remote.upload, Remote.write
    monkeypatch.setattr(Remote, "upload", lambda self, path, name: sent.append(name) or upload(self, path, name))
    monkeypatch.setattr(Remote, "write", lambda self, name, text: sent.append(name) or put(self, name, text))
    one = Mirror(tmp_path / "one", place)
    one.pull()
    train(one.folder, 10)
    one.push()
    manifest = "checkpoints/step-00000010/manifest.json"
    assert sent.index("history.jsonl") < sent.index("checkpoints/step-00000010/tensors.safetensors")
    assert (
        sent.index("checkpoints/step-00000010/tensors.safetensors") < sent.index(manifest) < sent.index("status.json")
    )


def test_the_process_before_finds_out_and_writes_no_more(place: Remote, tmp_path: Path) -> None:
    zombie = Mirror(tmp_path / "one", place)
    zombie.pull()
    train(zombie.folder, 10)
    zombie.push()
    Mirror(tmp_path / "two", place).pull()
    train(zombie.folder, 20)
    with pytest.raises(lease.Lost, match="taken over"):
        zombie.push()
    assert "checkpoints/step-00000020/manifest.json" not in place.list()


def test_the_storage_keeps_a_whole_checkpoint_though_a_fast_training_prunes_each_while_it_is_sent(
    place: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Mirror(tmp_path / "one", place)
    one.pull()
    train(one.folder, 10)
    one.push()
    upload = Remote.upload

    def overtaken(self: Remote, path: Path, name: str) -> bool:
        done = upload(self, path, name)
        if name.endswith("tensors.safetensors"):
            shutil.rmtree(path.parent)
        return done

    train(one.folder, 20)
    train(one.folder, 30)
    with monkeypatch.context() as patched:
        patched.setattr(Remote, "upload", overtaken)
        one.push()
    two = Mirror(tmp_path / "two", place)
    two.pull()
    assert [path.name for path in (tmp_path / "two/checkpoints").iterdir()] == ["step-00000010"]
    three = Mirror(tmp_path / "three", place)
    three.pull()
    for steps in (20, 30):
        train(three.folder, steps)
        three.push()
    assert not [name for name in place.list() if name.startswith("checkpoints/step-00000010/")]


def test_what_is_sent_while_a_training_writes_and_prunes_is_whole(place: Remote, tmp_path: Path) -> None:
    one = Mirror(tmp_path / "one", place)
    one.pull()
    over = threading.Event()

    def work() -> None:
        for steps in range(10, 400, 10):
            train(one.folder, steps)
        over.set()

    threading.Thread(target=work).start()
    while not over.is_set():
        one.push()
    one.push()
    two = Mirror(tmp_path / "two", place)
    two.pull()
    for folder in (tmp_path / "two/checkpoints").iterdir():
        assert {path.name for path in folder.iterdir()} == {"manifest.json", "state.json", "tensors.safetensors"}
    assert (tmp_path / "two/checkpoints/step-00000390").exists()
    assert (tmp_path / "two/history.jsonl").read_text() == (tmp_path / "one/history.jsonl").read_text()


def test_a_disk_that_is_full_for_a_moment_does_not_end_the_copying(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = open_storage(local)
    remote.write(LAUNCH, b"launch")
    monkeypatch.setattr(mirror, "EVERY_S", 0.05)
    full, download = threading.Event(), Remote.download

    def fill(self: Remote, name: str, target: Path) -> bool:
        if threading.current_thread() is not threading.main_thread() and not full.is_set():
            full.set()
            write_whole(target, no_space)
        return download(self, name, target)

    monkeypatch.setattr(Remote, "download", fill)
    with mirrored(local, "t1") as (folder, _):
        assert full.wait(30)
        write(folder / "history.jsonl", "{}")
        deadline = time.monotonic() + 30
        while "trials/t1/history.jsonl" not in remote.list():
            assert time.monotonic() < deadline, "nothing is copied any more"
            time.sleep(0.05)


def no_space(_: Path) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_the_folder_of_a_process_on_another_machine_is_left_alone_until_it_is_long_abandoned(
    local: str, tmp_path: Path
) -> None:
    open_storage(local).write(LAUNCH, b"launch")
    workers = storage.local_folder(local, "workers")
    ended = subprocess.Popen(["true"])
    ended.wait()
    with mirrored(local, "t1") as (folder, _):
        mine = folder.parents[1]
    machine = mine.name.rpartition("-")[0]
    dead, other, abandoned = (
        workers / name for name in (f"{machine}-{ended.pid}", f"{socket.gethostname()}-{ended.pid}", "far-1")
    )
    for path in (dead, other, abandoned):
        path.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    with mirrored(local, "t1"):
        assert set(workers.iterdir()) == {mine, other}


# ------------------------------------------------------------------------------------------------ the sweep's folder


def test_the_sweep_reads_along_without_the_weights(bucket: str, tmp_path: Path) -> None:
    worker = Mirror(tmp_path / "worker", open_storage(f"{bucket}/trials/t1"))
    worker.pull()
    train(worker.folder, 10)
    worker.push()
    SweepFolder(tmp_path / "sweep", bucket).fetch()
    copy = tmp_path / "sweep/trials/t1"
    assert read_status(copy) == read_status(worker.folder)
    assert [path.name for path in (copy / "checkpoints/step-00000010").iterdir()] == ["manifest.json"]
    for steps in (20, 30, 40):
        train(worker.folder, steps, "done" if steps == 40 else "running")
        worker.push()
        SweepFolder(tmp_path / "sweep", bucket).fetch_trials(["t1"])
        assert read_status(copy) == read_status(worker.folder)
    assert sorted(path.parent.name for path in copy.glob("checkpoints/*/manifest.json")) == [
        "step-00000030",
        "step-00000040",
    ]


def test_the_weights_of_a_trial_are_fetched_for_who_wants_them(bucket: str, tmp_path: Path) -> None:
    worker = Mirror(tmp_path / "worker", open_storage(f"{bucket}/trials/t1"))
    worker.pull()
    for step in (90, 100):
        save({"state_dict": {"weight": torch.full((2,), step)}}, worker.folder / f"checkpoints/step-{step:08d}")
    worker.push()
    sweep = SweepFolder(tmp_path / "sweep", bucket)
    sweep.fetch()
    for _ in range(2):
        sweep.fetch_checkpoint("t1")
    there = sweep.paths.trial("t1") / "checkpoints"
    assert load(there / "step-00000100")["state_dict"]["weight"].tolist() == [100, 100]
    assert [path.name for path in (there / "step-00000090").glob("*")] == ["manifest.json"]
    sweep.fetch_checkpoint("t2")  # which never had one


def test_a_copy_that_the_storage_does_not_know_is_no_result(bucket: str, tmp_path: Path) -> None:
    write(tmp_path / "sweep/trials/old/status.json", "{}")
    SweepFolder(tmp_path / "sweep", bucket).fetch()
    assert not (tmp_path / "sweep/trials/old").exists()


def test_a_trial_that_a_sweep_of_this_machine_has_just_begun_is_left_to_it(local: str, tmp_path: Path) -> None:
    record = write(tmp_path / "sweep/trials/new/trial.json", "{}")
    with lease.held(SweepPaths(tmp_path / "sweep").lease):
        SweepFolder(tmp_path / "sweep", local).fetch()
        assert record.exists()
        SweepFolder(tmp_path / "sweep", local).fetch(alone=True)
    assert not record.parent.exists()


def test_what_is_removed_while_it_is_listed_is_no_fault(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = open_storage(local)
    kept, pruned = (f"trials/t1/checkpoints/step-0000001{n}/manifest.json" for n in (0, 1))
    for name in (kept, pruned):
        remote.write(name, b"{}")
        os.utime(Path(remote.path) / name, (0, 0))  # long settled
    download = Remote.download

    def prune(self: Remote, name: str, target: Path) -> bool:
        self.delete(pruned)
        return download(self, name, target)

    monkeypatch.setattr(Remote, "download", prune)
    SweepFolder(tmp_path / "sweep", local).fetch()
    assert (tmp_path / "sweep" / kept).exists()
    assert not (tmp_path / "sweep" / pruned).exists()


def test_results_are_published_by_who_holds_the_place_alone(local: str, tmp_path: Path) -> None:
    write(tmp_path / "sweep/report/index.html", "an older answer")
    with claimed(open_storage(local)), pytest.raises(DataError, match="another sweep writes here"):
        SweepFolder(tmp_path / "sweep", local).publish_results(str)
    assert "report/index.html" not in open_storage(local).list()
    SweepFolder(tmp_path / "sweep", local).publish_results(str)
    assert "report/index.html" in open_storage(local).list()


def test_results_reach_the_storage_and_private_files_do_not(bucket: str, tmp_path: Path) -> None:
    for name in ("plan.json", "results/replicates.parquet", "audio/r1/clip.flac", ".tracking.json", ".owner.json"):
        write(tmp_path / "sweep" / name, name)
    write(tmp_path / "sweep/trials/t1/log.txt", "of the worker")
    SweepFolder(tmp_path / "sweep", bucket).send_results()
    expected = {"plan.json", "results/replicates.parquet", "audio/r1/clip.flac", ".tracking.json"}
    assert set(open_storage(bucket).list()) == expected


def test_a_store_is_encoded_once_and_fetched_by_the_others(bucket: str, tmp_path: Path) -> None:
    for name in ("train.arrow", "val.arrow", "meta.json"):
        write(tmp_path / "store/0123" / name, name)
    send_store(bucket, tmp_path / "store/0123")
    found = shared_store(bucket, tmp_path / "store/0123")
    assert {path.name: path.read_text() for path in found.iterdir()} == {
        name: name for name in ("train.arrow", "val.arrow", "meta.json")
    }
