"""Manifests in which every recording has a caption, written beside the old ones."""

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from sagasr.config.settings import Config
from sagasr.data.captions import Qwen2Audio, Sound, caption, missing_weights, unique_share
from sagasr.data.contents import hash_or_problem
from sagasr.data.encode import Progress
from sagasr.data.encoded_record import low_of
from sagasr.data.quality import usable
from sagasr.data.rows import SPLITS, Row, Split
from sagasr.data.splits import read_manifest, rows_of
from sagasr.io.errors import DataError
from sagasr.io.files import write_text
from sagasr.io.machine import cpus_here

Bars = Callable[[str], AbstractContextManager[Sequence[Progress]]]  # one progress bar, of this name
Captions = dict[tuple[Split, str], str]  # by split and path


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
