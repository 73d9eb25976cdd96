"""``sagasr-encode``: recordings checked, captioned and encoded into the store that sweeps and trainings will find.

With one worker all is done in this process; with more, Ray Data maps the tasks of ``sagasr.data.encode`` over its
workers, on this machine or, with ``--address``, on every node of a cluster that sees the same folders.
"""

import argparse
import contextlib
import csv
import io
import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.run.ray_session import connected
from sagasr.cli import common as cli
from sagasr.config.settings import Config, located, parse, patch
from sagasr.data.manifest import SPLITS, Row, Split, hash_or_problem, read_manifest, rows_of
from sagasr.io.errors import ConfigError, DataError
from sagasr.io.files import check_writable, read_json, read_yaml, write_text
from sagasr.io.machine import cpus_here

if TYPE_CHECKING:
    from sagasr.data.captions import Sound
    from sagasr.data.encode import Outcome, Progress, Runner, Task

FEW = 500  # recordings that one process has encoded before Ray has started
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
        config = _captioned(config, options.captioner, options.store)
    _refuse_untold(config)
    from sagasr.codec.codec import missing_weights
    from sagasr.data.encode import encode_store, in_process
    from sagasr.data.store import Store
    from sagasr.data.texts import embed_texts
    from sagasr.model.text import missing_weights as missing_text_weights

    absent = missing_weights(config.codec, config.audio.channels), missing_text_weights(config.conditions.text)
    for line in absent:
        if line:
            raise DataError(line)
    for folder in dict.fromkeys((config.data.train, config.data.val)):
        if Path(folder).is_dir():
            from sagasr.data.folders import describe

            print(describe(Path(folder)))
    workers = options.workers or _workers_for(config)
    with _progress() as progress, _runner(options.address, workers, in_process) as runner:
        store = encode_store(
            config,
            options.store,
            runner=runner,
            checking=progress("checking"),
            progress=progress("encoding"),
        )
    embed_texts(Store.open(store), config.conditions.text)
    _tell(store, config)


def _refuse_untold(config: Config) -> None:
    """Raise ConfigError where the configuration's text source has no text at all: all would be trained without one."""
    source = config.conditions.text.source
    for split in SPLITS:
        if source != "off" and not any(row.text(source) for row in rows_of(config.data, split)):
            raise ConfigError(
                f"{getattr(config.data, split)}: no {split} recording has a {source}; add the column {source!r}, give "
                "--captioner MODEL, or --set conditions.text.source=off"
            )


def _config(options: argparse.Namespace, source: Path) -> Config:
    """Return the configuration with its data. Raises ConfigError."""
    from orchestrator.grid.space import shipped

    file = options.config if options.config.exists() else shipped(str(options.config))
    tree = located(read_yaml(file), file.parent)
    if "factors" in tree or "include" in tree:
        command = shlex.join(["sagasr-sweep", str(file)])
        raise ConfigError(f"--config {file}: a grid, not a configuration; name its base, or run it: {command}")
    settings = cli.parse_settings(options.set)
    names = {"train": str(source), "val": str(options.val or source)}
    data = located({"data": names}, Path.cwd())["data"]
    data |= {"policy": "quarantine"} if options.quarantine else {}
    tree = patch({**tree, "data": data}, located(settings, Path.cwd()))
    return parse(Config, tree, str(file))


# ------------------------------------------------------------------------------------------------------------ captions


def _captioned(config: Config, model: str, store: Path) -> Config:
    """Return the configuration with manifests in which every recording has a caption, written beside the old ones.

    A caption of a training recording describes its high audio, that of a validation recording what a model will hear:
    the low audio. All recordings are looked at before the model is loaded; what quarantine leaves out is not described.
    """
    import torch

    from sagasr.data.captions import Qwen2Audio, caption, missing_weights, unique_share

    rows: dict[Split, list[Row]] = {
        "train": list(rows_of(config.data, "train")),
        "val": list(rows_of(config.data, "val")),
    }
    if all(row.caption for listed in rows.values() for row in listed):
        return config
    if line := missing_weights(model):
        raise DataError(line)
    sounds = {split: _undescribed(config, split, listed) for split, listed in rows.items()}
    problems = [problem for _, found in sounds.values() for problem in found]
    if problems and config.data.policy == "strict":
        raise DataError("\n".join(problems))
    torch.set_num_threads(min(torch.get_num_threads(), cpus_here()))
    captioner = Qwen2Audio(model)
    told: dict[tuple[Split, str], str] = {}
    for split, (heard, _) in sounds.items():
        with _progress() as progress:
            show = progress(f"captions ({split})")
            texts = caption(list(heard.values()), captioner, store / "captions.json", progress=show)
        told |= {(split, path): text for path, text in zip(heard, texts, strict=True)}
        if texts:
            print(f"{len(texts)} {split} captions, {100 * unique_share(texts):.0f} % of them different")
    names = {}
    for name in dict.fromkeys((config.data.train, config.data.val)):
        splits = [split for split in rows if getattr(config.data, split) == name]
        target = _beside(Path(name))
        lines = [(split, row, told.get((split, row.path), row.caption)) for split in splits for row in rows[split]]
        _write_manifest(target, lines)
        print(f"{target}: written; name it as data.{' and data.'.join(splits)} to use these captions")
        names[name] = str(target)
    data = config.data.model_copy(update={"train": names[config.data.train], "val": names[config.data.val]})
    return config.model_copy(update={"data": data})


