"""InstaHide in exact integer arithmetic: cross-dataset and inside-dataset encryption, and Mixup.

An encryption mixes k images with random coefficients l_j and gives each value of the mixture its own random sign::

    x = mask * (l_1 image_1 + ... + l_k image_k)

(Huang, Song, Li and Arora, "InstaHide: Instance-hiding Schemes for Private Distributed Learning", ICML 2020,
section 4). Cross mixes p private (2 in 2020) and k - p public images, inside k private ones; Mixup mixes two without
a mask.

A uint8 pixel u means (2u - 255)/255, and a coefficient is w / 2**24 with integer weights w_j that sum to 2**24. So
x = S / (255 * 2**24) with the integer S = sum_j w_j (2 u_j - 255): one division and one rounding to float32, the same
on every machine. In each epoch every private image is the j-th of one row for each j <= p. Row e*N + r belongs to epoch
e. The order of the draws is in :mod:`instahide_nb.scheme.streams`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from instahide_nb.core.arrays import Bool, Float32, Float64, Floats, Int8, Int32, Int64, UInt8, UInt32
from instahide_nb.core.errors import InputError
from instahide_nb.core.kernels import kernel
from instahide_nb.core.params import ChallengeParams
from instahide_nb.core.progress import progress
from instahide_nb.scheme.streams import Stream
from instahide_nb.scheme.views import apply_views

WEIGHT_ONE = 1 << 24
"""The integer weight of a coefficient of one; float32 holds every multiple of 2**-24 up to 1 exactly."""

_MOST_REDRAWS = 100_000


def pixel_values(images: UInt8) -> Float32:
    """The values of uint8 pixels in [-1, 1]: (2u - 255)/255, rounded once to float32.

    Examples
    --------
    >>> pixel_values(np.array([0, 51, 255], np.uint8))
    array([-1. , -0.6,  1. ], dtype=float32)
    """
    table = ((2 * np.arange(256) - 255) / 255).astype(np.float32)
    return table[images]


def pixel_bytes(values: Floats) -> UInt8:
    """The uint8 pixels nearest to values in [-1, 1]: floor(127.5 (v + 1) + 1/2), clipped to 0 .. 255.

    Examples
    --------
    >>> pixel_bytes(np.array([-1.5, -0.6, 0.0, 1.0], np.float32))
    array([  0,  51, 128, 255], dtype=uint8)
    """
    return np.clip(np.floor((values.astype(np.float64) + 1) * 127.5 + 0.5), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Mixtures:
    """Encryptions, with the images, coefficients and masks in them."""

    encryption: Float32  # (n, h, w, 3), in [-1, 1]
    index: Int32  # (n, k): the images mixed, first the private ones, then (cross) the public ones
    weight: UInt32  # (n, k): their coefficients times 2**24; each row sums to 2**24
    # (n, ceil(h*w*3/8)): signs in the order of the pixels, 1 meaning +1, packed by numpy.packbits; Mixup: all ones
    mask: UInt8

    @property
    def coefficient(self) -> Float32:
        """The coefficients, exactly; (n, k)."""
        return (self.weight / WEIGHT_ONE).astype(np.float32)


def normalised(normals: Float64) -> Float64:
    """|N| over the sum of its row, added from left to right; numpy's sum may add in another order."""
    size = np.abs(normals)
    return size / np.add.accumulate(size, axis=-1)[..., -1:]


def meets_constraints(coefficient: Float64, max_coefficient: float, min_private_sum: float, private: int) -> Bool:
    """Which rows of coefficients (..., k), the first `private` of private images, need not be redrawn."""
    total = np.add.accumulate(coefficient[..., :private], axis=-1)[..., -1]
    return np.asarray((coefficient.max(axis=-1) <= max_coefficient) & (total >= min_private_sum))


def draw_coefficients(
    stream: Stream, n: int, k: int, *, max_coefficient: float = 0.65, min_private_sum: float = 0.0, private: int = 2
) -> Float64:
    """Coefficients |N(0,1)|^k normalised to sum one, (n, k) float64.

    All rows are drawn at once. Then each row with a coefficient above `max_coefficient`, or whose first `private` ones
    sum to less than `min_private_sum`, is redrawn alone, in row order, until it passes.
    """
    limits = max_coefficient, min_private_sum, private
    rows = normalised(stream.normal(n, k))
    for r in np.flatnonzero(~meets_constraints(rows, *limits)):
        for _ in range(_MOST_REDRAWS):
            row = normalised(stream.normal(k))
            if meets_constraints(row, *limits):
                break
        else:
            raise InputError(
                f"max_coefficient, min_private_sum: no row of coefficients in {_MOST_REDRAWS} draws met "
                f"{max_coefficient} and {min_private_sum} with k = {k}; relax one of them"
            )
        rows[r] = row
    return rows


def integer_weights(coefficient: Float64) -> UInt32:
    """Weights floor(l * 2**24), the remainder of each row added to its largest.

    Examples
    --------
    >>> integer_weights(np.array([[1 / 3, 1 / 3, 1 / 3]]))
    array([[5592406, 5592405, 5592405]], dtype=uint32)
    """
    weight = np.floor(coefficient * WEIGHT_ONE).astype(np.int64)
    largest = np.argmax(weight, axis=1)
    weight[np.arange(len(weight)), largest] += WEIGHT_ONE - weight.sum(axis=1)
    return weight.astype(np.uint32)


