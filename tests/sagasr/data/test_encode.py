"""Encoding: what each kind of recording becomes, what a change touches, and that a killed run goes on where it was."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from sagasr.audio.degrade import degrade
from sagasr.codec.codec import build_codec
from sagasr.codec.precision import exact
from sagasr.codec.stable_audio_codecs import build_autoencoder, build_transform
from sagasr.config.parsing import parse
from sagasr.config.settings import Config
from sagasr.data import corpus as recordings
from sagasr.data import tasks
from sagasr.data.encode import encode_store, in_process
from sagasr.data.encoded_record import record_of, usable
from sagasr.data.rows import Split
from sagasr.data.store import MOST_PER_SHARD, PER_SHARD, Store, grouped
from sagasr.data.tasks import Outcome, Task, perform
from sagasr.io import failpoints
from sagasr.io.errors import DataError
from sagasr.io.fingerprint import fingerprint
from tests.processes import forked

SEGMENT = 16_384
RATE = 44_100
SETTINGS: dict[str, Any] = {
    "codec": {"kind": "pqmf", "bands": 64},
    "audio": {"segment": SEGMENT},
    "validation": {"segment": SEGMENT, "clips": 3},
    "degradation": {"variants": 2},
}


def config_of(folder: Path, policy: str = "strict", **changes: Any) -> Config:
    manifest = str(folder / "manifest.csv")
    data = {"train": manifest, "val": manifest, "policy": policy}
    return parse(Config, {"data": data, **SETTINGS, **changes}, "test")


def noise(seed: int, samples: int = 20_000) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


def corpus(folder: Path, train: int = 24, val: int = 4) -> Path:
    """Write noises to learn from and to score, with a manifest; enough for several shards."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [(f"{split}{number:02}.wav", split) for split, n in (("train", train), ("val", val)) for number in range(n)]
    for number, (name, _) in enumerate(names):
        soundfile.write(folder / name, noise(number), RATE)
    write_manifest(folder, names)
    return folder


def write_manifest(folder: Path, names: Sequence[tuple[str, str]], text: str = "Noise") -> None:
    lines = [f"{name},{split},{text} {Path(name).stem}" for name, split in names]
    (folder / "manifest.csv").write_text("\n".join(["path,split,text", *lines]) + "\n")


def rows_of(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "manifest.csv").read_text().splitlines()[1:]
    return [(line.split(",")[0], line.split(",")[1]) for line in lines]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def calm(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an undisturbed run."""
    return encode_store(config_of(sounds), tmp_path_factory.mktemp("calm"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recordings whose records are computed, as they are."""
    found: list[str] = []
    original = tasks.record_of

    def spy(config: Config, codec: Any, split: Any, sha256: str, audio: Any) -> Any:
        found.append(sha256)
        return original(config, codec, split, sha256, audio)

    monkeypatch.setattr(tasks, "record_of", spy)
    return found


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


# ------------------------------------------------------------------------------------------- what a recording becomes


def header_of_four_gib(path: Path) -> None:
    soundfile.write(path, noise(0), RATE)
    data = bytearray(path.read_bytes())
    data[40:44] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)


