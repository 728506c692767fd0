"""Cholesky factorisation as plain loops: the same bits on any machine, which LAPACK does not promise."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attack.threads import in_blocks

__all__ = ["factor", "inverse", "solve", "solve_columns", "solve_spd"]

Float64 = npt.NDArray[np.float64]

_COLUMNS = 256  # right-hand sides at a time: they stay in the cache


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
    upper = np.zeros((n, n))  # row by row of L.T: the inner loop is contiguous and has no reduction
    for i in range(n):
        for j in range(i, n):
            upper[i, j] = matrix[i, j]
    for k in range(n):
        pivot = upper[k, k]
        if not pivot > 1e-300:
            pivot = 1e-300
        root = np.sqrt(pivot)
        inverse = 1.0 / root
        for j in range(k, n):
            upper[k, j] *= inverse
        upper[k, k] = root
        for i in range(k + 1, n):
            multiple = upper[k, i]
            if multiple != 0.0:
                for j in range(i, n):
                    upper[i, j] -= multiple * upper[k, j]
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
    n, m = right.shape
    x = right.copy()
    for i in range(n):
        for k in range(i):
            multiple = lower[i, k]
            if multiple != 0.0:
                for j in range(m):
                    x[i, j] -= multiple * x[k, j]
        inverse = 1.0 / lower[i, i]
        for j in range(m):
            x[i, j] *= inverse
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            multiple = lower[k, i]
            if multiple != 0.0:
                for j in range(m):
                    x[i, j] -= multiple * x[k, j]
        inverse = 1.0 / lower[i, i]
        for j in range(m):
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
    half = np.zeros((n, n))  # the inverse of `lower`, row by row
    for i in range(n):
        for k in range(i):
            multiple = lower[i, k]
            if multiple != 0.0:
                for j in range(k + 1):
                    half[i, j] -= multiple * half[k, j]
        root = 1.0 / lower[i, i]
        for j in range(i):
            half[i, j] *= root
        half[i, i] = root
    out = np.zeros((n, n))
    for k in range(n):
        for i in range(k + 1):
            multiple = half[k, i]
            if multiple != 0.0:
                for j in range(i + 1):
                    out[i, j] += multiple * half[k, j]
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
