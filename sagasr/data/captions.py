"""Captions of sounds by Qwen2-Audio: greedy, kept by content, and refused when the model has not heard.

The paper captions the high recordings for training and the low ones for validation, as only those are there when the
model is used. Each sound is heard as 16 kHz mono, the middle 30 s of it, with one short instruction.

Captions are kept in one JSON file by what they depend on (sound, model, instruction, length), so a second run goes on
where the first one stopped; manifests that name them are written beside the old ones. Older code passed the sound as
``audios``; later versions of transformers ignored that name, and every sound got the same caption. Both the input and
the captions are therefore checked.
"""

import csv
import io
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from hashlib import sha256
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly

from sagasr.audio.files import read_audio
from sagasr.audio.spectrum import mono
from sagasr.config.settings import Config
from sagasr.constants import SAMPLE_RATE
from sagasr.data.encoded_record import low_of, usable
from sagasr.data.rows import SPLITS, Row, Split
from sagasr.data.splits import hash_or_problem, read_manifest, rows_of
from sagasr.io.errors import DataError
from sagasr.io.files import read_json, write_json, write_text
from sagasr.io.fingerprint import file_sha256, fingerprint
from sagasr.io.machine import cpus_here
from sagasr.published.hugging_face import Published, file_of, problem_of

MODEL = "Qwen/Qwen2-Audio-7B"  # the checkpoint the paper names
INSTRUCTION = "Generate the caption in English:"
RATE = 16_000  # Hz
SECONDS = 30  # the model's window
MAX_TOKENS = 64  # of a caption; about 45 words
WRITE_EVERY_S = 30.0
ENOUGH_TO_JUDGE = 4  # different sounds
LEAST_UNIQUE = 0.1  # captions per different sound

Sound = Path | np.ndarray  # a file, or float [C, T] at 44,100 Hz
Progress = Callable[[int, int], object]
Bars = Callable[[str], AbstractContextManager[Sequence[Progress]]]  # one progress bar, of this name
Captions = dict[tuple[Split, str], str]  # by split and path


class Qwen2Audio:
    """Qwen2-Audio from a folder or the Hugging Face cache, loaded at the first sound; the network is never asked.

    Greedy: equal batches give equal captions. In bfloat16 on a GPU, in float32 on a CPU. An ``-Instruct`` model is
    asked through its chat template. ``identity`` is all that its captions depend on besides the sound.
    """

    def __init__(self, model: str = MODEL, max_tokens: int = MAX_TOKENS, device: str = "auto") -> None:
        self.model, self.max_tokens = model, max_tokens
        self.device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self._loaded: tuple[Any, Any] | None = None

    @property
    def identity(self) -> str:
        return fingerprint([_content(self.model), INSTRUCTION, self.max_tokens])

    @torch.inference_mode()
    def describe(self, sounds: Sequence[np.ndarray]) -> list[str]:
        """Return a caption of each mono sound [T] at 16 kHz. Raises DataError when the model is absent or deaf."""
        if self._loaded is None:
            self._loaded = _load(self.model, self.device)
        processor, network = self._loaded
        text = [self._question(processor)] * len(sounds)
        inputs = processor(text=text, audio=list(sounds), sampling_rate=RATE, padding=True, return_tensors="pt")
        if "input_features" not in inputs or len(inputs["input_features"]) != len(sounds):
            raise DataError(
                f"{self.model}: the processor of this transformers version has not taken the sounds (argument "
                "'audio'), so every caption would be the same; install the version that pyproject.toml names"
            )
        inputs = inputs.to(network.device)
        inputs["input_features"] = inputs["input_features"].to(network.dtype)
        written = network.generate(**inputs, max_new_tokens=self.max_tokens)[:, inputs["input_ids"].shape[1] :]
        return [_one_line(text) for text in processor.batch_decode(written, skip_special_tokens=True)]

    def _question(self, processor: Any) -> str:
        if "instruct" not in Path(self.model).name.lower():
            return f"<|audio_bos|><|AUDIO|><|audio_eos|>{INSTRUCTION}"
        content = [{"type": "audio", "audio_url": "-"}, {"type": "text", "text": INSTRUCTION}]
        turns = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def with_captions(config: Config, model: str, store: Path, bars: Bars, say: Callable[[str], object]) -> Config:
    """Return the configuration with manifests in which every recording has a caption. Raises DataError.

    A caption of a training recording describes its high audio, that of a validation recording what a model will hear:
    the low audio. All recordings are checked before the model is loaded; what quarantine leaves out has no caption.
    """
    rows = {split: list(rows_of(config.data, split)) for split in SPLITS}
    if all(row.caption for listed in rows.values() for row in listed):
        return config
    if line := missing_weights(model):
        raise DataError(line)
    sounds, problems = {}, []
    for split, listed in rows.items():
        with bars(f"checking ({split})") as (show,):
            sounds[split], faults = _sounds_without_caption(config, split, listed, show)
        problems += faults
    if problems and config.data.policy == "strict":
        raise DataError("\n".join(problems))
    torch.set_num_threads(min(torch.get_num_threads(), cpus_here()))
    captioner = Qwen2Audio(model)
    captions: Captions = {}
    for split, heard in sounds.items():
        with bars(f"captions ({split})") as (show,):
            texts = caption(list(heard.values()), captioner, store / "captions.json", progress=show)
        captions |= {(split, path): text for path, text in zip(heard, texts, strict=True)}
        if texts:
            say(f"{len(texts)} {split} captions, {100 * unique_share(texts):.0f} % of them different")
    return _name_manifests(config, rows, captions, say)


