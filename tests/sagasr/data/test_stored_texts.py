"""Texts beside a store: a T5's features are written once, at true length, and trainings need the T5 no more."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from orchestrator.run import worker
from sagasr.config.parsing import parse
from sagasr.config.settings import T5, Config, Words
from sagasr.data import texts
from sagasr.data.batches import Draws
from sagasr.data.encode import encode_store
from sagasr.data.store import Store
from sagasr.data.texts import embed_texts
from sagasr.model.text import T5Encoder


def write_t5(folder: Path, seed: int = 0) -> None:
    """Write a tiny T5 with its tokenizer, as published ones are."""
    import sentencepiece
    from transformers import T5Config, T5EncoderModel

    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["rain on a roof", "rain"] * 20), model_prefix=str(folder / "spiece"), vocab_size=24,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    torch.manual_seed(seed)
    T5EncoderModel(T5Config(vocab_size=160, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)).save_pretrained(
        folder
    )


@pytest.fixture
def config(tmp_path: Path) -> Config:
    write_t5(tmp_path / "t5")
    lines = ["path,split,text"]
    for number in range(4):
        noise = 0.1 * np.random.default_rng(number).standard_normal(9_000)
        soundfile.write(tmp_path / f"{number}.wav", noise, 44_100)
        lines.append(f"{number}.wav,{'val' if number == 3 else 'train'},{'rain ' * (1 + number % 2)}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    manifest = str(tmp_path / "m.csv")
    tree = {
        "data": {"train": manifest, "val": manifest},
        "codec": {"kind": "pqmf", "bands": 64},
        "audio": {"segment": 8_192},
        "validation": {"segment": 8_192},
        "degradation": {"variants": 1},
        "training": {"batch_size": 3},
        "conditions": {"text": {"encoder": {"kind": "t5", "model": str(tmp_path / "t5"), "max_tokens": 8}}},
    }
    return parse(Config, tree, "test")


def test_stored_features_are_those_that_the_t5_gives_and_replace_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(encode_store(config, tmp_path / "stores"))
    fresh = Draws(store, config).at(0).inputs.text
    path = embed_texts(store, config.conditions.text)
    assert path is not None
    assert path.parent == store.path
    written = path.read_bytes()
    assert embed_texts(store, config.conditions.text) == path
    path.unlink()
    assert embed_texts(store, config.conditions.text) == path
    assert path.read_bytes() == written
    monkeypatch.setattr(T5Encoder, "encode", lambda self, captions: pytest.fail("loaded") if captions else [])
    assert torch.equal(Draws(Store.open(store.path), config).at(0).inputs.text, fresh)


def test_other_weights_have_other_features(config: Config, tmp_path: Path) -> None:
    store = Store.open(encode_store(config, tmp_path / "stores"))
    first = embed_texts(store, config.conditions.text)
    write_t5(tmp_path / "t5", seed=1)
    second = embed_texts(store, config.conditions.text)
    assert first != second
    assert first is not None
    assert second is not None
    assert first.read_bytes() != second.read_bytes()


def test_words_need_none(config: Config, tmp_path: Path) -> None:
    store = Store.open(encode_store(config, tmp_path / "stores"))
    tree = config.conditions.text.model_dump(mode="json") | {"encoder": {"kind": "words"}}
    assert embed_texts(store, parse(type(config.conditions.text), tree, "test")) is None


def test_a_run_killed_on_its_way_goes_on_and_ends_in_the_same_bytes(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = embed_texts(Store.open(encode_store(config, tmp_path / "calm")), config.conditions.text)
    assert calm is not None
    store = Store.open(encode_store(config, tmp_path / "stores"))
    encode = T5Encoder.encode
    read: list[str] = []
    interrupted: list[str] = []

    def count(self: T5Encoder, captions: Sequence[str]) -> list[torch.Tensor]:
        if read and not interrupted:
            interrupted.extend(captions)
            raise KeyboardInterrupt
        read.extend(captions)
        return encode(self, captions)

    monkeypatch.setattr(texts, "PER_PART", 1)
    monkeypatch.setattr(T5Encoder, "encode", count)
    with pytest.raises(KeyboardInterrupt):
        embed_texts(store, config.conditions.text)
    assert not list(store.path.glob("texts-*"))  # whole or absent
    path = embed_texts(store, config.conditions.text)
    assert path is not None
    assert path.read_bytes() == calm.read_bytes()
    assert len(read) == len(set(read)) == 2  # each text once, in spite of the interruption
    assert not list(store.path.glob(".texts-*"))


def test_the_store_of_a_sweep_has_the_texts_of_all_its_trainings(config: Config, tmp_path: Path) -> None:
    text = config.conditions.text
    absent = text.model_copy(update={"encoder": T5(kind="t5", model=str(tmp_path / "absent"), max_tokens=8)})
    words = text.model_copy(update={"encoder": Words(kind="words")})
    sweep = [it.model_dump_json() for it in (words, absent, text)]
    store = Path(worker.encode(config.model_dump_json(), str(tmp_path / "stores"), texts=sweep))
    written = list(store.glob("texts-*.arrow"))
    assert written == [embed_texts(Store.open(store), text)]
