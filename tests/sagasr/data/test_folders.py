"""Folders as corpora come: layouts are known, texts and splits follow from them, and what is wrong is named."""

import os
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from sagasr.config.patching import located
from sagasr.config.settings import Data
from sagasr.data import splits
from sagasr.data.folders import describe
from sagasr.data.listing import list_data
from sagasr.data.rows import Row
from sagasr.data.splits import checked_rows, content_hashes, read_manifest, rows_of, shared_problems
from sagasr.io.errors import ConfigError


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
    assert checked_rows(data, "train")[1] == []
    assert "audio/b.wav: no such file (named in line 3" in checked_rows(data, "val")[1][0]
    left_out = data.model_copy(update={"policy": "quarantine"})
    assert checked_rows(left_out, "val")[:2] == ((), [])


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


# --------------------------------------------------------------------------------------------- splits that lie there


@pytest.mark.parametrize(
    ("folders", "splits", "told"),
    [
        ("train val", "train val", "train/ trains, val/ validates"),
        ("Train Validation", "train val", "Train/ trains, Validation/ validates"),
        ("train valid test", "train val test", "test/ is left out"),
        ("train dev eval", "train val test", "dev/ validates, eval/ is left out"),
        ("train test", "train val", "test/ validates"),
        ("training evaluation", "train val", "evaluation/ validates"),
        ("data/train data/val", "train val", "train/ trains"),
        ("dog/train dog/val cat/train cat/val", "train val train val", "train/ trains, val/ validates"),
        (
            "LS/train-clean-100 LS/train-clean-360 LS/dev-clean LS/test-other",
            "train train val test",
            "dev-clean/ validates",
        ),
        ("FSD50K.dev_audio FSD50K.eval_audio", "train val", "FSD50K.dev_audio/ trains"),
        ("train airplane dog", None, "train/: no split"),
        ("val songs", None, "val/: no split"),
        ("songs/a songs/b songs/c x/train x/test", None, "no split, which needs"),
        ("trainer valley", None, "no split in it"),
    ],
)
def test_folders_that_are_called_as_a_split_are_one(
    tmp_path: Path, folders: str, splits: str | None, told: str
) -> None:
    for number, name in enumerate(folders.split()):
        sound(tmp_path / name / "a.wav", number)
    found = [
        row.split for folder in folders.split() for row in read_manifest(tmp_path) if row.path == f"{folder}/a.wav"
    ]
    assert found == (splits.split() if splits else [""] * len(folders.split()))
    assert told in describe(tmp_path)
    if splits:
        split = split_of(tmp_path)
        assert split == {
            f"{name}/a.wav": it for name, it in zip(folders.split(), splits.split(), strict=True) if it != "test"
        }


def test_tables_of_hugging_face_name_texts_and_splits(tmp_path: Path) -> None:
    for number, name in enumerate(("train/a", "train/b", "train/c", "test/d")):
        sound(tmp_path / f"{name}.wav", number)
    text(tmp_path / "train/metadata.csv", "file_name,transcription,speaker\na.wav,one,x\nb.wav,two,y\n")
    text(tmp_path / "test/metadata.jsonl", '{"file_name": "d.wav", "text": "four"}\n')
    rows = {row.path: row for row in read_manifest(tmp_path)}
    assert {path: (row.split, row.transcript) for path, row in rows.items()} == {
        "train/a.wav": ("train", "one"), "train/b.wav": ("train", "two"), "test/d.wav": ("val", "four"),
    }  # fmt: skip
    assert rows["train/a.wav"].extra == {"speaker": "x"}
    listing = list_data(Data(train=str(tmp_path), val=str(tmp_path)), {}, 9)
    assert {reason: names(paths) for reason, paths in listing.left_out.items()} == {
        "not named in metadata or in no folder of a split": ["c.wav"]
    }
    for table in ("train/metadata.csv", "test/metadata.jsonl"):
        (tmp_path / table).unlink()
    text(tmp_path / "metadata.csv", "file_name,caption\ntrain/a.wav,a hiss\ntest/d.wav,rain\n")
    assert split_of(tmp_path) == {"train/a.wav": "train", "test/d.wav": "val"}


