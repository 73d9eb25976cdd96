"""What users and disks may hand us, at random: no reader answers with a traceback, only with SagasrError.

``python -m tests.fuzz 100000`` tries so many inputs, spread over the readers; the suite tries a few hundred.
"""

import copy
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import soundfile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator.analysis.load import read_sweep
from orchestrator.analysis.preferences import read_sheet
from orchestrator.grid.expand import expand
from orchestrator.grid.read import parse_space, read_space
from orchestrator.plan.plan import make_plan
from sagasr.audio.files import decode, problem_of
from sagasr.audio.stream import file_source
from sagasr.config.parsing import parse
from sagasr.config.patching import located
from sagasr.config.settings import Config
from sagasr.data.splits import read_manifest
from sagasr.io.errors import SagasrError
from sagasr.io.files import dump_yaml
from tests.encoded import encoded, piped
from tests.orchestrator.sweep_folders import noisy_grid, write_sweep
from tests.small import BASE, GRID

SHIPPED = Path(__file__).parent.parent / "search_spaces"
FULL_GRID: dict[str, Any] = GRID | {
    "factors": {
        "text": ["off", "caption"],
        "lfr": ["off", "hard"],
        "width": {"baseline": "narrow", "levels": {"narrow": {}, "wide": {"model.embed_dim": 128}}},
    },
    "design": "full",
    "ladder": [{"step": "0"}, {"step": "1", "text": "caption"}, {"step": "2", "text": "caption", "versus": "0"}],
    "where": [{"not": {"text": "off", "lfr": "hard"}}, {"if": {"width": "wide"}, "then": {"text": ["caption"]}}],
    "early_stopping": {"policy": "blocks", "metric": "val/lsd", "delta": 0.05, "spending": "pocock"},
    "resources": {"default": {"workers": 1, "gpus_per_worker": 0.25}},
    "budget": {"max_gpu_hours": 4.0},
    "promote": {"when": "improves", "from": {"width": "narrow"}, "to": {"width": "wide"}},
    "tracking": {"uri": "sqlite:///mlflow.db"},
    "storage": "./sweeps",
}
ODD: list[Any] = [
    *(None, True, 0, -1, 1, 2**70, 0.5, float("nan"), float("inf"), -1e308),
    *(
        "",
        " ",
        "off",
        "caption",
        "train",
        "\0",
        "\ud800",
        "../nowhere",
        "/nowhere",
        "a.b.c",
        ".",
        "kind",
        "=",
        ",",
        "\N{SNOWMAN}" * 70,
    ),
    *("shipped", "base.yaml", [], {}, [[]], [None], {"": {}}, {"kind": "words"}, {"a.b": 1}, {None: None}, {1: 2}),
    *({"baseline": "a", "levels": {"a": {}}}, {"text": "caption"}, {"off": {}}, ["off", "caption", 0.1]),
]
WORDS = [7, None, "", "seed", "metric", "\n", "kind", "text"]  # for keys
MARKS = [
    *(b"\t", b": ", b"- ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!python/object ", b"|", b">", b"#", b"'", b'"'),
    *(b"%", b"\xff", b"\0", b"\r", b"---\n", b"? ", b"2001-01-01", b"1e999", b".inf", b"0x", b"<<: ", b"&", b"*"),
]
WORD = st.text("abcdefgh_-", min_size=1, max_size=8)
ODD_CELLS = ["a.flac", "../a", "/a", "train", "val", "x\\y", '"', ",", "\n", "", "\ud800"]
ODD_TEXT = st.one_of(st.text(max_size=12), st.sampled_from(ODD_CELLS))
ROW = st.one_of(  # of the columns path, split, caption; sometimes too many or few of them
    st.lists(ODD_TEXT, min_size=1, max_size=5),
    st.tuples(WORD.map("{}.flac".format), st.sampled_from(["train", "val", "test"]), WORD),
)
WHOLE_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CODECS = {  # of the recordings whose bytes are torn, by suffix
    **{"flac": "flac", "oga": "flac", "opus": "libopus", "mp3": "libmp3lame", "m4a": "aac", "mov": "alac"},
    **{"aac": "aac", "wma": "wmav2", "webm": "libopus", "mka": "flac", "wv": "wavpack", "tta": "tta", "ac3": "ac3"},
    **{"wav": "pcm_s24le", "aiff": "pcm_s16be", "caf": "pcm_s16be", "w64": "pcm_s16le", "au": "pcm_s16be"},
    **{"avi": "adpcm_ms", "mp2": "mp2"},
}
VALUES = st.one_of(WORD, st.none(), st.integers(), st.floats(), WHOLE_TEXT, st.binary(max_size=4), st.dates())
COLUMNS = st.sampled_from(["path", "split", "sha256", "caption", "x"])


