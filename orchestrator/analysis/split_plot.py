"""The two strata of a sweep: trainings, blocked by seed, and the evaluation variants inside each training.

A factor of stage eval is judged by differences inside trainings, which share the training's noise; every other factor
by differences between trainings. A contrast is a weight per replicate, in two parts, because each has its own error.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array, lil_array

from orchestrator.analysis.design_matrix import Array, Codes, Fit, Term, columns, fit

if TYPE_CHECKING:
    from orchestrator.analysis.load import Sweep

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Weights:
    """One contrast: weights ``rows`` [replicates]; its parts ``between`` [trainings] and ``within`` [replicates]."""

    rows: Array
    between: Array
    within: Array


@dataclass(frozen=True)
class Layout:
    """The finished replicates of one metric, arranged.

    ``whole``: the trainings that have a mean over the variants in common; ``means`` takes it, [whole, replicates].
    """

    codes: Codes  # [replicates, factors]
    sizes: tuple[int, ...]
    run: Index  # [replicates], the training of each
    seed: Index  # [replicates], the block of each
    whole: Index
    means: csr_array
    num_variants: float  # a training's mean is over so many
    between_factors: tuple[int, ...]
    within_factors: tuple[int, ...]
    blocked: bool
    between: Fit
    within: Fit | None
    inner: Index  # replicates that enter the within fit
    kept: NDArray[np.bool_]  # which of the sweep's runs the replicates are

    def training_means(self, values: Array) -> Array:
        """Return [trainings, ...] means of ``values`` [replicates, ...] over the common variants."""
        return np.asarray(self.means @ values)

    def split(self, rows: Array) -> Weights | None:
        """Return the two parts of any row weights; None when a training they need has no mean."""
        total: Array = np.zeros(int(self.run.max()) + 1)
        np.add.at(total, self.run, rows)
        if np.abs(np.delete(total, self.whole)).max(initial=0.0) > 1e-12:
            return None
        between = np.asarray(total[self.whole])
        return Weights(rows, between, rows - between @ self.means)


def codes_of(sweep: "Sweep") -> tuple[Codes, tuple[int, ...]]:
    """Return the level index of every finished replicate [replicates, factors], and each factor's number of levels."""
    sizes = tuple(len(factor.levels) for factor in sweep.factors)
    codes = [[factor.levels.index(level) for level in sweep.runs["@" + factor.name]] for factor in sweep.factors]
    return np.asarray(codes, dtype=np.int64).reshape(len(sizes), -1).T, sizes


def layout_of(sweep: "Sweep", codes: Codes, sizes: tuple[int, ...], kept: NDArray[np.bool_]) -> Layout:
    """Return the arrangement of the replicates marked in ``kept`` (they have a value of the metric)."""
    codes = codes[kept]
    frame = sweep.runs[kept]
    seed = np.unique(frame["seed"].to_numpy().astype(str), return_inverse=True)[1].astype(np.int64)
    evaluated = [index for index, factor in enumerate(sweep.factors) if factor.stage == "eval"]
    keys = np.column_stack([np.delete(codes, evaluated, axis=1), seed])
    if len(np.unique(np.column_stack([codes, seed]), axis=0)) < len(codes):  # a cell run twice in one block
        keys = np.column_stack([keys, _repeats(frame, codes, seed)])
    run = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    num_runs = len(np.unique(run))
    within = tuple(index for index in evaluated if len({*zip(run, codes[:, index], strict=True)}) > num_runs)
    between = tuple(index for index in range(len(sizes)) if index not in within)
    inner = np.flatnonzero(np.bincount(run)[run] > 1)
    within_fit = None
    if within:
        mixed = [pair for pair in itertools.combinations(range(len(sizes)), 2) if set(pair) & set(within)]
        own = np.unique(run[inner], return_inverse=True)[1].astype(np.int64)
        within_fit = fit(codes[inner], sizes, own, [(factor,) for factor in within], mixed, sweep.by_pairs)
    means, whole, variants = _training_means(codes, sizes, run, within, within_fit, inner, sweep.by_pairs)
    first = _first(run)[whole]
    blocks = np.unique(seed[first], return_inverse=True)[1].astype(np.int64)
    blocked = bool(len(blocks) and np.bincount(blocks).max() > 1)
    if not blocked:  # every training has a seed of its own: seeds are labels, not blocks
        blocks = np.zeros(len(first), dtype=np.int64)
    two_way = list(itertools.combinations(between, 2))
    between_fit = fit(codes[first], sizes, blocks, [(factor,) for factor in between], two_way, sweep.by_pairs)
    return Layout(
        codes, sizes, run, seed, whole, means, variants, between, within, blocked, between_fit, within_fit, inner, kept
    )


def refit(layout: Layout, term: Term) -> tuple[Fit, Fit | None]:
    """Return both fits, with ``term`` put first among the interactions of its own, for one that an alias pushed out."""
    between, within = layout.between, layout.within
    if not set(term) & set(layout.within_factors):
        mains = [(factor,) for factor in layout.between_factors]
        between = fit(layout.codes[_first(layout.run)[layout.whole]], layout.sizes, between.blocks, mains, [term])
    elif within:
        mains = [(factor,) for factor in layout.within_factors]
        within = fit(layout.codes[layout.inner], layout.sizes, within.blocks, mains, [term])
    return between, within


