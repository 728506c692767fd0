"""InstaHide in exact integer arithmetic: cross-dataset and inside-dataset encryption, and Mixup.

An encryption mixes k images with random coefficients l_j and gives each value of the mixture its own random sign::

    x = mask * (l_1 image_1 + ... + l_k image_k)

(Huang, Song, Li and Arora, "InstaHide: Instance-hiding Schemes for Private Distributed Learning", ICML 2020,
section 4). Cross mixes p private (2 in 2020) and k - p public images, inside k private ones; Mixup mixes two without
a mask.

A uint8 pixel u means (2u - 255)/255, and a coefficient is w / 2**24 with integer weights w_j that sum to 2**24. So
x = S / (255 * 2**24) with the integer S = sum_j w_j (2 u_j - 255): one division and one rounding to float32, the same
on every machine. In each epoch every private image is the j-th of one row for each j <= p; row e*N + r belongs to epoch
e. The order of the draws is in :mod:`instahide_nb.scheme.streams`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.params import check_constraints, private_per_row
from instahide_nb.core.progress import progress
from instahide_nb.scheme.streams import Stream
from instahide_nb.scheme.views import apply_views

WEIGHT_ONE = 1 << 24
"""The integer weight of a coefficient of one; float32 holds every multiple of 2**-24 up to 1 exactly."""

_MOST_REDRAWS = 100_000


def pixel_values(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The values of uint8 pixels in [-1, 1]: (2u - 255)/255, rounded once to float32.

    Examples
    --------
    >>> pixel_values(np.array([0, 51, 255], np.uint8))
    array([-1. , -0.6,  1. ], dtype=float32)
    """
    table = ((2 * np.arange(256) - 255) / 255).astype(np.float32)
    return table[images]


