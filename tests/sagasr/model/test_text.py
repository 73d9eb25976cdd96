"""Text encoders: words learned from captions, and a T5 in the real folder layout, written here by transformers."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sagasr.config.settings import T5, Text, Words
from sagasr.io.errors import DataError
from sagasr.model.text import T5Encoder, WordEncoder, build_text_encoder, frozen_t5, missing_weights
from sagasr.model.words import known_share, vocabulary_of, words_of

WIDTH = 48
CAPTIONS = ["a dog barks", "rain on a tin roof", "a man speaks while rain falls"]


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 (encoder and decoder, as published) with a sentencepiece tokenizer trained on three captions."""
    import sentencepiece
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS * 20), model_prefix=str(folder / "spiece"), vocab_size=40, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    config = T5Config(vocab_size=160, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=1, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def text(model: Path | str, max_tokens: int = 32) -> Text:
    return Text(encoder=T5(kind="t5", model=str(model), max_tokens=max_tokens))


def test_vocabulary_is_every_word_once_in_lower_case() -> None:
    assert vocabulary_of(["A dog's bark, a DOG!", "", "Regen für zwei"]) == (
        "a", "bark", "dog", "dog's", "für", "regen", "zwei",
    )  # fmt: skip
    assert words_of("don't stop — 44 kHz") == ["don't", "stop", "44", "khz"]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("一只狗在叫，44kHz", ["一", "只", "狗", "在", "叫", "44khz"]),
        ("犬がエンジンの横で", ["犬", "が", "エ", "ン", "ジ", "ン", "の", "横", "で"]),
        ("หมาที่บ้าน", ["ห", "ม", "า", "ที่", "บ้", "า", "น"]),
        ("ໝາເຫົ່າ", ["ໝ", "າ", "ເ", "ຫົ່", "າ"]),
        ("ឆ្កែ", ["ឆ្", "កែ"]),
        ("ခွေး", ["ခွေး"]),
        ("개가 짖는다", ["개가", "짖는다"]),
        ("कुत्ता भौंक रहा है", ["कुत्ता", "भौंक", "रहा", "है"]),
        ("ＡＢＣ１２ ｶﾞ", ["abc12", "ガ"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("m² ½ snake_case 3.14 O’Neil's", ["m²", "½", "snake_case", "3", "14", "o’neil's"]),
    ],
)
def test_scripts_without_spaces_are_split_by_characters_and_marks_stay_with_their_letters(
    caption: str, words: list[str]
) -> None:
    assert words_of(caption) == words


def test_a_chinese_caption_shares_words_with_others() -> None:
    vocabulary = vocabulary_of(["一只狗在叫", "鸟在树上"])
    assert known_share(["狗在树上", "猫"], vocabulary, 16) == 4 / 5
    assert known_share(["狗在树上", "猫"], vocabulary, 2) == 2 / 5
    assert known_share(["", "—"], vocabulary, 16) == 1


def test_words_fill_slots_in_order_and_unknown_ones_are_skipped() -> None:
    encoder = WordEncoder(("barks", "dog", "rain"), max_tokens=3, cond_dim=8)
    prepared = encoder.prepare(["The dog barks", "", "rain rain rain rain"])
    assert prepared.tolist() == [[2, 1, 0], [0, 0, 0], [3, 3, 3]]


def test_empty_slots_are_exactly_zero_and_words_are_not() -> None:
    encoder = WordEncoder(("dog",), max_tokens=2, cond_dim=8)
    tokens = encoder(encoder.prepare(["dog", "nothing known"]))
    assert tokens.shape == (2, 2, 8)
    assert (tokens[0, 0] != 0).all()
    assert (tokens[0, 1] == 0).all()
    assert (tokens[1] == 0).all()
    tokens.sum().backward()
    assert encoder.embedding.weight.grad is not None
    assert (encoder.embedding.weight.grad[0] == 0).all()  # the empty slot learns nothing


def test_text_switched_off_keeps_its_slots() -> None:
    encoder = build_text_encoder(Text(source="off", encoder=Words(kind="words", max_tokens=5)), 8, ())
    tokens = encoder(encoder.prepare(["a dog"]))
    assert tokens.shape == (1, 5, 8)
    assert (tokens == 0).all()
    assert not list(encoder.parameters())


def test_t5_features_are_those_of_the_reference_encoder(t5_folder: Path) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    encoder = build_text_encoder(text(t5_folder), WIDTH, ())
    tokens = encoder(encoder.prepare(CAPTIONS))
    tokenizer, reference = AutoTokenizer.from_pretrained(t5_folder), T5EncoderModel.from_pretrained(t5_folder).eval()
    for caption, found in zip(CAPTIONS, tokens, strict=True):
        batch = tokenizer([caption], return_tensors="pt")
        with torch.no_grad():
            expected = reference(**batch).last_hidden_state[0]
        length = len(expected)
        assert 2 < length < 32
        torch.testing.assert_close(found[:length], expected, atol=1e-5, rtol=1e-4)
        assert (found[length:] == 0).all()


def test_t5_understands_words_so_that_two_captions_differ(t5_folder: Path) -> None:
    prepared = build_text_encoder(text(t5_folder), WIDTH, ()).prepare(CAPTIONS)
    assert not torch.equal(prepared[0], prepared[1])


def test_t5_is_frozen_and_stays_out_of_the_checkpoint(t5_folder: Path) -> None:
    encoder = build_text_encoder(text(t5_folder), 32, ())
    tokens = encoder(encoder.prepare(["a dog barks", ""]))
    assert tokens.shape == (2, 16, 32)  # of 32: the longest text of the batch, in multiples of 16
    assert set(encoder.state_dict()) == {"project.weight", "project.bias"}
    assert (tokens[0, -1] == 0).all()  # the projection's bias does not reach ended positions


def test_long_captions_are_cut_and_each_is_encoded_once(t5_folder: Path) -> None:
    encoder = build_text_encoder(text(t5_folder, max_tokens=4), WIDTH, ())
    assert isinstance(encoder, T5Encoder)
    first = encoder.prepare(["rain on a tin roof"])
    encoder._loaded = None
    encoder.model = "gone"  # a second encoding would have to load it again
    assert torch.equal(encoder.prepare(["rain on a tin roof"]), first)
    assert first.shape == (1, 4, WIDTH)


def test_features_are_kept_at_their_true_length_and_taken_back_without_the_model(t5_folder: Path) -> None:
    stored = dict(
        zip(CAPTIONS, frozen_t5(T5(kind="t5", model=str(t5_folder), max_tokens=32)).encode(CAPTIONS), strict=True)
    )
    assert len({len(features) for features in stored.values()}) > 1
    assert all(features.shape[1] == WIDTH and len(features) < 32 for features in stored.values())
    encoder = build_text_encoder(text(t5_folder), WIDTH, ())
    assert isinstance(encoder, T5Encoder)
    expected = encoder.prepare(CAPTIONS)
    for caption, row in zip(CAPTIONS, expected, strict=True):
        assert torch.equal(row[: len(stored[caption])], stored[caption])  # alone or together: equal bits
        assert (row[len(stored[caption]) :] == 0).all()
    offline = T5Encoder("t5-base", 32, WIDTH)  # not on this machine, and not needed
    offline.width = WIDTH
    offline.recall(stored)
    assert torch.equal(offline.prepare(CAPTIONS), expected)


def test_t5_folder_without_a_tokenizer_is_refused(t5_folder: Path, tmp_path: Path) -> None:
    for file in t5_folder.iterdir():
        if file.name != "spiece.model":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    encoder = build_text_encoder(text(tmp_path), WIDTH, ())
    with pytest.raises(DataError, match=r"neither tokenizer\.json nor spiece\.model"):
        encoder.prepare(["a dog"])
    assert "spiece.model" in str(missing_weights(text(tmp_path)))


def test_t5_checkpoint_with_missing_weights_is_refused_not_left_random(t5_folder: Path, tmp_path: Path) -> None:
    for file in t5_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 weights are missing.*block\.1"):
        build_text_encoder(text(tmp_path), WIDTH, ()).prepare(["a dog"])


def test_broken_t5_weights_give_one_line(t5_folder: Path, tmp_path: Path) -> None:
    for file in t5_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match="cannot be read") as caught:
        build_text_encoder(text(tmp_path), WIDTH, ()).prepare(["a dog"])
    assert "\n" not in str(caught.value)