def three_hours(path: Path) -> None:
    """A WAV file with all its samples, most of them in a hole of the file system."""
    soundfile.write(path, noise(0), 4_000, subtype="PCM_U8")
    size = 3 * 3_600 * 4_000
    data = bytearray(path.read_bytes()[:44])
    data[4:8], data[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    path.write_bytes(data)
    os.truncate(path, 44 + size)


def cut(path: Path) -> None:
    soundfile.write(path, noise(0, 60_000), RATE)
    os.truncate(path, path.stat().st_size // 2)


def wav(samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Callable[[Path], None]:
    return lambda path: soundfile.write(path, samples, rate, subtype=subtype)


def holed(value: float) -> np.ndarray:
    return np.where(np.arange(20_000) == 999, value, noise(0))


SINE = np.sin(2 * np.pi * 700 / RATE * np.arange(40_000))
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing.wav": (lambda path: None, "no such file"),
    "empty.wav": (lambda path: path.touch(), "the file is empty"),
    "bytes.flac": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(4_000)), "not readable as audio"),
    "cut.wav": (cut, "cut off; its header declares 120,000 bytes of audio, 59,978 are there"),
    "cut.flac": (cut, ""),
    "cut.ogg": (cut, "Ogg stream"),
    "4gib.wav": (header_of_four_gib, "cut off; its header declares 4,294,967,280 bytes"),
    "nan.wav": (wav(holed(np.nan)), "holds 1 NaN or infinite samples"),
    "infinite.wav": (wav(holed(np.inf)), "holds 1 NaN or infinite samples"),
    "integers.wav": (wav(20_000 * noise(0)), "samples reach"),
    "zero.wav": (wav(np.zeros(20_000)), "silent"),
    "constant.wav": (wav(np.full(20_000, 0.5)), "silent"),
    "brief.wav": (wav(noise(0, 100)), "2.3 ms long; at least 46.4 ms are needed"),
    "long.wav": (three_hours, "180 minutes at 4,000 Hz is too long; split it into parts"),
    "slow.wav": (wav(noise(0), 2_000), "sampled at 2,000 Hz; 4,000 to 384,000 Hz are read"),
    "six.wav": (wav(noise(0).reshape(-1, 5).repeat(2, axis=1)[:, :6]), "6 channels; mono or stereo is read"),
    "upsampled.wav": (wav(0.3 * SINE), "so nothing is left to restore above a cutoff of 2,000 Hz"),
}


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_that_cannot_be_used_is_listed_at_once_and_nothing_is_built(tmp_path: Path, split: str) -> None:
    corpus(tmp_path, train=1, val=1)
    for name, (write, _) in REFUSED.items():
        write(tmp_path / name)
    write_manifest(tmp_path, rows_of(tmp_path) + [(name, split) for name in REFUSED])
    with pytest.raises(DataError) as caught:
        encode_store(config_of(tmp_path), tmp_path / "stores")
    lines = str(caught.value).splitlines()
    unread = {"missing.wav"}  # what has no content is told together with all that holds no audio
    silent = {"zero.wav", "constant.wav", "upsampled.wav"}
    assert {Path(line.split(": ")[0]).name for line in lines} == REFUSED.keys() - silent >= unread
    for line in lines:
        assert REFUSED[Path(line.split(": ")[0]).name][1] in line
    (tmp_path / "missing.wav").write_bytes((tmp_path / "empty.wav").read_bytes() + b"x")
    with pytest.raises(DataError) as caught:
        encode_store(config_of(tmp_path), tmp_path / "stores")
    found = {Path(line.split(": ")[0]).name: line for line in str(caught.value).splitlines()}
    assert found.keys() == REFUSED.keys()
    assert all(REFUSED[name][1] in line for name, line in found.items() if name != "missing.wav")
    assert not (tmp_path / "stores").exists() or not list((tmp_path / "stores").iterdir())


def test_quarantine_leaves_out_what_strict_refuses_and_says_so(tmp_path: Path, computed: list[str]) -> None:
    corpus(tmp_path, train=3, val=2)
    good = encode_store(config_of(tmp_path), tmp_path / "stores")
    assert encode_store(config_of(tmp_path, "quarantine"), tmp_path / "stores") == good  # nothing had to be left out
    for name, (write, _) in REFUSED.items():
        write(tmp_path / name)
    write_manifest(tmp_path, rows_of(tmp_path) + [(name, "train") for name in REFUSED])
    computed.clear()
    store = encode_store(config_of(tmp_path, "quarantine"), tmp_path / "stores")
    assert computed == []  # the good ones stood in the other store
    meta = json.loads((store / "meta.json").read_text())
    assert {it["path"]: it["split"] for it in meta["left_out"]} == dict.fromkeys(REFUSED, "train")
    for it in meta["left_out"]:
        assert REFUSED[it["path"]][1] in it["reason"]
        assert str(tmp_path) not in it["reason"]
    assert meta["counts"] == {"train": 3, "val": 2, "val_available": 2}
    assert sorted(entry.path for entry in Store.open(store).train.entries) == [f"train{n:02}.wav" for n in range(3)]
    assert encode_store(config_of(tmp_path, "quarantine"), tmp_path / "stores", progress=pytest.fail) == store


