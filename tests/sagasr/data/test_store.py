"""The encoded store: what is in it, what names it, that it appears whole or not at all, and what it refuses."""

import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sagasr.audio.degrade import Draw, degrade
from sagasr.audio.files import read_audio
from sagasr.audio.spectrum import BIN_HZ, HOP, rolloff_bin, rolloff_hz, stft_magnitude
from sagasr.codec.codec import build_codec
from sagasr.config.parsing import parse
from sagasr.config.settings import Config
from sagasr.data import measures as statistics
from sagasr.data.corpus import Recording, clip_names, recordings, select_clips, store_identity
from sagasr.data.encode import encode_store
from sagasr.data.encoded_record import clip_gain
from sagasr.data.rows import Row
from sagasr.data.splits import read_manifest
from sagasr.data.store import SCHEMAS, Store, read_records
from sagasr.io.errors import ConfigError, DataError
from sagasr.metrics.score import Reference
from tests.processes import forked

DEMO = Path(str(resources.files("sagasr"))) / "recordings"
SEGMENT = 16_384
SETTINGS: dict[str, Any] = {
    "codec": {"kind": "wavelet", "levels": 6},
    "audio": {"segment": SEGMENT},
    "validation": {"segment": SEGMENT, "clips": 4},
    "degradation": {"variants": 2},
}


def config_of(folder: Path, **changes: Any) -> Config:
    manifest = str(folder / "manifest.csv")
    return parse(Config, {"data": {"train": manifest, "val": manifest}, **SETTINGS, **changes}, "test")


def write_manifest(folder: Path, rows: list[tuple[str, str]]) -> None:
    """List (path, split) pairs; the text of a recording is its name, its domain the first letter."""
    lines = [f"{path},{split},{path[:1]},The {Path(path).stem}." for path, split in rows]
    (folder / "manifest.csv").write_text("\n".join(["path,split,domain,text", *lines]) + "\n")