def contrast(
    layout: Layout, coefficients: Mapping[Term, Array], fits: tuple[Fit, Fit | None] | None = None
) -> Weights | None:
    """Return the weights of a combination of effects; None when these data do not determine it."""
    between_fit, within_fit = fits or (layout.between, layout.within)
    inside = {term: values for term, values in coefficients.items() if set(term) & set(layout.within_factors)}
    outside = {term: values for term, values in coefficients.items() if term not in inside}
    between, within = np.zeros(len(layout.whole)), np.zeros(len(layout.run))
    if outside:
        if (weights := between_fit.weights(outside)) is None:
            return None
        between = weights
    if inside:
        if within_fit is None or (weights := within_fit.weights(inside)) is None:
            return None
        within[layout.inner] = weights
    return Weights(between @ layout.means + within, between, within)


def matched(layout: Layout, ends: Sequence[tuple[int, int]], fixed: Sequence[tuple[int, int]] = ()) -> Weights | None:
    """Return the weights of a difference of cells that differ in nothing else; None where there are none.

    ``ends``: factors that go from baseline to a level; of two, the difference of differences. ``fixed``: levels of
    others that must hold. Every place in the design (the other levels, the seed) that has all its cells counts alike.
    """
    own = [factor for factor, _ in ends]
    place = np.delete(layout.codes, own, axis=1)
    if layout.blocked:
        place = np.column_stack([place, layout.seed])
    place = np.unique(place, axis=0, return_inverse=True)[1].reshape(-1)
    held: NDArray[np.bool_] = members(layout.codes, fixed)
    corners = list(itertools.product((0, 1), repeat=len(ends)))
    rows = [
        held & members(layout.codes, [(factor, level * at) for (factor, level), at in zip(ends, corner, strict=True)])
        for corner in corners
    ]
    counts = np.array([np.bincount(place[mask], minlength=place.max(initial=0) + 1) for mask in rows])
    whole: NDArray[np.bool_] = np.asarray((counts > 0).all(axis=0))
    if not whole.any():
        return None
    weights = np.zeros(len(place))
    for corner, mask, count in zip(corners, rows, counts, strict=True):
        used = mask & whole[place]
        weights[used] = (-1) ** (len(ends) - sum(corner)) / count[place[used]] / whole.sum()
    return layout.split(weights)


def _repeats(frame: pd.DataFrame, codes: Codes, seed: Index) -> Index:
    """Return what tells repeated runs of one cell and seed apart: their trial, or else their order."""
    if "trial" in frame:
        trial = np.unique(frame["trial"].astype(str), return_inverse=True)[1].astype(np.int64)
        if len(np.unique(np.column_stack([codes, seed, trial]), axis=0)) == len(codes):
            return trial
    rows = pd.DataFrame(np.column_stack([codes, seed]))
    return np.asarray(rows.groupby(list(rows), sort=False).cumcount(), dtype=np.int64)


def _first(run: Index) -> Index:
    """Return the first row of every training."""
    return np.unique(run, return_index=True)[1].astype(np.int64)


def _training_means(
    codes: Codes,
    sizes: tuple[int, ...],
    run: Index,
    within: tuple[int, ...],
    inside: Fit | None,
    inner: Index,
    by_pairs: bool,
) -> tuple[csr_array, Index, float]:
    """Return what takes each training's mean over the variants in common, which have one, how many variants these are.

    The variants that more than half of the trainings have are common; where none is, each training's own are averaged.
    In a design that lacks some by intent, those are that all trainings have.
    A training that lacks some of them is moved by what the fit ``inside`` the trainings says of those, where it can.
    """
    trainings, places = int(run.max(initial=-1)) + 1, list(within)
    variant = np.unique(codes[:, places], axis=0, return_inverse=True)[1].reshape(-1) if within else 0 * run
    have = np.zeros((trainings, int(variant.max(initial=-1)) + 1), dtype=bool)
    have[run, variant] = True
    everywhere = have.all(axis=0)
    shared = np.flatnonzero(everywhere if by_pairs and everywhere.any() else have.sum(axis=0) * 2 > trainings)
    common = np.isin(variant, shared) | (not len(shared))
    count = np.bincount(run[common], minlength=trainings)
    weights = csr_array((common / np.maximum(count, 1)[run], (run, np.arange(len(run)))), shape=(trainings, len(run)))
    whole = np.asarray(have[:, shared].all(axis=1), dtype=bool)
    moves = lil_array(weights.shape)
    kinds = codes[np.unique(variant, return_index=True)[1][shared]]  # a row of each common variant
    if inside is not None:
        for training in np.flatnonzero(~whole & (count > 0)):
            variants = codes[common & (run == training)]
            whole_set = np.repeat(variants[:1], len(shared), axis=0)
            whole_set[:, places] = kinds[:, places]
            lacking = _mean_columns(inside, whole_set, sizes) - _mean_columns(inside, variants, sizes)
            if inside.determines(lacking):
                moves[[training], inner] = lacking @ inside.inverse
                whole[training] = True
    kept = np.flatnonzero(whole)
    return csr_array((weights + csr_array(moves))[kept]), kept, float(count[kept].sum() / max(len(kept), 1))


def _mean_columns(fitted: Fit, codes: Codes, sizes: tuple[int, ...]) -> Array:
    """Return the mean of the rows ``codes`` in the columns of a fit, blocks left in; 0 in those that are of no term."""
    means = np.concatenate([columns(term, codes, sizes) for term in fitted.places], axis=1).mean(axis=0)
    return np.asarray(np.pad(means, (0, fitted.design.shape[1] - len(means))), dtype=float)


def members(codes: Codes, wanted: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return the rows in the cell given as (factor, level) pairs."""
    mask = np.ones(len(codes), dtype=bool)
    for factor, level in wanted:
        mask &= codes[:, factor] == level
    return mask
