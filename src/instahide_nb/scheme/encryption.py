"""Which coefficients a scheme can draw at all; without numba, so that parameters are checked at once.

InstaHide in exact integer arithmetic: Mixup, inside-dataset and cross-dataset encryption.

An encryption mixes k images with random coefficients and then gives each of its values its own random sign::

    x = mask * (l_1 image_1 + ... + l_k image_k)

(Huang, Song, Li and Arora, "InstaHide: Instance-hiding Schemes for Private Distributed Learning", ICML 2020,
section 4). Coefficients are whole multiples of 2**-24 that sum to one, and a uint8 pixel u means (2u - 255)/255, so
every mixture is an integer over 255 * 2**24: it is the same on every machine, and a test needs no tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import progress
from instahide_nb.scheme.streams import Stream


def check_constraints(scheme: str, k: int, max_coefficient: float, min_private_sum: float) -> None:
    """Refuse constraints on the coefficients that no row can meet.

    Raises
    ------
    InputError
        When k is outside 2 .. 16 (Mixup: is not 2), `max_coefficient` outside (1/k, 1], or `min_private_sum`
        outside [0, 1] or beyond the reach of two coefficients of at most `max_coefficient`.
    """
    if scheme not in ("cross", "inside", "mixup"):
        raise InputError(f"scheme: {scheme!r} is not known; choose cross, inside or mixup")
    if not 2 <= k <= 16:
        raise InputError(f"k: {k} images cannot be mixed; give 2 .. 16")
    if scheme == "mixup" and k != 2:
        raise InputError(f"k: Mixup mixes two images, not {k}; give k = 2 or another scheme")
    if not 1 / k < max_coefficient <= 1:
        raise InputError(
            f"max_coefficient: {max_coefficient} is outside (1/k, 1] = ({1 / k:.4g}, 1]; no row of k = {k} meets it"
        )
    if scheme == "cross":
        reach = 1.0 if k == 2 else min(1.0, 2 * max_coefficient)
        # With public images beside them, two coefficients never sum to their limit itself.
        if not 0 <= min_private_sum <= reach or (k > 2 and min_private_sum == reach):
            raise InputError(
                f"min_private_sum: {min_private_sum} cannot be met with max_coefficient {max_coefficient}; "
                f"give 0 .. {reach:.4g}"
            )


WEIGHT_ONE = 1 << 24
"""The integer that stands for a coefficient of one; float32 holds every multiple of 2**-24 up to 1 exactly."""

_MOST_REDRAWS = 100_000


@dataclass(frozen=True)
class Mixtures:
    """Encryptions and everything secret about them.

    Attributes
    ----------
    encryption : (n, h, w, 3) float32 array
        The encryptions, in [-1, 1].
    index : (n, k) int32 array
        Which images were mixed. Cross: two private images, then k - 2 public ones. Inside and Mixup: all private.
    weight : (n, k) uint32 array
        Their coefficients times 2**24; each row sums to 2**24.
    mask : (n, ceil(h*w*3/8)) uint8 array
        Packed signs in the order of the pixels, 1 meaning +1, as :func:`numpy.packbits` packs them. Mixup: all ones.
    """

    encryption: npt.NDArray[np.float32]
    index: npt.NDArray[np.int32]
    weight: npt.NDArray[np.uint32]
    mask: npt.NDArray[np.uint8]

    @property
    def coefficient(self) -> npt.NDArray[np.float32]:
        """(n, k) float32 array: the coefficients, exactly."""
        return (self.weight / WEIGHT_ONE).astype(np.float32)


def pixel_values(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The values of uint8 pixels in [-1, 1]: (2u - 255)/255, rounded once to float32.

    Examples
    --------
    >>> pixel_values(np.array([0, 51, 255], np.uint8))
    array([-1. , -0.6,  1. ], dtype=float32)
    """
    table = ((2 * np.arange(256) - 255) / 255).astype(np.float32)
    return table[images]


