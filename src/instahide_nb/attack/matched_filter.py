"""Assignment by a whitened matched filter, once the signs of the encryptions are roughly known.

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
from instahide_nb.attack.smoothness import Smoothness, whiten
from instahide_nb.attack.threads import in_blocks

__all__ = ["Pairs", "best_pairs", "integer_product", "matched_filter", "pair_scores"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def _round(first: int, last: int, table: Float32, scale: float, out: Float64) -> None:
    for i in range(first, last):
        for p in range(table.shape[1]):
            out[i, p] = np.rint(float(table[i, p]) * scale)


def integer_product(a: Float32, b: Float32) -> Float64:
    """``a @ b.T`` with both factors rounded to 20 bits, so that the product is exact in any order of summation.

    Parameters
    ----------
    a : float32 (n, d)
    b : float32 (m, d)

    Returns
    -------
    float64 (n, m)

    Examples
    --------
    >>> integer_product(np.array([[1, 2]], np.float32), np.array([[3, 4], [0, 1]], np.float32)).tolist()
    [[11.0, 2.0]]
    """
    bits = min(20, (52 - int(a.shape[1]).bit_length()) // 2)

    def integers(table: Float32) -> tuple[Float64, float]:
        largest = max(float(table.max()), -float(table.min())) if table.size else 0.0
        _, exponent = np.frexp(largest)
        scale = 2.0 ** (bits - int(exponent))  # a power of two: scaling rounds nothing
        out = np.empty(table.shape)
        in_blocks(_round, len(table), table, scale, out)
        return out, scale

    qa, scale_a = integers(a)
    qb, scale_b = integers(b)
    product: Float64 = (qa @ qb.T) / (scale_a * scale_b)
    return product


def matched_filter(
    signed: Float32, image: Float32, mean: Float32, model: Smoothness, block: int = 2000
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
    product = np.concatenate(
        [
            integer_product((signed[low : low + block] - centre).reshape(-1, white.shape[1]), white)
            for low in range(0, len(signed), block)
        ]
    )
    return product, 0.5 * (gram + gram.T)


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
    score: Float32,
    split: Float32,
) -> None:
    for i in range(low, high):
        ca, cb = image_class[i, 0], image_class[i, 1]
        inverse = 1.0 / scale[i]
        la, lb = float(coefficient[i, 0]), float(coefficient[i, 1])
        both = la + lb
        for j in range(start[ca], start[ca + 1]):
            score[i, 0, j] = np.float32(-1e30)
        for k in range(start[cb], start[cb + 1]):
            score[i, 1, k] = np.float32(-1e30)
        for j in range(start[ca], start[ca + 1]):
            for k in range(start[cb], start[cb + 1]):
                # with a given partner each slot is scored beside it; without, beside its best partner
                left = given[i, 1] < 0 or given[i, 1] == k
                right = given[i, 0] < 0 or given[i, 0] == j
                if not (left or right):
                    continue
                if shared[i]:
                    curve = gram[j, j] + gram[k, k] - 2.0 * gram[j, k]
                    slope = product[i, j] - product[i, k] - both * (gram[j, k] - gram[k, k])
                    la = slope / curve if curve > 1e-9 else 0.5 * both
                    la = min(max(la, 0.5 * both), both)  # the first slot is the larger one
                    lb = both - la
                gain = la * product[i, j] + lb * product[i, k] - la * lb * gram[j, k]
                gain -= 0.5 * (la * la * gram[j, j] + lb * lb * gram[k, k])
                value = np.float32(gain * inverse)
                if left and value > score[i, 0, j]:
                    score[i, 0, j] = value
                if right and value > score[i, 1, k]:
                    score[i, 1, k] = value
                if given[i, 0] == j and given[i, 1] == k:
                    split[i, 0], split[i, 1] = np.float32(la), np.float32(lb)


def pair_scores(
    slots: Slots, product: Float64, gram: Float64, scale: Float32, given: Int64 | None = None
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


def best_pairs(slots: Slots, product: Float64, gram: Float64, scale: Float32) -> Pairs:
    """Assign images to encryptions: each slot beside its best partner first, then twice beside the chosen one.

    Parameters
    ----------
    slots : Slots
    product : float64 (n, images)
    gram : float64 (images, images)
        From `matched_filter`.
    scale : float32 (n,)
        Covariance of each residual in units of the public covariance.

    Returns
    -------
    Pairs
    """
    assignment = None
    for _ in range(3):
        score, _ = pair_scores(slots, product, gram, scale, assignment)
        assignment = assign(slots, score)
    score, coefficient = pair_scores(slots, product, gram, scale, assignment)
    assert assignment is not None
    return Pairs(assignment, score, coefficient)
