"""``sagasr-upsample``: recordings given their high frequencies by a trained model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sagasr.cli import common as cli
from sagasr.io.errors import shown
from sagasr.io.machine import cpus_here

if TYPE_CHECKING:
    from sagasr.upsample.files import Written

EXAMPLES = """\
examples:
  sagasr-upsample interview.mp3 interview-full.flac --checkpoint runs/first
  sagasr-upsample old_recordings/ restored/ --checkpoint runs/first --rolloff-target 0.8 --steps 25

A recording of T samples at R Hz becomes ceil(T x 44100 / R) samples at 44,100 Hz, in 24-bit FLAC or, where the name
ends in .wav or samples pass full scale by far, in 32-bit float WAV.
"""


def upsample(argv: Sequence[str] | None = None) -> int:
    """Run ``sagasr-upsample`` and return its exit code: 0 done, 2 bad input (nothing written), 130 interrupted."""
    description = "Give recordings the high frequencies they lack, with a trained model."
    parser = cli.Parser("sagasr-upsample", description, EXAMPLES)
    add = parser.add_argument
    add("input", type=Path, help="a recording, or a folder of them: any rate, mono or stereo")
    add("output", type=Path, help="a .flac or .wav file, or a folder")
    add("--checkpoint", type=Path, required=True, help="a trial folder, or one of its checkpoints")
    brightness = "brightness asked for, as a share of 22,050 Hz; 'estimated' (default) guesses it from the recording"
    add("--rolloff-target", type=_target, default="estimated", metavar="SHARE", help=brightness)
    lfr = cli.one_of("off", "hard", "crossfade")
    add("--lfr", **lfr, default="crossfade", help="how the recording's low band is kept")
    add("--cutoff", type=float, metavar="HZ", help="end of the recording's low band (its own roll-off)")
    add("--steps", type=cli.positive, metavar="N", help="sampling steps (as validated)")
    add("--guidance", type=_pair, metavar="AUDIO,TEXT", help="guidance strengths (as validated)")
    add("--text", default="", metavar="CAPTION", help="what is heard, for models trained with text")
    add("--weights", **cli.one_of("ema", "raw"), default="ema", help="averaged weights, or the last ones")
    own = "a codec, conditioner or sampler of your own that the model was trained with"
    add("--part", action="append", default=[], metavar="FILE.py:CLASS", help=own)
    add("--seed", type=int, default=0, help="of the noise; equal seeds give equal results (0)")
    options = parser.parse(argv)
    return cli.run(lambda: _upsample(options), "interrupted; finished files are whole, the others were not begun")


def _upsample(options: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from sagasr.data.folders import files_below
    from sagasr.data.listing import listed
    from sagasr.upsample.files import plan_files, seconds_of, upsample_files
    from sagasr.upsample.upsampler import Settings, Upsampler

    torch.set_num_threads(min(torch.get_num_threads(), cpus_here()))

    settings = Settings(
        rolloff_target=options.rolloff_target,
        lfr=options.lfr,
        cutoff_hz=options.cutoff,
        steps=options.steps,
        guidance=options.guidance,
        text=options.text,
        seed=options.seed,
    )
    pairs = plan_files(options.input, options.output)
    upsampler = Upsampler.load(options.checkpoint, options.weights, parts=options.part)
    if options.input.is_dir():
        listing = listed(files_below(options.input, strict=False), {"upsampled": [source for source, _ in pairs]}, {})
        sys.stderr.write("\n".join(listing.lines()) + "\n")  # the output has a line per result
    total = seconds_of(source for source, _ in pairs)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{total:,.0f} s of audio", total=total)
        upsample_files(
            pairs,
            upsampler,
            settings,
            on_progress=lambda seconds: progress.advance(task, seconds),
            on_file=lambda written: print(_line_on(written, options.output)),
        )
    return cli.DONE


def _line_on(written: "Written", named: Path) -> str:
    ends = [f"{cutoff_hz:,.0f} Hz" if cutoff_hz else "none (silent)" for cutoff_hz in written.cutoffs_hz]
    cutoff = ends[0] if len(set(ends)) == 1 else f"left {ends[0]}, right {ends[1]}"
    parts = [shown(written.path), f"{written.seconds:.1f} s", f"cutoff {cutoff}"]
    if written.path.suffix == ".wav" and written.path != named:
        parts.append("a WAV file, since the recording passes full scale by far")
    if written.clipped:
        parts.append(f"{written.clipped:,} samples clipped at full scale; a .wav file would hold them")
    return "  ".join(parts)


def _target(text: str) -> float | str:
    try:
        return text if text == "estimated" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, or 'estimated' (found {text!r})") from error


def _pair(text: str) -> tuple[float, float]:
    try:
        audio, strength = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected two numbers such as 1.4,1.2 (found {text!r})") from error
    return audio, strength
