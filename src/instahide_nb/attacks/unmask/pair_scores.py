"""Scores of candidate pairs of images by the products of the matched filter, and the assignment that follows."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.assignment import Slots, assign
from instahide_nb.core.threads import in_blocks

__all__ = ["Own", "Pairs", "best_pairs", "pair_scores"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_LIKELY = 8  # of a class with more than twice as many images, those that are tried with every partner


@dataclass(frozen=True)
class Own:
    """What each encryption itself contributed to the images that it is compared with.

    An image that was fitted to an encryption resembles it also where it should not, and the fewer encryptions hold it
    the more. Least squares says what the images would be without a row (exactly; nearly, where rows are
    correlated): image j less ``influence[i, j] / (1 - h_i)`` times the residual of row i, h_i its leverage.

    Attributes
    ----------
    influence : float64 (n, 2, largest)
        Change of the images of a slot's class with each encryption.
    assignment : int64 (n, 2)
    coefficient : float32 (n, 2)
        With which the images were fitted; the influence of a row with -1 is zero.
    square : float64 (n,)
        Whitened squared length of each encryption, from `square_lengths`.
    """

    influence: Float64
    assignment: Int64
    coefficient: Float32
    square: Float64


@numba.njit(cache=True, nogil=True)
def _most_likely(value: Float64, out: Int64) -> None:
    """The places of the largest values, as many as `out` holds; `value` is spent."""
    for place in range(out.shape[0]):
        best = 0
        for j in range(value.shape[0]):
            if value[j] > value[best]:
                best = j
        out[place] = best
        value[best] = -np.inf


@numba.njit(cache=True, nogil=True)
def _without_row(
    begin: tuple[int, int],
    size: tuple[int, int],
    own: Int64,
    coefficient: Float32,
    influence: Float64,
    product: Float64,
    gram: Float64,
    length: Float64,
    square: float,
    table: Float64,
) -> float:
    """Products with the images of both slots as they would be without this row, in `table` (4, 2, largest).

    They are P_j - pull_j r, so that <x, P_j> and <P_j, P_k> change with <x, r>, <r, P_j> and <r, r>. The table gets
    <x, P_j>, the squared length of P_j, pull_j and <r, P_j> as it was; returned is <r, r>. `length` is the diagonal
    of `gram`, closely packed.
    """
    a, b, oa, ob = own[0], own[1], float(coefficient[0]), float(coefficient[1])
    product_a, product_b, leverage = 0.0, 0.0, 0.0
    if oa != 0.0:  # where it is 0 the image is not known, and need not be of the class
        product_a, leverage = product[0, a - begin[0]], oa * influence[0, a - begin[0]]
    if ob != 0.0:
        product_b, leverage = product[1, b - begin[1]], leverage + ob * influence[1, b - begin[1]]
    leverage = min(leverage, 0.9)
    left_over = square - oa * product_a - ob * product_b
    along_a = product_a - oa * gram[a, a] - ob * gram[b, a]
    along_b = product_b - oa * gram[a, b] - ob * gram[b, b]
    rest = max(left_over - oa * along_a - ob * along_b, 0.0)
    for slot in range(2):
        for j in range(size[slot]):
            number = begin[slot] + j
            pull = influence[slot, j] / (1.0 - leverage)
            along = product[slot, j] - oa * gram[a, number] - ob * gram[b, number]
            table[0, slot, j] = product[slot, j] - pull * left_over
            table[1, slot, j] = length[number] - 2.0 * pull * along + pull * pull * rest
            table[2, slot, j], table[3, slot, j] = pull, along
    return rest


@numba.njit(cache=True, nogil=True)
def _with_row(
    begin: tuple[int, int], size: tuple[int, int], product: Float64, length: Float64, table: Float64
) -> None:
    """The same table with the images as they are."""
    for slot in range(2):
        for j in range(size[slot]):
            number = begin[slot] + j
            table[0, slot, j], table[1, slot, j] = product[slot, j], length[number]
            table[2, slot, j], table[3, slot, j] = 0.0, 0.0


@numba.njit(cache=True, nogil=True)
def _gain(
    j: int, k: int, weight: tuple[float, float], shared: bool, gram: float, rest: float, table: Float64
) -> tuple[float, float, float]:
    """Gain of the pair of images j and k, whose product is `gram`, and its coefficients: the likeliest where shared."""
    la, lb = weight
    gjj, gkk = table[1, 0, j], table[1, 1, k]
    pull_j, pull_k = table[2, 0, j], table[2, 1, k]
    gjk = gram + pull_j * pull_k * rest - pull_j * table[3, 1, k] - pull_k * table[3, 0, j]
    if shared:
        both = la + lb
        curve = gjj + gkk - 2.0 * gjk
        slope = table[0, 0, j] - table[0, 1, k] - both * (gjk - gkk)
        la = slope / curve if curve > 1e-9 else 0.5 * both
        la = min(max(la, 0.5 * both), both)  # the first slot is the larger one
        lb = both - la
    gain = la * table[0, 0, j] + lb * table[0, 1, k] - la * lb * gjk - 0.5 * (la * la * gjj + lb * lb * gkk)
    return gain, la, lb


@numba.njit(cache=True, nogil=True)
def _line(
    slot: int,
    j: int,
    weight: tuple[float, float],
    gram: Float64,
    rest: float,
    table: Float64,
    out: Float64,
) -> None:
    """Gains of image j of one slot with every image of the other, `gram` being its products: `_gain`, quickly."""
    other = 1 - slot
    la, lb = weight[slot], weight[other]
    pull_j = table[2, slot, j]
    base = la * table[0, slot, j] - 0.5 * la * la * table[1, slot, j]
    by_pull = pull_j * rest - table[3, slot, j]
    mine, length, pull, along = table[0, other], table[1, other], table[2, other], table[3, other]
    cross, half = la * lb, 0.5 * lb * lb
    for k in range(out.shape[0]):
        gjk = gram[k] + by_pull * pull[k] - pull_j * along[k]
        out[k] = base + lb * mine[k] - half * length[k] - cross * gjk


@numba.njit(cache=True, nogil=True)
def _best_partners(
    slot: int,
    images: Int64,
    begin: tuple[int, int],
    size: tuple[int, int],
    weight: tuple[float, float],
    gram: Float64,
    rest: float,
    table: Float64,
    line: Float64,
    best: Float64,
) -> None:
    """Raise `best` of both slots by the pairs of some images of one slot with all of the other; memory in its order."""
    other = 1 - slot
    for j in images:
        _line(
            slot,
            j,
            weight,
            gram[begin[slot] + j, begin[other] : begin[other] + size[other]],
            rest,
            table,
            line[: size[other]],
        )
        a = b = c = d = best[slot, j]  # four maxima side by side: one alone waits for itself
        fours = size[other] - size[other] % 4
        for k in range(0, fours, 4):
            a, b = max(a, line[k]), max(b, line[k + 1])
            c, d = max(c, line[k + 2]), max(d, line[k + 3])
        for k in range(fours, size[other]):
            a = max(a, line[k])
        best[slot, j] = max(max(a, b), max(c, d))
        for k in range(size[other]):
            best[other, k] = max(best[other, k], line[k])


@numba.njit(cache=True, nogil=True)
def _pair_scores(
    low: int,
    high: int,
    image_class: Int64,
    shared: npt.NDArray[np.bool_],
    start: Int64,
    coefficient: Float32,
    product: Float64,
    gram: Float64,
    length: Float64,
    scale: Float32,
    given: Int64,
    influence: Float64,
    own: Int64,
    own_coefficient: Float32,
    square: Float64,
    score: Float32,
    split: Float32,
) -> None:
    largest = product.shape[2]
    table, best = np.zeros((4, 2, largest)), np.empty((2, largest))
    single, line = np.empty(largest), np.empty(largest)
    likely = np.zeros((2, _LIKELY), np.int64)
    is_likely = np.zeros(largest, np.bool_)
    every = np.arange(largest)
    for i in range(low, high):
        begin = start[image_class[i, 0]], start[image_class[i, 1]]
        size = start[image_class[i, 0] + 1] - begin[0], start[image_class[i, 1] + 1] - begin[1]
        weight = float(coefficient[i, 0]), float(coefficient[i, 1])
        rest = 0.0
        if own.shape[0] > 0 and own[i, 0] >= 0 and own[i, 1] >= 0:
            of_row = own[i], own_coefficient[i], influence[i]
            rest = _without_row(begin, size, *of_row, product[i], gram, length, square[i], table)
        else:
            _with_row(begin, size, product[i], length, table)
        best[:] = -1e30
        if given[i, 0] >= 0 and given[i, 1] >= 0:  # each slot is scored beside the image in the other
            a, b = given[i, 0] - begin[0], given[i, 1] - begin[1]
            for j in range(size[0]):
                best[0, j], la, lb = _gain(
                    j, b, weight, shared[i], gram[given[i, 1], begin[0] + j], rest, table
                )
                if j == a:
                    split[i, 0], split[i, 1] = np.float32(la), np.float32(lb)
            for k in range(size[1]):
                best[1, k], _, _ = _gain(
                    a, k, weight, shared[i], gram[given[i, 0], begin[1] + k], rest, table
                )
        else:  # beside its best partner
            # in large classes an image that is not likely by itself is only tried with a likely partner
            many = min(size) > 2 * _LIKELY
            if many:
                for slot in range(2):
                    la = weight[slot]
                    for j in range(size[slot]):
                        single[j] = la * table[0, slot, j] - 0.5 * la * la * table[1, slot, j]
                    _most_likely(single[: size[slot]], likely[slot])
            if shared[i]:
                is_likely[:] = not many
                for j in likely[0]:
                    is_likely[j] = True
                for j in range(size[0]):
                    for place in range(size[1] if is_likely[j] else _LIKELY):
                        k = place if is_likely[j] else likely[1, place]
                        products = gram[begin[0] + j, begin[1] : begin[1] + size[1]]
                        gain, _, _ = _gain(j, k, weight, shared[i], products[k], rest, table)
                        best[0, j] = max(best[0, j], gain)
                        best[1, k] = max(best[1, k], gain)
            else:
                common = begin, size, weight, gram, rest, table, line, best
                _best_partners(0, likely[0] if many else every[: size[0]], *common)
                if many:
                    _best_partners(1, likely[1], *common)
        for slot in range(2):
            for j in range(size[slot]):
                score[i, slot, j] = np.float32(best[slot, j] / scale[i])


def pair_scores(
    slots: Slots,
    product: Float64,
    gram: Float64,
    scale: Float32,
    given: Int64 | None = None,
    own: Own | None = None,
) -> tuple[Float32, Float32]:
    """Score every image in every slot by the log-likelihood of its best pair.

    Parameters
    ----------
    slots : Slots
    product : float64 (n, 2, largest)
    gram : float64 (images, images)
        From `matched_filter`.
    scale : float32 (n,)
        Covariance of each residual in units of the public covariance.
    given : int64 (n, 2), optional
        Partners: each slot is scored beside the image that the other slot holds. Left out, beside its best.
    own : Own, optional
        Each encryption is then compared with the images as they would be without it.

    Returns
    -------
    score : float32 (n, 2, largest)
        Log-likelihood above that of no private image at all, of each image of the slot's class; -1e30 behind the last.
    coefficient : float32 (n, 2)
        Coefficients under `given`: as published, or the likeliest split where the slots share a class.
    """
    n = len(slots.image_class)
    score = np.full((n, 2, slots.largest), -1e30, np.float32)
    split = slots.coefficient.copy()
    partners = np.full((n, 2), -1, np.int64) if given is None else given
    if own is None:
        nothing = np.zeros((0, 2))
        own = Own(nothing[:, :, None], nothing.astype(np.int64), nothing.astype(np.float32), nothing[:, 0])
    in_blocks(
        _pair_scores,
        n,
        slots.image_class,
        slots.shared,
        slots.start,
        slots.coefficient,
        product,
        gram,
        np.diagonal(gram).copy(),
        scale,
        partners,
        own.influence,
        own.assignment,
        own.coefficient,
        own.square,
        score,
        split,
    )
    return score, split


@dataclass(frozen=True)
class Pairs:
    """Two images for each encryption.

    Attributes
    ----------
    assignment : int64 (n, 2)
    score : float32 (n, 2, largest)
        Of every image of the class of each slot, beside the partner that was chosen.
    coefficient : float32 (n, 2)
        As published, or the likeliest split where the slots share a class.
    """

    assignment: Int64
    score: Float32
    coefficient: Float32


def best_pairs(
    slots: Slots, product: Float64, gram: Float64, scale: Float32, own: Own | None = None
) -> Pairs:
    """Assign images to encryptions: each slot beside its best partner first, then twice beside the chosen one.

    Parameters
    ----------
    slots : Slots
    product : float64 (n, 2, largest)
    gram : float64 (images, images)
        From `matched_filter`.
    scale : float32 (n,)
        Covariance of each residual in units of the public covariance.
    own : Own, optional
        Compare each encryption with the images as they would be without it.

    Returns
    -------
    Pairs
    """
    assignment = None
    for _ in range(3):
        score, _ = pair_scores(slots, product, gram, scale, assignment, own)
        assignment = assign(slots, score)
    score, coefficient = pair_scores(slots, product, gram, scale, assignment, own)
    assert assignment is not None
    return Pairs(assignment, score, coefficient)
