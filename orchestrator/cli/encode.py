"""``sagasr-encode``: recordings checked, captioned and encoded into the store that sweeps and trainings will find."""

import argparse
import contextlib
import json
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sagasr.cli import common as cli
from sagasr.config.parsing import parse
from sagasr.config.patching import located, patch
from sagasr.config.settings import Config
from sagasr.data.rows import SPLITS
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import check_writable, read_json, read_yaml

if TYPE_CHECKING:
    from sagasr.data.encode import Progress as ShowProgress
    from sagasr.data.encode import Runner

FEW = 500  # recordings that one process encodes before Ray has started
SHOWN = 20  # lines of notes; all of them are in meta.json

EXAMPLES = """\
examples:
  sagasr-encode recordings/manifest.csv                       its rows say which train and which validate
  sagasr-encode VCTK-Corpus/ --config small.yaml --workers 8  a folder: VCTK, ESC-50, MUSDB18, or any other
  sagasr-encode train.csv --val val.csv --quarantine          what cannot be used is left out, and listed
  sagasr-encode sounds/ --captioner Qwen/Qwen2-Audio-7B       describe what has no caption yet

A sweep with the same recordings, configuration and storage finds the store and encodes nothing. A run that was
interrupted goes on where it was when the same command is given again.
exit codes: 0 the store is there, 2 bad input (every fault is listed, nothing was built), 130 interrupted (resumable)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``sagasr-encode`` and return its exit code."""
    options = _parser().parse(arguments)
    return cli.run(lambda: _run(options), interrupted="interrupted; the same command goes on where it was")


def _run(options: argparse.Namespace) -> int:
    new = [folder for folder in (options.store, options.store.parent) if not folder.exists()]
    try:
        for source in options.source:
            _encode(options, source)
    finally:
        for folder in new:  # nothing is left where nothing was built
            with contextlib.suppress(OSError):
                folder.rmdir()
    return cli.DONE


def _encode(options: argparse.Namespace, source: Path) -> None:
    config = _config(options, source)
    check_writable(options.store)
    if options.captioner:
        from sagasr.data.captions import with_captions

        config = with_captions(config, options.captioner, options.store, _bars, print)
    _check_texts(config)

    from sagasr.codec.codec import missing_weights
    from sagasr.data.encode import encode_store
    from sagasr.data.store import Store
    from sagasr.data.texts import embed_texts
    from sagasr.model.text import missing_weights as missing_text_weights

    if absent := missing_weights(config.codec, config.audio.channels) or missing_text_weights(config.conditions.text):
        raise DataError(absent)
    for folder in dict.fromkeys((config.data.train, config.data.val)):
        if Path(folder).is_dir():
            from sagasr.data.folders import describe

            print(describe(Path(folder)))
    with _runner(options, config) as runner, _bars("checking", "encoding") as (checking, encoding):
        store = encode_store(config, options.store, runner=runner, checking=checking, progress=encoding)
    embed_texts(Store.open(store), config.conditions.text)
    _print_store(store, config)


def _runner(options: argparse.Namespace, config: Config) -> contextlib.AbstractContextManager["Runner"]:
    """Return what performs the tasks: this process, where Ray is not worth its start, or Ray."""
    from orchestrator.cluster import cluster_of
    from orchestrator.run.encode import ray_runner
    from sagasr.data.encode import in_process
    from sagasr.data.splits import rows_of

    are_few = sum(len(rows_of(config.data, split)) for split in SPLITS) < FEW
    workers = options.workers or (1 if are_few else None)
    address = cluster_of(options.address)
    alone = address is None and workers == 1
    return contextlib.nullcontext(in_process) if alone else ray_runner(address, workers)


def _check_texts(config: Config) -> None:
    """Raise ConfigError where the configuration's text source has no text at all: all would be trained without one."""
    from sagasr.data.splits import rows_of

    source = config.conditions.text.source
    for split in SPLITS:
        if source != "off" and not any(row.text(source) for row in rows_of(config.data, split)):
            raise ConfigError(
                f"{getattr(config.data, split)}: no {split} recording has a {source}; add the column {source!r}, give "
                "--captioner MODEL, or --set conditions.text.source=off"
            )


def _config(options: argparse.Namespace, source: Path) -> Config:
    from orchestrator.grid.read import shipped

    file = options.config if options.config.exists() else shipped(str(options.config))
    tree = located(read_yaml(file), file.parent)
    if "factors" in tree or "include" in tree:
        command = shlex.join(["sagasr-sweep", str(file)])
        raise ConfigError(f"--config {file}: a grid, not a configuration; name its base, or run it: {command}")
    names = {"train": str(source), "val": str(options.val or source)}
    data = located({"data": names}, Path.cwd())["data"] | ({"policy": "quarantine"} if options.quarantine else {})
    tree = patch({**tree, "data": data}, located(cli.parse_settings(options.set), Path.cwd()))
    return parse(Config, tree, str(file))


@contextlib.contextmanager
def _bars(*names: str) -> Iterator[Sequence["ShowProgress"]]:
    """Yield a function per name that shows its progress: on a terminal as a bar, elsewhere as a line per tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def show(name: str, bar: TaskID, done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)
            if not console.is_terminal and (done % -(-total // 10) == 0 or done == total):
                console.print(f"{name} {done}/{total}", highlight=False)

        yield [partial(show, name, bars.add_task(name, total=None)) for name in names]


def _print_store(store: Path, config: Config) -> None:
    """Print what the store holds, what became of all files, what was left out, and what is odd about what was used."""
    from sagasr.data.listing import list_stored

    meta = read_json(store / "meta.json")
    counts = meta["counts"]
    print(
        f"{store}: {counts['train']} recordings to learn from ({meta['train_seconds'] / 60:.1f} min), "
        f"{counts['val']} of {counts['val_available']} to score, {sum(meta['bytes'].values()) / 1e6:,.0f} MB"
    )
    for line in list_stored(config, meta):
        print(line)
    for left in meta["left_out"]:
        print(f"left out: {json.dumps(left['path'], ensure_ascii=False)} ({left['split']}): {left['reason']}")
    for note in meta["notes"][:SHOWN]:
        print(f"note: {json.dumps(note['path'], ensure_ascii=False)} ({note['split']}): {note['note']}")
    if len(meta["notes"]) > SHOWN:
        print(f"note: … and {len(meta['notes']) - SHOWN} more in {store / 'meta.json'}")


def _parser() -> cli.Parser:
    does = "Check recordings, describe them, and encode them once for all trainings."
    parser = cli.Parser("sagasr-encode", does, EXAMPLES)
    add = parser.add_argument
    add("source", metavar="MANIFEST-OR-FOLDER", type=Path, nargs="+", help="recordings; each into a store of its own")
    add("--val", type=Path, metavar="MANIFEST-OR-FOLDER", help="what is scored (default: val rows of the same)")
    add("--config", type=Path, default=Path("tiny.yaml"), metavar="YAML", help="configuration (default: tiny.yaml)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. degradation.variants=8")
    add("--store", type=Path, default=Path("sweeps/encoded"), metavar="DIR", help="folder of stores (sweeps/encoded)")
    add("--captioner", metavar="MODEL", help="describe recordings without a caption by this model (Qwen2-Audio)")
    add("--quarantine", action="store_true", help="leave out recordings that cannot be used, and list them")
    add("--workers", type=cli.positive, metavar="N", help="processes (default: one per core; 1 needs no Ray)")
    add("--address", metavar="ADDRESS", help="Ray cluster to join, e.g. auto")
    return parser
