"""Private images from encryptions whose pairs and masks are known exactly.

With the mask lifted, an encryption is linear in its images, so what is left is least squares. How well it does depends
on what else is known:

* All coefficients (C's seed is known). In each epoch the same N public images are used k - 2 times each, in known
  places with known coefficients, so the public part of its N encryptions has a covariance that is known up to one
  factor, and in some directions it all but vanishes: generalised least squares reads the private images there to
  within a grey level although no public image is known.
* Public images too: their part is subtracted; what is left is exact.
* The two private coefficients only (the generator's state without a seed): weighted least squares with the public part
  as noise, or generalised least squares with its covariance as the residuals show it (:mod:`.label_images`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import factor, solve
from instahide_nb.core.progress import progress
from instahide_nb.scheme.encryption import WEIGHT_ONE

__all__ = [
    "generalised_images",
    "integer_shares",
    "lift",
    "public_covariance",
    "reproduced",
    "row_coefficients",
    "weighted_images",
]

Float64 = npt.NDArray[np.float64]
Images8 = npt.NDArray[np.uint8]

_EPSILON = 1e-8  # variance of what is not public, over that of a public pixel; rounding is far below
_ITERATIONS = 4


def lift(encryption: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]) -> Float64:
    """Encryptions with their masks lifted, as (n, h*w*3) float64."""
    lifted = encryption.reshape(len(encryption), -1).astype(np.float64)
    return np.negative(lifted, out=lifted, where=~positive)


@nb.njit(cache=True)  # pragma: no cover - compiled
def _add_rows(total: Any, normal: Any, solved: Any, index: Any, coefficient: Any) -> None:
    """Add A^T Z to the right side and A^T W to the matrix; Z = C^-1 y and W = C^-1 A side by side in `solved`."""
    size = total.shape[1]
    images = normal.shape[0]
    for r in range(len(index)):
        for j in range(index.shape[1]):
            image, c = index[r, j], coefficient[r, j]
            for p in range(size):
                total[image, p] += c * solved[r, p]
            for p in range(images):
                normal[image, p] += c * solved[r, size + p]


@nb.njit(cache=True)  # pragma: no cover - compiled
def _shared_places(index: Any, coefficient: Any, epsilon: Any) -> Any:
    n, k = index.shape
    out = np.zeros((n, n))
    for r in range(n):
        for s in range(r, n):
            total = 0.0
            for i in range(k):
                for j in range(k):
                    if index[r, i] == index[s, j]:
                        total += coefficient[r, i] * coefficient[s, j]
            out[r, s] = total
            out[s, r] = total
        out[r, r] += epsilon
    return out


def public_covariance(index: npt.NDArray[np.int32], coefficient: Float64) -> Float64:
    """Covariance of the public parts of encryptions, a public pixel's variance being one.

    Parameters
    ----------
    index : (n, k - 2) int32 array
        The public images of each encryption.
    coefficient : (n, k - 2) float64 array

    Returns
    -------
    (n, n) float64 array

    Examples
    --------
    >>> public_covariance(np.array([[0, 1], [1, 2]], np.int32), np.array([[0.5, 0.1], [0.3, 0.2]])).round(3)
    array([[0.26, 0.03],
           [0.03, 0.13]])
    """
    return np.asarray(_shared_places(index, coefficient, _EPSILON))


def generalised_images(
    target: Float64,
    index: npt.NDArray[np.int32],
    coefficient: Float64,
    n_private: int,
    covariance: Callable[[slice], Float64] | None = None,
) -> Float64:
    """Private images by generalised least squares, epoch by epoch.

    Parameters
    ----------
    target : (n, d) float64 array
        Encryptions with their masks lifted, less the mean of their public part; rows in epochs of `n_private`.
    index : (n, p) int32 array
        The private images of each encryption.
    coefficient : (n, p) float64 array
        Their coefficients.
    n_private : int
    covariance : callable, optional
        The covariance of the public parts of an epoch, given its rows; up to a factor common to all epochs. Left
        out, all encryptions are independent and equally sure.

    Returns
    -------
    (n_private, d) float64 array
    """
    d = target.shape[1]
    normal, total = np.zeros((n_private, n_private)), np.zeros((n_private, d))
    for first in progress(list(range(0, len(target), n_private)), desc="least squares", unit="epoch"):
        rows = slice(first, first + n_private)
        own, shares = index[rows], coefficient[rows]
        right = np.zeros((len(own), d + n_private))
        right[:, :d] = target[rows]
        for j in range(own.shape[1]):
            right[np.arange(len(own)), d + own[:, j]] += shares[:, j]
        if covariance is not None:
            right = solve(factor(covariance(rows)), right)
        _add_rows(total, normal, right, own, shares)
    # The matrix is symmetric but for rounding; factor reads its upper half.
    return solve(factor(normal), total)


def weighted_images(
    lifted: Float64,
    pair: npt.NDArray[np.int32],
    coefficient: Float64,
    known: npt.NDArray[np.bool_],
    n_private: int,
    mean: Float64,
) -> tuple[Float64, Float64]:
    """Private images by least squares weighted with what is left of each encryption.

    Parameters
    ----------
    lifted : (n, d) float64 array
    pair : (n, p) int32 array
        The private images of each encryption.
    coefficient : (n, p) float64 array
        Their coefficients.
    known : (n,) bool array
        Encryptions whose coefficients are known one by one; the others are left out.
    n_private : int
    mean : (d,) float64 array
        The mean public image.

    Returns
    -------
    images : (n_private, d) float64 array
    variance : (n,) float64 array
        Mean square of what the images do not explain.
    """
    rest = 1 - np.add.accumulate(coefficient, axis=1)[:, -1]
    variance = np.maximum(rest * rest, 1e-6)
    images = np.zeros((n_private, lifted.shape[1]))
    for _ in range(_ITERATIONS):
        weight = np.where(known, 1 / variance, 0.0)
        images = np.clip(
            solve_weighted(lifted, pair, coefficient, weight, n_private, rest=rest, mean=mean), -1, 1
        )
        _residuals(lifted, pair, coefficient, rest, mean, images, variance)
        variance = np.maximum(variance, 1e-6)
    return images, variance


def solve_weighted(
    lifted: Float64,
    pair: npt.NDArray[np.int32],
    coefficient: Float64,
    weight: Float64,
    n_private: int,
    *,
    rest: Float64 | None = None,
    mean: Float64 | None = None,
) -> Float64:
    """One weighted least squares for all private images; `rest * mean` is taken off each encryption first."""
    rest = np.zeros(len(lifted)) if rest is None else rest
    mean = np.zeros(lifted.shape[1]) if mean is None else mean
    normal, total = np.zeros((n_private, n_private)), np.zeros((n_private, lifted.shape[1]))
    _weighted_sums(lifted, pair, coefficient, rest, weight, mean, normal, total)
    # An image that no encryption of weight holds stays grey.
    normal[np.arange(n_private), np.arange(n_private)] += 1e-12 * float(normal.diagonal().max())
    return solve(factor(normal), total)


@nb.njit(cache=True)  # pragma: no cover - compiled
def _weighted_sums(
    lifted: Any, pair: Any, coefficient: Any, rest: Any, weight: Any, mean: Any, normal: Any, total: Any
) -> None:
    n, places = pair.shape
    for r in range(n):
        if weight[r] == 0.0:
            continue
        for i in range(places):
            a = pair[r, i]
            c = weight[r] * coefficient[r, i]
            for p in range(lifted.shape[1]):
                total[a, p] += c * (lifted[r, p] - rest[r] * mean[p])
            for j in range(places):
                normal[a, pair[r, j]] += c * coefficient[r, j]


@nb.njit(cache=True)  # pragma: no cover - compiled
def _residuals(
    lifted: Any, pair: Any, coefficient: Any, rest: Any, mean: Any, images: Any, variance: Any
) -> None:
    n, places = pair.shape
    size = lifted.shape[1]
    left = np.empty(size)
    for r in range(n):
        for p in range(size):
            left[p] = lifted[r, p] - rest[r] * mean[p]
        for i in range(places):
            a, c = pair[r, i], coefficient[r, i]
            for p in range(size):
                left[p] -= c * images[a, p]
        total = 0.0
        for p in range(size):
            total += left[p] * left[p]
        variance[r] = total / size


@nb.njit(cache=True)  # pragma: no cover - compiled
def _row_coefficients(lifted: Any, index: Any, first: Any, second: Any, places: Any, out: Any) -> None:
    n, k = index.shape
    size = lifted.shape[1]
    normal, right = np.empty((k, k)), np.empty((k, 1))
    for r in range(n):
        for i in range(k):
            a = first[index[r, i]] if i < places else second[index[r, i]]
            for j in range(i, k):
                b = first[index[r, j]] if j < places else second[index[r, j]]
                total = 0.0
                for p in range(size):
                    total += a[p] * b[p]
                normal[i, j] = total
                normal[j, i] = total
            normal[i, i] += 1e-9 * size
            total = 0.0
            for p in range(size):
                total += a[p] * lifted[r, p]
            right[i, 0] = total
        solved = solve(factor(normal), right)
        for i in range(k):
            out[r, i] = solved[i, 0]


def row_coefficients(
    lifted: Float64, index: npt.NDArray[np.int32], private: Float64, public: Float64, places: int
) -> Float64:
    """The coefficients of each encryption by least squares, all its images being known.

    Parameters
    ----------
    lifted : (n, d) float64 array
    index : (n, k) int32 array
    private, public : (N, d) and (M, d) float64 arrays
        `index` counts the first `places` images of a row in `private`, the others in `public`.
    places : int

    Returns
    -------
    (n, k) float64 array
    """
    out = np.empty(index.shape)
    _row_coefficients(lifted, index, private, public, places, out)
    return out


@nb.njit(cache=True)  # pragma: no cover - compiled
def _reproduced(
    encryption: Any, index: Any, weight: Any, first: Any, second: Any, places: Any, out: Any
) -> None:
    n, k = index.shape
    size = encryption.shape[1]
    one = np.float64(255.0 * 16777216.0)
    total = np.empty(size, np.int64)
    for r in range(n):
        for p in range(size):
            total[p] = 0
        for j in range(k):
            image = first[index[r, j]] if j < places else second[index[r, j]]
            for p in range(size):
                total[p] += weight[r, j] * np.int64(image[p])
        same = 0
        for p in range(size):
            value = np.float32((2.0 * np.float64(total[p]) - one) / one)
            if abs(value) == abs(encryption[r, p]):
                same += 1
        out[r] = same == size


def reproduced(
    encryption: npt.NDArray[np.float32],
    index: npt.NDArray[np.int32],
    weight: npt.NDArray[np.integer],
    private: Images8,
    public: Images8,
    places: int,
) -> npt.NDArray[np.bool_]:
    """Which encryptions these images and coefficients reproduce, bit for bit.

    Parameters
    ----------
    encryption : (n, d) float32 array
    index : (n, k) int32 array
    weight : (n, k) int array
        Coefficients times 2**24.
    private, public : (N, d) and (M, d) uint8 arrays
    places : int
        See :func:`row_coefficients`.

    Returns
    -------
    (n,) bool array
    """
    out = np.zeros(len(encryption), np.bool_)
    _reproduced(encryption, index, np.asarray(weight, np.int64), private, public, places, out)
    return out


def integer_shares(coefficient: Float64) -> npt.NDArray[np.int64]:
    """Coefficients as the nearest multiples of 2**-24."""
    return np.rint(coefficient * WEIGHT_ONE).astype(np.int64)