def test_quarantine_of_everything_is_an_error(tmp_path: Path) -> None:
    corpus(tmp_path, train=2, val=1)
    for name, split in rows_of(tmp_path):
        if split == "train":
            soundfile.write(tmp_path / name, np.zeros(20_000), RATE)
    with pytest.raises(DataError, match=r"no train recording can be used; the first: .*silent"):
        encode_store(config_of(tmp_path, "quarantine"), tmp_path / "stores")


BASS = np.repeat(sosfilt(butter(8, 3_000, output="sos", fs=RATE), noise(0))[:, None], 2, axis=1)
SIDE = np.stack([noise(1), -noise(1)], 1)

USED: dict[str, tuple[Callable[[Path], None], int, tuple[str, ...]]] = {
    "plain": (wav(noise(0)), 20_000, ()),
    "8-bit": (wav(noise(0), subtype="PCM_U8"), 20_000, ("8 bits per sample",)),
    "clipped": (wav(np.clip(8 * SINE[:20_000] + noise(1), -1, 1), subtype="PCM_16"), 20_000, ("clipped: ",)),
    "stereo": (wav(np.stack([noise(0), noise(1)], 1)), 20_000, ()),
    "48 kHz": (wav(noise(0, 24_000), 48_000), 22_050, ()),
    "7,350 Hz": (wav(noise(0, 4_000), 7_350), 24_000, ("sampled at 7,350 Hz, so it holds nothing above 3,675 Hz",)),
    "short": (wav(noise(0, 5_000)), 5_000, ("shorter than a segment (0.11 s of 0.37 s)",)),
    "with an offset": (wav(0.4 + noise(0)), 20_000, ()),
    "beyond full scale": (wav(30 * noise(0)), 20_000, ("reaches ",)),
    "a wide side": (wav(BASS + SIDE), 20_000, ("its two channels cancel in the upper half",)),
}


@pytest.mark.parametrize("kind", USED)
def test_what_is_unusual_is_used_as_it_is_and_noted(tmp_path: Path, kind: str) -> None:
    write, samples, notes = USED[kind]
    write(tmp_path / "a.wav")
    found = usable(config_of(tmp_path), "train", tmp_path / "a.wav")
    assert found.samples == samples
    assert found.high.shape == (1, max(samples, SEGMENT))
    assert len(found.notes) == len(notes)
    assert all(note.startswith(expected) for note, expected in zip(found.notes, notes, strict=True))
    stored, rate = soundfile.read(tmp_path / "a.wav", always_2d=True)
    if rate == RATE:  # no level, offset or clipping is mended
        assert np.allclose(found.high[0, :samples], stored.mean(1), atol=1e-6)


