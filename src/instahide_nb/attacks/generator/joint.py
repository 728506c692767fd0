"""Private and public images together: one linear system when all coefficients and places are known.

A seed gives every coefficient and the place of every public image in the pool. A pixel of the n encryptions is then n
equations in that pixel of the N private images and of those public images that were used at all (4,000 public images,
100 drawn for each of 50 epochs: about 2,900 are). There are more equations than unknowns, their only error is one
rounding to float32, and pixels are whole numbers: all images follow, exactly, without any image being known.
The matrix is the same for every pixel, so it is factorised once.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.core.progress import progress
from instahide_nb.core.threads import in_blocks

__all__ = ["MOST_UNKNOWNS", "joint_images"]

Float64 = npt.NDArray[np.float64]

MOST_UNKNOWNS = 6000
"""Above this many images the system (its size squared times 8 bytes) is not worth its memory and time."""

_RIDGE = 1e-10  # pull of public images to their mean, where the equations leave them open
_PANEL = 64  # columns factorised at a time
_TILE = 512  # columns updated at a time: their part of the panel stays in the second-level cache
_PIXELS = 128  # right-hand sides solved at a time


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _normal_matrix(unknown: Any, coefficient: Any, out: Any) -> None:
    n, k = unknown.shape
    for r in range(n):
        for i in range(k):
            for j in range(k):
                out[unknown[r, i], unknown[r, j]] += coefficient[r, i] * coefficient[r, j]


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _panel(matrix: Any, low: Any, high: Any) -> None:
    """Factorise columns low .. high-1 of the lower half, which earlier panels have been taken off."""
    size = len(matrix)
    for k in range(low, high):
        pivot = np.sqrt(matrix[k, k])
        matrix[k, k] = pivot
        for i in range(k + 1, size):
            matrix[i, k] /= pivot
        for i in range(k + 1, size):
            m = matrix[i, k]
            for j in range(k + 1, min(i + 1, high)):
                matrix[i, j] -= m * matrix[j, k]


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _update(first: Any, last: Any, matrix: Any, low: Any, high: Any, turned: Any) -> None:
    """Take a panel off the columns right of it, for the rows high+first .. high+last-1; `turned` is its transpose."""
    for start in range(high, high + last, _TILE):
        for i in range(max(high + first, start), high + last):
            stop = min(start + _TILE, i + 1)
            row = matrix[i, start:stop]
            for k in range(low, high):
                m = matrix[i, k]
                column = turned[k - low, start - high : stop - high]
                for j in range(stop - start):
                    row[j] -= m * column[j]


def _factor(matrix: Float64) -> None:
    """Cholesky factor in the lower half, in place."""
    size = len(matrix)
    for low in progress(range(0, size, _PANEL), desc="factorising", unit="panel"):
        high = min(low + _PANEL, size)
        _panel(matrix, low, high)
        turned = np.ascontiguousarray(matrix[high:, low:high].T)
        in_blocks(_update, size - high, matrix, low, high, turned)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _solve_pixels(
    first: Any, last: Any, lifted: Any, unknown: Any, coefficient: Any, lower: Any, pull: Any, out: Any
) -> None:
    """Right sides, forward and back substitution for some pixels."""
    size, width = len(lower), last - first
    x = np.zeros((size, width))
    for i in range(size):
        for p in range(width):
            x[i, p] = pull[i, first + p]
    for r in range(len(unknown)):
        for j in range(unknown.shape[1]):
            row, c = unknown[r, j], coefficient[r, j]
            for p in range(width):
                x[row, p] += c * lifted[r, first + p]
    for i in range(size):
        target = x[i]
        for k in range(i):
            m = lower[i, k]
            source = x[k]
            for p in range(width):
                target[p] -= m * source[p]
        for p in range(width):
            target[p] /= lower[i, i]
    for i in range(size - 1, -1, -1):
        source = x[i]
        for p in range(width):
            source[p] /= lower[i, i]
        for k in range(i):
            m = lower[i, k]
            target = x[k]
            for p in range(width):
                target[p] -= m * source[p]
    for i in range(size):
        for p in range(width):
            out[i, first + p] = x[i, p]


def joint_images(
    lifted: Float64, index: npt.NDArray[np.int32], coefficient: Float64, n_private: int, mean: Float64
) -> tuple[Float64, npt.NDArray[np.int64], Float64] | None:
    """Solve for all images at once.

    Parameters
    ----------
    lifted : (n, d) float64 array
        Encryptions with their masks lifted.
    index : (n, k) int32 array
        The first two places count private images, the others public ones.
    coefficient : (n, k) float64 array
    n_private : int
    mean : (d,) float64 array
        The mean public image, for what the equations leave open.

    Returns
    -------
    private : (n_private, d) float64 array
    used : (m,) int64 array
        Which public images were used.
    public : (m, d) float64 array
    None is returned when there are more than :data:`MOST_UNKNOWNS` images.
    """
    used, place = np.unique(index[:, 2:], return_inverse=True)
    size = n_private + len(used)
    if size > MOST_UNKNOWNS:
        return None
    unknown = np.concatenate([index[:, :2], n_private + place.reshape(len(index), -1)], axis=1)
    unknown = np.ascontiguousarray(unknown, np.int64)
    matrix, pull = np.zeros((size, size)), np.zeros((size, lifted.shape[1]))
    _normal_matrix(unknown, coefficient, matrix)
    matrix[np.arange(size), np.arange(size)] += _RIDGE
    pull[n_private:] = _RIDGE * mean
    _factor(matrix)
    out = np.empty_like(pull)
    in_blocks(
        _solve_pixels,
        lifted.shape[1],
        lifted,
        unknown,
        coefficient,
        matrix,
        pull,
        out,
        block=_PIXELS,
    )
    return out[:n_private], used.astype(np.int64), out[n_private:]
