"""Assignment by a whitened matched filter: of encryptions with lifted masks, or of their energies (`textures`).

With its mask lifted an encryption is a linear mixture: ``x - mean = la Ya + lb Yb + residual`` with centred private
images Y, and a residual whose covariance is that of public images. For every candidate pair the whitened squared
residual follows from three products: of the encryption with both images, and of the images among each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attack.assignment import Slots, assign
from instahide_nb.attack.exact_product import integer_product, integers
from instahide_nb.attack.smoothness import Smoothness, whiten
from instahide_nb.attack.threads import in_blocks

__all__ = [
    "Own",
    "Pairs",
    "best_pairs",
    "matched_filter",
    "pair_scores",
    "square_lengths",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_LIKELY = 8  # of a class with more than twice as many images, those that are tried with every partner
_MANY_IMAGES = 128  # below, one product with all is quicker than to gather the rows of each class


def matched_filter(
    signed: Float32,
    image: Float32,
    mean: Float32,
    model: Smoothness,
    slots: Slots | None = None,
    block: int = 1000,
) -> tuple[Float64, Float64]:
    """Products of encryptions and images after whitening.

    Parameters
    ----------
    signed : float32 (n, channels, h, w)
        Encryptions with their mask lifted.
    image : float32 (images, channels, h, w)
    mean : float32 (channels,)
        Mean colour of public images.
    model : Smoothness
    slots : Slots, optional
        Where images are many, only products with images of an encryption's own classes are then made; the others are 0.
    block : int
        Encryptions at a time.

    Returns
    -------
    product : float64 (n, images)
        Of each encryption with each image.
    gram : float64 (images, images)
        Of the images among each other.
    """
    centre = mean[:, None, None]
    centred = image - centre
    white = whiten(centred, model).reshape(len(image), -1)
    gram = integer_product(centred.reshape(len(image), -1), white)
    own_only = slots is not None and len(image) > _MANY_IMAGES
    terms = white.shape[1]
    whole_white, white_scale = integers(white, terms)
    product = np.zeros((len(signed), len(image)))
    for low in range(0, len(signed), block):
        part = (signed[low : low + block] - centre).reshape(-1, terms)
        whole, scale = integers(part, terms)
        out = product[low : low + block]
        if slots is None or not own_only:
            np.matmul(whole, whole_white.T, out=out)
        else:
            image_class = slots.image_class[low : low + block]
            for c in np.flatnonzero(np.diff(slots.start)):
                rows = np.flatnonzero((image_class == c).any(axis=1))
                first, last = slots.start[c], slots.start[c + 1]
                out[rows, first:last] = whole[rows] @ whole_white[first:last].T
        out /= scale * white_scale
    return product, 0.5 * (gram + gram.T)


@dataclass(frozen=True)
class Own:
    """What each encryption itself contributed to the images that it is compared with.

    An image that was fitted to an encryption resembles it also where it should not, and the fewer encryptions hold it
    the more. Least squares says what the images would be without a row (exactly; nearly, where rows are
    correlated): image j less ``influence[i, j] / (1 - h_i)`` times the residual of row i, h_i its leverage.

    Attributes
    ----------
    influence : float64 (n, images)
        Change of every image with each encryption.
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
def _dot_rows(first: int, last: int, a: Float32, b: Float32, out: Float64) -> None:
    for i in range(first, last):
        total = 0.0
        for p in range(a.shape[1]):
            total += float(a[i, p]) * float(b[i, p])
        out[i] = total


def square_lengths(signed: Float32, mean: Float32, model: Smoothness, block: int = 1000) -> Float64:
    """Whitened squared length of encryptions about the mean colour.

    Parameters
    ----------
    signed : float32 (n, channels, h, w)
    mean : float32 (channels,)
    model : Smoothness
    block : int
        Encryptions at a time.

    Returns
    -------
    float64 (n,)
    """
    out = np.empty(len(signed))
    for low in range(0, len(signed), block):
        part = signed[low : low + block] - mean[:, None, None]
        white = whiten(part, model)
        flat = part.reshape(len(part), -1)
        in_blocks(_dot_rows, len(part), flat, white.reshape(flat.shape), out[low : low + block])
    return out