@pytest.mark.parametrize("residue", [0.0, 0.01])
def test_channels_that_cancel_are_refused_to_a_mono_model_and_noted_for_a_stereo_model(
    tmp_path: Path, residue: float
) -> None:
    soundfile.write(tmp_path / "a.wav", SIDE + residue * noise(2)[:, None], RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: its two channels cancel: .* dB quieter; invert one of them"):
        usable(config_of(tmp_path), "train", tmp_path / "a.wav")
    found = usable(config_of(tmp_path, audio={"segment": SEGMENT, "channels": 2}), "train", tmp_path / "a.wav")
    assert found.notes == ("its two channels cancel in their mean, so its roll-offs are those of the louder one",)
    assert found.rolloff_hz > 20_000


@pytest.mark.parametrize("samples", [5_000, 40_000])  # the first is padded
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_offset_changes_no_gain_and_no_roll_off(tmp_path: Path, split: Split, samples: int) -> None:
    config = config_of(tmp_path)
    records = []
    for offset in (0.0, 0.05):
        soundfile.write(tmp_path / "a.wav", offset + 0.1 * noise(0, samples), RATE, subtype="FLOAT")
        found = usable(config, split, tmp_path / "a.wav")
        records.append(record_of(config, build_codec(config.codec, 1), split, "0", found))
    plain, moved = records
    for name in ("gain", "rolloff_low_hz", "features", "cutoff_hz"):
        np.testing.assert_allclose(moved[name], plain[name], rtol=2e-3)


def test_a_scored_clip_without_the_highs_it_is_scored_on_is_noted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(0, 8_000), 7_350)
    (_, note) = usable(config_of(tmp_path), "val", tmp_path / "a.wav").notes
    assert note.startswith("its roll-off is 3,")
    assert "so it is scored at a cutoff of 3," in note


# ----------------------------------------------------------------------------------------------- what a change touches


def test_groups_depend_on_the_ids_nearby_alone() -> None:
    ids = [fingerprint(number) for number in range(2_000)]
    groups = grouped(dict.fromkeys(ids, 1_000))
    assert [name for group in groups for name in group] == sorted(ids)
    assert PER_SHARD / 2 < np.mean([len(group) for group in groups]) < 2 * PER_SHARD
    assert max(map(len, groups)) <= MOST_PER_SHARD
    changed = grouped(dict.fromkeys([*ids[:777], *ids[778:], fingerprint("new")], 1_000))
    assert sum(group not in groups for group in changed) <= 3
    assert all(len(group) == 1 for group in grouped(dict.fromkeys(ids[:20], 1 << 30)))  # long recordings stand alone


def test_of_changed_recordings_only_those_are_computed(sounds: Path, tmp_path: Path, computed: list[str]) -> None:
    folder = Path(shutil.copytree(sounds, tmp_path / "sounds"))
    first = encode_store(config_of(folder), tmp_path / "stores")
    assert len(computed) == 24 + 3
    computed.clear()
    soundfile.write(folder / "train05.wav", noise(99), RATE)
    write_manifest(folder, [it for it in rows_of(folder) if it[0] != "train07.wav"])
    second = encode_store(config_of(folder), tmp_path / "stores")
    assert second != first
    assert len(computed) == 1
    calm_again = encode_store(config_of(folder), tmp_path / "elsewhere")
    assert contents(second) == contents(calm_again)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"validation": {**SETTINGS["validation"], "cutoff_hz": 5_000.0}}, 3),
        ({"validation": {**SETTINGS["validation"], "clips": 2}}, 0),
        ({"degradation": {"variants": 1}}, 27),
        ({"codec": {"kind": "pqmf", "bands": 32}}, 27),
    ],
)
def test_settings_invalidate_what_they_enter(
    sounds: Path, calm: Path, computed: list[str], changes: dict[str, Any], expected: int
) -> None:
    store = encode_store(config_of(sounds, **changes), calm.parent)
    assert len(computed) == expected
    shutil.rmtree(store)
    assert len(Store.open(calm).train) == 24  # though they shared files


def test_other_texts_make_another_store_of_the_same_shards(sounds: Path, calm: Path, computed: list[str]) -> None:
    folder = Path(shutil.copytree(sounds, calm.parent.parent / "retold"))
    write_manifest(folder, rows_of(folder), text="Hiss")
    store = encode_store(config_of(folder), calm.parent)
    assert store != calm
    assert computed == []
    shards = list(store.glob("*-*.arrow"))
    assert all(path.stat().st_nlink >= 2 for path in shards)
    assert {path.name for path in shards} == {path.name for path in calm.glob("*-*.arrow")}
    assert {entry.caption[:4] for entry in Store.open(store).train.entries} == {"Hiss"}


