"""``sagasr-train``: one training without Ray, by the same code as a trial of a sweep; ``sagasr-upsample``: its use."""

import argparse
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sagasr.cli import common as cli
from sagasr.config.settings import Config, Runtime, differences, leaves, located, parse, patch
from sagasr.io import lease
from sagasr.io.errors import ConfigError, SagasrError
from sagasr.io.files import read_json, read_yaml, write_json
from sagasr.io.machine import cpus_here
from sagasr.io.trial_folder import TrialFolder

if TYPE_CHECKING:
    from sagasr.upsample.upsampler import Written

DATA = "data.json"  # of a training's folder: what its manifests held when it began
EXAMPLE_DATA = "--set data.train=shipped --set data.val=shipped"
EXAMPLE = """\
example:
  sagasr-train search_spaces/tiny.yaml --out runs/first --set data.train=shipped --set data.val=shipped

A training that was interrupted goes on from its last checkpoint when the same command is given again.
"""

UPSAMPLE_EXAMPLE = """\
examples:
  sagasr-upsample interview.mp3 interview-full.flac --checkpoint runs/first
  sagasr-upsample old_recordings/ restored/ --checkpoint runs/first --rolloff-target 0.8 --steps 25

A recording of T samples at R Hz becomes ceil(T x 44100 / R) samples at 44,100 Hz, in 24-bit FLAC or, where the name
ends in .wav or samples pass full scale by far, in 32-bit float WAV.
"""


def train(argv: Sequence[str] | None = None) -> int:
    """Run ``sagasr-train`` and return its exit code: 0 done, 1 the training failed, 2 bad input, 130 interrupted."""
    parser = cli.Parser("sagasr-train", "Train one configuration and score it on the validation recordings.", EXAMPLE)
    parser.add_argument("config", type=Path, help="a configuration (YAML) with its data: train and val manifests")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training; the same one again resumes it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="change a setting, e.g. training.steps=200"
    )
    parser.add_argument("--checkpoint-every", type=cli.positive, default=500, metavar="N", help="training steps (500)")
    options = parser.parse_args(argv)
    return cli.run(
        lambda: _train(options), interrupted="interrupted; the same command again goes on from the last checkpoint"
    )


def upsample(argv: Sequence[str] | None = None) -> int:
    """Run ``sagasr-upsample`` and return its exit code: 0 done, 2 bad input (nothing written), 130 interrupted."""
    parser = cli.Parser(
        "sagasr-upsample", "Give recordings the high frequencies they lack, with a trained model.", UPSAMPLE_EXAMPLE
    )
    parser.add_argument("input", type=Path, help="a recording, or a folder of them: any rate, mono or stereo")
    parser.add_argument("output", type=Path, help="a .flac or .wav file, or a folder")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trial folder, or one of its checkpoints")
    parser.add_argument(
        "--rolloff-target",
        type=_target,
        default="estimated",
        metavar="SHARE",
        help="brightness asked for, as a share of 22,050 Hz; 'estimated' (default) guesses it from the recording",
    )
    parser.add_argument(
        "--lfr", choices=("off", "hard", "crossfade"), default="crossfade", help="how the recording's low band is kept"
    )
    parser.add_argument("--cutoff", type=float, metavar="HZ", help="end of the recording's low band (its own roll-off)")
    parser.add_argument("--steps", type=cli.positive, metavar="N", help="sampling steps (as validated)")
    parser.add_argument("--guidance", type=_pair, metavar="AUDIO,TEXT", help="guidance strengths (as validated)")
    parser.add_argument("--text", default="", metavar="CAPTION", help="what is heard, for models trained with text")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights, or the last ones")
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="FILE.py:CLASS",
        help="a codec, conditioner or sampler of your own that the model was trained with",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise; equal seeds give equal results (0)")
    options = parser.parse_args(argv)
    return cli.run(
        lambda: _upsample(options), interrupted="interrupted; finished files are whole, the others were not begun"
    )


def read(path: Path, settings: Sequence[str] = ()) -> Config:
    """Return the configuration in ``path`` with ``a.b=c`` settings applied; its files are relative to it."""
    tree = located(read_yaml(path), path.parent)
    if "factors" in tree or "include" in tree:
        command = shlex.join(["sagasr-sweep", str(path)])
        raise ConfigError(f"{path}: a grid, not a configuration; run it: {command}")
    tree = patch(tree, located(cli.parse_settings(settings), Path.cwd()))
    if "data" not in tree:
        raise ConfigError(f"{path}: data is missing; add 'data: {{train: train.csv, val: val.csv}}' or {EXAMPLE_DATA}")
    return parse(Config, tree, str(path))


