"""Files and folders of recordings: which are read, where their results go, and writing them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sagasr.audio.decoders import SUFFIXES
from sagasr.audio.files import problem_of
from sagasr.audio.stream import file_source, overflow_of, write_blocks
from sagasr.constants import SAMPLE_RATE
from sagasr.data.folders import files_below
from sagasr.io.errors import DataError
from sagasr.io.files import check_writable
from sagasr.upsample.upsampler import Settings, Upsampler
from sagasr.upsample.windows import Progress

CLIPS_PEAK, CLIPS_SHARE = 2.0, 1e-3  # what FLAC may clip: decoded MP3 and Ogg files pass full scale now and then


class Written(NamedTuple):
    """What became of a recording. ``clipped`` samples passed full scale, at which a FLAC file ends."""

    path: Path
    seconds: float
    cutoffs_hz: tuple[float, ...]
    clipped: int


def upsample_files(
    pairs: Sequence[tuple[Path, Path]],
    upsampler: Upsampler,
    settings: Settings,
    on_progress: Progress | None = None,
    on_file: Callable[[Written], object] = lambda written: None,
) -> None:
    """Write the upsampled version of each file (source, target); ``on_file`` hears of each that is done."""
    sources = [file_source(source) for source, _ in pairs]
    results = upsampler.upsample_blocks(sources, settings, on_progress)
    for (_, target), source, result in zip(pairs, sources, results, strict=True):
        clipped = write_blocks(target, result.blocks, source.channels, source.length)
        on_file(Written(target, source.length / SAMPLE_RATE, result.cutoffs_hz, clipped))


def plan_files(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return what is read and where its result goes: a FLAC or WAV file, or one per file below a folder, in equal ones.

    In a folder they are FLAC, but WAV for recordings far beyond full scale. Nothing is written. Raises DataError naming
    every file that cannot be read, and what would overwrite its input.
    """
    if source.is_dir():
        if target.resolve().is_relative_to(source.resolve()):
            raise DataError(f"{target}: lies inside {source}, whose files are read; choose a folder outside it")
        recordings = [file for file in files_below(source) if file.is_recording]
        if not recordings:
            raise DataError(f"{source}: holds no recordings ({', '.join(SUFFIXES)})")
        if inside := [file.path for file in recordings if Path(file.real).is_relative_to(target.resolve())]:
            raise DataError(
                f"{inside[0]}: lies in {target} by a link, where results are written; choose another output"
            )
        pairs = [(file.path, (target / file.path.relative_to(source)).with_suffix(".flac")) for file in recordings]
    else:
        is_file = target.suffix in (".flac", ".wav") and not target.is_dir()
        if target.suffix and not is_file and not target.is_dir():
            names = " or ".join(target.with_suffix(suffix).name for suffix in (".flac", ".wav"))
            raise DataError(f"{target}: results are written as FLAC or WAV; name it {names}")
        pairs = [(source, target if is_file else target / f"{source.stem}.flac")]
    problems = [f"{path}: {problem}" for path, _ in pairs if (problem := problem_of(path))]
    problems += _clashes(pairs)
    if problems:
        raise DataError("\n".join(problems))
    pairs = _within_full_scale(pairs, target)
    if problems := _clashes(pairs):
        raise DataError("\n".join(problems))
    for _, result in pairs:
        check_writable(result)
    return pairs


def _within_full_scale(pairs: Sequence[tuple[Path, Path]], named: Path) -> list[tuple[Path, Path]]:
    """Return WAV in place of FLAC for what passes full scale by far or often. Raises DataError where FLAC was named."""
    chosen = []
    for source, target in pairs:
        peak, share = overflow_of(file_source(source)) if target.suffix == ".flac" else (0.0, 0.0)
        beyond, wave = peak > CLIPS_PEAK or share > CLIPS_SHARE, target.with_suffix(".wav")
        if beyond and target == named:
            raise DataError(
                f"{source}: reaches {peak:.3g}, beyond full scale, where a FLAC file ends; name the result {wave.name},"
                " which holds it"
            )
        chosen.append((source, wave if beyond else target))
    return chosen


def seconds_of(paths: Iterable[Path]) -> float:
    """Return the length of readable recordings together."""
    return sum(source.samples / source.rate for source in map(file_source, paths))


def _clashes(pairs: Sequence[tuple[Path, Path]]) -> list[str]:
    sources = {path.resolve() for path, _ in pairs}
    first: dict[Path, Path] = {}
    lines = []
    for source, target in pairs:
        if target.resolve() in sources:
            lines.append(f"{target}: would overwrite a recording that is read; choose another output")
        elif (other := first.setdefault(target, source)) != source:
            lines.append(f"{source}: would be written to {target} as {other} is; rename one of the two")
    return lines
