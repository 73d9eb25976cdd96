"""Draws: functions of store, seed and step alone; cells are paired, resuming is exact and ranks share a batch."""

import math
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sagasr.audio.spectrum import cutoff_bin, stft_power
from sagasr.codec.codec import build_codec
from sagasr.config.parsing import parse
from sagasr.config.settings import Config
from sagasr.constants import SAMPLE_RATE
from sagasr.data.batches import Batch, Draws
from sagasr.data.encode import encode_store
from sagasr.data.measures import STEP
from sagasr.data.splits import read_manifest
from sagasr.data.store import Store
from sagasr.evaluation.validation_set import Validation

DEMO = Path(str(resources.files("sagasr"))) / "recordings"
SEGMENT = 16_384
SETTINGS: dict[str, Any] = {
    "codec": {"kind": "wavelet", "levels": 6},
    "audio": {"segment": SEGMENT},
    "validation": {"segment": SEGMENT},
    "degradation": {"variants": 2},
    "training": {"steps": 12, "batch_size": 4},
    "conditions": {"text": {"encoder": {"kind": "words"}}},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine of the demo's recordings, six to learn from, with their captions."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = read_manifest(DEMO / "manifest.csv")
    lines = ["path,split,domain,text,transcript"]
    for split, count in (("train", 2), ("val", 1)):
        for domain in ("speech", "music", "effects"):
            for row in [row for row in rows if (row.split, row.domain) == (split, domain)][:count]:
                (folder / row.path).parent.mkdir(exist_ok=True)
                shutil.copy(row.file, folder / row.path)
                lines.append(f'{row.path},{split},{domain},"{row.caption}","{row.transcript}"')
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(encode_store(config_of(corpus), tmp_path_factory.mktemp("stores")))


def config_of(folder: Path, **changes: Any) -> Config:
    manifest = str(folder / "manifest.csv")
    return parse(Config, {"data": {"train": manifest, "val": manifest}, **SETTINGS, **changes}, "test")


def tensors(batch: Batch) -> dict[str, Tensor]:
    flat = batch._asdict()
    inputs = flat.pop("inputs")
    return flat | inputs._asdict()


def batch_at(store: Store, config: Config, step: int, rank: int = 0, world: int = 1) -> Batch:
    return Draws(store, config, rank=rank, world=world).at(step)


def same(one: Batch, other: Batch, names: tuple[str, ...] = ()) -> bool:
    theirs = tensors(other)
    return all(torch.equal(value, theirs[name]) for name, value in tensors(one).items() if not names or name in names)


def test_a_batch_is_a_function_of_seed_and_step(corpus: Path, store: Store) -> None:
    config = config_of(corpus)
    first = batch_at(store, config, 5)
    torch.manual_seed(99)
    assert same(first, batch_at(Store.open(store.path), config, 5))
    for name in ("noise", "t"):
        assert not same(first, batch_at(store, config, 6), (name,))
        assert not same(first, batch_at(store, config_of(corpus, seed=1), 5), (name,))


def test_drawing_leaves_the_global_generator_alone(corpus: Path, store: Store) -> None:
    before = torch.get_rng_state()
    batch_at(store, config_of(corpus), 0)
    Validation.of(store, config_of(corpus)).shaped_noise()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions": {"text": {"source": "off", "encoder": {"kind": "words"}}, "rolloff": "off"}},
        {"conditions": {"text": {"encoder": {"kind": "words"}, "dropout": 0.0}, "low": {"dropout": 0.5}}},
        {"training": {"steps": 99, "batch_size": 4, "time_sampler": "uniform"}},
        {"model": {"embed_dim": 128, "num_heads": 2, "cond_dim": 128, "depth": 1}},
        {"evaluation": {"lfr": "hard"}},
    ],
)
def test_cells_of_one_seed_see_the_same_draws(corpus: Path, store: Store, changes: dict[str, Any]) -> None:
    names = ("high", "low", "noise", "recording", "rolloff_hz", "seconds")
    assert same(batch_at(store, config_of(corpus), 3), batch_at(store, config_of(corpus, **changes), 3), names)


def test_ranks_share_one_batch_row_by_row(corpus: Path, store: Store) -> None:
    config = config_of(corpus)
    whole = tensors(batch_at(store, config, 7))
    for world in (2, 4):
        for rank in range(world):
            for name, value in tensors(batch_at(store, config, 7, rank, world)).items():
                assert torch.equal(value, whole[name][rank::world])


