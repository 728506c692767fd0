"""Companions where epochs do not tell who they are, found by the correlation of their residuals.

Encryptions that hold the same public image have correlated residuals, whether they are of one epoch or not: the pool is
drawn from again in every epoch. So all pairs of rows are compared after whitening, each row is regressed on those
that correlate with it, and least squares for the private images works on what the regressions leave.
`companions` does better on the rows of an epoch, all of whose companions are known to be among few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attack.cholesky import factor, inverse, solve, solve_columns
from instahide_nb.attack.exact_product import integer_mix, integer_product
from instahide_nb.attack.smoothness import Smoothness, whiten
from instahide_nb.attack.threads import in_blocks

__all__ = ["Companions", "find_companions", "fit_images", "predict_residuals"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_TOGETHER = 5000  # rows compared with each other: more would cost their square
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
        The companions of each row, ascending; -1 behind the last.
    weight : float32 (n, most)
        With which their residuals add up to what is expected of the row's; 0 behind the last.
    scale : float32 (n,)
        What remains of the covariance of each row, in units of the public covariance.
    """

    row: Int64
    weight: Float32
    scale: Float32


def _parts(n: int, together: int) -> list[slice]:
    """Blocks of at most `together` rows, all about as long.

    Examples
    --------
    >>> _parts(10, 4)
    [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
    """
    step = -(-n // -(-n // together))
    return [slice(low, min(low + step, n)) for low in range(0, n, step)]


def _gram(residual: Float32, model: Smoothness) -> Float32:
    """Whitened covariance of all pairs of rows; the filter's two orders are taken as equal."""
    flat = residual.reshape(len(residual), -1)
    white = whiten(residual, model).reshape(flat.shape)
    out = np.empty((len(flat), len(flat)), np.float32)
    for low in range(0, len(flat), _ROWS):
        part = integer_product(flat[low : low + _ROWS], white[low:]) / flat.shape[1]
        out[low : low + _ROWS, low:] = part
        out[low:, low : low + _ROWS] = part.T
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
    together: int = _TOGETHER,
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
    together : int
        Only so many rows are compared with each other.
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
    for part in _parts(n, together):
        gram = _gram(residual[part], model)
        typical = float(np.add.accumulate(np.abs(np.diagonal(gram)).astype(np.float64))[-1] / len(gram))
        at = row[part], weight[part], scale[part]
        weights = least, shrinkage / n_values, typical
        in_blocks(_regress, len(gram), gram, assignment[part], *weights, *at)
        at[0][at[0] >= 0] += part.start
    return Companions(row, weight, scale)


@numba.njit(cache=True, nogil=True)
def _mix(first: int, last: int, row: Int64, weight: Float32, source: Float32, out: Float32) -> None:
    """Row r becomes the sum over its companions."""
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


@numba.njit(cache=True, nogil=True)
def _design(row: Int64, weight: Float32, assignment: Int64, coefficient: Float32, out: Float64) -> None:
    """Coefficients of the private images in each row less its companions."""
    for r in range(row.shape[0]):
        for slot in range(2):
            out[r, assignment[r, slot]] += coefficient[r, slot]
        for j in range(row.shape[1]):
            s = row[r, j]
            if s < 0:
                break
            for slot in range(2):
                out[r, assignment[s, slot]] -= float(weight[r, j]) * coefficient[s, slot]


@numba.njit(cache=True, nogil=True)
def _hand_back(row: Int64, weight: Float32, table: Float64, out: Float64) -> None:
    """What each row gives to the table's rows: to its own, and to all whose companion it is."""
    for r in range(row.shape[0]):
        for p in range(table.shape[1]):
            out[r, p] += table[r, p]
        for j in range(row.shape[1]):
            s = row[r, j]
            if s < 0:
                break
            by = float(weight[r, j])
            for p in range(table.shape[1]):
                out[s, p] -= by * table[r, p]


def fit_images(
    signed: Float32,
    companions: Companions,
    assignment: Int64,
    coefficient: Float32,
    mean: Float32,
    n_images: int,
    ridge: float = 1e-3,
) -> tuple[Float32, Float64]:
    """Least squares for the private images, of each row less its companions, with a slight pull to the mean image.

    Parameters
    ----------
    signed : float32 (n, channels, h, w)
        Encryptions with their mask lifted.
    companions : Companions
    assignment : int64 (n, 2)
    coefficient : float32 (n, 2)
    mean : float32 (channels,)
        Mean colour of public images.
    n_images : int
    ridge : float
        Weight of the pull, as a share of the mean diagonal of the normal matrix.

    Returns
    -------
    image : float32 (images, channels, h, w)
        Clipped to [-1, 1].
    influence : float64 (n, images)
        Change of every image with each encryption.
    """
    centre = mean[:, None, None]
    left = signed - centre
    left -= predict_residuals(left, companions)
    flat = left.reshape(len(left), -1)
    design = np.zeros((len(flat), n_images))
    _design(companions.row, companions.weight, assignment, coefficient, design)
    root = (1.0 / np.sqrt(companions.scale.astype(np.float64)))[:, None]
    weighted = np.ascontiguousarray((design * root).T)
    normal = integer_product(weighted, weighted)
    normal += (ridge * float(np.mean(np.diagonal(normal))) + 1e-12) * np.eye(n_images)
    right = np.zeros((n_images, flat.shape[1]))
    for low in range(0, len(flat), _ROWS):
        rows = slice(low, low + _ROWS)
        right += integer_mix(weighted[:, rows], flat[rows] * root[rows])
    lower = factor(normal)
    image = solve_columns(lower, right).reshape(n_images, *signed.shape[1:]) + centre
    back = np.zeros_like(design)
    _hand_back(companions.row, companions.weight, design * root * root, back)
    return np.clip(image, -1.0, 1.0).astype(np.float32), integer_product(back, inverse(lower))
