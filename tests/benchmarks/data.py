"""What the benchmarks run on: shipped recordings, configurations of the true shapes, codecs of random weights.

``small`` and ``full`` have the shapes of the public plan: latents [64, 32] of 65,536 samples, 128 text tokens and two
of roll-off. Their autoencoder is the real class with 8 channels in place of 128, unless the encoder is what is
measured, and their T5 the real class with one layer: captions are encoded once on either side.
"""

import csv
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from sagasr.codec.stable_audio_codecs import empty_autoencoder
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import SIZES, Config
from sagasr.data.encode import encode_store
from sagasr.data.store import Store
from sagasr.io.files import read_yaml, write_json
from sagasr.published.hugging_face import quietly
from sagasr.training.train import keep_freed_memory
from tests.sagasr.model.stable_audio import autoencoder_tree
from tests.sagasr.training.trainings import RECORDINGS, copy_recordings

ROOT = Path(__file__).parents[2]


_scratch = Path()


def work_in(folder: str) -> None:
    """Put all that is made below a folder; what another row has made there is used again."""
    keep_freed_memory()  # as in every training; both sides have it
    global _scratch  # noqa: PLW0603
    _scratch = Path(folder)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def scratch() -> Path:
    """Return the folder to work in."""
    return _scratch


def manifest(train: int, val: int) -> Path:
    """Return a manifest of so many shipped recordings, taken from the three domains in turn."""
    folder = scratch() / f"recordings-{train}-{val}"
    if (folder / "manifest.csv").exists():
        return folder / "manifest.csv"
    return copy_recordings(folder, train, val)


def autoencoder(channels: int) -> dict[str, str]:
    """Return ``codec`` for the Stable Audio autoencoder with random weights; the published one has 128 channels."""
    folder = scratch() / f"autoencoder-{channels}"
    named = {"checkpoint": str(folder / "model.safetensors"), "config": str(folder / "config.json")}
    if folder.exists():
        return {"kind": "stable-audio", **named}
    folder.mkdir()
    tree = {"model_type": "autoencoder", "sample_size": 65_536, "sample_rate": 44_100}
    write_json(folder / "config.json", tree | {"model": autoencoder_tree(channels)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = empty_autoencoder(folder / "config.json")
    save_file(model.state_dict(), folder / "model.safetensors")
    return {
        "kind": "stable-audio",
        "checkpoint": str(folder / "model.safetensors"),
        "config": str(folder / "config.json"),
    }


def t5(width: int) -> Path:
    """Return a folder with a small T5 of random weights and a tokenizer that knows the shipped captions."""
    import sentencepiece
    from transformers import T5Config, T5ForConditionalGeneration

    folder = scratch() / f"t5-{width}"
    if folder.exists():
        return folder
    folder.mkdir()
    with (RECORDINGS / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        captions = [row["text"] for row in csv.DictReader(handle)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions * 20), model_prefix=str(folder / "spiece"), vocab_size=400, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    shape = T5Config(vocab_size=512, d_model=width, d_kv=64, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2)
    with quietly():
        T5ForConditionalGeneration(shape).save_pretrained(folder)
    return folder


def config(size: str, recordings: tuple[int, int] = (6, 3), channels: int = 8, **changes: Any) -> Config:
    """Return the configuration of a size on a few recordings; ``tiny`` is search_spaces/tiny.yaml."""
    data = str(manifest(*recordings))
    tree: dict[str, Any] = {"data": {"train": data, "val": data}}
    if size == "tiny":
        tree |= read_yaml(ROOT / "search_spaces" / "tiny.yaml")
    else:
        tree |= {
            "audio": {"segment": 65_536},
            "codec": autoencoder(channels),
            "degradation": {"variants": 2},
            "conditions": {"text": {"encoder": {"kind": "t5", "model": str(t5(SIZES[size]["cond_dim"]))}}},
            "model": SIZES[size],
            "training": {"precision": "bf16-mixed" if torch.cuda.is_available() else "32-true"},
        }
    return parse(Config, patch(tree, changes), size)


def store_path(settings: Config) -> Path:
    """Return the encoded store of a configuration; encoded once per process."""
    return encode_store(settings, scratch() / "encoded")


def store(settings: Config) -> Store:
    """Return that store, open."""
    return Store.open(store_path(settings))