def test_iteration_goes_on_where_training_stood(corpus: Path, store: Store) -> None:
    config, step = config_of(corpus), 0
    draws = Draws(store, config, lambda: step)
    everything = list(draws)
    assert len(everything) == 12
    step = 9
    rest = list(draws)
    assert len(rest) == 3
    assert all(same(one, other) for one, other in zip(rest, everything[9:], strict=True))


def test_every_recording_is_drawn_once_per_epoch_in_an_order_of_its_own(corpus: Path, store: Store) -> None:
    config = config_of(corpus)
    order = torch.cat([batch_at(store, config, step).recording for step in range(12)]).view(-1, 6)
    assert all(sorted(epoch.tolist()) == list(range(6)) for epoch in order)
    assert len({tuple(epoch.tolist()) for epoch in order}) > 4


def test_a_row_holds_the_latents_of_its_crop_at_the_working_level(corpus: Path, store: Store) -> None:
    config = config_of(corpus)
    codec = build_codec(config.codec, 1)
    batch = batch_at(store, config, 2)
    for row, index in enumerate(batch.recording.tolist()):
        crop = round(float(batch.inputs.seconds[row, 0]) * SAMPLE_RATE / STEP)
        frames = slice(crop * STEP // 64, (crop * STEP + SEGMENT) // 64)
        rolloffs = store.train.rolloff_low_hz[index][:, crop]
        variant = [float(value) for value in rolloffs].index(float(batch.inputs.rolloff_hz[row, 0]))
        assert float(batch.inputs.rolloff_hz[row, 1]) == store.train.rolloff_high_hz[index][crop]
        assert float(batch.inputs.seconds[row, 1]) == pytest.approx(65_536 / SAMPLE_RATE)
        gain = float(store.train.gain[index][variant, crop])
        stored = (store.train.mapped_high[index][:, frames], store.train.mapped_low[index][variant, :, frames])
        for latents, expected in zip((batch.high[row], batch.low[row]), stored, strict=True):
            plain = store.norm.invert(latents[None]) / math.sqrt(gain)
            torch.testing.assert_close(plain[0], torch.tensor(expected).float(), rtol=1e-3, atol=1e-4)
        low = codec.decode(store.norm.invert(batch.low[row][None]), SEGMENT)
        assert float(low.square().mean().sqrt()) == pytest.approx(0.1, rel=0.05)


def test_raw_latents_are_those_of_the_codec_and_the_draws_stay(corpus: Path, store: Store) -> None:
    normal = batch_at(store, config_of(corpus), 2)
    raw = batch_at(store, config_of(corpus, model={"latents": "raw"}), 2)
    for seen, plain in ((normal.high, raw.high), (normal.low, raw.low)):
        torch.testing.assert_close(store.norm.invert(seen), plain, rtol=1e-4, atol=1e-5)
    assert same(raw, normal, ("noise", "t", "drop_low", "drop_text", "recording"))
    norm = store.norm.seen_as("raw")
    assert torch.equal(norm.apply(raw.high), raw.high)
    assert torch.equal(norm.invert(raw.high), raw.high)
    torch.testing.assert_close(norm.level, store.norm.level * store.norm.std)


def test_texts_are_those_of_the_recordings(corpus: Path, store: Store) -> None:
    for source in ("caption", "transcript"):
        config = config_of(corpus, conditions={"text": {"source": source, "encoder": {"kind": "words"}}})
        draws = Draws(store, config)
        batch = draws.at(1)
        texts = [store.train.texts(source)[index] for index in batch.recording.tolist()]  # type: ignore[arg-type]
        assert torch.equal(batch.inputs.text, draws.encoder.prepare(texts))
        assert batch.inputs.text.any() or source == "transcript"
    off = config_of(corpus, conditions={"text": {"source": "off", "encoder": {"kind": "words"}}})
    assert not batch_at(store, off, 1).inputs.text.any()


def test_conditions_are_dropped_in_their_shares_and_independently(corpus: Path, store: Store) -> None:
    def masks(low: float, text: float) -> tuple[Tensor, Tensor]:
        conditions = {"text": {"encoder": {"kind": "words"}, "dropout": text}, "low": {"dropout": low}}
        config = config_of(corpus, conditions=conditions, training={"batch_size": 500, "steps": 1})
        batch = batch_at(store, config, 0)
        return batch.drop_low, batch.drop_text

    low, text = masks(0.2, 0.4)
    assert float(low.float().mean()) == pytest.approx(0.2, abs=0.06)
    assert float(text.float().mean()) == pytest.approx(0.4, abs=0.07)
    assert float((low & text).float().mean()) == pytest.approx(0.08, abs=0.04)
    none, less = masks(0.0, 0.1)
    assert not none.any()
    assert not (less & ~text).any()  # a smaller share drops a subset: cells stay paired


def test_time_samplers_use_the_same_draw(corpus: Path, store: Store) -> None:
    def times(kind: str) -> Tensor:
        training = {"batch_size": 400, "steps": 1, "time_sampler": kind}
        return batch_at(store, config_of(corpus, training=training), 0).t

    uniform, normal = times("uniform"), times("logit-normal")
    assert torch.equal(uniform.argsort(), normal.argsort())
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.03)
    assert float(torch.special.logit(normal.double()).std()) == pytest.approx(1, abs=0.1)