def caption(
    sounds: Sequence[Sound],
    captioner: Qwen2Audio,
    cache: Path,
    *,
    batch: int = 8,
    progress: Progress = lambda done, total: None,
) -> list[str]:
    """Return a caption of each sound, from ``cache`` where it has one; new ones are added to it.

    Equal sounds are heard once. ``progress`` is told how many different sounds are done, of how many. An interruption
    loses at most half a minute. Raises DataError for unusable files or models, and when different sounds get equal
    captions.
    """
    known: dict[str, str] = read_json(cache) if cache.is_file() else {}
    keys = [fingerprint([_sound_hash(sound), captioner.identity]) for sound in sounds]
    distinct = dict(zip(keys, sounds, strict=True))
    captioned = {key: known[key] for key in distinct if key in known}

    def keep() -> None:
        """Write the captions, beside those that another run may have added meanwhile."""
        if reason := _deafness(list(captioned.values())):
            raise DataError(f"{captioner.model}: {reason}")
        if captioned.keys() - known.keys():
            write_json(cache, (read_json(cache) if cache.is_file() else {}) | captioned)

    wanted, written_at = [key for key in distinct if key not in known], time.monotonic()
    try:
        for start in range(0, len(wanted), batch):
            part = wanted[start : start + batch]
            captions = captioner.describe([heard_part(distinct[key]) for key in part])
            captioned |= zip(part, captions, strict=True)
            progress(len(captioned), len(distinct))
            if time.monotonic() - written_at > WRITE_EVERY_S:
                keep()
                written_at = time.monotonic()
    finally:
        keep()
    return [captioned[key] for key in keys]


def unique_share(captions: Sequence[str]) -> float:
    """Return how many different captions there are per caption; 1 where no two are equal."""
    return len(set(captions)) / len(captions) if captions else 1.0