def _train(options: argparse.Namespace) -> int:
    from sagasr.data.manifest import manifest_fingerprint, usable_rows

    config, out = read(options.config, options.set), options.out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: a file is there; name a folder")
    _refuse_another(config, out)
    found = {"train": usable_rows(config.data, "train"), "val": usable_rows(config.data, "val")}
    if problems := [problem for _, reasons in found.values() for problem in reasons]:
        raise SagasrError("\n".join(dict.fromkeys(problems)))
    began = read_json(out / DATA) if (out / DATA).exists() else {}
    changed = [split for split, then in began.items() if then != manifest_fingerprint(found[split][0])]
    if changed:
        raise ConfigError(
            f"--out {out}: the {' and '.join(changed)} recordings, or what is said of them, changed since this "
            "training began; name another folder"
        )

    from sagasr.data.encode import encode_store
    from sagasr.data.folders import list_stored
    from sagasr.evaluation.evaluate import summary
    from sagasr.evaluation.scores import read_distances, read_scores
    from sagasr.io.signals import halting, interrupting
    from sagasr.io.states import State
    from sagasr.io.trial_log import read_status
    from sagasr.model.saga import missing_weights
    from sagasr.training.train import Harness
    from sagasr.training.train import train as train_model

    if absent := missing_weights(config):
        raise SagasrError("\n".join(absent))
    runtime = Runtime(checkpoint_every=options.checkpoint_every)
    with lease.held(TrialFolder(out).lease) as held:
        with interrupting():  # shards that are encoded stay, and the next run goes on from them
            store = encode_store(config, out / "encoded")
        write_json(out / DATA, {split: manifest_fingerprint(rows) for split, (rows, _) in found.items()})
        for line in list_stored(config, read_json(store / "meta.json")):
            print(line, flush=True)
        with halting() as halt:
            before = read_status(out)
            harness = Harness(
                halt=halt,
                fence=held.check,
                report=lambda metrics: _tell(metrics, config.training.steps),
                attempt=before.attempt + 1 if before else 1,
            )
            result = train_model(config, out, store, runtime=runtime, harness=harness)
    print(
        f"{result.state} at step {result.step}{': ' + result.reason if result.reason else ''}; everything is in {out}"
    )
    if result.state is State.INTERRUPTED:
        raise KeyboardInterrupt
    if result.state is not State.DONE:
        return cli.SOME_FAILED
    distances = read_distances(out, "default")
    for subject, scores in read_scores(out, "default").items():
        print(f"{subject:>12}  {summary(scores, distances.get(subject, ()))}")
    return cli.DONE


def _refuse_another(config: Config, out: Path) -> None:
    """Raise ConfigError where ``out`` holds a training of another configuration, which this one cannot go on with."""
    path = TrialFolder(out).config
    if not path.exists():
        return
    paths = {"data": {"train", "val"}} if (out / DATA).exists() else {}  # what they hold counts, not where it lies
    both = parse(Config, read_yaml(path), str(path)), config
    before, now = (leaves(one.model_dump(mode="json", exclude=paths)) for one in both)
    if changed := differences(before, now):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(f"--out {out}: holds another training ({', '.join(changed[:3])}{more}); name another folder")


def _tell(metrics: Mapping[str, float], steps: int) -> None:
    """Print a line after a validation."""
    lsd = metrics.get("val/lsd", math.nan)
    print(f"step {metrics['step']:,} of {steps:,}  val loss {metrics['val/loss']:.4f}  val LSD {lsd:.3f}", flush=True)


def _upsample(options: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from sagasr.data.listing import files_below, listed
    from sagasr.upsample.upsampler import Settings, Upsampler, plan_files, seconds_of, upsample_files

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
            on_file=lambda written: print(_told(written, options.output)),
        )
    return cli.DONE


def _told(written: "Written", named: Path) -> str:
    """Return the line on a recording that was upsampled: its file, length, and what of it was found or lost."""
    ends = [f"{cutoff_hz:,.0f} Hz" if cutoff_hz else "none (silent)" for cutoff_hz in written.cutoffs_hz]
    cutoff = ends[0] if len(set(ends)) == 1 else f"left {ends[0]}, right {ends[1]}"
    told = [f"{cli.shown(written.path)}", f"{written.seconds:.1f} s", f"cutoff {cutoff}"]
    if written.path.suffix == ".wav" and written.path != named:
        told.append("a WAV file, since the recording passes full scale by far")
    if written.clipped:
        told.append(f"{written.clipped:,} samples clipped at full scale; a .wav file would hold them")
    return "  ".join(told)


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
