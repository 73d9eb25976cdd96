"""Files are whole or absent, and YAML means what a person reads in it."""

import errno
import math
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from sagasr.io import fingerprint as identity
from sagasr.io.errors import ConfigError, DataError, StorageError
from sagasr.io.files import (
    dump_yaml,
    link_or_copy,
    parse_yaml,
    read_json,
    read_yaml,
    write_json,
    write_text,
    write_whole,
)
from sagasr.io.fingerprint import content_of, file_sha256, fingerprint, seed_of
from sagasr.training import checkpoint


def test_yaml_reads_words_and_numbers_as_a_person_does() -> None:
    tree = parse_yaml("a: off\nb: 1e-4\nc: 0.1\nd: 12:30\ne: no\nf: 010\n", "x")
    assert tree == {"a": "off", "b": 1e-4, "c": 0.1, "d": "12:30", "e": "no", "f": 10}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "line 2: duplicate key"),
        ("a:\n\t- 1\n", "line 2"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("[" * 1_000 + "]" * 1_000, "not valid YAML"),
        (
            "\n".join(["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]),
            "large",
        ),
        ("just text", "expected 'key: value'"),
    ],
)
def test_yaml_that_cannot_be_meant_is_one_line_without_traceback(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_or_binary_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, expected in (
        ("none.yaml", "no such file"),
        ("binary.yaml", "cannot be read as text"),
        (".", "a folder; name the file"),
    ):
        with pytest.raises(ConfigError, match=expected):
            read_yaml(tmp_path / name)


def test_dumped_yaml_reads_back_equal() -> None:
    tree = {"name": "off", "levels": {"100": {}, "0.1": {"a.b": 0.1}}, "list": [1, "1", True, None, 1e-5]}
    assert parse_yaml(dump_yaml(tree), "x") == tree


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"step": 1})

    def broken(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_whole(path, broken)
    with pytest.raises(ValueError):
        write_json(path, {"loss": math.nan})
    assert read_json(path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    def fill(temporary: Path) -> None:
        with Path("/dev/full").open("w") as full:
            full.write("x" * 100_000)

    with pytest.raises(DataError, match="no space left"):
        write_whole(tmp_path / "file", fill)


def test_written_text_survives_a_round_trip(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "note.txt", "Füße\n")
    assert (tmp_path / "deep" / "note.txt").read_text(encoding="utf-8") == "Füße\n"


def test_fingerprints_depend_on_content_and_not_on_order_or_number_format() -> None:
    assert fingerprint({"a": 1, "b": [2.0]}) == fingerprint({"b": (2,), "a": 1.0})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    # Frozen: these may never change, or finished work would be run again.
    assert fingerprint({"a": 1, "b": ["off", 0.1]}).startswith("e6ad1386fac5")
    assert seed_of("draws", 0, 1) == 8425467556700223068


def test_a_file_is_linked_to_and_what_was_there_is_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    for _ in range(2):
        link_or_copy(source, target)
        assert target.samefile(source)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def test_without_links_a_file_is_copied_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    without_links(monkeypatch)
    link_or_copy(source, target)
    assert target.read_text() == "new"
    assert not target.samefile(source)
    target.write_text("old")
    only_half_is_copied(monkeypatch)
    with pytest.raises(StorageError, match="no space left"):
        link_or_copy(source, target)
    assert target.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def only_half_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: Path, target: Path, **_: object) -> None:
        content = Path(source).read_bytes()
        Path(target).write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", copy)


def test_content_is_read_anew_only_when_a_file_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(identity, "file_sha256", lambda path: read.append(path) or file_sha256(path))
    path = tmp_path / "weights"
    path.write_text("one")
    first = content_of(path)
    assert content_of(path) == first == file_sha256(path)
    path.write_text("other")
    assert content_of(path) == file_sha256(path) != first
    assert read == [path, path]


def test_files_and_folders_are_as_open_to_others_as_the_umask_says(tmp_path: Path) -> None:
    for mask, kept in ((0o077, 0o700), (0o002, 0o775)):
        before = os.umask(mask)
        try:
            write_text(tmp_path / f"{mask}.txt", "x")
            checkpoint.save({"a": torch.zeros(1)}, tmp_path / f"{mask}" / "step-00000001")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{mask}.txt").stat().st_mode) == kept & 0o666
        written = [tmp_path / f"{mask}", *(tmp_path / f"{mask}").rglob("*")]
        assert all(stat.S_IMODE(path.stat().st_mode) | kept == kept for path in written)
        assert stat.S_IMODE((tmp_path / f"{mask}" / "step-00000001").stat().st_mode) == kept


def test_half_a_character_in_a_json_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(r'["\ud83d\ude00"]')
    assert read_json(path) == ["\N{GRINNING FACE}"]
    path.write_text(r'["\ud800"]')
    with pytest.raises(DataError, match="not readable as JSON"):
        read_json(path)
