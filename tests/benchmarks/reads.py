# ruff: noqa: T201
"""Random batch reads: the mapped store against the layout that stable-audio-tools' pre-encoding writes.

    python tests/benchmarks/reads.py MANIFEST-OR-FOLDER [--batch 64] [--batches 40] [--repeats 7]

The peer's layout is one ``.npy`` [C, N] and one ``.json`` (padding mask as a list, seconds, path, prompt) per clip. It
has no pairs, so low versions are files of their own, as its users keep them. Both sides read the same recordings,
variants and crops in the same order, from the page cache, and get the same arrays; their order alternates.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from orchestrator.encode import _config, _parser
from sagasr.config import SAMPLE_RATE
from sagasr.data.encode import encode_store
from sagasr.data.statistics import STEP
from sagasr.data.store import Store

Pick = tuple[int, int, int]  # recording, variant, first frame
Arrays = tuple[np.ndarray, np.ndarray]


def write_peer(store: Store, folder: Path) -> None:
    """Write the store's training records in the peer's layout."""
    train = store.train
    for index, entry in enumerate(train.entries):
        latents = [train.mapped_high[index], *train.mapped_low[index]]
        for version, array in enumerate(latents):
            name = folder / f"{index:06}{version:04}"
            np.save(name.with_suffix(".npy"), array)
            facts = {
                "path": entry.path,
                "prompt": entry.caption,
                "seconds_start": 0.0,
                "seconds_total": train.samples[index] / SAMPLE_RATE,
                "padding_mask": [1] * array.shape[-1],
            }
            name.with_suffix(".json").write_text(json.dumps(facts))


def read_peer(folder: Path, picks: list[Pick], frames: int) -> Arrays:
    """Read a batch as the peer's data set reads clips: whole files, then the crop."""
    high, low = [], []
    for index, variant, start in picks:
        for version, out in ((0, high), (1 + variant, low)):
            name = folder / f"{index:06}{version:04}"
            latents = np.load(name.with_suffix(".npy"))
            facts = json.loads(name.with_suffix(".json").read_text())
            mask = np.array(facts["padding_mask"])
            assert mask[start : start + frames].all()
            out.append(latents[:, start : start + frames])
    return np.stack(high), np.stack(low)


def read_store(store: Store, picks: list[Pick], frames: int) -> Arrays:
    """Read a batch as training does."""
    index, variant, start = zip(*picks, strict=True)
    return store.train.crops(index, variant, start, frames)


def seconds(read: Callable[[list[Pick]], Arrays], batches: list[list[Pick]]) -> float:
    """Return the processor seconds per sample: what another process does meanwhile does not count."""
    begin = time.process_time()
    for picks in batches:
        read(picks)
    return (time.process_time() - begin) / sum(map(len, batches))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        changes = [word for text in options.set for word in ("--set", text)]
        arguments = _parser().parse_args([str(options.source), *changes])
        store = Store.open(encode_store(_config(arguments, options.source), Path(scratch)))
        peer = Path(scratch) / "peer"
        peer.mkdir()
        write_peer(store, peer)
        chance, frames = np.random.default_rng(0), store.frames
        per_step = frames * STEP // store.segment
        batches: list[list[Pick]] = []
        for _ in range(options.batches):
            picks = []
            for index in chance.integers(len(store.train), size=options.batch).tolist():
                variants, crops = store.train.gain[index].shape
                picks.append((index, int(chance.integers(variants)), int(chance.integers(crops)) * per_step))
            batches.append(picks)
        for one, other in zip(read_store(store, batches[0], frames), read_peer(peer, batches[0], frames), strict=True):
            assert np.array_equal(one, other)

        sides = {
            "store": lambda picks: read_store(store, picks, frames),
            "npy + json": lambda picks: read_peer(peer, picks, frames),
        }
        found: dict[str, list[float]] = {name: [] for name in sides}
        for read in sides.values():
            seconds(read, batches)  # both from the page cache
        for repeat in range(options.repeats):
            for name in sorted(sides, reverse=bool(repeat % 2)):
                found[name].append(seconds(sides[name], batches))
        size = 2 * 2 * store.latent_channels * frames
        print(f"{len(store.train)} recordings, pairs of [{store.latent_channels}, {frames}] ({size / 1e3:.1f} kB), "
              f"batches of {options.batch}")  # fmt: skip
        for name, values in found.items():
            middle = statistics.median(values)
            spread = f"{1e6 * min(values):.2f} to {1e6 * max(values):.2f}"
            print(f"{name:>10}: {1e6 * middle:8.2f} us per sample ({spread}), {1 / middle:,.0f} samples/s per core")
        ratios = sorted(b / a for a, b in zip(found["store"], found["npy + json"], strict=True))
        print(f"     ratio: {statistics.median(ratios):.0f} ({ratios[0]:.0f} to {ratios[-1]:.0f})")


if __name__ == "__main__":
    main()