def places(tree: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every node below the top."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [found for key in list(keys) for found in [(*here, key), *places(tree[key], (*here, key))]]


def node_at(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


@st.composite
def mutated(draw: st.DrawFn, trees: list[Any]) -> Any:
    """Return one of the trees with one to four of its nodes replaced, removed, renamed, doubled or swapped."""
    tree = json.loads(json.dumps(draw(st.sampled_from(trees))))
    for _ in range(draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            break
        *parents, key = draw(st.sampled_from(found))
        parent = node_at(tree, tuple(parents))
        match draw(st.sampled_from(["odd", "drop", "rename", "swap", "grow"])):
            case "odd":
                parent[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
            case "drop":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                word = draw(
                    st.sampled_from([str(key)[:-1], f"{key}s", 7, None, "", f"{key}.x", "seed", "metric", "\n"])
                )
                parent[word] = parent.pop(key)
            case "swap":
                other = draw(st.sampled_from(found))
                if other[: len(parents) + 1] != (*parents, key) and (*parents, key)[: len(other)] != other:
                    parent[key] = copy.deepcopy(node_at(tree, other))
            case "grow" if isinstance(parent[key], list):
                parent[key].extend(copy.deepcopy(draw(st.lists(st.sampled_from(ODD), max_size=3))))
            case _:
                parent[key] = draw(st.text(max_size=8))
    return tree


@st.composite
def torn(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """Return one of the contents with bytes changed, cut out, doubled or put in; or bytes of any kind."""
    data = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, draw(st.sampled_from([len(data), min(200, len(data))]))))  # headers are short
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["put", "cut", "double", "all"])):
            case "put":
                data[at:at] = draw(st.one_of(st.binary(max_size=6), st.sampled_from(MARKS)))
            case "cut":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case _:
                data[at : at + length] = draw(st.binary(max_size=length))
    return bytes(data)


def recordings(folder: Path) -> list[bytes]:
    """Return a short recording in every container and coding."""
    noise = (0.1 * np.random.default_rng(0).standard_normal((2, 3_000))).astype(np.float32)
    made = [encoded(folder / f"whole.{suffix}", noise, 48_000, codec) for suffix, codec in CODECS.items()]
    made.append(encoded(folder / "uncounted.mp3", noise, 48_000, "libmp3lame", {"write_xing": "0"}))
    made.append(piped(folder / "piped.wav", noise, 48_000, "pcm_s16le", "wav"))
    made.append(piped(folder / "piped.flac", noise, 48_000, "flac", "flac"))
    for name, options in (("a.rf64", {"format": "RF64"}), ("gsm.wav", {"subtype": "GSM610"}), ("v.ogg", {})):
        soundfile.write(folder / name, noise[0], 48_000, **options)
        made.append(folder / name)
    contents = [path.read_bytes() for path in made]
    return [*contents, contents[-1] + contents[-1]]


class Readers:
    """Every reader with the inputs it is given; a reader takes one and raises nothing but SagasrError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        for name in "abc":
            soundfile.write(folder / f"{name}.flac", 0.1 * rng.standard_normal(9_000), 44_100)
        self.manifest = "path,split,domain,caption\na.flac,train,x,one\nb.flac,train,x,two\nc.flac,val,y,three\n"
        (folder / "manifest.csv").write_text(self.manifest)
        (folder / "base.yaml").write_text(dump_yaml(BASE))
        self.sweep = write_sweep(folder, noisy_grid({"text": ["off", "caption"], "lfr": ["off", "hard"]}, 2, {}),
                                 {"text": ["off", "caption"], "lfr": ["off", "hard"]}, eval_stage=["lfr"])  # fmt: skip
        self.plan_tree = json.loads((folder / "plan.json").read_text()) | {
            "ladder": [{"step": "0", "levels": {"text": "off", "lfr": "off"}, "versus": None},
                       {"step": "1", "levels": {"text": "caption", "lfr": "off"}, "versus": "0"}],
            "early_stopping": {"policy": "blocks"}, "confounded_with": {"text": ["lfr"]}, "plan_hash": "x",
            "promote": {"when": "improves", "from": {"text": "off"}, "to": {"text": "caption"}},
        }  # fmt: skip
        answer = {"clip": "c", "shown_as_1": "A", "preferred": "tie", "heard": {"A": 2}}
        ends = dict.fromkeys(("sweep", "plan_hash", "seed", "finished"), "x")
        self.sheet = ends | {"test": "preference", "A": "text=off", "B": "text=caption", "trials": [answer]}

    def targets(self) -> dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], object], int]]:
        """Return strategy, reader and share of the inputs by the name of what is read."""
        texts = [path.read_bytes() for path in sorted(SHIPPED.glob("*.yaml"))] + [dump_yaml(FULL_GRID).encode()]
        config = BASE | {"data": {"train": "manifest.csv", "val": "manifest.csv"}}
        lines = b'{"path": "a.flac", "split": "val"}\n{"path": "b.flac", "split": "train", "caption": "rain"}\n'
        table = st.dictionaries(COLUMNS, st.lists(VALUES, min_size=2, max_size=2), max_size=4)
        return {
            "grid": (mutated([FULL_GRID, GRID]), self.grid, 30),
            "grid, bytes of YAML": (torn(texts), self.grid_bytes, 10),
            "configuration": (mutated([config]), self.config, 15),
            "manifest in rows": (st.lists(ROW, max_size=4), self.rows, 10),
            "manifest, bytes of CSV": (torn([self.manifest.encode()]), self.csv, 8),
            "manifest, bytes of JSON lines": (torn([lines]), self.lines, 7),
            "manifest in Parquet": (table, self.parquet, 5),
            "plan.json": (mutated([self.plan_tree]), self.plan, 5),
            "answers of a blind test": (mutated([self.sheet]), self.answers, 5),
            "recording": (torn(recordings(self.folder)), self.recording, 5),
        }

    def grid(self, tree: Any) -> None:
        space = parse_space(tree, self.folder / "grid.yaml")
        if len(expand(space)) <= 64:
            _ = make_plan(space).hash

    def grid_bytes(self, data: bytes) -> None:
        path = self.folder / "torn.yaml"
        path.write_bytes(data)
        expand(read_space(path))

    def config(self, tree: Any) -> None:
        parse(Config, located(tree, self.folder), "base.yaml")

    def rows(self, rows: list[Sequence[str]]) -> None:
        text = "path,split,caption\n" + "\n".join(",".join(cells) for cells in rows)
        self.csv(text.encode("utf-8", "surrogatepass"))

    def csv(self, data: bytes) -> None:
        self._manifest("torn.csv", data)

    def lines(self, data: bytes) -> None:
        self._manifest("torn.jsonl", data)

    def _manifest(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)
        read_manifest(self.folder / name)

    def parquet(self, columns: dict[str, list[Any]]) -> None:
        path = self.folder / "torn.parquet"
        try:
            table = pa.table(columns)
        except (pa.ArrowException, OverflowError, ValueError):  # a date beside a NaN
            path.write_bytes(str(columns).encode("utf-8", "replace"))
        else:
            pyarrow.parquet.write_table(table, path)
        read_manifest(path)

    def recording(self, data: bytes) -> None:
        path = self.folder / "torn.wav"
        path.write_bytes(data)
        problem_of(path, whole=False)
        source = file_source(path)
        audio = np.concatenate(list(source.blocks()), axis=1)
        assert np.isfinite(audio).all()
        assert audio.shape == (source.channels, source.samples)
        assert np.array_equal(decode(path).samples, audio)

    def plan(self, tree: Any) -> None:
        (self.folder / "plan.json").write_text(json.dumps(tree, default=str))
        read_sweep(self.folder)

    def answers(self, tree: Any) -> None:
        path = self.folder / "preferences.json"
        path.write_text(json.dumps(tree, default=str))
        read_sheet(path)


def refused(reader: Callable[[Any], object], given: Any) -> bool:
    """Return whether a reader refuses what it is given, as a user is told. Any other error passes through."""
    try:
        reader(given)
    except SagasrError as error:
        if not str(error).strip():
            raise AssertionError("refused without a word") from error
        return True
    return False


def fuzz(count: int, folder: Path, only: str = "") -> Counter[str]:
    """Try about ``count`` inputs and return how many were taken and refused, by reader. Raises what a reader raises."""
    outcomes: Counter[str] = Counter()
    for name, (strategy, reader, share) in Readers(folder).targets().items():
        if only in name:
            _try(max(1, count * share // 100), strategy, reader, name, outcomes)
    return outcomes


def _try(
    count: int, strategy: st.SearchStrategy[Any], reader: Callable[[Any], object], name: str, outcomes: Counter[str]
) -> None:
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(strategy)
    def trial(given_: Any) -> None:
        outcomes[f"{name}: {'refused' if refused(reader, given_) else 'taken'}"] += 1

    trial()


def main() -> None:
    began, cpu = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = fuzz(int(sys.argv[1]), Path(folder), *sys.argv[2:])
    for name, count in outcomes.items():
        print(f"{count:8,}  {name}")
    spent = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
    print(f"{sum(outcomes.values()):8,}  inputs, no traceback; {spent}")


if __name__ == "__main__":
    main()