def pixel_bytes(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """The uint8 pixels nearest to values in [-1, 1]: floor(127.5 (v + 1) + 1/2), clipped to 0 .. 255.

    Examples
    --------
    >>> pixel_bytes(np.array([-1.5, -0.6, 0.0, 1.0], np.float32))
    array([  0,  51, 128, 255], dtype=uint8)
    """
    return np.clip(np.floor((values.astype(np.float64) + 1) * 127.5 + 0.5), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Mixtures:
    """Encryptions and everything secret about them."""

    encryption: npt.NDArray[np.float32]  # (n, h, w, 3), in [-1, 1]
    index: npt.NDArray[np.int32]  # (n, k): the images mixed, first the private ones, then (cross) the public ones
    weight: npt.NDArray[np.uint32]  # (n, k): their coefficients times 2**24; each row sums to 2**24
    # (n, ceil(h*w*3/8)): signs in the order of the pixels, 1 meaning +1, packed by numpy.packbits; Mixup: all ones
    mask: npt.NDArray[np.uint8]

    @property
    def coefficient(self) -> npt.NDArray[np.float32]:
        """The coefficients, exactly; (n, k)."""
        return (self.weight / WEIGHT_ONE).astype(np.float32)


def normalised(normals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """|N| over the sum of its row, added from left to right; numpy's sum would pair the terms of longer rows."""
    size = np.abs(normals)
    return size / np.add.accumulate(size, axis=-1)[..., -1:]


def meets_constraints(
    coefficient: npt.NDArray[np.float64], max_coefficient: float, min_private_sum: float, private: int
) -> npt.NDArray[np.bool_]:
    """Which rows of coefficients (..., k), of which the first `private` are private, need not be redrawn."""
    total = np.add.accumulate(coefficient[..., :private], axis=-1)[..., -1]
    return np.asarray((coefficient.max(axis=-1) <= max_coefficient) & (total >= min_private_sum))


def draw_coefficients(
    stream: Stream,
    n: int,
    k: int,
    *,
    max_coefficient: float = 0.65,
    min_private_sum: float = 0.0,
    private: int = 2,
) -> npt.NDArray[np.float64]:
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


def integer_weights(coefficient: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
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
    stream: Stream,
    n_private: int,
    n_public: int,
    size: int,
    *,
    scheme: str,
    k: int,
    max_coefficient: float,
    min_private_sum: float,
    private_per_mix: int,
    public_once: bool = False,
    epoch: int = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """Draw everything of one epoch, in the order of :mod:`instahide_nb.scheme.streams`.

    `epoch` is its number, on which the public images depend if each is used once.

    Returns the images of each row (N, k), private ones first; their coefficients times 2**24, uint32 (N, k); and the
    mask, 1 meaning +1, in the order of the pixels, uint8 (N, size).
    """
    cross, private = scheme == "cross", private_per_row(scheme, k, private_per_mix)
    pool = stream.permutation(n_public) if cross and not public_once else np.empty(0, np.int64)
    order = stream.permutation(n_private)
    coefficient = draw_coefficients(
        stream,
        n_private,
        k,
        max_coefficient=max_coefficient,
        min_private_sum=min_private_sum if cross else 0.0,
        private=private,
    )
    index = [order]
    for j in range(1, k):
        place = stream.permutation(n_private)
        if j >= private and public_once:
            index.append(((k - private) * epoch + j - private) * n_private + place)
        else:
            index.append(order[place] if j < private else pool[place])
    sign = np.ones((n_private, size), np.uint8)
    if scheme != "mixup":  # drawn channels first
        drawn = stream.bits(n_private * size).reshape(n_private, 3, size // 3)
        sign = np.ascontiguousarray(drawn.transpose(0, 2, 1)).reshape(n_private, size)
    return np.stack(index, axis=1), integer_weights(coefficient), sign


@nb.njit(cache=True)
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
    private: npt.NDArray[np.uint8],
    public: npt.NDArray[np.uint8],
    stream: Stream,
    *,
    scheme: str = "cross",
    k: int = 6,
    encryptions_per_image: int = 50,
    max_coefficient: float = 0.65,
    min_private_sum: float = 0.30,
    private_per_mix: int = 2,
    views: npt.NDArray[np.int8] | None = None,
    public_once: bool = False,
) -> Mixtures:
    """Make ``encryptions_per_image * N`` encryptions, epoch by epoch.

    `private` (N, h, w, 3) are two images or more, `public` (M, h, w, 3), for cross only, N or more. `views`, int8
    (encryptions_per_image, N, 3), are those of the private images (:mod:`instahide_nb.scheme.views`), if they are
    augmented. The other parameters are those of :class:`instahide_nb.core.params.GenDataParams`. An InputError says
    that images do not fit each other, or that the constraints cannot be met.
    """
    check_constraints(scheme, k, max_coefficient, min_private_sum, private_per_mix)
    n_private, shape = len(private), private.shape[1:]
    if n_private < 2:
        raise InputError(f"n_private: {n_private} is too few; give two private images or more")
    cross = scheme == "cross"
    n_public = len(public) if cross else 0
    split = private_per_row(scheme, k, private_per_mix)
    needed = n_private * max(encryptions_per_image * (k - split) if public_once else 1, 1)
    if cross and n_public < needed:
        raise InputError(f"n_public: {n_public} public images are too few; give {needed} or more")
    if cross and public.shape[1:] != shape:
        raise InputError(f"public_source: images of {public.shape[1:]}; the private ones are {shape}")
    n, size = n_private * encryptions_per_image, int(np.prod(shape))
    result = Mixtures(
        encryption=np.empty((n, *shape), np.float32),
        index=np.empty((n, k), np.int32),
        weight=np.empty((n, k), np.uint32),
        mask=np.empty((n, -(-size // 8)), np.uint8),
    )
    first = np.ascontiguousarray(private).reshape(n_private, size)
    second = np.ascontiguousarray(public).reshape(n_public, size) if cross else first
    flat = result.encryption.reshape(n, size)
    for e in progress(range(encryptions_per_image), desc="encrypting", unit="epoch"):
        rows = slice(e * n_private, (e + 1) * n_private)
        result.index[rows], result.weight[rows], sign = draw_epoch(
            stream,
            n_private,
            n_public,
            size,
            scheme=scheme,
            k=k,
            max_coefficient=max_coefficient,
            min_private_sum=min_private_sum,
            private_per_mix=private_per_mix,
            public_once=public_once,
            epoch=e,
        )
        if views is not None:
            first = apply_views(private, views[e]).reshape(n_private, size)
        _mix(first, second, split, result.index[rows], result.weight[rows], sign, flat[rows])
        result.mask[rows] = np.packbits(sign, axis=1)
    return result


def class_coefficients(
    weight: npt.NDArray[np.uint32],
    private_index: npt.NDArray[np.int32],
    private_label: npt.NDArray[np.int64],
    classes: int,
) -> npt.NDArray[np.float32]:
    """Labels of the encryptions, (n, classes) float32: per class, the sum of the coefficients of its private images.

    `weight` and `private_index`, (n, p), belong to the private images of each row; `private_label`, (N,), to images.
    """
    label = np.zeros((len(weight), classes), np.int64)
    np.add.at(label, (np.arange(len(weight))[:, None], private_label[private_index]), weight)
    return (label / WEIGHT_ONE).astype(np.float32)