def demo_subset(folder: Path, train: int = 2, val: int = 1) -> Path:
    """Copy a few of the demo's recordings of each domain, with a manifest."""
    chosen: list[tuple[str, str]] = []
    for split, count in (("train", train), ("val", val)):
        for domain in ("speech", "music", "effects"):
            rows = [row for row in read_manifest(DEMO / "manifest.csv") if (row.split, row.domain) == (split, domain)]
            chosen += [(row.path, split) for row in rows[:count]]
    for path, _ in chosen:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / path, folder / path)
    write_manifest(folder, chosen)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_subset(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(encode_store(config_of(corpus), tmp_path_factory.mktemp("stores")))


@pytest.fixture(scope="module")
def records(store: Store) -> list[dict[str, Any]]:
    return records_of(store)


def records_of(store: Store) -> list[dict[str, Any]]:
    """Return how each training recording of a store was degraded, and the latents that came of it."""
    shards = [read_records(store.path / name, SCHEMAS["train"]) for name in store.meta["shards"]["train"]]
    made = {it["id"]: list(map(Draw, it["filter"], it["order"], it["cutoff_hz"])) for it in chain(*shards)}
    return [
        {"id": entry.id, "path": entry.path, "draws": made[entry.id], "low": low}
        for entry, low in zip(store.train.entries, store.train.mapped_low, strict=True)
    ]


def gain_of(low: np.ndarray) -> float:
    """Return the factor that brings low [C, T] to the level at which the model works."""
    return float(statistics.gain_of(statistics.rms_of(low)))


# ------------------------------------------------------------------------------------------------------- what is in it


def test_latents_decode_to_the_recording_and_to_its_degraded_versions(
    corpus: Path, store: Store, records: list[dict[str, Any]]
) -> None:
    codec = build_codec(config_of(corpus).codec, 1)
    for index, record in enumerate(records):
        high = read_audio(corpus / record["path"], 1)
        decoded = codec.decode(torch.tensor(store.train.mapped_high[index]).float()[None], high.shape[-1])[0]
        assert float((decoded - torch.from_numpy(high)).square().mean().sqrt()) < 1e-3 * high.std()
        for variant in range(2):
            low = degrade(high, record["draws"][variant])
            decoded = codec.decode(torch.tensor(record["low"][variant]).float()[None], low.shape[-1])[0]
            assert float((decoded - torch.from_numpy(low)).square().mean().sqrt()) < 1e-3 * low.std()


def test_half_precision_costs_next_to_no_distance(corpus: Path, store: Store) -> None:
    codec = build_codec(config_of(corpus).codec, 1)
    for clip in store.clips:
        decoded = codec.decode(clip.high.float()[None], SEGMENT)[0]
        lsd = Reference(clip.high_audio, clip.cutoff_hz).score(decoded)["lsd"]
        low_lsd = Reference(clip.high_audio, clip.cutoff_hz).score(clip.low_audio)["lsd"]
        assert lsd is not None
        assert low_lsd is not None
        assert lsd < 0.05 * low_lsd


def test_roll_off_and_level_of_every_crop_are_those_of_the_crop(
    corpus: Path, store: Store, records: list[dict[str, Any]]
) -> None:
    for index, record in enumerate(records):
        high = read_audio(corpus / record["path"], 1)
        low = degrade(high, record["draws"][1])
        magnitudes = stft_magnitude(torch.from_numpy(high).mean(0))
        crops = store.train.gain[index].shape[1]
        assert crops == (65_536 - SEGMENT) // statistics.STEP + 1
        for crop in range(0, crops, 5):
            cut = slice(crop * statistics.STEP, crop * statistics.STEP + SEGMENT)
            assert store.train.gain[index][1, crop] == pytest.approx(gain_of(low[:, cut]), rel=1e-4)
            frames = magnitudes[cut.start // HOP : cut.stop // HOP + 1]  # those centred on the crop, its end included
            expected = BIN_HZ * rolloff_bin(frames.sum(0))
            assert store.train.rolloff_high_hz[index][crop] == pytest.approx(expected, abs=1.01 * BIN_HZ)


def test_the_only_crop_of_a_recording_has_exactly_its_roll_off() -> None:
    noise = np.random.default_rng(0).standard_normal((1, SEGMENT)).astype(np.float32)
    low = degrade(noise, Draw("butterworth", 6, 5_000.0))
    (rolloff,), (rms,) = statistics.measure_crops(low, SEGMENT)
    assert rolloff == pytest.approx(rolloff_hz(low))
    assert rms == pytest.approx(statistics.rms_of(low))


def test_a_crop_of_the_latents_is_the_latents_of_the_crop_away_from_its_ends(corpus: Path, store: Store) -> None:
    codec = build_codec(config_of(corpus).codec, 1)
    audio = torch.from_numpy(read_audio(corpus / "speech/sp_001.flac", 1))
    whole, cut = codec.encode(audio[None])[0], codec.encode(audio[None, :, 8_192 : 8_192 + SEGMENT])[0]
    frames = slice(8_192 // codec.ratio, (8_192 + SEGMENT) // codec.ratio)
    difference = (whole[:, frames] - cut).abs().amax(0)
    assert difference[16:-16].max() < 1e-4
    assert difference.max() > 1e-3  # at the ends, the crop's own latents would know of a silence that is not there


def test_drawn_latents_have_zero_mean_and_unit_variance_per_channel(store: Store) -> None:
    drawn = []
    frames, step = store.frames, statistics.STEP // store.meta["ratio"]
    for latents, gains in zip(map(torch.tensor, store.train.mapped_high), store.train.gain, strict=True):
        for variant, crop in np.ndindex(*gains.shape):
            gain = store.latent_gain(torch.tensor(gains[variant, crop]))
            drawn.append(store.norm.apply(gain * latents[:, crop * step : crop * step + frames].float()))
    together = torch.stack(drawn)
    assert together.mean((0, 2)).abs().max() < 1e-3
    assert together.std((0, 2)).sub(1).abs().max() < 1e-3


def test_multiplying_audio_multiplies_latents_by_the_latent_gain(corpus: Path, store: Store) -> None:
    codec = build_codec(config_of(corpus).codec, 1)
    audio = torch.from_numpy(read_audio(corpus / "music/mu_001.flac", 1))[None]
    scaled = codec.encode(3.7 * audio)
    torch.testing.assert_close(scaled, store.latent_gain(torch.tensor(3.7)) * codec.encode(audio), rtol=1e-3, atol=1e-3)


def test_the_gain_brings_low_to_the_working_level_and_leaves_the_stable_audio_codec_alone(
    corpus: Path, store: Store
) -> None:
    for clip in store.clips:
        assert clip.gain * statistics.rms_of(clip.low_audio.numpy()) == pytest.approx(statistics.TARGET_RMS, rel=1e-4)
    assert gain_of(np.zeros((1, 100), np.float32)) == pytest.approx(1_000)
    nonlinear = config_of(corpus, codec={"kind": "stable-audio", "checkpoint": "x", "config": "y"})
    assert clip_gain(nonlinear, np.ones((1, 100), np.float32)) == 1


def test_a_scored_clip_is_the_loudest_stretch_and_short_ones_end_in_silence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(100_000)
    noise[:60_000] *= 0.01
    noise[60_000 + SEGMENT :] *= 0.01
    soundfile.write(tmp_path / "long.wav", 0.1 * noise, 44_100, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", 0.1 * noise[60_000:70_000], 44_100, subtype="FLOAT")
    soundfile.write(tmp_path / "train.wav", 0.1 * noise[:SEGMENT], 44_100, subtype="FLOAT")
    write_manifest(tmp_path, [("long.wav", "val"), ("short.wav", "val"), ("train.wav", "train")])
    clips = {clip.name: clip for clip in Store.open(encode_store(config_of(tmp_path), tmp_path / "s")).clips}
    assert clips["long"].start == pytest.approx(60_000, abs=200)
    assert (clips["long"].samples, clips["long"].total_samples) == (SEGMENT, 100_000)
    assert (clips["short"].samples, clips["short"].total_samples) == (10_000, 10_000)
    assert clips["short"].high_audio.shape == (1, SEGMENT)
    assert not clips["short"].high_audio[:, 10_000:].any()
    assert clips["long"].high_audio[0, [0, -1]].abs().max() < 1e-6  # faded where it was cut, not ended by a click
    assert clips["short"].high_audio[0, 0] == pytest.approx(0.1 * noise[60_000])


def test_eight_bit_stereo_at_48_khz_and_short_recordings_are_used(tmp_path: Path) -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal((30_000, 2))
    soundfile.write(tmp_path / "a.wav", noise, 48_000, subtype="PCM_U8")
    soundfile.write(tmp_path / "b.wav", noise[:3_000, 0], 44_100)
    soundfile.write(tmp_path / "c.wav", noise[:, 1], 44_100)
    write_manifest(tmp_path, [("a.wav", "train"), ("b.wav", "train"), ("c.wav", "val")])
    store = Store.open(encode_store(config_of(tmp_path, audio={"segment": SEGMENT, "channels": 2}), tmp_path / "s"))
    assert sorted(store.train.samples) == [3_000, -(-30_000 * 147 // 160)]
    assert {latents.shape for latents in store.train.mapped_high} == {(128, SEGMENT // 64), (128, 431)}


def test_meta_says_what_was_encoded(corpus: Path, store: Store) -> None:
    meta = json.loads((store.path / "meta.json").read_text())
    assert meta["counts"] == {"train": 6, "val": 3, "val_available": 3}
    trained = [row for row in read_manifest(corpus / "manifest.csv") if row.split == "train"]
    assert store.vocabulary("caption") == tuple(sorted([*(Path(row.path).stem for row in trained), "the"]))
    assert store.vocabulary("off") == ()
    assert len(meta["high_spectrum"]["log10_power"]) == 1_025
    assert {entry.path for entry in store.train.entries} == {row.path for row in trained}
    assert str(corpus) not in (store.path / "meta.json").read_text()


def test_the_roll_off_regression_finds_what_can_be_found() -> None:
    chance = np.random.default_rng(0)
    features = chance.standard_normal((400, 12))
    rolloffs = 15_000 + 2_000 * features[:, 3] + 200 * chance.standard_normal(400)
    fitted = statistics.fit_rolloff(features, rolloffs, list(range(400)))
    assert fitted["error_hz"] < 0.6 * fitted["constant_error_hz"]
    low = 0.1 * chance.standard_normal((1, SEGMENT)).astype(np.float32)
    assert 21_000 <= statistics.estimate_rolloff(fitted, statistics.rolloff_features(low), 21_000.0) <= 22_050


# ------------------------------------------------------------------------------------------------------ what names it


def test_only_what_changes_the_content_changes_the_name(corpus: Path) -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        config = config_of(corpus, **changes)
        return store_identity(config, recordings(config))

    first = identity()
    for same in (
        {"seed": 3},
        {"training": {"steps": 5, "batch_size": 2}},
        {"evaluation": {"lfr": "hard"}},
        {"conditions": {"text": {"source": "off"}}},
        {"validation": {**SETTINGS["validation"], "every": 7}},
    ):
        assert identity(**same) == first
    for other in (
        {"codec": {"kind": "wavelet", "levels": 5}},
        {"codec": {"kind": "wavelet", "companding": 0.6}},
        {"audio": {"segment": 2 * SEGMENT}},
        {"degradation": {"variants": 3}},
        {"validation": {**SETTINGS["validation"], "cutoff_hz": 5_000.0}},
    ):
        assert identity(**other) != first


def test_names_and_order_of_the_files_change_nothing(corpus: Path, store: Store, tmp_path: Path) -> None:
    rows = [(row.path, row.split) for row in read_manifest(corpus / "manifest.csv")]
    texts = {path: f"The {Path(path).stem}." for path, _ in rows}
    lines = []
    for number, (path, split) in enumerate(reversed(rows)):
        shutil.copy(corpus / path, tmp_path / f"{number}.flac")
        lines.append(f"{number}.flac,{split},{path[:1]},{texts[path]}")
    (tmp_path / "manifest.csv").write_text("\n".join(["path,split,domain,text", *lines]) + "\n")
    other = encode_store(config_of(tmp_path), tmp_path / "stores")
    assert other.name == store.path.name
    again = Store.open(other)
    for key in ("high_spectrum", "rolloff_regression", "vocabulary", "counts"):
        assert again.meta[key] == store.meta[key]
    assert all(torch.equal(one, two) for one, two in zip(again.norm, store.norm, strict=True))


def test_adding_a_recording_leaves_the_draws_of_the_others_alone(
    corpus: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    demo_subset(tmp_path, train=3)
    more = Store.open(encode_store(config_of(tmp_path), tmp_path / "stores"))
    found = {record["id"]: record for record in records_of(more)}
    assert len(found) == 9
    for record in records:
        assert found[record["id"]]["draws"] == record["draws"]
        assert np.array_equal(found[record["id"]]["low"], record["low"])


def test_a_second_call_returns_the_same_store_and_writes_nothing(corpus: Path, store: Store) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.path.iterdir()}
    assert encode_store(config_of(corpus), store.path.parent, progress=pytest.fail) == store.path
    assert {path.name: path.stat().st_mtime_ns for path in store.path.iterdir()} == before


def test_clips_are_spread_evenly_over_domains_whatever_their_order() -> None:
    pool = [
        Recording(f"{domain}{number}", Row(line=0, path=f"{domain}/{number}.flac", file=Path(), domain=domain))
        for domain, count in (("a", 1), ("b", 5), ("c", 9))
        for number in range(count)
    ]
    chosen = select_clips(pool, 7)
    assert [it.row.domain for it in chosen] == ["a", "b", "b", "b", "c", "c", "c"]
    assert len(select_clips(pool, 100)) == 15


@pytest.mark.timeout(60)
def test_names_of_many_clips_are_soon_found() -> None:
    rows = [Recording("", Row(line, f"{line:06}.wav", Path())) for line in range(200_000)]
    assert clip_names(rows)[-1] == "199999"


def test_clip_names_are_unique_and_safe() -> None:
    paths = ["a/b.wav", "a-b.flac", "../../x.wav", "....wav", "é ü\n.wav", "y" * 200 + ".wav", "z" + "y" * 200 + ".wav"]
    rows = [Recording("0123456789", Row(line=0, path=path, file=Path())) for path in paths]
    names = clip_names(rows)
    assert len(set(names)) == len(names)
    for name in names:
        assert name == Path(name).name
        assert name.isprintable()
        assert not name.startswith(".")
        assert len(name.encode()) < 200


# -------------------------------------------------------------------------------------------------- whole or not at all


def test_progress_counts_every_recording(corpus: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    encode_store(config_of(corpus), tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 9) for done in range(1, 10)]


def test_a_killed_encoding_leaves_nothing_visible_and_the_next_one_gives_the_same_bytes(
    corpus: Path, store: Store, tmp_path: Path
) -> None:
    def kill(done: int, total: int) -> None:
        if done == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    config = config_of(corpus)
    assert forked(lambda: encode_store(config, tmp_path, progress=kill)) == -signal.SIGKILL
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
    for left in tmp_path.iterdir():
        os.utime(left, (0, 0))  # as if it had been left there long ago
    again = encode_store(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [again.name]
    names = sorted(path.name for path in store.path.iterdir())
    assert sorted(path.name for path in again.iterdir()) == names
    for name in names:
        assert (again / name).read_bytes() == (store.path / name).read_bytes()


def test_two_encodings_at_once_end_in_one_store(corpus: Path, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=60)

    def encode(_: int) -> Path:
        return encode_store(config_of(corpus), tmp_path, progress=lambda done, total: both.wait() and None)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(encode, range(2))
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert len(Store.open(first).train) == 6


def test_a_full_disk_is_one_line_and_leaves_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="no space left"):
        encode_store(config_of(corpus), tmp_path / "stores")
    assert list((tmp_path / "stores").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda path: shard(path, "train").unlink(), r"train-\w+.arrow: 0 bytes"),
        (lambda path: os.truncate(shard(path, "val"), 1_000), r"val-\w+.arrow: 1000 bytes"),
        (lambda path: os.truncate(path / "recordings.arrow", 10), "recordings.arrow: 10 bytes"),
        (lambda path: (path / "meta.json").write_text("{"), "meta.json: not readable"),
        (lambda path: overwrite(shard(path, "train")), r"train-\w+.arrow: not readable"),
    ],
)
def test_a_damaged_store_is_named(store: Store, tmp_path: Path, damage: Callable[[Path], None], part: str) -> None:
    copy = Path(shutil.copytree(store.path, tmp_path / "copy"))
    damage(copy)
    with pytest.raises(DataError, match=part):
        Store.open(copy)


def shard(path: Path, split: str) -> Path:
    return min(path.glob(f"{split}-*.arrow"))


def overwrite(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


# ------------------------------------------------------------------------------------------------------ what it refuses


def broken_recordings(folder: Path) -> dict[str, str]:
    """Write recordings that cannot be used; return their names and a part of the reason."""
    chance = np.random.default_rng(0)
    noise = 0.1 * chance.standard_normal(44_100)
    soundfile.write(folder / "nan.wav", np.where(np.arange(44_100) == 9, np.nan, noise), 44_100, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(44_100), 44_100)
    soundfile.write(folder / "offset.wav", np.full(44_100, 0.5), 44_100)
    soundfile.write(folder / "brief.wav", noise[:100], 44_100)
    soundfile.write(folder / "upsampled.wav", 0.1 * np.sin(np.arange(44_100) * 0.03), 44_100, subtype="FLOAT")
    (folder / "empty.wav").touch()
    (folder / "bytes.flac").write_bytes(chance.bytes(5_000))
    for suffix in ("wav", "flac", "ogg"):
        soundfile.write(folder / f"whole.{suffix}", noise, 44_100)
        whole = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    return {
        "nan.wav": "NaN",
        "silent.wav": "silent",
        "offset.wav": "silent",
        "brief.wav": "2.3 ms",
        "upsampled.wav": "nothing is left to restore",
        "empty.wav": "empty",
        "bytes.flac": "not readable",
        "cut.wav": "cut off",
        "cut.flac": "",
        "cut.ogg": "",
    }


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_unusable_recordings_are_listed_at_once_and_nothing_is_written(tmp_path: Path, split: str) -> None:
    reasons = broken_recordings(tmp_path)
    rows = [("whole.wav", "train"), ("whole.flac", "val"), *((name, split) for name in reasons)]
    write_manifest(tmp_path, rows)
    config = config_of(tmp_path, validation={"segment": SEGMENT, "clips": 20})
    with pytest.raises(DataError) as caught:
        encode_store(config, tmp_path / "stores")
    found = {Path(line.split(": ")[0]).name: line for line in str(caught.value).splitlines()}
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in found[name]
    assert list((tmp_path / "stores").iterdir()) == []


def test_missing_recordings_are_listed_together_with_broken_ones(tmp_path: Path) -> None:
    broken_recordings(tmp_path)
    write_manifest(tmp_path, [("gone.wav", "train"), ("whole.wav", "train"), ("nan.wav", "train"), ("lost.wav", "val")])
    with pytest.raises(DataError) as caught:
        encode_store(config_of(tmp_path), tmp_path / "stores")
    names = [Path(line.split(": ")[0]).name for line in str(caught.value).splitlines()]
    assert sorted(names) == ["gone.wav", "lost.wav", "nan.wav"]


def test_a_recording_that_is_learnt_from_is_not_scored(tmp_path: Path) -> None:
    broken_recordings(tmp_path)
    shutil.copy(tmp_path / "whole.wav", tmp_path / "same.wav")
    write_manifest(tmp_path, [("whole.wav", "train"), ("same.wav", "val")])
    with pytest.raises(DataError, match=r"same.wav: the same recording stands in training .*whole.wav"):
        encode_store(config_of(tmp_path), tmp_path / "stores")


def test_faults_of_both_manifests_are_reported_together(tmp_path: Path) -> None:
    config = parse(
        Config, {"data": {"train": str(tmp_path / "a.csv"), "val": str(tmp_path / "b.csv")}, **SETTINGS}, "t"
    )
    with pytest.raises(ConfigError) as caught:
        encode_store(config, tmp_path / "stores")
    assert [part in str(caught.value) for part in ("a.csv", "b.csv")] == [True, True]
    assert not (tmp_path / "stores").exists()