def test_a_table_of_another_kind_is_said_to_be_not_read(tmp_path: Path) -> None:
    for number in range(3):
        sound(tmp_path / f"wavs/{number}.wav", number)
    text(tmp_path / "metadata.csv", "0|In being|In being\n1|comparatively|comparatively\n")  # as LJSpeech has it
    assert len(read_manifest(tmp_path)) == 3
    assert "metadata.csv names no file_name and is not read" in describe(tmp_path)


def test_manifests_called_as_a_split_are_followed(tmp_path: Path) -> None:
    for number in range(4):
        sound(tmp_path / f"clips/{number}.wav", number)
    text(tmp_path / "train.csv", "path,text\nclips/0.wav,x\nclips/1.wav,y\n")
    text(tmp_path / "dev.csv", "path,text\nclips/2.wav,z\n")
    assert split_of(tmp_path) == {"clips/0.wav": "train", "clips/1.wav": "train", "clips/2.wav": "val"}
    assert "train.csv trains, dev.csv validates" in describe(tmp_path)


# ----------------------------------------------------------------------------------------- what is left out is said


def names(paths: Sequence[Path]) -> list[str]:
    return sorted(path.name for path in paths)


def reasons_of(data: Data) -> dict[tuple[str, str], str]:
    return checked_rows(data, "train").left_out | checked_rows(data, "val").left_out


def left_out(data: Data) -> dict[str, list[str]]:
    return {reason: names(paths) for reason, paths in list_data(data, reasons_of(data), 9).left_out.items()}


def test_links_are_followed_once_and_never_out_of_the_folder(tmp_path: Path) -> None:
    folder, other = tmp_path / "in", tmp_path / "other"
    sound(folder / "real/a.wav")
    sound(other / "b.WAV", 1)
    sound(tmp_path / "not-asked.wav", 2)
    for link, target in (("0-first", "real"), ("linked", "../other"), ("again", "../other"), ("up", ".."), ("x", "x")):
        (folder / link).symlink_to(target)
    (folder / "real/loop").symlink_to(".")
    (folder / "real/gone.flac").symlink_to("nowhere.flac")
    assert paths(read_manifest(folder)) == ["again/b.WAV", "real/a.wav"]
    (told,) = [line for line in list_data(Data(train=str(folder), val=str(folder)), {}, 9).told if "links to" in line]
    assert told.startswith("4 links to folders")
    assert left_out(Data(train=str(folder), val=str(folder))) == {"links that lead nowhere": ["gone.flac"]}


def test_every_kind_that_is_left_out_has_its_reason(tmp_path: Path) -> None:
    for number, name in enumerate(("a.wav", "b.wav", "._a.wav", ".git/x.flac", "__MACOSX/a.wav")):
        sound(tmp_path / name, number)
    for name in ("c.dsf", "D.WMV2", "e.TAK", "notes.txt", "B.TXT", "a.lab", "Makefile"):
        text(tmp_path / name, "x")
    os.mkfifo(tmp_path / "pipe.wav")
    data = Data(train=str(tmp_path), val=str(tmp_path))
    assert left_out(data) == {
        "hidden": ["._a.wav", "a.wav", "x.flac"],
        "formats that are not read; convert them to FLAC": ["c.dsf", "e.TAK"],
        "devices or pipes": ["pipe.wav"],
    }
    lines = list_data(data, {}, 9).lines()
    assert lines[0] == "files: 13 found: 1 train, 1 validate, 6 left out, 5 no recordings"
    assert lines[-1] == "  no recordings: 2 txt, 1 wmv2, 1 without suffix, 1 lab"


def test_a_manifest_leaves_out_what_it_does_not_name_and_other_splits(tmp_path: Path) -> None:
    for number, name in enumerate("abcd"):
        sound(tmp_path / f"{name}.wav", number)
    (tmp_path / "e.wav").write_bytes(b"RIFF")
    text(tmp_path / "m.csv", "path,split\na.wav,train\nb.wav,val\nc.wav,test\ne.wav,train\ngone.wav,val\n")
    data = Data(train=str(tmp_path / "m.csv"), val=str(tmp_path / "m.csv"), policy="quarantine")
    found = left_out(data)
    assert (found["not named in m.csv"], found["split test"]) == (["d.wav"], ["c.wav"])
    assert [names for reason, names in found.items() if "not readable as audio" in reason] == [["e.wav"]]
    listing = list_data(data, reasons_of(data), 0)
    assert listing.lines()[0] == "files: 6 found: 1 train, 1 validate, 3 left out, 1 no recordings"
    assert {
        "1 recordings that are named are not there",
        "0 of the 1 that validate are scored (validation.clips)",
    } < set(listing.told)


