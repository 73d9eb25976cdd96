"""Levels turned into least squares: every contrast becomes a weight per replicate, between trainings and within them.

Factors are coded to sum to zero, so that a main effect is the average over all levels of the other factors (the EMM
contrast) and an interaction is a difference of differences. A design has two strata. *Between*: one value per training,
the seed as block. *Within*: the evaluation variants of one training, that training as block.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import helmert

Array = NDArray[np.float64]
Codes = NDArray[np.int64]  # [rows, factors], the index of each factor's level, baseline 0
Term = tuple[int, ...]  # the factors of one effect or interaction
TOLERANCE = 1e-8
MIN_ALIAS = 0.2  # a share of another effect below this (a few lost runs) is imbalance, not confounding


@cache
def coding(levels: int) -> Array:
    """Return [levels, levels - 1] columns that sum to zero and have mean square 1; for two levels -1 and +1."""
    return np.asarray(-helmert(levels).T * np.sqrt(levels), dtype=float)


def columns(term: Term, codes: Codes, sizes: Sequence[int]) -> Array:
    """Return [rows, degrees of freedom] columns of a term: products of its factors' codings."""
    out = np.ones((len(codes), 1))
    for factor in term:
        own = coding(sizes[factor])[codes[:, factor]]
        out = (out[:, :, None] * own[:, None, :]).reshape(len(codes), out.shape[1] * own.shape[1])
    return out


def difference(term: Term, sizes: Sequence[int], ends: Sequence[Array]) -> Array:
    """Return the coefficients of a term's columns; ``ends`` weighs each factor's levels (level +1, baseline -1)."""
    out: Array = np.ones(1)
    for factor, weights in zip(term, ends, strict=True):
        out = np.asarray(np.kron(out, weights @ coding(sizes[factor])), dtype=float)
    return out


def block_means(values: Array, blocks: NDArray[np.int64]) -> Array:
    """Return, in every row, the mean of its block; ``values`` is [rows, ...]."""
    count = np.bincount(blocks)
    sums = np.zeros((len(count), *values.shape[1:]))
    np.add.at(sums, blocks, values)
    with np.errstate(invalid="ignore"):
        return np.asarray((sums / count.reshape(-1, *[1] * (values.ndim - 1)))[blocks], dtype=float)


@dataclass(frozen=True)
class Fit:
    """Least squares of one stratum. ``inverse`` [columns, rows] gives coefficients; blocks are already taken out."""

    design: Array
    inverse: Array
    places: Mapping[Term, slice]
    blocks: NDArray[np.int64]
    df: int

    def determines(self, vector: Array) -> bool:
        """Return whether the data determine this combination, given as a number per column."""
        left = np.abs(vector @ self.inverse @ self.design - vector).max(initial=0.0)
        return bool(left < TOLERANCE * max(1.0, np.abs(vector).max(initial=0.0)))

    def weights(self, coefficients: Mapping[Term, Array]) -> Array | None:
        """Return the weight of every row in this combination's estimate; None where the data do not determine it."""
        if not all(term in self.places for term in coefficients):
            return None
        vector = np.zeros(self.design.shape[1])
        for term, values in coefficients.items():
            vector[self.places[term]] = values
        return np.asarray(vector @ self.inverse) if self.determines(vector) else None

    def residuals(self, values: Array) -> Array:
        """Return what blocks and terms leave unexplained of ``values`` [rows, ...]."""
        values = values - block_means(values, self.blocks)
        return np.asarray(values - self.design @ (self.inverse @ values))

    def sum_of_squares(self, term: Term, values: Array) -> tuple[float, int]:
        """Return a term's sum of squares, adjusted for all others, and its degrees of freedom; (nan, 0) if aliased."""
        if term not in self.places:
            return float("nan"), 0
        place = self.places[term]
        own = self.inverse[place]
        spread = own @ own.T
        df = int(np.linalg.matrix_rank(spread, tol=1e-12 * max(1.0, float(np.abs(spread).max()))))
        if df < place.stop - place.start or not np.allclose(
            own @ self.design, np.eye(self.design.shape[1])[place], atol=1e-6
        ):
            return float("nan"), 0
        beta = own @ values
        return float(beta @ np.linalg.solve(spread, beta)), df


def fit(
    codes: Codes,
    sizes: Sequence[int],
    blocks: NDArray[np.int64],
    mains: Sequence[Term],
    others: Sequence[Term],
    in_part: bool = False,
) -> Fit:
    """Return least squares of ``mains`` and of those ``others`` that the design can tell from the terms before them.

    ``in_part``: what it can tell of the remaining ones is taken out of the residuals too.
    """
    kept: list[Array] = []
    remaining: list[Array] = []
    places: dict[Term, slice] = {}
    width = rank = 0
    for term in (*mains, *others):
        own = columns(term, codes, sizes)
        own = own - block_means(own, blocks)
        tried = np.concatenate([*kept, own], axis=1)
        now = _rank(tried)
        if term in mains or now == rank + own.shape[1]:
            places[term] = slice(width, width + own.shape[1])
            kept.append(own)
            width, rank = width + own.shape[1], now
        else:
            remaining.append(own)
    design = np.concatenate(kept, axis=1) if kept else np.zeros((len(codes), 0))
    if in_part and remaining:
        others_left = np.concatenate(remaining, axis=1)
        others_left -= design @ np.linalg.lstsq(design, others_left, rcond=1e-10)[0]
        vectors, values, _ = np.linalg.svd(others_left, full_matrices=False)
        rest = vectors[:, values > 1e-6 * np.sqrt(len(codes))] * np.sqrt(len(codes))
        design, width, rank = np.concatenate([design, rest], axis=1), width + rest.shape[1], rank + rest.shape[1]
    inverse: Array = np.zeros((0, len(codes)))
    if width:
        inverse = np.asarray(np.linalg.pinv(design, rcond=1e-10), dtype=float)
    return Fit(design, inverse, places, blocks, len(codes) - len(np.unique(blocks)) - rank)


def aliases(weights: Array, codes: Codes, sizes: Sequence[int], own: Sequence[Term]) -> list[Term]:
    """Return the effects, up to three-way, that the weighted sum of rows would also pick up, largest share first."""
    scale = max(float(np.linalg.norm(weights @ columns(term, codes, sizes))) for term in own)
    picked_up = []
    for order in (1, 2, 3):
        for term in itertools.combinations(range(len(sizes)), order):
            if term in own:
                continue
            share = float(np.linalg.norm(weights @ columns(term, codes, sizes))) / scale
            if share > MIN_ALIAS:
                picked_up.append((-round(share, 6), order, term))
    return [term for _, _, term in sorted(picked_up)]


def _rank(design: Array) -> int:
    if not design.size:
        return 0
    return int(np.linalg.matrix_rank(design.T @ design, tol=1e-9 * len(design)))