def heard_part(sound: Sound) -> np.ndarray:
    """Return the middle 30 s of a sound as the model hears it: float32 mono [T] at 16 kHz. Raises DataError."""
    audio = mono(read_audio(sound, None) if isinstance(sound, Path) else np.asarray(sound, np.float32))
    length = SECONDS * SAMPLE_RATE
    start = max(0, (len(audio) - length) // 2)
    shared = gcd(RATE, SAMPLE_RATE)
    heard = resample_poly(audio[start : start + length], RATE // shared, SAMPLE_RATE // shared)
    return np.ascontiguousarray(heard[: SECONDS * RATE], dtype=np.float32)


def missing_weights(model: str) -> str | None:
    """Return one line saying what of a caption model is absent and how to get it; nothing is loaded."""
    return problem_of(lambda: _qwen(model))


def _one_line(text: str) -> str:
    """Return a text without line ends and without what no manifest takes: control codes, halves of characters."""
    return "".join(mark for mark in " ".join(text.split()) if mark.isprintable())


def _deafness(captions: Sequence[str]) -> str | None:
    """Return why captions, one per different sound, cannot come from the sounds, or None."""
    least = max(2, int(np.ceil(LEAST_UNIQUE * len(captions))))
    unique = len(set(captions))
    if len(captions) < ENOUGH_TO_JUDGE or unique >= least:
        return None
    [(common, count)] = Counter(captions).most_common(1)
    return (
        f"{len(captions)} different sounds got {unique} different caption{'s' * (unique > 1)} (expected at least "
        f"{least}), {count} times {common[:60]!r}: the model does not hear the sounds; likely a processor that ignores "
        "its 'audio' argument (another version of transformers), or broken weights; nothing new was kept"
    )


def _sound_hash(sound: Sound) -> str:
    if isinstance(sound, Path):
        if not sound.is_file():
            raise DataError(f"{sound}: no such recording")
        return file_sha256(sound)
    samples = np.ascontiguousarray(sound, dtype="<f4")
    return sha256(f"{samples.shape}".encode() + samples.tobytes()).hexdigest()


@cache
def _content(model: str) -> str:
    """Return what tells a model's versions apart: the hash of a folder's files, the commit of a cached model."""
    folder = Path(model)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return fingerprint({path.name: file_sha256(path) for path in files})
    _qwen(model)  # raises where it is absent
    config = file_of(model, "config.json")
    assert config is not None
    return f"{model}@{config.parent.name}"


def _qwen(model: str) -> tuple[Published, Any]:
    """Return a caption model that is here, and its configuration. Raises DataError."""
    name = model if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) else MODEL
    remedy = (
        f"download it once where there is a network (hf download {name}), or name a folder with config.json, "
        "*.safetensors, preprocessor_config.json and the tokenizer's files"
    )
    published = Published(model, "caption model", remedy)
    config = published.config()
    if config.model_type != "qwen2_audio":
        raise published.error(f"a {config.model_type!r} model; captions need Qwen2-Audio")
    return published, config


def _load(model: str, device: str) -> tuple[Any, Any]:
    """Return the processor and the network. Raises DataError, one line, for anything that is absent or broken."""
    from transformers import GenerationConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    published, config = _qwen(model)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    processor, network = published.load(Qwen2AudioProcessor.from_pretrained, Qwen2AudioForConditionalGeneration, dtype)
    if processor.audio_token_id != config.audio_token_id:
        raise published.error(
            f"its tokenizer knows {processor.audio_token!r} as {processor.audio_token_id}, its network as "
            f"{config.audio_token_id}; tokenizer and weights are of different models"
        )
    processor.tokenizer.padding_side = "left"  # what is written goes on at the end of every row
    ends = {key: getattr(network.generation_config, key) for key in ("eos_token_id", "pad_token_id")}
    network.generation_config = GenerationConfig(do_sample=False, **ends)  # greedy, whatever is published of sampling
    return processor, network.to(device)


def _sounds_without_caption(
    config: Config, split: Split, rows: Sequence[Row], show: Progress
) -> tuple[dict[str, Sound], list[str]]:
    """Return the sounds to describe, by path, and why any recording cannot be used."""
    sounds: dict[str, Sound] = {}
    problems = []
    for count, row in enumerate(rows, start=1):
        _, problem = hash_or_problem(row)
        sound: Sound = row.file
        try:
            if split == "val":
                sound = low_of(config, row.file)
            else:
                usable(config, split, row.file)
        except DataError as error:
            problem = problem or str(error)
        if problem:
            problems.append(problem)
        elif not row.caption:
            sounds[row.path] = sound
        show(count, len(rows))
    return sounds, problems


def _name_manifests(
    config: Config, rows: dict[Split, list[Row]], captions: Captions, say: Callable[[str], object]
) -> Config:
    """Write a new manifest for each that the configuration names; return the configuration that names the new ones."""
    names = {}
    for name in dict.fromkeys((config.data.train, config.data.val)):
        splits = [split for split in rows if getattr(config.data, split) == name]
        source = Path(name)
        target = source / "captioned.csv" if source.is_dir() else source.with_name(f"{source.stem}.captioned.csv")
        lines = [(split, row, captions.get((split, row.path), row.caption)) for split in splits for row in rows[split]]
        _write_manifest(target, lines)
        say(f"{target}: written; name it as data.{' and data.'.join(splits)} to use these captions")
        names[name] = str(target)
    data = config.data.model_copy(update={"train": names[config.data.train], "val": names[config.data.val]})
    return config.model_copy(update={"data": data})


def _write_manifest(target: Path, lines: Sequence[tuple[Split, Row, str]]) -> None:
    """Write rows with their captions, and with all other columns of the old manifest."""
    extra = list(dict.fromkeys(name for _, row, _ in lines for name in row.extra))
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["path", "split", "domain", "licence", "caption", "transcript", "sha256", *extra])
    for split, row, text in lines:
        known = [row.path, split, row.domain, row.licence, text, row.transcript, row.sha256]
        writer.writerow([*known, *(row.extra.get(name, "") for name in extra)])
    try:
        write_text(target, out.getvalue())
    except OSError as error:
        remedy = "paths of a manifest are relative to it, so it has to lie beside the recordings"
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); {remedy}") from error
    read_manifest(target)
