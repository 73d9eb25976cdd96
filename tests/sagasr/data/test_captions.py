"""Captions by a real Qwen2-Audio, tiny and random, in the files of the published one; and its true size on paper."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sagasr.data.captions import INSTRUCTION, RATE, Qwen2Audio, caption, heard_part, missing_weights, unique_share
from sagasr.io.errors import DataError
from sagasr.io.fingerprint import fingerprint
from tests.sagasr.data.qwen import write_qwen


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("qwen2-audio"))


def sounds(folder: Path, count: int = 5) -> list[Path]:
    """Tones of different pitch, length, rate and channels."""
    paths = []
    for number in range(count):
        rate, seconds = (44_100, 16_000, 48_000)[number % 3], 0.5 + 0.4 * number
        time = np.arange(int(rate * seconds)) / rate
        tone = 0.3 * np.sin(2 * np.pi * 300 * (number + 1) ** 1.5 * time)
        paths.append(folder / f"tone-{number}.wav")
        soundfile.write(paths[-1], np.stack([tone] * (1 + number % 2), axis=1), rate)
    return paths


def captioner(model: Path, **options: Any) -> Qwen2Audio:
    return Qwen2Audio(str(model), **{"max_tokens": 12, "device": "cpu"} | options)


class Counting:
    """A captioner that writes down how much it was asked, and can be interrupted."""

    identity = model = "counting"

    def __init__(self, say: Any = None, stop_after: int | None = None) -> None:
        self.heard = 0
        self.say = say or (lambda number: f"sound number {number}")
        self.stop_after = stop_after

    def describe(self, sounds: Sequence[np.ndarray]) -> list[str]:
        if self.stop_after is not None and self.heard >= self.stop_after:
            raise KeyboardInterrupt
        first = self.heard
        self.heard += len(sounds)
        return [self.say(number) for number in range(first, self.heard)]


def test_the_model_is_in_the_published_layout(qwen: Path) -> None:
    assert {path.name for path in qwen.iterdir()} >= {
        "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    with safe_open(qwen / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {
        "audio_tower.conv1.weight",
        "multi_modal_projector.linear.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    } <= names


def test_different_sounds_get_different_captions_alone_or_in_a_batch_and_always_the_same(
    qwen: Path, tmp_path: Path
) -> None:
    paths = sounds(tmp_path)
    together = caption(paths, captioner(qwen), tmp_path / "one.json", batch=5)
    alone = caption(paths, captioner(qwen), tmp_path / "two.json", batch=1)
    assert together == alone  # padding changes nothing, and nothing is drawn
    assert len(set(together)) == len(paths)
    assert unique_share(together) == 1
    assert all(text == " ".join(text.split()) for text in together)


def test_captions_are_those_of_transformers_own_recipe(qwen: Path, tmp_path: Path) -> None:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    [path] = sounds(tmp_path, 1)
    processor = Qwen2AudioProcessor.from_pretrained(qwen)
    network = Qwen2AudioForConditionalGeneration.from_pretrained(qwen).eval()
    prompt = "<|audio_bos|><|AUDIO|><|audio_eos|>Generate the caption in English:"
    inputs = processor(text=prompt, audio=heard_part(path), sampling_rate=RATE, return_tensors="pt")
    written = network.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    [expected] = processor.batch_decode(written, skip_special_tokens=True)
    assert caption([path], captioner(qwen), tmp_path / "captions.json") == [" ".join(expected.split())]


def test_shards_as_published_give_the_same_captions_and_an_absent_shard_is_noticed(qwen: Path, tmp_path: Path) -> None:
    from transformers import Qwen2AudioForConditionalGeneration

    for file in qwen.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    Qwen2AudioForConditionalGeneration.from_pretrained(qwen).save_pretrained(tmp_path, max_shard_size="150KB")
    shards = sorted(tmp_path.glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    assert (tmp_path / "model.safetensors.index.json").exists()
    tone = np.sin(np.arange(RATE) / 9).astype(np.float32)
    assert captioner(tmp_path).describe([tone]) == captioner(qwen).describe([tone])
    shards[1].unlink()
    with pytest.raises(DataError, match=r"cannot be read|weights are missing") as caught:
        captioner(tmp_path).describe([tone])
    assert "\n" not in str(caught.value)


def test_an_instruct_model_is_asked_through_its_chat_template(qwen: Path, tmp_path: Path) -> None:
    (tmp_path / "Qwen2-Audio-7B-Instruct").symlink_to(qwen)
    instruct = captioner(tmp_path / "Qwen2-Audio-7B-Instruct")
    assert len(instruct.describe([np.zeros(RATE, np.float32)])) == 1
    assert instruct._loaded is not None
    question = instruct._question(instruct._loaded[0])
    assert question.startswith("<|im_start|>system")
    assert question.count("<|AUDIO|>") == 1
    assert question.endswith("<|im_start|>assistant\n")


def test_sounds_are_heard_as_the_middle_30_seconds_at_16_khz(tmp_path: Path) -> None:
    quiet, loud = np.zeros(10 * 44_100), np.ones(30 * 44_100)
    soundfile.write(tmp_path / "long.wav", 0.5 * np.concatenate([quiet, loud, quiet]), 44_100)
    heard = heard_part(tmp_path / "long.wav")
    assert heard.shape == (30 * RATE,)
    assert heard.dtype == np.float32
    assert heard[RATE:-RATE].min() > 0.45
    array = np.stack([np.zeros(44_100), np.ones(44_100)])
    assert heard_part(array).shape == (RATE,)
    assert abs(float(heard_part(array)[RATE // 2]) - 0.5) < 0.01  # stereo is averaged


def test_known_sounds_are_not_heard_again_whatever_their_name(tmp_path: Path) -> None:
    paths, cache = sounds(tmp_path), tmp_path / "captions.json"
    first = caption(paths, Counting(), cache)
    (tmp_path / "copy.wav").write_bytes(paths[2].read_bytes())
    again, told = Counting(), []
    more = caption(
        [tmp_path / "copy.wav", *paths, np.ones((1, 4_410))], again, cache, progress=lambda *p: told.append(p)
    )
    assert again.heard == 1  # the array
    assert more[:-1] == [first[2], *first]
    assert told == [(6, 6)]
    other = Counting()
    other.identity = "another model"
    caption(paths, other, cache)
    assert other.heard == 5
    assert len(json.loads(cache.read_text())) == 11


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    paths, cache = sounds(tmp_path), tmp_path / "captions.json"
    with pytest.raises(KeyboardInterrupt):
        caption(paths, Counting(stop_after=4), cache, batch=2)
    rest = Counting(say=lambda number: f"later {number}")
    captions = caption(paths, rest, cache, batch=2)
    assert rest.heard == 1
    assert captions == ["sound number 0", "sound number 1", "sound number 2", "sound number 3", "later 0"]


def test_a_model_that_does_not_hear_is_noticed_and_its_captions_are_not_kept(qwen: Path, tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    deaf.mkdir()
    for file in qwen.iterdir():
        (deaf / file.name).write_bytes(file.read_bytes())
    weights = load_file(deaf / "model.safetensors")
    for name in ("weight", "bias"):
        weights[f"multi_modal_projector.linear.{name}"].zero_()
    save_file(weights, deaf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        DataError, match=r"5 different sounds got 1 different caption .*does not hear.*'audio'"
    ) as caught:
        # equally long, as the number of audio tokens alone would tell them apart
        caption(
            [np.full((1, 44_100), level) for level in np.arange(5) / 10], captioner(deaf), tmp_path / "captions.json"
        )
    assert "\n" not in str(caught.value)
    assert str(deaf) in str(caught.value)
    assert not (tmp_path / "captions.json").exists()


def test_few_captions_for_many_sounds_are_refused_and_some_repetition_is_not(tmp_path: Path) -> None:
    many = [np.full((1, 4_410), level) for level in np.linspace(0, 1, 40)]
    with pytest.raises(DataError, match="40 different sounds got 3 different captions"):
        caption(many, Counting(say=lambda number: f"a sound {number % 3}"), tmp_path / "a.json")
    caption(many, Counting(say=lambda number: f"a sound {number % 4}"), tmp_path / "b.json")
    caption(many[:3], Counting(say=lambda number: "a dog"), tmp_path / "c.json")  # three dogs are possible


def test_absent_and_wrong_models_are_one_line_with_the_way_to_get_them(qwen: Path, tmp_path: Path) -> None:
    for model in ("Qwen/Qwen2-Audio-7B", str(tmp_path / "nothing")):
        line = missing_weights(model)
        assert line is not None
        assert "hf download Qwen/Qwen2-Audio-7B" in line
        assert "\n" not in line
        with pytest.raises(DataError, match="hf download"):
            caption([np.zeros((1, 4_410))], Qwen2Audio(model), tmp_path / "captions.json")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "captions need Qwen2-Audio" in str(missing_weights(str(tmp_path / "bert")))
    assert missing_weights(str(qwen)) is None


def test_a_hub_name_is_found_where_hf_download_puts_it_and_counts_by_its_commit(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--Qwen--Tiny-Audio", "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(qwen)
    assert missing_weights("Qwen/Tiny-Audio") is None
    named = Qwen2Audio("Qwen/Tiny-Audio", max_tokens=12, device="cpu")
    silence = np.zeros((1, 44_100), np.float32)
    assert caption([silence], named, tmp_path / "a.json") == caption([silence], captioner(qwen), tmp_path / "b.json")
    assert named.identity == fingerprint([f"Qwen/Tiny-Audio@{commit}", INSTRUCTION, 12])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"broken"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be read|of different models"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "cannot be read"),
        (lambda folder: lose(folder, "audio_tower.layers.1.fc1.weight"), "1 weights are missing, the first .*fc1"),
    ],
)
def test_a_damaged_model_is_refused_not_left_random(qwen: Path, tmp_path: Path, damage: Any, words: str) -> None:
    for file in qwen.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        captioner(tmp_path).describe([np.zeros(RATE, np.float32)])
    assert "\n" not in str(caught.value)


def lose(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.wav: no such recording"):
        caption([tmp_path / "absent.wav"], Counting(), tmp_path / "captions.json")


def test_the_published_size_is_8_4_billion_parameters() -> None:
    from transformers import Qwen2AudioConfig, Qwen2AudioEncoderConfig, Qwen2AudioForConditionalGeneration, Qwen2Config

    text = Qwen2Config(
        vocab_size=156_032, hidden_size=4_096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32,
    )  # fmt: skip
    with torch.device("meta"):
        network = Qwen2AudioForConditionalGeneration(
            Qwen2AudioConfig(audio_config=Qwen2AudioEncoderConfig(), text_config=text)
        )
    assert sum(weight.numel() for weight in network.parameters()) == 8_397_094_912
