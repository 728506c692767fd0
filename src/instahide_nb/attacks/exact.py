"""Linear algebra with the same bits on any machine: products of rounded factors, and a Cholesky factorisation.

BLAS and LAPACK sum in an order that depends on the processor. Here both factors of a product are first rounded to
integers. Their rows are so short that no partial sum exceeds 2^24 (by the Cauchy-Schwarz inequality), and such sums are
exact in float32 in any order. With ``fine=True`` the factors keep 26 bits, and sums below 2^53 are exact in float64.
"""

from __future__ import annotations

import math

import numpy as np

from instahide_nb.core.arrays import Float, Float64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

_LENGTH = 2.0**12  # Euclidean norm of a rounded row: the product of two rows is at most 2^24
_FINE = 2.0**26
_LANES = 16  # partial sums side by side
_COLUMNS = 256  # right-hand sides that stay in the cache
_ROWS = 64  # the fewest rows worth a thread


@kernel
def _round_rows(first: int, last: int, table: Float, length: float, out: Float, scale: Float64) -> None:
    """out_i = round(scale_i table_i), with scale_i = length / |table_i|."""
    d = table.shape[1]
    lane = np.empty(_LANES)
    for i in range(first, last):
        row = table[i]
        lane[:] = 0.0
        for low in range(0, d - _LANES + 1, _LANES):
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


def integers(table: Float, fine: bool = False) -> tuple[Float, Float64]:
    """Multiply each row of a factor (n, d) by a scale (n,) and round it; returns the rounded rows and the scales.

    The Euclidean norm of a rounded row is at most 2^12 (float32) or, if `fine`, 2^26 (float64).
    """
    out: Float = np.empty(table.shape, np.float64 if fine else np.float32)
    # rounding changes each of the d values by at most 1/2
    scale, longest = np.empty(len(table)), (_FINE if fine else _LENGTH) - 0.5 * math.sqrt(table.shape[1])
    in_blocks(_round_rows, len(table), table, longest, out, scale)
    return out, scale


def whole_product(a: Float, b: Float) -> Float:
    """``a @ b.T`` (n, m), exact, for factors (n, d) and (m, d) from `integers`, by blocks on several threads."""
    out = np.empty((len(a), len(b)), a.dtype)

    def multiply(low: int, high: int) -> None:
        np.matmul(a[low:high], b.T, out=out[low:high])

    in_blocks(multiply, len(a), block=max(_ROWS, -(-len(a) // 8)))
    return out


def integer_product(a: Float, b: Float, fine: bool = False) -> Float64:
    """``a @ b.T`` with the rows of both factors rounded by `integers`.

    With 12 bits, the error is about 10^-4 times the product of the norms of both rows.
    """
    (whole_a, scale_a), (whole_b, scale_b) = integers(a, fine), integers(b, fine)
    product: Float64 = whole_product(whole_a, whole_b) / (scale_a[:, None] * scale_b)
    return product


@kernel
def _subtract(table: Float64, first: int, last: int, multiple: Float64, low: int, out: Float64) -> None:
    """out_j -= sum_k multiple_k table_k,low+j over the rows first .. last-1, in their order.

    Four rows at a time: `out` is read and written a quarter as often, with the same sequence of roundings.
    """
    size, fours = out.shape[0], last - (last - first) % 4
    for k in range(first, fours, 4):
        a, b, c, d = multiple[k], multiple[k + 1], multiple[k + 2], multiple[k + 3]
        ra, rb, rc, rd = table[k, low:], table[k + 1, low:], table[k + 2, low:], table[k + 3, low:]
        for j in range(size):
            out[j] = (((out[j] - a * ra[j]) - b * rb[j]) - c * rc[j]) - d * rd[j]
    for k in range(fours, last):
        a, ra = multiple[k], table[k, low:]
        for j in range(size):
            out[j] -= a * ra[j]


@kernel
def factor(matrix: Float64) -> Float64:
    """Lower Cholesky factor of a symmetric positive definite matrix (n, n).

    Only the upper half is read. A pivot that rounding made negative is replaced by a tiny positive one.
    """
    n, zero = matrix.shape[0], np.int64(0)  # a plain 0 is a type of its own, and compiles `_subtract` once more
    lower, upper = np.zeros((n, n)), np.zeros((n, n))  # with rows of L^T, inner loops are contiguous, without reduction
    for i in range(n):
        row = upper[i, i:]
        for j in range(n - i):
            row[j] = matrix[i, i + j]
        _subtract(upper, zero, i, lower[i], i, row)
        root = np.sqrt(row[0] if row[0] > 1e-300 else 1e-300)
        by = 1.0 / root
        for j in range(n - i):
            row[j] *= by
        row[0] = root
        for j in range(n - i):
            lower[i + j, i] = row[j]
    return lower


@kernel
def solve(lower: Float64, right: Float64) -> Float64:
    """Solve ``L L^T x = right`` for the columns of `right` (n, m), with `lower` from `factor`."""
    (n, m), zero = right.shape, np.int64(0)
    x, column = np.empty((n, m)), np.empty(n)
    for i in range(n):
        for j in range(m):
            x[i, j] = right[i, j]
        _subtract(x, zero, i, lower[i], zero, x[i])
        by = 1.0 / lower[i, i]
        for j in range(m):
            x[i, j] *= by
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            column[k] = lower[k, i]
        _subtract(x, i + 1, n, column, zero, x[i])
        by = 1.0 / lower[i, i]
        for j in range(m):
            x[i, j] *= by
    return x


def solve_columns(lower: Float64, right: Float64) -> Float64:
    """The result of `solve`, bit for bit, for many columns: in blocks, on several threads."""
    out = np.empty(right.shape)

    def columns(low: int, high: int) -> None:
        out[:, low:high] = solve(lower, right[:, low:high].copy())

    in_blocks(columns, right.shape[1], block=_COLUMNS)
    return out


@kernel
def inverse(lower: Float64) -> Float64:
    """Inverse of ``L L^T``, symmetric to the last bit, for `lower` from `factor`."""
    n, zero = lower.shape[0], np.int64(0)
    half, out = np.zeros((n, n)), np.zeros((n, n))  # the first is L^-1
    column = np.empty(n)
    for i in range(n):
        _subtract(half, zero, i, lower[i], zero, half[i, :i])
        half[i, i] = 1.0 / lower[i, i]
        for j in range(i):
            half[i, j] *= half[i, i]
    for i in range(n):
        for k in range(i, n):
            column[k] = half[k, i]
        row = out[i, : i + 1]
        _subtract(half, i, n, column, zero, row)
        for j in range(i + 1):
            row[j] = -row[j]
            out[j, i] = row[j]
    return out