@pytest.mark.parametrize(
    ("layout", "used", "reason"),
    [
        (["wav48/p1/a.wav", "wav48/p2/b.wav", "txt/p1/a.txt", "stray.wav"], 2, "not in wav48*/SPEAKER/"),
        (["train/A/mixture.wav", "train/A/bass.wav", "test/B/mixture.wav"], 2, "stems, or in no track of its splits"),
    ],
)
def test_what_a_layout_does_not_use_is_left_out(tmp_path: Path, layout: list[str], used: int, reason: str) -> None:
    for number, name in enumerate(layout):
        sound(tmp_path / name, number) if name.endswith(".wav") else text(tmp_path / name, "x")
    data = Data(train=str(tmp_path), val=str(tmp_path))
    assert len(left_out(data)[reason]) == 1
    assert sum(map(len, list_data(data, {}, 9).used.values())) == used


# ------------------------------------------------------------------------------------- one name in two Unicode forms

COMPOSED, TAKEN_APART = (unicodedata.normalize(form, "Größe é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("said", "there"), [(COMPOSED, TAKEN_APART), (TAKEN_APART, COMPOSED)])
def test_names_that_look_alike_are_found(tmp_path: Path, said: str, there: str) -> None:
    sound(tmp_path / f"one/{there}/{there}.wav", 1)
    text(tmp_path / "one/m.csv", f"path\n{said}/{said}.wav\n")
    (row,) = read_manifest(tmp_path / "one/m.csv")
    assert row.file == tmp_path / f"one/{there}/{there}.wav"
    text(tmp_path / "one/m.csv", f"path\n{said}/{said}.wav\n{there}/{there}.wav\n")
    with pytest.raises(ConfigError, match="stands in line 2 already"):
        read_manifest(tmp_path / "one/m.csv")
    sound(tmp_path / f"texts/{there}.wav")
    text(tmp_path / f"texts/{said}.TXT", "A hiss.")
    assert read_manifest(tmp_path / "texts")[0].caption == "A hiss."
    text(tmp_path / "esc/meta/esc50.csv", f"filename,fold,category\n{said}.wav,1,dog\n")
    sound(tmp_path / f"esc/audio/{there}.wav")
    assert read_manifest(tmp_path / "esc")[0].file.exists()
    for name in ("p1", there):
        sound(tmp_path / f"vctk/wav48/{name}/{there}.wav")
    text(tmp_path / f"vctk/txt/{said}/{said}.txt", "Please call.")
    assert [row.transcript for row in read_manifest(tmp_path / "vctk")].count("Please call.") == 1
    tree = located({"data": {"train": f"one/{said}", "val": f"one/{said}"}}, tmp_path)
    assert Path(tree["data"]["train"]).is_dir()


def test_two_files_whose_names_look_alike_are_two(tmp_path: Path) -> None:
    for number, name in enumerate((COMPOSED, TAKEN_APART)):
        sound(tmp_path / f"{name}.wav", number)
    text(tmp_path / "m.csv", f"path\n{COMPOSED}.wav\n{TAKEN_APART}.wav\n")
    assert [row.file.name for row in read_manifest(tmp_path / "m.csv")] == [f"{COMPOSED}.wav", f"{TAKEN_APART}.wav"]


# --------------------------------------------------------------------------------------------- one sound in two files


def test_a_sound_does_not_stand_in_both_splits_in_two_containers(tmp_path: Path) -> None:
    for number in range(3):
        sound(tmp_path / f"train/{number}.wav", number)
        sound(tmp_path / f"val/{number + 10}.wav", number + 10)
    data = Data(train=str(tmp_path / "train"), val=str(tmp_path / "val"))

    def problems() -> list[str]:
        rows = {split: rows_of(data, split) for split in ("train", "val")}  # type: ignore[arg-type]
        return shared_problems(data, *(dict(zip(content_hashes(rows[it]), rows[it], strict=True)) for it in rows))

    assert problems() == []
    samples, rate = soundfile.read(tmp_path / "train/1.wav")
    soundfile.write(tmp_path / "val/same.flac", samples, rate)
    quieter = samples.copy()
    quieter[-1] += 0.01
    soundfile.write(tmp_path / "val/other.flac", quieter, rate)  # as long, and begins alike
    (line,) = problems()
    assert line.startswith(f"{tmp_path}/val/same.flac: the same sound stands in training ({tmp_path}/train/1.wav)")


@pytest.mark.parametrize("name", ["录" * 100 + ".wav", "a" * 300 + ".wav"])
def test_a_name_that_no_disk_can_hold_is_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    for number in range(2):
        sound(tmp_path / f"{number}.wav", number)
    text(tmp_path / "m.csv", f"path,split\n0.wav,train\n{name},train\n1.wav,val\n")
    data = Data(train=str(tmp_path / "m.csv"), val=str(tmp_path / "m.csv"), policy="quarantine")
    assert [row.path for row in checked_rows(data, "train")[0]] == ["0.wav"]
    assert "1 recordings that are named are not there" in list_data(data, reasons_of(data), 9).told
    (problem,) = checked_rows(data.model_copy(update={"policy": "strict"}), "train")[1]
    assert problem.endswith("cannot be read (File name too long) (named in line 3 of the manifest)")


@pytest.mark.parametrize("name", ["é" * 200, "a" * 300, "a" * 300 + ".csv"])
def test_data_whose_name_is_too_long_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_manifest(Path(located({"data": {"train": name}}, tmp_path)["data"]["train"]))


def test_a_sound_is_found_in_containers_that_libsndfile_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossless(path: Path, samples: np.ndarray) -> None:
        path.parent.mkdir(exist_ok=True)
        container = {".m4a": "ipod", ".mka": "matroska"}[path.suffix]
        with av.open(os.fspath(path), "w", format=container) as file:
            stream = file.add_stream("alac" if path.suffix == ".m4a" else "pcm_s16le", rate=44_100, layout="mono")
            frame = av.AudioFrame.from_ndarray(
                samples[None], format="s16p" if path.suffix == ".m4a" else "s16", layout="mono"
            )
            frame.sample_rate = 44_100
            file.mux([*stream.encode(frame), *stream.encode(None)])

    noise = np.random.default_rng(0).integers(-9_000, 9_000, (4, 150_000), dtype=np.int16)
    noise[:, :9_000] = 0  # all begin with silence
    lossless(tmp_path / "train/0.m4a", noise[0])
    lossless(tmp_path / "train/1.m4a", noise[1])
    lossless(tmp_path / "val/2.mka", noise[2])
    read: list[str] = []
    samples_of = splits._samples
    monkeypatch.setattr(splits, "_samples", lambda file: [read.append(file.name), samples_of(file)][1])
    rows = {it: {row.path: row for row in read_manifest(tmp_path / it)} for it in ("train", "val")}
    assert splits.same_sounds(rows["train"], rows["val"]) == []
    assert read == []
    lossless(tmp_path / "val/same.mka", noise[0])
    soundfile.write(tmp_path / "val/same.flac", noise[1], 44_100)
    rows["val"] = {row.path: row for row in read_manifest(tmp_path / "val")}
    found = splits.same_sounds(rows["train"], rows["val"])
    assert {(one.path, other.path) for one, other in found} == {("0.m4a", "same.mka"), ("1.m4a", "same.flac")}


def test_a_sound_is_found_on_two_equal_channels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-9_000, 9_000, (2, 9_000), dtype=np.int16)
    recordings = {"train/0.flac": noise[0], "val/1.wav": np.stack([noise[0], noise[0]], 1), "val/2.wav": noise.T}
    for name, samples in recordings.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, samples, 44_100)
    rows = {it: {row.path: row for row in read_manifest(tmp_path / it)} for it in ("train", "val")}
    found = splits.same_sounds(rows["train"], rows["val"])
    assert [(one.path, other.path) for one, other in found] == [("0.flac", "1.wav")]
