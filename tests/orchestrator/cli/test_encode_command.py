"""``sagasr-encode``: what it prints, refuses and leaves, in one process and mapped over Ray's workers."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from orchestrator.cli.encode import main
from sagasr.config.parsing import parse
from sagasr.config.patching import located
from sagasr.config.settings import Config
from sagasr.data.encode import encode_store
from sagasr.data.splits import read_manifest
from sagasr.io.files import read_yaml
from tests.sagasr.data.qwen import write_qwen

SMALL = ["--set", "degradation.variants=1", "--set", "validation.clips=2"]


def sounds(folder: Path, train: int = 20, val: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,split,text"]
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            noise = 0.1 * np.random.default_rng(1_000 * (split == "val") + number).standard_normal(9_000)
            soundfile.write(folder / f"{split}{number}.wav", noise, 44_100)
            lines.append(f"{split}{number}.wav,{split},Noise {number}.")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def only_store(root: Path) -> Path:
    (found,) = root.iterdir()
    return found


def test_a_store_is_made_told_and_found_by_what_trains_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, root = sounds(tmp_path / "a", train=5), tmp_path / "stores"
    assert main([str(manifest), "--store", str(root), *SMALL]) == 0
    out, err = capsys.readouterr()
    store = only_store(root)
    assert out.startswith(f"{store}: 5 recordings to learn from (0.0 min), 2 of 2 to score")
    assert "checking 7/7" in err
    assert "encoding 7/7" in err
    tree = {**located(read_yaml(Path("search_spaces/tiny.yaml")), Path("search_spaces")), "seed": 3}
    tree |= {"data": {"train": str(manifest), "val": str(manifest)}, "degradation": {"variants": 1}}
    tree["validation"] |= {"clips": 2, "every": 7}
    assert encode_store(parse(Config, tree, "test"), root, progress=pytest.fail) == store


def test_everything_wrong_is_listed_and_exit_is_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, root = sounds(tmp_path / "a", train=3), tmp_path / "stores"
    soundfile.write(tmp_path / "a/train0.wav", np.zeros(9_000), 44_100)
    soundfile.write(tmp_path / "a/train1.wav", np.full(9_000, 0.2), 44_100)
    assert main([str(manifest), "--store", str(root), *SMALL]) == 2
    out, err = capsys.readouterr()
    faults = [line for line in err.splitlines() if line.startswith(str(tmp_path))]
    assert sorted(Path(line.split(": ")[0]).name for line in faults) == ["train0.wav", "train1.wav"]
    assert all("silent" in line for line in faults)
    assert out == ""
    assert not root.exists()
    assert main([str(manifest), "--store", str(root), "--quarantine", *SMALL]) == 0
    out, _ = capsys.readouterr()
    assert out.count("left out: ") == 2
    assert 'left out: "train0.wav" (train): silent' in out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["absent.csv"], "absent.csv: no such file"),
        (["absent"], "absent: no such file or folder"),
        (["a/manifest.csv", "--config", "nothing.yaml"], "nothing.yaml: no such file, and none of that name"),
        (["a/manifest.csv", "--set", "degradation.variant=2"], "unknown key 'degradation.variant'; did you mean"),
        (["a/manifest.csv", "--set", "codec.bands=7"], "codec.bands"),
        (["b", "--captioner", "nobody/nothing"], "nobody/nothing"),
        (["b"], "no train recording has a caption; add the column 'caption', give --captioner MODEL, or --set"),
        (
            ["a/manifest.csv", "--set", "conditions.text.encoder={kind: t5, model: nobody/t5}"],
            "nobody/t5: no T5 in this folder",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    part: str,
) -> None:
    sounds(tmp_path / "a", train=2, val=1)
    sounds(tmp_path / "b", train=2, val=2)
    (tmp_path / "b/manifest.csv").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert part in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "sweeps").exists()


def test_what_has_no_caption_is_described_once_beside_all_else_that_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds(tmp_path / "a", train=4, val=2)
    for name, hertz in (("train1", 400), ("train2", 900), ("train3", 2_500), ("val0", 700), ("val1", 3_000)):
        tone = 0.2 * np.sin(2 * np.pi * hertz / 44_100 * np.arange(20_000))
        tone += 0.01 * np.random.default_rng(hertz).standard_normal(20_000)
        soundfile.write(tmp_path / f"a/{name}.wav", tone, 44_100)
    rows = [f"train{n}.wav,train,{'a hiss' * (n == 0)},mine{n}" for n in range(4)]
    rows += [f"val{n}.wav,val,,his{n}" for n in range(2)]
    manifest = tmp_path / "a/manifest.csv"
    manifest.write_text("\n".join(["path,split,caption,author", *rows]) + "\n")
    model, root = write_qwen(tmp_path), tmp_path / "stores"
    command = [str(manifest), "--store", str(root), "--captioner", str(model), *SMALL]

    soundfile.write(tmp_path / "a/train4.wav", np.zeros(9_000), 44_100)
    (tmp_path / "a/val2.wav").write_bytes(b"RIFF")
    broken = "train4.wav,train,,\nval2.wav,val,,\ngone.wav,val,a bell,\n"
    whole = manifest.read_text()
    manifest.write_text(whole + broken)
    assert main(command) == 2
    out, err = capsys.readouterr()
    faults = [line for line in err.splitlines() if line.startswith(str(tmp_path))]
    assert [Path(line.split(": ")[0]).name for line in faults] == ["train4.wav", "val2.wav", "gone.wav"]
    assert out == ""
    assert not (root / "captions.json").exists()  # nothing was heard before all was looked at
    assert main([*command, "--quarantine"]) == 0
    assert capsys.readouterr().out.count("left out: ") == 3

    manifest.write_text(whole)
    heard = (root / "captions.json").read_bytes()
    assert len(json.loads(heard)) == 5
    assert main(command) == 0
    assert (root / "captions.json").read_bytes() == heard
    target = manifest.with_name("manifest.captioned.csv")
    found = {row.path: row for row in read_manifest(target)}
    assert found["train0.wav"].caption == "a hiss"
    assert all(row.caption for row in found.values())
    assert [row.extra["author"] for row in found.values()] == ["mine0", "mine1", "mine2", "mine3", "his0", "his1"]
    assert main([str(target), "--store", str(root), *SMALL]) == 0  # as it was told, and as sweeps find it
    assert len(list(root.glob("*/meta.json"))) == 2


@pytest.mark.cluster
@pytest.mark.slow
def test_ray_makes_the_same_bytes_as_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = sounds(tmp_path / "a", train=40)
    soundfile.write(tmp_path / "a/train7.wav", np.zeros(9_000), 44_100)
    for workers in ("1", "2"):
        root = str(tmp_path / workers)
        assert main([str(manifest), "--store", root, "--workers", workers, "--quarantine", *SMALL]) == 0
        assert 'left out: "train7.wav"' in capsys.readouterr().out
    one, two = only_store(tmp_path / "1"), only_store(tmp_path / "2")
    assert one.name == two.name
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }
    assert len(json.loads((one / "meta.json").read_text())["shards"]["train"]) > 1
