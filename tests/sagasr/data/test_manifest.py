"""Manifests: three formats say the same, all faults are listed at once, identity is content, the demo's holds up."""

import csv
import json
import random
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from sagasr.config.settings import Data
from sagasr.data.rows import Row, Split
from sagasr.data.splits import content_hashes, header_problems, manifest_fingerprint, read_manifest, rows_of
from sagasr.io.errors import ConfigError, DataError

DEMO = Path(str(resources.files("sagasr"))) / "recordings"
RECORDS = [
    {"path": "a.flac", "text": 'Rain, "heavy".', "split": "train", "domain": "effects", "licence": "CC0", "take": "1"},
    {"path": "b/c.flac", "text": "Ein Stück für Flöte", "split": "val", "domain": "music", "licence": "", "take": "2"},
]


def rows_for(path: Path, split: Split) -> tuple[Row, ...]:
    return rows_of(Data(train=str(path), val=str(path)), split)


def write_csv(path: Path, records: list[dict[str, str]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as handle:
        writer = csv.DictWriter(handle, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_manifest(path)
    return str(caught.value).splitlines()


def test_csv_parquet_and_json_lines_say_the_same(tmp_path: Path) -> None:
    plain = write_csv(tmp_path / "m.csv", RECORDS)
    marked = write_csv(tmp_path / "bom.csv", RECORDS, "utf-8-sig")
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "m.parquet")
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    first, second = read_manifest(plain)
    assert (first.path, first.caption, first.transcript) == ("a.flac", 'Rain, "heavy".', 'Rain, "heavy".')
    assert (second.file, second.split, second.domain) == (tmp_path / "b/c.flac", "val", "music")
    assert dict(second.extra) == {"take": "2"}
    for other in (marked, tmp_path / "m.parquet", tmp_path / "m.jsonl"):
        assert [(r.path, r.caption, r.split, r.extra) for r in read_manifest(other)] == [
            (r.path, r.caption, r.split, r.extra) for r in (first, second)
        ]


def test_spaces_around_column_names_are_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "spaced.csv").write_text("path, split , caption\na.flac, train, a dog\n")
    (row,) = read_manifest(tmp_path / "spaced.csv")
    assert (row.split, row.caption, row.extra) == ("train", "a dog", {})


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_a_column_of_almost_a_known_name_is_not_left_out_in_silence(tmp_path: Path, name: str) -> None:
    path = write_csv(tmp_path / "m.csv", [{"path": "a.flac", "Split": "test"}])
    pq.write_table(pa.table({"path": ["a.flac"], "Split": ["test"]}), tmp_path / "m.parquet")
    with pytest.raises(ConfigError, match=r"line 1: column 'Split' would not be read; rename it 'split'"):
        read_manifest(path.with_name(name))


def test_what_is_no_text_becomes_no_caption(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"path": "a.flac", "text": NaN}\n{"path": "b.flac", "text": null}\n')
    assert [row.caption for row in read_manifest(path)] == ["", ""]
    path.write_text('{"path": "a.flac", "text": ["rain", "wind"]}\n{"path": "b.flac", "caption": {"en": "rain"}}\n')
    with pytest.raises(ConfigError) as error:
        read_manifest(path)
    assert str(error.value).splitlines() == [
        f"{path}: line 1: text is a list; give one text",
        f"{path}: line 2: caption is a mapping; give one text",
    ]
    table = write_csv(tmp_path / "m.csv", [{"path": "a.flac", "text": "nan"}])
    with pytest.raises(ConfigError, match="line 2: text 'nan' stands for nothing; leave the cell empty"):
        read_manifest(table)


def test_caption_and_transcript_columns_are_told_apart(tmp_path: Path) -> None:
    records = [{"path": "a.flac", "text": "A man speaks.", "transcript": ""}]
    row = read_manifest(write_csv(tmp_path / "m.csv", records))[0]
    assert (row.text("caption"), row.text("transcript"), row.text("off")) == ("A man speaks.", "", "")


def test_every_fault_is_listed_at_once_with_its_line(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "path,text,split,domain\n"
        'a.flac,"two\nlines",train,x\n'  # lines 2 and 3
        "../b.flac,,train,x\n"
        "/c.flac,,train,x\n"
        "\n"
        "a.flac,,val,x\n"
        "./a.flac,,val,x\n"
        "d.flac,,trian,x\n"
        "e.flac,,train\n"
        ",,train,x\n"
        "C:\\f.flac,,train,x\n"
        "g\\h.flac,,train,x\n"
        "i.flac,,test,all\n"
    )
    found = faults(manifest)
    expected = {
        4: "leaves the manifest's folder",
        5: "is absolute",
        7: "stands in line 2 already",
        8: "stands in line 2 already",
        9: "did you mean 'train'?",
        10: "3 columns where the header has 4",
        11: "path is empty",
        12: "is absolute",
        13: "backslash",
        14: "domain 'all'",
    }
    assert [line.split(": ")[1] for line in found] == [f"line {number}" for number in expected]
    for line, part in zip(found, expected.values(), strict=True):
        assert part in line


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "no column 'path'"),
        (b"path,text\n", "holds no rows"),
        (b"file;text\na.flac;x\n", "separate columns by commas"),
        (b"paths,text\na.flac,x\n", "rename 'paths'?"),
        (b"path,path\na,b\n", "stands twice"),
        (b"path,text\na.flac,\xff\xfe\n", "not UTF-8"),
        (b'path,text\na.flac,"open\nb.flac,x\n', "unclosed"),
        (b"path,text\na.flac," + b"x" * 200_000 + b"\n", "not valid CSV"),
        (b"path,text\na.flac," + b"x" * 20_000 + b"\n", "20,000 characters"),
        (b"path,text\na\x00.flac,x\n", "control characters"),
        (b"path,text\na.flac,x\x1b[31m\n", "control characters"),
        (b"path\n" + b"a" * 5_000 + b"\n", "5,000 characters"),
        (b"path,sha256\na.flac,abc\n", "64 hexadecimal digits"),
    ],
)
def test_hostile_csv_is_one_clear_line(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    (found,) = faults(tmp_path / "m.csv")
    assert part in found
    assert found.startswith(f"{tmp_path / 'm.csv'}: ")
    assert found.isprintable()


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected one object"),
        ('{"file": "a"}', "no key 'path'"),
        ('{"path": "a", "path": "b"}', "stands twice"),
        ('{"path": null}', "path is empty"),
        ('{"path": "a\\u0000b"}', "control characters"),
        ('{"path": "a\\ud800"}', "control characters"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_hostile_json_is_one_clear_line(tmp_path: Path, line: str, part: str) -> None:
    (tmp_path / "m.jsonl").write_text('{"path": "fine.flac"}\n' + line)
    (found,) = faults(tmp_path / "m.jsonl")
    assert "line 2" in found
    assert part in found


def test_random_bytes_never_crash_the_readers(tmp_path: Path) -> None:
    chance = random.Random(0)
    pieces = [
        b"path",
        b",",
        b"\n",
        b'"',
        b"\r",
        b"{",
        b"}",
        b":",
        b"\x00",
        b"\xff",
        b"a.flac",
        b"split",
        b"../",
        b"PAR1",
    ]
    messages = []
    for number in range(150):
        name = tmp_path / f"{number}{chance.choice(['.csv', '.jsonl', '.parquet'])}"
        name.write_bytes(b"".join(chance.choices(pieces, k=chance.randrange(40))))
        try:
            read_manifest(name)
        except ConfigError as error:
            messages += str(error).splitlines()
    assert len(messages) >= 150
    assert all(message.isprintable() for message in messages)


@pytest.mark.parametrize("name", ["absent.csv", "folder.csv", "m.txt", "m"])
def test_what_is_no_manifest_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert str(tmp_path / name) in faults(tmp_path / name)[0]


def test_a_split_without_rows_is_an_error_and_no_split_column_means_all_rows(tmp_path: Path) -> None:
    manifest = write_csv(tmp_path / "m.csv", RECORDS[:1])
    assert len(rows_for(manifest, "train")) == 1
    with pytest.raises(ConfigError, match="no row has split 'val' \\(found: train\\)"):
        rows_for(manifest, "val")
    bare = write_csv(tmp_path / "n.csv", [{"path": "a.flac"}, {"path": "b.flac"}])
    assert len(rows_for(bare, "train")) == len(rows_for(bare, "val")) == 2


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two good recordings."""
    for number, name in enumerate(["a", "b"]):
        noise = 0.1 * np.random.default_rng(number).standard_normal(4_096)
        soundfile.write(tmp_path / f"{name}.wav", noise, 44_100)
    return tmp_path


def test_missing_and_unreadable_recordings_are_all_named_in_order(files: Path) -> None:
    (files / "empty.wav").touch()
    (files / "noise.flac").write_bytes(random.Random(0).randbytes(1_000))
    (files / "folder.wav").mkdir()
    names = ["gone.wav", "a.wav", "empty.wav", "noise.flac", "folder.wav"]
    rows = read_manifest(write_csv(files / "m.csv", [{"path": name} for name in names]))
    found = [problem for problem in header_problems(rows) if problem]
    assert [Path(line.split(": ")[0]).name for line in found] == ["gone.wav", "empty.wav", "noise.flac", "folder.wav"]
    assert "line 2 of the manifest" in found[0]


def test_identity_is_sound_text_and_domain_but_not_names_or_order(files: Path) -> None:
    def identity(records: list[dict[str, str]]) -> str:
        return manifest_fingerprint(read_manifest(write_csv(files / "m.csv", records)))

    records = [{"path": "a.wav", "text": "x", "domain": "d"}, {"path": "b.wav", "text": "y", "domain": "d"}]
    first = identity(records)
    shutil.copy(files / "a.wav", files / "c.wav")
    assert identity(records[::-1]) == first
    assert identity([{**records[0], "path": "c.wav"}, records[1]]) == first
    assert identity([{**records[0], "text": "z"}, records[1]]) != first
    assert identity([{**records[0], "domain": "e"}, records[1]]) != first
    assert identity(records[:1]) != first
    (files / "a.wav").write_bytes((files / "b.wav").read_bytes() + b"x")
    assert identity(records) != first


def test_a_recording_that_is_not_the_one_meant_is_named(files: Path) -> None:
    digest = content_hashes(read_manifest(write_csv(files / "m.csv", [{"path": "a.wav"}])))[0]
    good = write_csv(files / "m.csv", [{"path": "a.wav", "sha256": digest.upper()}])
    assert content_hashes(read_manifest(good)) == [digest]
    bad = write_csv(files / "m.csv", [{"path": "b.wav", "sha256": digest}, {"path": "gone.wav", "sha256": ""}])
    with pytest.raises(DataError) as caught:
        content_hashes(read_manifest(bad))
    assert [part in line for part, line in zip(("b.wav", "gone.wav"), str(caught.value).splitlines(), strict=True)]


def test_manifests_load_without_torch() -> None:
    code = "import sys, sagasr.data.splits; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ------------------------------------------------------------------------------------------------ the demo's recordings


def test_the_demo_recordings_are_what_their_manifest_says() -> None:
    rows = read_manifest(DEMO / "manifest.csv")
    assert not any(header_problems(rows))
    content_hashes(rows)  # raises where the sha256 differs
    for row in rows:
        info = soundfile.info(row.file)
        assert (info.frames, info.samplerate, info.channels, info.subtype) == (65_536, 44_100, 1, "PCM_16")
    on_disk = {str(path.relative_to(DEMO)) for path in DEMO.rglob("*.flac")}
    assert on_disk == {row.path for row in rows}
    assert sum((DEMO / name).stat().st_size for name in on_disk) <= 7_500_000


def test_the_demo_recordings_are_free_and_attributed() -> None:
    attribution = (DEMO / "LICENCES.md").read_text()
    for row in read_manifest(DEMO / "manifest.csv"):
        assert row.licence.split(" (")[0] in ("CC0 1.0", "CC BY 3.0", "CC BY 4.0", "Public domain")
        assert f"`{row.path}`" in attribution
        for fact in (
            row.extra["author"],
            row.extra["source_file"],
            row.extra["source_repository"],
            row.extra["changes"],
        ):
            assert fact
            assert fact in attribution


def test_the_demo_scores_no_speaker_and_no_source_that_it_learns_from() -> None:
    splits = {split: rows_for(DEMO / "manifest.csv", split) for split in ("train", "val")}  # type: ignore[arg-type]
    sources = {s: {(r.extra["source_repository"], r.extra["source_file"]) for r in rows} for s, rows in splits.items()}
    assert not sources["train"] & sources["val"]
    speakers = {
        split: {
            part
            for row in rows
            for part in Path(row.extra["source_file"]).stem.split("_")
            if re.fullmatch(r"p\d{3}", part)
        }
        for split, rows in splits.items()
    }
    assert speakers["val"] >= {"p232", "p257", "p286", "p347"}
    assert not speakers["train"] & speakers["val"]
    for rows in splits.values():
        counts = [sum(row.domain == domain for row in rows) for domain in ("speech", "music", "effects")]
        assert sum(counts) == len(rows)
        assert max(counts) - min(counts) <= 1