def _undescribed(config: Config, split: Split, rows: Sequence[Row]) -> "tuple[dict[str, Sound], list[str]]":
    """Return what is to be heard of the recordings without a caption, by path, and why any recording cannot be used."""
    from sagasr.data.encoded_record import low_of
    from sagasr.data.quality import usable

    sounds: dict[str, Sound] = {}
    problems = []
    with _progress() as progress:
        show = progress(f"checking ({split})")
        for done, row in enumerate(rows, start=1):
            _, problem = hash_or_problem(row)
            try:
                if split == "val":
                    sound: Sound = low_of(config, row.file)
                else:
                    usable(config, split, row.file)
                    sound = row.file
            except DataError as error:
                problem = problem or str(error)
            if problem:
                problems.append(problem)
            elif not row.caption:
                sounds[row.path] = sound
            show(done, len(rows))
    return sounds, problems


def _beside(source: Path) -> Path:
    return source / "captioned.csv" if source.is_dir() else source.with_name(f"{source.stem}.captioned.csv")


def _write_manifest(target: Path, lines: Sequence[tuple[str, Row, str]]) -> None:
    """Write rows with their captions; what else the old manifest said of them is kept."""
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
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); paths of a manifest are relative "
                        "to it, so it has to lie beside the recordings") from error  # fmt: skip
    read_manifest(target)


# ------------------------------------------------------------------------------------------------------------- runners


@contextlib.contextmanager
def _runner(address: str | None, workers: int | None, in_process: Any) -> Iterator["Runner"]:
    """Yield what performs the tasks: this process, or Ray Data from the first task on."""
    if address is None and workers == 1:
        yield in_process(1)
        return
    with contextlib.ExitStack() as held:
        yield _Cluster(address, workers, held).run


def _workers_for(config: Config) -> int | None:
    """Return the processes that are worth their start."""
    few = sum(len(rows_of(config.data, split)) for split in SPLITS) < FEW
    return 1 if few else None


class _Cluster:
    """Tasks mapped over Ray's workers; Ray is started by the first, so that a store that is there costs nothing.

    ``held`` leaves it, or ends it, when all is done.
    """

    def __init__(self, address: str | None, workers: int | None, held: contextlib.ExitStack) -> None:
        self.address, self.held, self.started = address, held, False
        self.workers = workers or (None if address else cpus_here())

    def run(self, tasks: Sequence["Task"]) -> Iterator["Outcome"]:
        """Yield the outcomes as they come."""
        if not tasks:
            return
        from sagasr.data.encode import Outcome

        self._start()
        import ray

        rows = [{"task": task.model_dump_json()} for task in tasks]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _perform, num_cpus=1, num_gpus=_gpus(tasks[0]), concurrency=self.workers
        )
        for row in found.iter_rows():
            yield Outcome.model_validate_json(row["outcome"])

    def _start(self) -> None:
        if self.started:
            return
        self.held.enter_context(connected(self.address, self.workers or 1, env={"OMP_NUM_THREADS": "1"}))
        self.started = True
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)


def _perform(row: dict[str, str]) -> dict[str, str]:
    """Do one task on a worker of Ray."""
    import torch

    from sagasr.data.encode import Task, perform

    torch.set_num_threads(1)
    return {"outcome": perform(Task.model_validate_json(row["task"])).model_dump_json()}


def _gpus(task: "Task") -> float:
    """Return what one task takes of a GPU: the autoencoder is worth one where there is one."""
    import ray

    wanted = task.step == "encode" and task.config.codec.kind == "stable-audio"
    return 1.0 if wanted and ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


# ------------------------------------------------------------------------------------------------------------- showing


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Yield a function that makes a bar of a name: on a terminal one bar, elsewhere a line per tenth."""
    from rich import progress as bar_of
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        bar_of.TextColumn("{task.description}"),
        bar_of.BarColumn(),
        bar_of.MofNCompleteColumn(),
        bar_of.TimeRemainingColumn(),
    )
    with bar_of.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def bar(name: str) -> "Progress":
            task = bars.add_task(name, total=None)

            def show(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)
                tenth = -(-total // 10)
                if not console.is_terminal and (done % tenth == 0 or done == total):
                    console.print(f"{name} {done}/{total}", highlight=False)

            return show

        yield bar


def _tell(store: Path, config: Config) -> None:
    """Print what the store holds, what became of all files, what was left out, and what is odd about what was used."""
    from sagasr.data.folders import list_stored

    meta = read_json(store / "meta.json")
    counts, size = meta["counts"], sum(meta["bytes"].values())
    seconds = meta["train_seconds"]
    print(
        f"{store}: {counts['train']} recordings to learn from ({seconds / 60:.1f} min), "
        f"{counts['val']} of {counts['val_available']} to score, {size / 1e6:,.0f} MB"
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
    parser = cli.Parser(
        "sagasr-encode", "Check recordings, describe them, and encode them once for all trainings.", EXAMPLES
    )
    add = parser.add_argument
    add("source", metavar="MANIFEST-OR-FOLDER", type=Path, nargs="+", help="recordings; each into a store of its own")
    add("--val", type=Path, metavar="MANIFEST-OR-FOLDER", help="what is scored (default: val rows of the same)")
    add(
        "--config",
        type=Path,
        default=Path("tiny.yaml"),
        metavar="YAML",
        help="configuration or grid's base (tiny.yaml)",
    )
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. degradation.variants=8")
    add("--store", type=Path, default=Path("sweeps/encoded"), metavar="DIR", help="folder of stores (sweeps/encoded)")
    add("--captioner", metavar="MODEL", help="describe recordings without a caption by this model (Qwen2-Audio)")
    add("--quarantine", action="store_true", help="leave out recordings that cannot be used, and list them")
    add(
        "--workers",
        type=cli.positive,
        default=None,
        metavar="N",
        help="processes (default: one per core; 1 needs no Ray)",
    )
    add("--address", metavar="ADDRESS", help="Ray cluster to join, e.g. auto")
    return parser
