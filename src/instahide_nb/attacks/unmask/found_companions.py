"""Companions where epochs do not tell who they are, found by the correlation of their residuals.

Encryptions that hold the same public image have correlated residuals, whether they are of one epoch or not: the pool is
drawn from again in every epoch. So all pairs of rows are compared after whitening, each row is regressed on those
that correlate with it, and `companion_images` solves for the private images by what the regressions leave.
`companions` does better on the rows of an epoch, all of whose companions are known to be among few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import factor, integers, solve, unscaled
from instahide_nb.attacks.unmask.smoothness import Smoothness, whiten
from instahide_nb.core.threads import in_blocks

__all__ = ["Companions", "find_companions", "parts", "predict_residuals"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_MOST = 40  # companions of a row
_LEAST = 0.08  # correlation of companions; chance alone gives 0.02 to 0.03 at 32 x 32 pixels
_LEAST_DEVIATIONS = 4.4  # and in units of one over the root of the number of values, for smaller images
_SHRINKAGE = 0.5  # of the covariance between rows, times companions over pixels
_ROWS = 1000  # at a time


@dataclass(frozen=True)
class Companions:
    """What other encryptions tell about each.

    Attributes
    ----------
    row : int64 (n, most)
        The companions of each row, ascending, counted from the first row of the block that was searched; -1 behind
        the last.
    weight : float32 (n, most)
        With which their residuals add up to what is expected of the row's; 0 behind the last.
    scale : float32 (n,)
        What remains of the covariance of each row, in units of the public covariance.
    """

    row: Int64
    weight: Float32
    scale: Float32


def parts(n: int, together: int, whole: int = 1) -> list[slice]:
    """Blocks of at most `together` rows, all about as long, that cut no epoch of `whole` rows.

    Companions are looked for in each block: among all rows at once it would cost their square.

    Examples
    --------
    >>> parts(10, 4)
    [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
    >>> parts(10, 7, whole=5)
    [slice(0, 5, None), slice(5, 10, None)]
    """
    groups, most = -(-n // whole), max(together // whole, 1)
    step = -(-groups // -(-groups // most)) * whole
    return [slice(low, min(low + step, n)) for low in range(0, n, step)]


def _gram(residual: Float32, model: Smoothness) -> Float32:
    """Whitened covariance of all pairs of rows; the filter's two orders are taken as equal."""
    n, n_values = len(residual), residual[0].size
    left, left_scale = integers(residual.reshape(n, n_values))
    right, right_scale = integers(whiten(residual, model).reshape(n, n_values))
    out = np.empty((n, n), np.float32)
    for low in range(0, n, _ROWS):
        rows = slice(low, low + _ROWS)
        part = unscaled(left[rows] @ right[low:].T, left_scale[rows], n_values * right_scale[low:])
        out[rows, low:] = part
        out[low:, rows] = part.T
    return out


@numba.njit(cache=True, nogil=True)
def _choose(r: int, gram: Float32, assignment: Int64, most: int, least: float, out: Int64) -> int:
    """The rows that correlate most with row r; returns how many. Rows that share a private image are left out.

    Their residuals share what is still wrong of that image, which must not be explained away.
    """
    n = gram.shape[0]
    place, strength, count = np.empty(n, np.int64), np.empty(n), 0
    a, b = assignment[r, 0], assignment[r, 1]
    for s in range(n):
        if s == r or assignment[s, 0] in (a, b) or assignment[s, 1] in (a, b):
            continue
        product = float(gram[r, s]) * float(gram[r, s])
        both = float(gram[r, r]) * float(gram[s, s])
        # whitening by a local filter is not quite a positive form: a row without a length has no correlation
        if gram[r, r] > 0 and gram[s, s] > 0 and product > least * least * both:
            place[count] = s
            strength[count] = -product / both
            count += 1
    if count > most:
        kept = np.argsort(strength[:count], kind="mergesort")[:most]
        place[:most] = np.sort(place[kept])
        count = most
    out[:count] = place[:count]
    return count


@numba.njit(cache=True, nogil=True)
def _regress(
    first: int,
    last: int,
    gram: Float32,
    assignment: Int64,
    least: float,
    shrinkage: float,
    typical: float,
    row: Int64,
    weight: Float32,
    scale: Float32,
) -> None:
    chosen = np.empty(row.shape[1], np.int64)
    for r in range(first, last):
        count = _choose(r, gram, assignment, row.shape[1], least, chosen)
        own = float(gram[r, r])
        scale[r] = np.float32(max(own if own > 0.0 else typical, 1e-3 * typical, 1e-9))
        if count == 0:
            continue
        regular, right = np.empty((count, count)), np.empty((count, 1))
        strength = shrinkage * count
        for _ in range(30):
            # whitening by a local filter is not quite a positive form; where that shows, less is believed
            for i in range(count):
                for j in range(count):
                    regular[i, j] = gram[chosen[i], chosen[j]]
                regular[i, i] += strength * max(regular[i, i], 1e-3 * typical) + 1e-9
                right[i, 0] = gram[chosen[i], r]
            lower = factor(regular)
            smallest = lower[0, 0]
            for i in range(count):
                smallest = min(smallest, lower[i, i])
            if smallest * smallest > 1e-9 * typical:
                break
            strength = 2.0 * strength + 0.1
        found = solve(lower, right)
        left = own
        for i in range(count):
            row[r, i] = chosen[i]
            weight[r, i] = np.float32(found[i, 0])
            left -= found[i, 0] * right[i, 0]
        scale[r] = np.float32(max(left, 0.01 * own, 1e-3 * typical, 1e-9))


def find_companions(
    residual: Float32,
    assignment: Int64,
    model: Smoothness,
    most: int = _MOST,
    least: float | None = None,
    shrinkage: float = _SHRINKAGE,
) -> Companions:
    """Regress the residual of each encryption on those that correlate with it.

    Parameters
    ----------
    residual : float32 (n, channels, h, w)
        Encryptions with their mask lifted, less their predictions.
    assignment : int64 (n, 2)
        Private images of each; two that share one are no companions.
    model : Smoothness
        Whitens the pixels, so that each of them counts as a sample of its own.
    most : int
        Companions of a row.
    least : float, optional
        Smallest correlation of companions; left out, 0.08, or what chance hardly gives in smaller images.
    shrinkage : float
        Added to the diagonal of the covariance of companions, as a share of it times companions over values.

    Returns
    -------
    Companions
    """
    n, n_values = len(residual), residual[0].size
    row, weight = np.full((n, most), -1, np.int64), np.zeros((n, most), np.float32)
    scale = np.empty(n, np.float32)
    if least is None:
        least = max(_LEAST, _LEAST_DEVIATIONS / math.sqrt(n_values))
    gram = _gram(residual, model)
    typical = float(np.add.accumulate(np.abs(np.diagonal(gram)).astype(np.float64))[-1] / n)
    in_blocks(_regress, n, gram, assignment, least, shrinkage / n_values, typical, row, weight, scale)
    return Companions(row, weight, scale)


@numba.njit(cache=True, nogil=True)
def _mix(first: int, last: int, row: Int64, weight: Float32, source: Float32, out: Float32) -> None:
    """Rows first .. last-1 of `out` become the sums over their companions."""
    total = np.empty(source.shape[1], np.float32)
    for r in range(first, last):
        total[:] = np.float32(0)
        for j in range(row.shape[1]):
            if row[r, j] < 0:
                break
            other, by = source[row[r, j]], weight[r, j]
            for p in range(total.shape[0]):
                total[p] += by * other[p]
        out[r] = total


def predict_residuals(residual: Float32, companions: Companions) -> Float32:
    """Expected residual of each row given those of its companions.

    Parameters
    ----------
    residual : float32 (n, channels, h, w)
    companions : Companions

    Returns
    -------
    float32 (n, channels, h, w)
    """
    flat = residual.reshape(len(residual), -1)
    out = np.empty_like(flat)
    in_blocks(_mix, len(flat), companions.row, companions.weight, flat, out)
    return out.reshape(residual.shape)