def test_noise_is_standard_normal_and_never_the_same_twice(corpus: Path, store: Store) -> None:
    noise = torch.cat([batch_at(store, config_of(corpus), step).noise for step in range(4)])
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert len(torch.unique(noise[:, 0, 0])) == len(noise)


# ---------------------------------------------------------------------------------------------------- what is scored


def test_what_is_scored_does_not_depend_on_the_seed_or_on_the_other_clips(corpus: Path, store: Store) -> None:
    one, other = Validation.of(store, config_of(corpus)), Validation.of(store, config_of(corpus, seed=7))
    for name in ("high", "low", "noise", "high_latents", "low_latents", "gain", "cutoff_hz", "rolloff_high_hz"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    alone = Store(store.path, store.meta, store.train, store.clips[1:2])
    assert torch.equal(Validation.of(alone, config_of(corpus)).noise[0], one.noise[1])


def test_scored_latents_decode_to_the_audio_once_the_gain_is_undone(corpus: Path, store: Store) -> None:
    config = config_of(corpus)
    clips, codec = Validation.of(store, config), build_codec(config.codec, 1)
    for latents, audio in ((clips.high_latents, clips.high), (clips.low_latents, clips.low)):
        decoded = codec.decode(latents, SEGMENT) / clips.gain[:, None, None]
        error = (decoded - audio).square().mean((1, 2)).sqrt() / audio.square().mean((1, 2)).sqrt()
        assert float(error.max()) < 1e-3
    assert [len(part) for part in (clips.names, clips.text, clips.domains, clips.references)] == [3] * 4
    assert clips.domains == ["effects", "music", "speech"]
    assert (clips.rolloff_low_hz < clips.rolloff_high_hz).all()
    assert (clips.rolloff_estimated_hz >= clips.rolloff_low_hz).all()
    assert all(score["lsd"] == 0 for score in clips.score(clips.high))


def test_shaped_noise_is_of_the_content_whatever_the_clips_are_called(corpus: Path, store: Store) -> None:
    renamed = tuple(clip._replace(name=f"other-{clip.name}") for clip in store.clips)
    one, other = (
        Validation.of(Store(store.path, store.meta, store.train, clips), config_of(corpus))
        for clips in (store.clips, renamed)
    )
    assert one.names != other.names
    assert torch.equal(one.shaped_noise(), other.shaped_noise())


def test_shaped_noise_has_the_training_sets_high_band_and_beats_the_low_input(corpus: Path, store: Store) -> None:
    clips = Validation.of(store, config_of(corpus))
    shaped = clips.shaped_noise()
    assert torch.equal(shaped, clips.shaped_noise())
    wanted = torch.tensor(store.meta["high_spectrum"]["log10_power"])
    for index in range(len(clips)):
        cutoff = cutoff_bin(float(clips.cutoff_hz[index])) + 3
        found = stft_power(clips.gain[index] * shaped[index])[0].clamp_min(1e-12).log10().mean(0)
        assert float((found - wanted)[cutoff:].mean()) == pytest.approx(0, abs=0.1)
        below = stft_power(shaped[index] - clips.low[index])[0, :, : cutoff - 6].sum()
        assert float(below) < 1e-3 * float(stft_power(clips.low[index]).sum())
    low, noise = clips.score(clips.low), clips.score(shaped)
    assert sum(row["lsd_hf"] or 0 for row in noise) < 0.7 * sum(row["lsd_hf"] or 0 for row in low)
