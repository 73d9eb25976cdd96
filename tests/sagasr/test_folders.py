"""Folders as corpora come: layouts are known, texts and splits follow from them, and what is wrong is named."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sagasr.config import Data
from sagasr.data.folders import describe
from sagasr.data.manifest import Row, read_manifest, rows_of, usable_rows
from sagasr.errors import ConfigError


def sound(path: Path, seed: int = 0, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal((4_000, channels))
    soundfile.write(path, noise, 44_100, format="FLAC" if path.suffix == ".flac" else "WAV")


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def split_of(folder: Path) -> dict[str, str]:
    data = Data(train=str(folder), val=str(folder))
    return {row.path: split for split in ("train", "val") for row in rows_of(data, split)}  # type: ignore[arg-type]


def paths(rows: Sequence[Row]) -> list[str]:
    return [row.path for row in rows]


def test_vctk_gives_transcripts_and_is_split_by_speaker(tmp_path: Path) -> None:
    speakers = [f"p{number}" for number in range(225, 255)]
    for number, speaker in enumerate(speakers):
        for take in (1, 2):
            sound(tmp_path / f"wav48_silence_trimmed/{speaker}/{speaker}_00{take}_mic1.flac", 10 * number + take)
        text(tmp_path / f"txt/{speaker}/{speaker}_001.txt", f"Please call\n {speaker}.\n")
    sound(tmp_path / "stray.wav")
    rows = read_manifest(tmp_path)
    assert len(rows) == 60
    assert (rows[0].transcript, rows[0].caption, rows[0].domain) == ("Please call p225.", "", "speech")
    assert rows[1].transcript == ""
    split = split_of(tmp_path)
    assert split.keys() == set(paths(rows))
    by_speaker = {speaker: {split[path] for path in split if f"/{speaker}/" in path} for speaker in speakers}
    assert all(len(found) == 1 for found in by_speaker.values())
    assert 0 < sum(found == {"val"} for found in by_speaker.values()) < 10
    assert "by speaker" in describe(tmp_path)
    shutil.rmtree(tmp_path / "wav48_silence_trimmed/p230")
    assert split_of(tmp_path).items() <= split.items()  # the others stay where they were


def test_the_first_vctk_has_wav_files_of_one_microphone(tmp_path: Path) -> None:
    for speaker in ("p225", "p226"):
        sound(tmp_path / f"wav48/{speaker}/{speaker}_001.wav", int(speaker[1:]))
        text(tmp_path / f"txt/{speaker}/{speaker}_001.txt", "Words.")
    assert sorted(split_of(tmp_path).values()) == ["train", "val"]
    assert {row.transcript for row in read_manifest(tmp_path)} == {"Words."}


def test_esc50_gives_categories_as_captions_and_fold_five_validates(tmp_path: Path) -> None:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        lines.append(f"{fold}-1-A-0.wav,{fold},14,chirping_birds,False,1,A")
        sound(tmp_path / f"audio/{fold}-1-A-0.wav", fold)
    text(tmp_path / "meta/esc50.csv", "\n".join(lines))
    rows = read_manifest(tmp_path)
    assert {row.caption for row in rows} == {"chirping birds"}
    assert {row.domain for row in rows} == {"effects"}
    assert [path for path, split in split_of(tmp_path).items() if split == "val"] == ["audio/5-1-A-0.wav"]
    bad = [*lines, "../x.wav,1,0,dog", "1-1-A-0.wav,2,0,dog", ",1,0,dog", "y.wav,,0,dog"]
    text(tmp_path / "meta/esc50.csv", "\n".join(bad))
    with pytest.raises(ConfigError) as caught:
        read_manifest(tmp_path)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["line 7", "line 8", "line 9", "line 10"]


def test_a_recording_that_esc50_lists_and_lacks_is_named(tmp_path: Path) -> None:
    text(tmp_path / "meta/esc50.csv", "filename,fold,category\na.wav,1,dog\nb.wav,5,dog\n")
    sound(tmp_path / "audio/a.wav")
    data = Data(train=str(tmp_path), val=str(tmp_path))
    assert usable_rows(data, "train")[1] == []
    assert "audio/b.wav: no such file (named in line 3" in usable_rows(data, "val")[1][0]
    left_out = data.model_copy(update={"policy": "quarantine"})
    assert usable_rows(left_out, "val") == ((), [])


def test_musdb_gives_mixtures_and_its_test_tracks_validate(tmp_path: Path) -> None:
    for part, track in (("train", "A - One"), ("train", "B - Two"), ("test", "C - Three")):
        for stem in ("mixture", "bass", "vocals"):
            sound(tmp_path / part / track / f"{stem}.wav", channels=2)
    rows = read_manifest(tmp_path)
    assert paths(rows) == [f"{name}/mixture.wav" for name in ("train/A - One", "train/B - Two", "test/C - Three")]
    assert list(split_of(tmp_path).values()) == ["train", "train", "val"]
    assert {row.domain for row in rows} == {"music"}


def test_any_folder_is_split_by_content_whatever_its_files_are_called(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for number in range(30):
        sound(one / f"deep/{number:02}.wav", number)
        sound(other / f"{chr(97 + number % 26)}{number}.WAV", number)
    text(one / "deep/00.txt", "A hiss.\n")
    for hidden in ("._00.wav", ".cache/x.wav", "__MACOSX/x.wav"):
        sound(one / hidden, 99)
    assert len(read_manifest(one)) == 30
    assert (read_manifest(one)[0].caption, read_manifest(one)[0].transcript) == ("A hiss.", "A hiss.")
    numbers = [{int(Path(p).stem.lstrip("abcdefghijklmnopqrstuvwxyz")) for p, s in split_of(f).items() if s == "val"}
               for f in (one, other)]  # fmt: skip
    assert numbers[0] == numbers[1]
    assert 0 < len(numbers[0]) < 10


def test_two_folders_are_used_whole(tmp_path: Path) -> None:
    for number in range(12):
        sound(tmp_path / f"{'a' if number < 8 else 'b'}/{number}.wav", number)
    data = Data(train=str(tmp_path / "a"), val=str(tmp_path / "b"))
    assert (len(rows_of(data, "train")), len(rows_of(data, "val"))) == (8, 4)


def test_a_manifest_in_the_folder_is_followed(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    sound(tmp_path / "b.wav")
    text(tmp_path / "manifest.csv", "path,split\na.wav,val\n")
    assert paths(read_manifest(tmp_path)) == ["a.wav"]
    assert "manifest.csv" in describe(tmp_path)


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ([], "holds no recordings"),
        (["readme.txt"], "holds no recordings"),
        (["a.wav"], "a single recording or speaker cannot be split; name other data as data.val"),
    ],
)
def test_a_folder_that_cannot_serve_is_named(tmp_path: Path, files: list[str], part: str) -> None:
    for name in files:
        sound(tmp_path / name) if name.endswith(".wav") else text(tmp_path / name, "x")
    with pytest.raises(ConfigError, match=part):
        rows_of(Data(train=str(tmp_path), val=str(tmp_path)), "train")


def test_names_that_no_list_can_hold_are_listed_and_others_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    kept = ["<script>.wav", "a'b\"c$(x).wav", "Ein Stück.wav", "\u202egnp.wav"]
    for number, name in enumerate(kept):
        sound(folder / name, number)
    assert sorted(paths(read_manifest(folder))) == sorted(kept)
    hostile = [b"\xff\xfe.wav", b"two\nlines.wav", b"\x1b[31mred.wav"]
    for name in hostile:
        shutil.copy(folder / kept[0], os.fsencode(folder) + b"/" + name)
    with pytest.raises(ConfigError) as caught:
        read_manifest(folder)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(hostile)
    assert all(line.isprintable() and line.endswith("; rename it") for line in lines)
    assert any("'two\\nlines.wav'" in line for line in lines)


def test_a_text_that_is_none_is_named(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a.txt: cannot be read as UTF-8"):
        read_manifest(tmp_path)
