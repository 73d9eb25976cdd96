"""Random batch reads: the mapped store against the layout that stable-audio-tools' pre-encoding writes.

The peer's layout is one ``.npy`` [C, N] and one ``.json`` (padding mask as a list, seconds, path, prompt) per clip. It
has no pairs, so low versions are files of their own, as its users keep them. Both sides read the same recordings,
variants and crops in the same order, from the page cache, and get the same arrays.
"""

import json
from pathlib import Path

import numpy as np

from sagasr.constants import SAMPLE_RATE
from sagasr.data.measures import STEP
from sagasr.data.store import Store
from tests.benchmarks import data
from tests.benchmarks.measure import Row, in_turn

BATCH = 64

Pick = tuple[int, int, int]  # recording, variant, first frame
Arrays = tuple[np.ndarray, np.ndarray]


def against_files(quick: bool) -> Row:
    """Random batches; quality: the same arrays."""
    store = data.store(data.config("tiny" if quick else "small", recordings=(6 if quick else 36, 3)))
    folder = data.scratch() / "files"
    folder.mkdir(exist_ok=True)
    write_peer(store, folder)
    chance, batches = np.random.default_rng(0), []
    for _ in range(4 if quick else 40):
        picks = []
        for index in chance.integers(len(store.train), size=BATCH).tolist():
            variants, crops = store.train.gain[index].shape
            start = int(chance.integers(crops)) * store.frames * STEP // store.segment
            picks.append((index, int(chance.integers(variants)), start))
        batches.append(picks)
    equal = all(
        np.array_equal(one, other)
        for one, other in zip(read_store(store, batches[0]), read_peer(folder, batches[0], store.frames), strict=True)
    )
    ours, theirs = in_turn(
        lambda: [read_store(store, picks) for picks in batches],
        lambda: [read_peer(folder, picks, store.frames) for picks in batches],
        1 if quick else 7,
    )
    samples = BATCH * len(batches)
    pair = f"pair [{store.latent_channels}, {store.frames}]"
    return Row([it / samples for it in ours], [it / samples for it in theirs], pair, "the same arrays", equal)


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


def read_store(store: Store, picks: list[Pick]) -> Arrays:
    """Read a batch as training does."""
    index, variant, start = zip(*picks, strict=True)
    return store.train.crops(index, variant, start, store.frames)
