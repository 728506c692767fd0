"""Cholesky factorisation as plain loops: the same bits on any machine, which LAPACK does not promise."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.core.threads import in_blocks

__all__ = ["factor", "inverse", "solve", "solve_columns", "solve_spd"]

Float64 = npt.NDArray[np.float64]

_COLUMNS = 256  # right-hand sides at a time: they stay in the cache


@numba.njit(cache=True, nogil=True)
def _subtract(table: Float64, count: int, multiple: Float64, low: int, out: Float64) -> None:
    """Take the first `count` rows of a table, from column `low` on, times their multiples off `out`, in their order.

    Four rows at a time: `out` is read and written a quarter as often, and each of its values goes through the same
    sequence of roundings as with one row at a time.
    """
    size = out.shape[0]
    fours = count - count % 4
    for k in range(0, fours, 4):
        a, b, c, d = multiple[k], multiple[k + 1], multiple[k + 2], multiple[k + 3]
        ra, rb, rc, rd = table[k, low:], table[k + 1, low:], table[k + 2, low:], table[k + 3, low:]
        for j in range(size):
            out[j] = (((out[j] - a * ra[j]) - b * rb[j]) - c * rc[j]) - d * rd[j]
    for k in range(fours, count):
        a, ra = multiple[k], table[k, low:]
        for j in range(size):
            out[j] -= a * ra[j]


@numba.njit(cache=True, nogil=True)
def factor(matrix: Float64) -> Float64:
    """Lower Cholesky factor of a symmetric positive definite matrix.

    Parameters
    ----------
    matrix : float64 (n, n)

    Returns
    -------
    float64 (n, n)
        L with ``L @ L.T == matrix``. A pivot that rounding made negative is taken as a tiny positive one.

    Examples
    --------
    >>> factor(np.array([[4.0, 2.0], [2.0, 5.0]])).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    n = matrix.shape[0]
    upper = np.zeros((n, n))  # row by row of L.T: the inner loops are contiguous and have no reduction
    for i in range(n):
        row = upper[i, i:]
        for j in range(n - i):
            row[j] = matrix[i, i + j]
        _subtract(upper, i, upper[:, i], i, row)
        pivot = row[0]
        if not pivot > 1e-300:
            pivot = 1e-300
        root = np.sqrt(pivot)
        inverse = 1.0 / root
        for j in range(n - i):
            row[j] *= inverse
        row[0] = root
    return upper.T.copy()


@numba.njit(cache=True, nogil=True)
def solve(lower: Float64, right: Float64) -> Float64:
    """Solve ``L L^T x = right`` for several right-hand sides.

    Parameters
    ----------
    lower : float64 (n, n)
        From `factor`.
    right : float64 (n, m)

    Returns
    -------
    float64 (n, m)
    """
    n = right.shape[0]
    x = right.copy()
    upper = lower.T.copy()
    for i in range(n):
        _subtract(x, i, lower[i], 0, x[i])
        inverse = 1.0 / lower[i, i]
        for j in range(x.shape[1]):
            x[i, j] *= inverse
    for i in range(n - 1, -1, -1):
        _subtract(x[i + 1 :], n - 1 - i, upper[i, i + 1 :], 0, x[i])
        inverse = 1.0 / lower[i, i]
        for j in range(x.shape[1]):
            x[i, j] *= inverse
    return x


@numba.njit(cache=True, nogil=True)
def inverse(lower: Float64) -> Float64:
    """Inverse of the matrix whose factor is given: symmetric to the last bit, and cheaper than to solve for it.

    Parameters
    ----------
    lower : float64 (n, n)
        From `factor`.

    Returns
    -------
    float64 (n, n)

    Examples
    --------
    >>> inverse(factor(np.array([[4.0, 2.0], [2.0, 5.0]]))).tolist()
    [[0.3125, -0.125], [-0.125, 0.25]]
    """
    n = lower.shape[0]
    half = np.zeros((n, n))  # the inverse of `lower`, row by row; zeros above its diagonal change nothing
    for i in range(n):
        _subtract(half, i, lower[i], 0, half[i, :i])
        root = 1.0 / lower[i, i]
        for j in range(i):
            half[i, j] *= root
        half[i, i] = root
    out = np.zeros((n, n))
    for i in range(n):
        row = out[i, : i + 1]
        _subtract(half[i:], n - i, half[i:, i], 0, row)
        for j in range(i + 1):
            row[j] = -row[j]
    for i in range(n):
        for j in range(i):
            out[j, i] = out[i, j]
    return out


@numba.njit(cache=True, nogil=True)
def solve_spd(matrix: Float64, right: Float64) -> Float64:
    """Solve ``matrix @ x = right`` for a symmetric positive definite matrix.

    Examples
    --------
    >>> solve_spd(np.array([[4.0, 2.0], [2.0, 5.0]]), np.array([[8.0], [8.0]])).round(12).tolist()
    [[1.5], [1.0]]
    """
    return solve(factor(matrix), right)


@numba.njit(cache=True, nogil=True)
def _solve_columns(low: int, high: int, lower: Float64, right: Float64, out: Float64) -> None:
    out[:, low:high] = solve(lower, right[:, low:high].copy())


def solve_columns(lower: Float64, right: Float64) -> Float64:
    """`solve` for many right-hand sides, some columns at a time and on several threads; the same bits.

    Parameters
    ----------
    lower : float64 (n, n)
        From `factor`.
    right : float64 (n, m)

    Returns
    -------
    float64 (n, m)
    """
    out = np.empty(right.shape)
    in_blocks(_solve_columns, right.shape[1], lower, right, out, block=_COLUMNS)
    return out