def test_a_hub_name_is_found_where_hf_download_puts_it(
    t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--someone--tiny-t5", "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(t5_folder)
    assert missing_weights(text("someone/tiny-t5")) is None
    by_name, by_folder = (
        build_text_encoder(text(model), WIDTH, ()).prepare(CAPTIONS) for model in ("someone/tiny-t5", t5_folder)
    )
    assert torch.equal(by_name, by_folder)
    (repository / "snapshots" / commit).unlink()
    assert "hf download someone/tiny-t5" in str(missing_weights(text("someone/tiny-t5")))


@pytest.mark.parametrize("name", ["t5-base", "google-t5/t5-base"])
def test_the_published_t5_base_has_an_encoder_of_110_million_parameters(name: str) -> None:
    from transformers import T5Config, T5EncoderModel

    base = T5Config(vocab_size=32_128, d_model=768, d_kv=64, d_ff=3_072, num_layers=12, num_heads=12)
    with torch.device("meta"):
        encoder = T5EncoderModel(base)
    assert sum(weight.numel() for weight in encoder.parameters()) == 109_628_544
    ours = T5Encoder(name, 128, 768)
    assert (ours.width, list(ours.parameters())) == (base.d_model, [])  # not projected, as the widths agree


class Evil:
    """A pickled object that would run code when loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.proof,)


def test_code_that_comes_with_a_model_is_not_run(t5_folder: Path, tmp_path: Path) -> None:
    proof, pickled, remote = (tmp_path / name for name in ("code-ran", "pickled", "remote"))
    pickled.mkdir()
    for file in t5_folder.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save({"shared.weight": Evil(proof)}, pickled / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be read"):
        build_text_encoder(text(pickled), WIDTH, ()).prepare(["a dog"])
    remote.mkdir()
    (remote / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))
    (remote / "mine.py").write_text(f"open({str(proof)!r}, 'w')")
    with pytest.raises(DataError, match="no T5 in this folder") as caught:
        build_text_encoder(text(remote), WIDTH, ())
    assert "\n" not in str(caught.value)
    assert not proof.exists()


def test_a_model_that_is_no_t5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 32}))
    with pytest.raises(DataError, match="not a T5"):
        build_text_encoder(text(tmp_path), WIDTH, ())


def test_hub_name_that_is_not_in_the_cache_is_one_line_and_no_network_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = build_text_encoder(text("t5-base", max_tokens=128), 768, ())  # its width is known without it
    assert isinstance(encoder, T5Encoder)
    assert encoder.width == 768
    asked = []

    def refuse(_: object, address: object) -> None:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *host, **_: refuse(None, host))
    with pytest.raises(DataError, match="t5-base: no T5 in this folder or in the Hugging Face cache") as caught:
        encoder.prepare(["a dog"])
    assert asked == []
    assert "\n" not in str(caught.value)
    assert "hf download t5-base" in str(caught.value)
    with pytest.raises(DataError, match="no-such-owner/no-such-model"):
        build_text_encoder(text("no-such-owner/no-such-model"), 768, ())
    assert missing_weights(text("t5-base")) is not None
    assert missing_weights(Text(source="off")) is None
