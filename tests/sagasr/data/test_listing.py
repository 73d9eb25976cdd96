"""What is told of files adds up: found = used + left out + no recordings, in every command, for any folder."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sagasr.training.train
import sagasr.upsample.files
import sagasr.upsample.upsampler
from orchestrator.cli import encode
from orchestrator.cli.sweep import sweep
from sagasr.cli.train import train as train_command
from sagasr.cli.upsample import upsample
from sagasr.config.parsing import parse
from sagasr.config.settings import Config, Data
from sagasr.data.folders import files_below
from sagasr.data.listing import Listing, list_data, list_stored, listed
from sagasr.data.splits import rows_of
from sagasr.io.errors import ConfigError
from sagasr.io.files import read_yaml
from sagasr.upsample.files import plan_files

RECORDINGS = (".wav", ".WAV", ".flac", ".aiff")
FOLDERS = ("train", "val", "Test", "a b", ".hidden", "__MACOSX", "dev-clean", "grün")
NAMES = ("a", "b", "._a", "é", "e\u0301")
SUFFIXES = (*RECORDINGS, ".txt", ".json", ".zip", ".dsf", ".mid", "")
LINKS = ("file", "folder", "loop", "up", "nowhere", "outside")
FORMATS = {".flac": "FLAC", ".aiff": "AIFF"}
SMALL = ["--set", "degradation.variants=1", "--set", "validation.clips=2"]

Files = Sequence[tuple[Sequence[str], str, str]]
trees = st.tuples(
    st.lists(
        st.tuples(st.lists(st.sampled_from(FOLDERS), max_size=2), st.sampled_from(NAMES), st.sampled_from(SUFFIXES)),
        max_size=8,
        unique_by=lambda it: (tuple(it[0]), it[1], it[2].lower()),
    ),
    st.sets(st.sampled_from(LINKS)),
)


def sound(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(9_000)
    soundfile.write(os.fspath(path), noise, 44_100, format=FORMATS.get(path.suffix, "WAV"))


def make(root: Path, files: Files, links: set[str]) -> tuple[Path, int]:
    """Write a tree with two recordings at least; return it, and how many files it holds, links to files among them."""
    folder, outside = root / "in", root / "outside"
    for seed in (1, 2, 3):
        sound(folder / f"sure/{seed}.wav", seed)
    count = 3
    for seed, (folders, name, suffix) in enumerate(files, start=10):
        path = folder.joinpath(*folders, f"{name}{suffix}")
        sound(path, seed) if suffix in RECORDINGS else path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        count += 1
    for name in sorted(links):
        link = folder / f"sure/link-{name}"
        match name:
            case "file":
                sound(root / "alone.wav", 100)
                link.with_suffix(".wav").symlink_to(root / "alone.wav")
            case "folder":
                link.symlink_to(folder / "sure")
            case "loop":
                link.symlink_to(".")
            case "up":
                link.symlink_to(root)
            case "nowhere":
                link.with_suffix(".wav").symlink_to("gone.wav")
            case "outside":
                sound(outside / "deep/o.wav", 101)
                (outside / "note.txt").touch()
                link.symlink_to(outside)
        count += {"file": 1, "nowhere": 1, "outside": 2}.get(name, 0)
    return folder, count


def check(listing: Listing, count: int) -> None:
    assert listing.found == count
    assert sum_of(listing.lines()[0]) == (count, count)


def sum_of(line: str) -> tuple[int, int]:
    """Return what a listing's first line says is found, and the sum of its parts."""
    total, parts = line.split(" found: ")
    return int(total.removeprefix("files: ")), sum(int(part) for part in re.findall(r"(\d+) \D+(?:,|$)", parts))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_used_left_out_and_others_are_all_there_is(tree: tuple[Files, set[str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, count = make(Path(name), *tree)
        data = Data(train=str(folder), val=str(folder))
        listing = list_data(data, {}, 2)
        check(listing, count)
        for use, split in (("train", "train"), ("validate", "val")):
            assert len(listing.used[use]) == len(rows_of(data, split))  # type: ignore[arg-type]
        readable = [file for file in files_below(folder) if file.is_recording]
        check(listed(files_below(folder), {"upsampled": [file.path for file in readable]}, {}), count)
        assert len({file.real for file in readable}) == len(readable)
        assert all("/.hidden/" not in file.real and not file.path.name.startswith(".") for file in readable)


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(trees)
def test_every_command_tells_all_there_is(capsys: pytest.CaptureFixture[str], tree: tuple[Files, set[str]]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        root = Path(name)
        folder, count = make(root, *tree)
        (root / "grid.yaml").write_text(
            "name: grid\nquestion: '?'\nbase: tiny.yaml\ndata: {train: in, val: in}\nfactors: {rolloff: [off, on]}\n"
            f"storage: {root / 'sweeps'}\nseeds: [0]\n"
        )
        upsampled = dict.fromkeys(source.stem for source, _ in listable(folder))
        patch.setattr(sagasr.upsample.upsampler.Upsampler, "load", lambda *_, **__: None)
        patch.setattr(sagasr.upsample.files, "upsample_files", lambda *_, **__: None)
        ended = SimpleNamespace(state="failed", step=0, reason="")
        patch.setattr(sagasr.training.train, "train", lambda *_, **__: ended)
        text = ["--set", "conditions.text.source=off"]
        data = ["--set", f"data.train={folder}", "--set", f"data.val={folder}"]
        train = ["search_spaces/tiny.yaml", "--out", str(root / "out"), *data, *text, *SMALL]
        store = ["--store", str(root / "stores"), "--workers", "1", *text, *SMALL]
        lines = [told(capsys, sweep([str(root / "grid.yaml"), "--plan", *text]), 0)]
        lines += [told(capsys, encode.main([str(folder), *store]), 0)]
        lines += [told(capsys, train_command(train), 1)]
        assert [sum_of(line) for line in lines] == [(count, count)] * 3
        assert sweep([str(root / "grid.yaml"), "--plan", "--json", *text]) == 0
        files = json.loads(capsys.readouterr().out)["files"][0]
        assert sum((*files["used"].values(), *files["left_out"].values(), files["other"])) == files["found"] == count
        if upsampled:
            line = told(capsys, upsample([str(folder), str(root / "up"), "--checkpoint", "none"]), 0)
            assert sum_of(line) == (count, count)


def listable(folder: Path) -> list[tuple[Path, Path]]:
    """Return what upsampling would write; nothing where two recordings would be written to one file."""
    try:
        return plan_files(folder, folder.parent / "up")
    except sagasr.upsample.upsampler.DataError:
        return []


def told(capsys: pytest.CaptureFixture[str], code: int, expected: int) -> str:
    """Return the line on files of a command's output."""
    captured = capsys.readouterr()
    assert code == expected, captured.err
    (line,) = [line for line in (captured.out + captured.err).splitlines() if line.startswith("files: ")]
    return line


def test_predictions_of_a_sweep_among_the_recordings_do_not_train(tmp_path: Path) -> None:
    for seed, name in enumerate(("1.wav", "2.wav", "sweeps/x/audio/r/3.wav")):
        sound(tmp_path / name, seed)
    for name in ("base.yaml", "grid.yaml", "plan.json"):
        (tmp_path / "sweeps/x" / name).touch()
    assert {row.path for row in rows_of(Data(train=str(tmp_path), val=str(tmp_path)), "train")} <= {"1.wav", "2.wav"}
    assert "1 left out" in " ".join(list_data(Data(train=str(tmp_path), val=str(tmp_path)), {}, 1).lines())


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look into folders called ``closed``, as root may; ``gone`` vanishes before it is looked into."""
    scandir = os.scandir

    def refusing(place: str | int) -> object:
        if isinstance(place, int):  # from rmtree
            return scandir(place)
        if Path(place).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
        if Path(place).name == "gone":
            shutil.rmtree(place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)


def neighbours(folder: Path, link: bool) -> None:
    """Put beside recordings what is not theirs and cannot be looked at."""
    for name in ("a/closed", "gone"):
        sound(folder / name / "x.wav", 9)
    if link:
        (folder / "far").symlink_to("x" * 300)  # the system refuses to say what it leads to


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("named", ["m.csv", "manifest.csv", ""])
def test_what_lies_beside_a_manifest_never_stops(tmp_path: Path, named: str) -> None:
    for seed, name in enumerate(("1.wav", "2.wav")):
        sound(tmp_path / name, seed)
    neighbours(tmp_path, link=bool(named))
    (tmp_path / (named or "metadata.csv")).write_text(
        f"{'path' if named else 'file_name'},split\n1.wav,train\n2.wav,val\n"
    )
    source = str(tmp_path / named) if named == "m.csv" else str(tmp_path)
    data = Data(train=source, val=source)
    if not named:  # the folder itself is searched, and a part of it would be missing
        with pytest.raises(ConfigError, match=r"cannot be searched for recordings \(Permission denied: .*a/closed\)"):
            list_data(data, {}, 1)
        return
    listing = list_data(data, {}, 1)
    assert (len(listing.used["train"]), len(listing.used["validate"])) == (1, 1)
    assert "1 folders could not be looked into: a/closed" in listing.told
    check(listing, 4)


def test_a_store_is_told_of_though_its_data_are_gone(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.csv")
    tree = read_yaml(Path("search_spaces/tiny.yaml")) | {"data": {"train": gone, "val": gone}}
    config = parse(Config, tree, "tiny")
    (line,) = list_stored(config, {"left_out": []})
    assert line.startswith("files: not listed, as the data changed after they were read: ")
