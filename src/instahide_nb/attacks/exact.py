"""Matrix products that are fast and have the same bits on any machine.

A BLAS sums in an order that depends on the processor. Rows are rounded to integers short enough that, by the
inequality of Cauchy and Schwarz, no partial sum of a product exceeds 2^24. Such sums are exact even in float32, in
whatever order, and a product of float32 takes half the time and memory of one of float64. Where 12 bits are too
few, `fine` keeps 26 and works in float64, with sums below 2^53.
"""

from __future__ import annotations

import math
from typing import Literal, overload

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.core.threads import in_blocks

__all__ = ["integer_mix", "integer_product", "integers", "unscaled"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Float = Float32 | Float64

_LENGTH = 4096.0  # of a rounded row: two of them have a product of at most 2^24
_FINE = 2.0**26  # in float64, whose sums are exact up to 2^53
_LANES = 16
_COLUMNS = 512  # at a time


@numba.njit(cache=True, nogil=True)
def _round_rows(first: int, last: int, table: Float, length: float, out: Float, scale: Float64) -> None:
    """Rows times `scale`, rounded, so that each has `length` before it is rounded."""
    d = table.shape[1]
    lane = np.empty(_LANES)
    for i in range(first, last):
        row = table[i]
        lane[:] = 0.0
        for low in range(
            0, d - _LANES + 1, _LANES
        ):  # several sums side by side: always in this order, and quick
            for t in range(_LANES):
                lane[t] += float(row[low + t]) * float(row[low + t])
        total = 0.0
        for t in range(_LANES):
            total += lane[t]
        for p in range(d - d % _LANES, d):
            total += float(row[p]) * float(row[p])
        scale[i] = length / np.sqrt(total) if total > 0.0 else 1.0
        by = scale[i]
        for p in range(d):
            out[i, p] = np.rint(float(row[p]) * by)


@numba.njit(cache=True, nogil=True)
def _round_columns(low: int, high: int, table: Float, length: float, out: Float32, scale: Float64) -> None:
    total = np.zeros(high - low)
    for i in range(table.shape[0]):
        row = table[i, low:high]
        for p in range(high - low):
            total[p] += float(row[p]) * float(row[p])
    for p in range(high - low):
        scale[low + p] = length / np.sqrt(total[p]) if total[p] > 0.0 else 1.0
    for i in range(table.shape[0]):
        row, target, by = table[i, low:high], out[i, low:high], scale[low:high]
        for p in range(high - low):
            target[p] = np.float32(np.rint(float(row[p]) * by[p]))


@numba.njit(cache=True, nogil=True)
def _unscale(first: int, last: int, product: Float32, left: Float64, right: Float64) -> None:
    for i in range(first, last):
        row, by = product[i], left[i]
        for p in range(row.shape[0]):
            row[p] = np.float32(float(row[p]) / (by * right[p]))


def _longest(terms: int, length: float = _LENGTH) -> float:
    """Length before rounding, which moves each term by a half at most."""
    return length - 0.5 * math.sqrt(terms)


@overload
def integers(table: Float, fine: Literal[False] = False) -> tuple[Float32, Float64]: ...
@overload
def integers(table: Float, fine: bool) -> tuple[Float, Float64]: ...
def integers(table: Float, fine: bool = False) -> tuple[Float, Float64]:
    """Round the rows of a factor of an exact product.

    Parameters
    ----------
    table : float (n, d)
    fine : bool
        Keep 26 bits of a row's length instead of 12, in float64: a product then takes twice the time.

    Returns
    -------
    whole : float32 (n, d), or float64 if `fine`
        Integers, each row the table's row times its scale. No row is longer than 4096, or 2^26.
    scale : float64 (n,)

    Examples
    --------
    >>> whole, scale = integers(np.array([[3.0, 4.0]]))
    >>> whole.tolist(), round(float(scale[0]), 2)
    ([[2457.0, 3276.0]], 819.06)
    """
    out: Float = np.empty(table.shape, np.float64 if fine else np.float32)
    scale, longest = np.empty(len(table)), _longest(table.shape[1], _FINE if fine else _LENGTH)
    in_blocks(_round_rows, len(table), table, longest, out, scale)
    return out, scale


def unscaled(product: Float32, left: Float64, right: Float64) -> Float32:
    """A product of integers divided by the scales of its rows and columns, in its place."""
    in_blocks(_unscale, len(product), product, left, right)
    return product


def integer_product(a: Float, b: Float, fine: bool = False) -> Float64:
    """``a @ b.T`` with the rows of both factors rounded, so that the product is exact in any order of summation.

    A row keeps 12 bits of its length: the error of a product is near 10^-4 of the product of both lengths.

    Parameters
    ----------
    a : float (n, d)
    b : float (m, d)
    fine : bool
        Keep 26 bits.

    Returns
    -------
    float64 (n, m)

    Examples
    --------
    >>> integer_product(np.array([[1, 2]], np.float32), np.array([[3, 4], [0, 1]], np.float32)).round(2).tolist()
    [[11.0, 2.0]]
    """
    qa, scale_a = integers(a, fine)
    qb, scale_b = integers(b, fine)
    product: Float64 = (qa @ qb.T) / (scale_a[:, None] * scale_b)
    return product


def integer_mix(weight: Float, row: Float) -> Float32:
    """``weight @ row``, with the rows of the one and the columns of the other rounded as by `integer_product`.

    Parameters
    ----------
    weight : float (n, m)
    row : float (m, d)

    Returns
    -------
    float32 (n, d)

    Examples
    --------
    >>> integer_mix(np.array([[1.0, 0.5]]), np.array([[3.0, 4.0], [2.0, 1.0]])).round(2).tolist()
    [[4.0, 4.5]]
    """
    qw, scale_w = integers(weight)
    qr, scale_r = np.empty(row.shape, np.float32), np.empty(row.shape[1])
    in_blocks(_round_columns, row.shape[1], row, _longest(len(row)), qr, scale_r, block=_COLUMNS)
    return unscaled(qw @ qr, scale_w, scale_r)