def test_other_code_is_other_records(
    sounds: Path, calm: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "code_identity", lambda: "other")
    assert encode_store(config_of(sounds), calm.parent) != calm
    assert len(computed) == 27


def test_what_makes_latents_of_audio_is_code_of_the_records() -> None:
    for decides in (degrade, usable, build_codec, build_transform, build_autoencoder, record_of, type(exact)):
        assert decides.__module__ in recordings.COMPUTING


def test_comments_and_imports_are_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    texts = {
        "one_a": "def f():\n    return 1\n",
        "one_b": '"""What."""\n\n\ndef f():\n    """One."""\n    return 1  # indeed\n',
        "one_c": "def f():\n    return 2\n",
        "one_d": "import os\n\n\ndef f():\n    import sys\n    return 1\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    found = {name: recordings.code_identity((name,)) for name in texts}
    assert found["one_c"] != found["one_a"] == found["one_b"] == found["one_d"]
    assert recordings.code_identity() == recordings.code_identity()


def test_other_weights_are_another_store(sounds: Path, tmp_path: Path) -> None:
    for name in ("a.ckpt", "a.json"):
        (tmp_path / name).write_text(name)
    codec = {"kind": "stable-audio", "checkpoint": str(tmp_path / "a.ckpt"), "config": str(tmp_path / "a.json")}
    config = config_of(sounds, codec=codec)
    before = recordings.settings_key(config, "train"), recordings.settings_key(config, "val")
    (tmp_path / "a.ckpt").write_text("others")
    after = recordings.settings_key(config, "train"), recordings.settings_key(config, "val")
    assert before[0] != after[0]
    assert before[1] != after[1]


# -------------------------------------------------------------------------------------------------- killed and resumed


def test_a_run_killed_between_shards_goes_on_and_ends_in_the_same_bytes(
    sounds: Path, calm: Path, tmp_path: Path, computed: list[str]
) -> None:
    config = config_of(sounds)

    def killed() -> None:
        failpoints.arm([{"point": "encode.shard", "visit": 2, "do": "kill"}])
        encode_store(config, tmp_path)

    assert forked(killed) == -signal.SIGKILL
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]  # nothing that a training would open
    again = encode_store(config, tmp_path)
    assert 0 < len(computed) < 27
    assert contents(again) == contents(calm)
    assert [path.name for path in tmp_path.iterdir()] == [again.name]


def test_of_two_processes_the_slower_one_leaves_nothing_beside_the_store_of_the_other(
    sounds: Path, calm: Path, tmp_path: Path
) -> None:
    def overtaken(tasks: Sequence[Task]) -> Iterator[Outcome]:
        for number, task in enumerate(tasks):
            if (task.step, number) == ("encode", 1):  # one shard is done
                encode_store(config_of(sounds), tmp_path)
            yield perform(task)

    store = encode_store(config_of(sounds), tmp_path, runner=overtaken)
    assert contents(store) == contents(calm)
    assert [path.name for path in tmp_path.iterdir()] == [store.name]


def test_a_file_that_changes_while_it_is_encoded_stops_the_run_by_name(sounds: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sounds, tmp_path / "sounds"))

    def meddling(tasks: Sequence[Task]) -> Iterator[Outcome]:
        if tasks and tasks[0].step == "encode":
            soundfile.write(folder / "train03.wav", noise(77), RATE)
            (folder / "train04.wav").unlink()
        yield from in_process(tasks)

    for policy in ("strict", "quarantine"):
        with pytest.raises(DataError, match=r"train0[34].wav: it changed while recordings were encoded"):
            encode_store(config_of(folder, policy), tmp_path / "stores", runner=meddling)
        assert all(path.name.startswith(".") for path in (tmp_path / "stores").iterdir())
        shutil.copy(sounds / "train03.wav", folder)
        shutil.copy(sounds / "train04.wav", folder)
    assert encode_store(config_of(folder), tmp_path / "stores").is_dir()