def draw_epoch(
    stream: Stream, params: ChallengeParams, n_public: int, size: int, epoch: int = 0
) -> tuple[Int64, UInt32, UInt8]:
    """Draw one epoch in the order of :mod:`instahide_nb.scheme.streams`; `size` is the number of values in an image.

    Returns the images of each row (N, k), private ones first; their coefficients times 2**24 (N, k); and the mask,
    1 meaning +1, in the order of the pixels (N, size).
    """
    n, k, private = params.n_private, params.k, params.private_per_row
    pooled = params.scheme == "cross" and not params.public_once
    pool = stream.permutation(n_public) if pooled else np.empty(0, np.int64)
    order = stream.permutation(n)
    most, least = params.max_coefficient, params.least_private_sum
    coefficient = draw_coefficients(stream, n, k, max_coefficient=most, min_private_sum=least, private=private)
    index = [order]
    for j in range(1, k):
        place = stream.permutation(n)
        if j >= private and params.public_once:
            index.append(((k - private) * epoch + j - private) * n + place)
        else:
            index.append(order[place] if j < private else pool[place])
    sign = np.ones((n, size), np.uint8)
    if params.scheme != "mixup":  # drawn channels first
        drawn = stream.bits(n * size).reshape(n, 3, size // 3)
        sign = np.ascontiguousarray(drawn.transpose(0, 2, 1)).reshape(n, size)
    return np.stack(index, axis=1), integer_weights(coefficient), sign


@kernel
def _mix(first: Any, second: Any, split: int, index: Any, weight: Any, sign: Any, out: Any) -> None:
    """out = sign * S / (255 * 2**24), row by row; the images and `out` are flat.

    S = 2 sum_j w_j u_j - 255 * 2**24, and sum_j w_j u_j <= 255 * 2**24 fits in 32 bits.
    """
    total = np.empty(out.shape[1], np.uint32)
    one = np.float64(255.0 * 16777216.0)
    for r in range(len(out)):
        total[:] = 0
        for j in range(index.shape[1]):
            image = first[index[r, j]] if j < split else second[index[r, j]]
            w = weight[r, j]
            for p in range(len(total)):
                total[p] = np.uint32(total[p] + np.uint32(w * np.uint32(image[p])))
        for p in range(len(total)):
            value = (np.float64(2.0) * np.float64(total[p]) - one) / one
            out[r, p] = np.float32(value) if sign[r, p] else np.float32(-value)


def encrypt(
    private: UInt8, public: UInt8, stream: Stream, params: ChallengeParams, views: Int8 | None = None
) -> Mixtures:
    """Make ``encryptions_per_image * N`` encryptions, epoch by epoch.

    `private` are (N, h, w, 3), `public` (M, h, w, 3) for cross only, `views` int8 (encryptions_per_image, N, 3) if
    private images are augmented. An InputError says that images do not fit, or that the constraints cannot be met.
    """
    n_private, shape, cross = params.n_private, private.shape[1:], params.scheme == "cross"
    n_public = len(public) if cross else 0
    if len(private) != n_private:
        raise InputError(f"n_private: {len(private)} private images; {n_private} are expected")
    if n_public < params.public_needed:
        raise InputError(f"n_public: {n_public} public images are too few; give {params.public_needed} or more")
    if cross and public.shape[1:] != shape:
        raise InputError(f"public_source: images of {public.shape[1:]}; the private ones are {shape}")
    n, size = n_private * params.encryptions_per_image, int(np.prod(shape))
    index, weight = np.empty((n, params.k), np.int32), np.empty((n, params.k), np.uint32)
    result = Mixtures(np.empty((n, *shape), np.float32), index, weight, np.empty((n, -(-size // 8)), np.uint8))
    first = np.ascontiguousarray(private).reshape(n_private, size)
    second = np.ascontiguousarray(public).reshape(n_public, size) if cross else first
    flat = result.encryption.reshape(n, size)
    for e in progress(range(params.encryptions_per_image), desc="encrypting", unit="epoch"):
        rows = slice(e * n_private, (e + 1) * n_private)
        result.index[rows], result.weight[rows], sign = draw_epoch(stream, params, n_public, size, e)
        if views is not None:
            first = apply_views(private, views[e]).reshape(n_private, size)
        _mix(first, second, params.private_per_row, result.index[rows], result.weight[rows], sign, flat[rows])
        result.mask[rows] = np.packbits(sign, axis=1)
    return result


def class_coefficients(weight: UInt32, private_index: Int32, private_label: Int64, classes: int) -> Float32:
    """Labels of the encryptions, (n, classes) float32: per class, the sum of the coefficients of its private images.

    `weight` and `private_index` (n, p) are those of the private images in each row; `private_label` is (N,).
    """
    label = np.zeros((len(weight), classes), np.int64)
    np.add.at(label, (np.arange(len(weight))[:, None], private_label[private_index]), weight)
    return (label / WEIGHT_ONE).astype(np.float32)