@numba.njit(cache=True, nogil=True)
def _most_likely(low: int, high: int, value: Float64, out: Int64) -> None:
    """The images low .. high-1 of the largest values, as many as `out` holds; `value` is spent."""
    for place in range(out.shape[0]):
        best = low
        for j in range(low, high):
            if value[j] > value[best]:
                best = j
        out[place] = best
        value[best] = -np.inf


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
    scale: Float32,
    given: Int64,
    influence: Float64,
    own: Int64,
    own_coefficient: Float32,
    square: Float64,
    score: Float32,
    split: Float32,
) -> None:
    n_images = gram.shape[0]
    pull, along, mine = np.zeros(n_images), np.zeros(n_images), np.zeros(n_images)
    single, every = np.zeros(n_images), np.arange(n_images)
    likely = np.zeros((2, _LIKELY), np.int64)
    for i in range(low, high):
        ca, cb = image_class[i, 0], image_class[i, 1]
        inverse = 1.0 / scale[i]
        la, lb = float(coefficient[i, 0]), float(coefficient[i, 1])
        both = la + lb
        # the images without this row: P_j - pull_j r, so <x, P_j> and <P_j, P_k> change with <x, r>, <r, P_j>, <r, r>
        left_over, length = 0.0, 0.0
        with_own = own.shape[0] > 0 and own[i, 0] >= 0 and own[i, 1] >= 0
        if with_own:
            a, b = own[i, 0], own[i, 1]
            oa, ob = float(own_coefficient[i, 0]), float(own_coefficient[i, 1])
            leverage = min(oa * influence[i, a] + ob * influence[i, b], 0.9)
            left_over = square[i] - oa * product[i, a] - ob * product[i, b]
            along_a = product[i, a] - oa * gram[a, a] - ob * gram[b, a]
            along_b = product[i, b] - oa * gram[a, b] - ob * gram[b, b]
            length = max(left_over - oa * along_a - ob * along_b, 0.0)
        for c in (ca, cb):
            for j in range(start[c], start[c + 1]):
                mine[j] = product[i, j]
                pull[j] = 0.0
                along[j] = 0.0
                if with_own:
                    pull[j] = influence[i, j] / (1.0 - leverage)
                    along[j] = product[i, j] - oa * gram[a, j] - ob * gram[b, j]
                    mine[j] -= pull[j] * left_over
        for j in range(start[ca], start[ca + 1]):
            score[i, 0, j] = np.float32(-1e30)
        for k in range(start[cb], start[cb + 1]):
            score[i, 1, k] = np.float32(-1e30)
        # in large classes an image that is not likely by itself is only tried with a likely partner
        free = given[i, 0] < 0 and given[i, 1] < 0
        many = free and min(start[ca + 1] - start[ca], start[cb + 1] - start[cb]) > 2 * _LIKELY
        if many:
            for slot in range(2):
                c, weight = image_class[i, slot], (la, lb)[slot]
                for j in range(start[c], start[c + 1]):
                    gjj = gram[j, j] - 2.0 * pull[j] * along[j] + pull[j] * pull[j] * length
                    single[j] = weight * mine[j] - 0.5 * weight * weight * gjj
                _most_likely(start[c], start[c + 1], single, likely[slot])
        for j in range(start[ca], start[ca + 1]):
            gjj = gram[j, j] - 2.0 * pull[j] * along[j] + pull[j] * pull[j] * length
            partners = every[start[cb] : start[cb + 1]]
            if given[i, 1] >= 0 and given[i, 0] >= 0 and given[i, 0] != j:
                partners = given[i, 1:2]  # no other pair is asked for
            elif many and not np.any(likely[0] == j):
                partners = likely[1]
            for k in partners:
                # with a given partner each slot is scored beside it; without, beside its best partner
                left = given[i, 1] < 0 or given[i, 1] == k
                right = given[i, 0] < 0 or given[i, 0] == j
                if not (left or right):
                    continue
                gkk = gram[k, k] - 2.0 * pull[k] * along[k] + pull[k] * pull[k] * length
                gjk = gram[j, k] - pull[j] * along[k] - pull[k] * along[j] + pull[j] * pull[k] * length
                if shared[i]:
                    curve = gjj + gkk - 2.0 * gjk
                    slope = mine[j] - mine[k] - both * (gjk - gkk)
                    la = slope / curve if curve > 1e-9 else 0.5 * both
                    la = min(max(la, 0.5 * both), both)  # the first slot is the larger one
                    lb = both - la
                gain = la * mine[j] + lb * mine[k] - la * lb * gjk
                gain -= 0.5 * (la * la * gjj + lb * lb * gkk)
                value = np.float32(gain * inverse)
                if left and value > score[i, 0, j]:
                    score[i, 0, j] = value
                if right and value > score[i, 1, k]:
                    score[i, 1, k] = value
                if given[i, 0] == j and given[i, 1] == k:
                    split[i, 0], split[i, 1] = np.float32(la), np.float32(lb)


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
    product : float64 (n, images)
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
    score : float32 (n, 2, images)
        Log-likelihood above that of no private image at all; meaningful for images of the slot's class.
    coefficient : float32 (n, 2)
        Coefficients under `given`: as published, or the likeliest split where the slots share a class.
    """
    n = len(slots.image_class)
    score = np.full((n, 2, slots.n_images), -1e30, np.float32)
    split = slots.coefficient.copy()
    partners = np.full((n, 2), -1, np.int64) if given is None else given
    if own is None:
        nothing = np.zeros((0, 2))
        own = Own(nothing, nothing.astype(np.int64), nothing.astype(np.float32), nothing[:, 0])
    in_blocks(
        _pair_scores,
        n,
        slots.image_class,
        slots.shared,
        slots.start,
        slots.coefficient,
        product,
        gram,
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
    score : float32 (n, 2, images)
        Of every image in each slot, beside the partner that was chosen.
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
    product : float64 (n, images)
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
