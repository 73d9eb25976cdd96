"""``sagasr-train``: one training without Ray, by the same code as a trial of a sweep."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sagasr.config import Config, Runtime, parse, patch
from sagasr.errors import ConfigError, SagasrError
from sagasr.files import parse_yaml, read_yaml

EXAMPLE = """\
example:
  sagasr-train search_spaces/tiny.yaml --out runs/first --set training.steps=200

A training that was interrupted goes on from its last checkpoint when the same command is given again.
"""


def train(argv: Sequence[str] | None = None) -> int:
    """Run ``sagasr-train`` and return its exit code: 0 done, 1 the training failed, 2 bad input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="sagasr-train",
        description="Train one configuration and score it on the validation recordings.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="a configuration (YAML) with its data: train and val manifests")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training; the same one again resumes it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="change a setting, e.g. training.steps=200"
    )
    parser.add_argument("--checkpoint-every", type=int, default=500, metavar="N", help="training steps (500)")
    options = parser.parse_args(argv)
    try:
        config = read(options.config, options.set)
        return _run(config, options.out, Runtime(checkpoint_every=options.checkpoint_every))
    except SagasrError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command again goes on from the last checkpoint", file=sys.stderr)
        return 130


def read(path: Path, settings: Sequence[str] = ()) -> Config:
    """Return the configuration in ``path`` with ``a.b=c`` settings applied; its manifests are relative to it."""
    tree = patch(read_yaml(path), parse_settings(settings))
    data = tree.get("data")
    if isinstance(data, dict):
        tree["data"] = {k: str((path.parent / v).resolve()) if isinstance(v, str) else v for k, v in data.items()}
    return parse(Config, tree, str(path))


def parse_settings(settings: Sequence[str]) -> dict[str, object]:
    """Return ``a.b=c`` texts as a patch, values read as YAML. Raises ConfigError."""
    changes: dict[str, object] = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {setting}: expected key=value, such as --set training.steps=200")
        changes[path.strip()] = parse_yaml(value, f"--set {setting}")
    return changes


def _run(config: Config, out: Path, runtime: Runtime) -> int:
    from sagasr.data.manifest import problems_of, rows_for

    rows = {split: rows_for(Path(getattr(config.data, split)), split) for split in ("train", "val")}
    problems = [problem for found in rows.values() for problem in problems_of(found)]
    if problems:
        raise SagasrError("\n".join(dict.fromkeys(problems)))

    from sagasr.data.store import encode_store
    from sagasr.evaluate import means
    from sagasr.scores import read_scores
    from sagasr.train import train as train_model

    store = encode_store(config, out / "encoded")
    result = train_model(config, out, store, runtime=runtime)
    print(
        f"{result.state} at step {result.step}{': ' + result.reason if result.reason else ''}; everything is in {out}"
    )
    if result.state != "done":
        return 1
    for subject, scores in read_scores(out, "default").items():
        print(f"{subject:>12}  " + "  ".join(f"{name} {value:.3f}" for name, value in means(scores).items()))
    return 0