def _normalise(normals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """|N| over the sum of its row, the sum taken from left to right."""
    size = np.abs(normals)
    # accumulate adds one after the other; sum would pair the terms of longer rows
    return size / np.add.accumulate(size, axis=-1)[..., -1:]


def draw_coefficients(
    stream: Stream, n: int, k: int, *, max_coefficient: float = 0.65, min_private_sum: float = 0.0
) -> npt.NDArray[np.float64]:
    """Coefficients of n encryptions: absolute normals, normalised, redrawn while the constraints are not met.

    All rows are drawn at once; then each row that fails is drawn anew, alone and in row order, until it passes.

    Parameters
    ----------
    stream : Stream
        Only its normal numbers are used.
    n, k : int
        Rows, and images a row.
    max_coefficient, min_private_sum : float
        The largest coefficient that a row may hold, and the least sum of its first two.

    Returns
    -------
    (n, k) float64 array
        Rows that sum to one.
    """
    rows = _normalise(stream.normal(n, k))
    poor = (rows.max(axis=1) > max_coefficient) | (rows[:, 0] + rows[:, 1] < min_private_sum)
    for r in np.flatnonzero(poor):
        for _ in range(_MOST_REDRAWS):
            row = _normalise(stream.normal(k))
            if row.max() <= max_coefficient and row[0] + row[1] >= min_private_sum:
                break
        else:
            raise InputError(
                f"max_coefficient, min_private_sum: no row of coefficients in {_MOST_REDRAWS} draws met "
                f"{max_coefficient} and {min_private_sum} with k = {k}; loosen one of them"
            )
        rows[r] = row
    return rows


def integer_weights(coefficient: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """Coefficients as multiples of 2**-24: rounded down, the remainder of each row given to its largest.

    Examples
    --------
    >>> integer_weights(np.array([[1 / 3, 1 / 3, 1 / 3]]))
    array([[5592406, 5592405, 5592405]], dtype=uint32)
    """
    weight = np.floor(coefficient * WEIGHT_ONE).astype(np.int64)
    largest = np.argmax(weight, axis=1)
    weight[np.arange(len(weight)), largest] += WEIGHT_ONE - weight.sum(axis=1)
    return weight.astype(np.uint32)


@nb.njit(cache=True)  # pragma: no cover - compiled
def _mix(
    first: Any, second: Any, split: int, index: Any, weight: Any, bit: Any, out: Any, sign: Any, total: Any
) -> None:
    """Mix and mask one epoch; images (m, h*w*3), bit (n, 3*h*w) by channel, out (n, h*w*3), sign likewise.

    The sum of w_j u_j is at most 255 * 2**24, so 32 bits hold it.
    """
    n, k = index.shape
    size = out.shape[1]
    plane = size // 3
    one = np.float64(255.0 * 16777216.0)
    for r in range(n):
        for j in range(k):
            image = first[index[r, j]] if j < split else second[index[r, j]]
            w = weight[r, j]
            if j == 0:
                for p in range(size):
                    total[p] = w * np.uint32(image[p])
            else:
                for p in range(size):
                    total[p] = np.uint32(total[p] + np.uint32(w * np.uint32(image[p])))
        for c in range(3):
            for p in range(plane):
                sign[r, 3 * p + c] = bit[r, c * plane + p]
        for p in range(size):
            value = (np.float64(2.0) * np.float64(total[p]) - one) / one
            out[r, p] = np.float32(value) if sign[r, p] else np.float32(-value)


def encrypt(
    private: npt.NDArray[np.uint8],
    public: npt.NDArray[np.uint8],
    stream: Stream,
    *,
    scheme: str = "cross",
    k: int = 6,
    encryptions_per_image: int = 50,
    max_coefficient: float = 0.65,
    min_private_sum: float = 0.30,
) -> Mixtures:
    """Make ``encryptions_per_image * len(private)`` encryptions, epoch by epoch.

    In each epoch every private image is once the first of a mixture and once the second (inside: once the j-th);
    row ``e*N + r`` belongs to epoch e. The stream is asked in this order: the public pool, the order of the first
    images, coefficients, the orders of the other k - 1 places, the mask.

    Parameters
    ----------
    private : (N, h, w, 3) uint8 array
        The private images, two or more.
    public : (M, h, w, 3) uint8 array
        The public images; at least N for the cross-dataset scheme, not used by the others.
    stream : Stream
        See :mod:`instahide_nb.scheme.streams`.
    scheme : {"cross", "inside", "mixup"}
        Two private images and k - 2 public ones; k private ones; or two private ones without a mask.
    k, encryptions_per_image, max_coefficient, min_private_sum
        As in the challenge; `min_private_sum` holds for the cross-dataset scheme only.

    Returns
    -------
    Mixtures

    Raises
    ------
    InputError
        When images do not fit each other or the constraints cannot be met.
    """
    check_constraints(scheme, k, max_coefficient, min_private_sum)
    n_private, shape = len(private), private.shape[1:]
    if n_private < 2:
        raise InputError(f"n_private: {n_private} is too few; give two private images or more")
    cross = scheme == "cross"
    n_public = len(public) if cross else 0
    if cross and n_public < n_private:
        raise InputError(
            f"n_public: {n_public} public images for {n_private} private ones; each epoch needs as many"
        )
    if cross and public.shape[1:] != shape:
        raise InputError(f"public_source: images of {public.shape[1:]}; the private ones are {shape}")
    size = int(np.prod(shape))
    n = n_private * encryptions_per_image
    result = Mixtures(
        encryption=np.empty((n, *shape), np.float32),
        index=np.empty((n, k), np.int32),
        weight=np.empty((n, k), np.uint32),
        mask=np.empty((n, -(-size // 8)), np.uint8),
    )
    first = np.ascontiguousarray(private).reshape(n_private, size)
    second = np.ascontiguousarray(public).reshape(len(public), size) if cross else first
    sign, total = np.empty((n_private, size), np.uint8), np.empty(size, np.uint32)
    flat = result.encryption.reshape(n, size)
    for e in progress(range(encryptions_per_image), desc="encrypting", unit="epoch"):
        rows = slice(e * n_private, (e + 1) * n_private)
        pool = stream.permutation(n_public) if cross else np.empty(0, np.int64)
        order = stream.permutation(n_private)
        coefficient = draw_coefficients(
            stream,
            n_private,
            k,
            max_coefficient=max_coefficient,
            min_private_sum=min_private_sum if cross else 0.0,
        )
        result.weight[rows] = integer_weights(coefficient)
        result.index[rows, 0] = order
        for j in range(1, k):
            place = stream.permutation(n_private)
            result.index[rows, j] = pool[place] if cross and j >= 2 else order[place]
        if scheme == "mixup":
            bit = np.ones((n_private, size), np.uint8)
        else:
            bit = stream.bits(n_private * size).reshape(n_private, size)
        split = 2 if cross else k
        _mix(first, second, split, result.index[rows], result.weight[rows], bit, flat[rows], sign, total)
        result.mask[rows] = np.packbits(sign, axis=1)
    return result


def class_coefficients(
    weight: npt.NDArray[np.uint32],
    private_index: npt.NDArray[np.int32],
    private_label: npt.NDArray[np.int64],
    classes: int,
) -> npt.NDArray[np.float32]:
    """Labels of the encryptions: per class, the sum of the coefficients of the private images of that class.

    Parameters
    ----------
    weight, private_index : (n, p) arrays
        Integer coefficients and private images; p is 2 for the cross-dataset scheme and k for the inside one.
    private_label : (N,) int64 array
        The class of each private image.
    classes : int
        How many classes there are.

    Returns
    -------
    (n, classes) float32 array
        Exact multiples of 2**-24.
    """
    label = np.zeros((len(weight), classes), np.int64)
    row = np.arange(len(weight))
    for j in range(weight.shape[1]):
        label[row, private_label[private_index[:, j]]] += weight[:, j].astype(np.int64)
    return (label / WEIGHT_ONE).astype(np.float32)
