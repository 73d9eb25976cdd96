"""``sagasr-train``: one training without Ray, by the same code as a trial of a sweep."""

import argparse
import math
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from sagasr.cli import common as cli
from sagasr.config.parsing import parse
from sagasr.config.patching import differences, leaves, located, patch
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config
from sagasr.data.rows import SPLITS, Split
from sagasr.io import lease
from sagasr.io.errors import ConfigError, SagasrError
from sagasr.io.files import read_json, read_yaml, write_json
from sagasr.io.states import State
from sagasr.io.trial_folder import TrialFolder

DATA = "data.json"  # of a training's folder: what its manifests held when it began
EXAMPLE_DATA = "--set data.train=shipped --set data.val=shipped"
EXAMPLE = f"""\
example:
  sagasr-train search_spaces/tiny.yaml --out runs/first {EXAMPLE_DATA}

A training that was interrupted goes on from its last checkpoint when the same command is given again.
"""


def train(argv: Sequence[str] | None = None) -> int:
    """Run ``sagasr-train`` and return its exit code: 0 done, 1 the training failed, 2 bad input, 130 interrupted."""
    parser = cli.Parser("sagasr-train", "Train one configuration and score it on the validation recordings.", EXAMPLE)
    add = parser.add_argument
    add("config", type=Path, help="a configuration (YAML) with its data: train and val manifests")
    add("--out", type=Path, required=True, help="folder of the training; the same one again resumes it")
    add("--set", action="append", default=[], metavar="a.b=c", help="change a setting, e.g. training.steps=200")
    add("--checkpoint-every", type=cli.positive, default=500, metavar="N", help="training steps (500)")
    options = parser.parse(argv)
    return cli.run(lambda: _train(options), "interrupted; the same command again goes on from the last checkpoint")


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
    config, out = read(options.config, options.set), options.out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: a file is there; name a folder")
    _check_same_training(config, out)
    recordings = _fingerprints(config, out)

    from sagasr.data.encode import encode_store
    from sagasr.data.listing import list_stored
    from sagasr.io.signals import halting, interrupting
    from sagasr.training.harness import Harness
    from sagasr.training.preflight import missing_weights
    from sagasr.training.train import train as train_model
    from sagasr.training.trial_log import read_status

    if absent := missing_weights(config):
        raise SagasrError("\n".join(absent))
    runtime = Runtime(checkpoint_every=options.checkpoint_every)
    with lease.held(TrialFolder(out).lease) as held:
        with interrupting():  # shards that are encoded stay, and the next run goes on from them
            store = encode_store(config, out / "encoded")
        write_json(out / DATA, recordings)
        for line in list_stored(config, read_json(store / "meta.json")):
            print(line, flush=True)
        with halting() as halt:
            before = read_status(out)
            harness = Harness(
                halt=halt,
                fence=held.check,
                report=partial(_print_validation, config.training.steps),
                attempt=before.attempt + 1 if before else 1,
            )
            result = train_model(config, out, store, runtime=runtime, harness=harness)
    reason = f": {result.reason}" if result.reason else ""
    print(f"{result.state} at step {result.step}{reason}; everything is in {out}")
    if result.state is State.INTERRUPTED:
        raise KeyboardInterrupt
    if result.state is not State.DONE:
        return cli.SOME_FAILED
    _print_scores(out)
    return cli.DONE


def _check_same_training(config: Config, out: Path) -> None:
    """Raise ConfigError where ``out`` holds a training of another configuration, which this one cannot go on with."""
    path = TrialFolder(out).config
    if not path.exists():
        return
    paths = {"data": {"train", "val"}} if (out / DATA).exists() else {}  # their recordings count, not where they lie
    trees = parse(Config, read_yaml(path), str(path)), config
    before, now = (leaves(tree.model_dump(mode="json", exclude=paths)) for tree in trees)
    if changed := differences(before, now):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(f"--out {out}: holds another training ({', '.join(changed[:3])}{more}); name another folder")


def _fingerprints(config: Config, out: Path) -> dict[Split, str]:
    """Return the fingerprint of each split. Raises SagasrError for what is unusable, or changed since ``out``."""
    from sagasr.data.splits import checked_rows, manifest_fingerprint

    usable = {split: checked_rows(config.data, split) for split in SPLITS}
    if problems := [problem for rows in usable.values() for problem in rows.problems]:
        raise SagasrError("\n".join(dict.fromkeys(problems)))
    fingerprints = {split: manifest_fingerprint(rows.rows) for split, rows in usable.items()}
    began = read_json(out / DATA) if (out / DATA).exists() else {}
    if changed := [split for split in SPLITS if began.get(split, fingerprints[split]) != fingerprints[split]]:
        raise ConfigError(
            f"--out {out}: the {' and '.join(changed)} recordings, or what is said of them, changed since this "
            "training began; name another folder"
        )
    return fingerprints


def _print_scores(out: Path) -> None:
    from sagasr.evaluation.score_files import read_distances, read_scores
    from sagasr.evaluation.validation_set import summary

    distances = read_distances(out, "default")
    for subject, scores in read_scores(out, "default").items():
        print(f"{subject:>12}  {summary(scores, distances.get(subject, ()))}")


def _print_validation(steps: int, metrics: Mapping[str, float]) -> None:
    lsd = metrics.get("val/lsd", math.nan)
    print(f"step {metrics['step']:,} of {steps:,}  val loss {metrics['val/loss']:.4f}  val LSD {lsd:.3f}", flush=True)
