"""Matrix products that are fast and have the same bits on any machine.

A BLAS sums in an order that depends on the processor. With factors rounded to integers whose products and partial
sums stay below 2^53 no sum is rounded, so the order does not matter.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attack.threads import in_blocks

__all__ = ["integer_mix", "integer_product", "integers"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Float = Float32 | Float64


@numba.njit(cache=True, nogil=True)
def _round(first: int, last: int, table: Float, scale: float, out: Float64) -> None:
    for i in range(first, last):
        for p in range(table.shape[1]):
            out[i, p] = np.rint(float(table[i, p]) * scale)


def integers(table: Float, terms: int) -> tuple[Float64, float]:
    """Round a factor of an exact product to integers of at most 20 bits.

    Parameters
    ----------
    table : float (n, d)
    terms : int
        How many products will be summed; where they are many, fewer bits.

    Returns
    -------
    whole : float64 (n, d)
        Integers, the table times `scale`.
    scale : float
        A power of two.
    """
    bits = min(20, (52 - terms.bit_length()) // 2)
    largest = max(float(table.max()), -float(table.min())) if table.size else 0.0
    _, exponent = np.frexp(largest)
    scale = 2.0 ** (bits - int(exponent))  # a power of two: scaling rounds nothing
    out = np.empty(table.shape)
    in_blocks(_round, len(table), table, scale, out)
    return out, scale


def integer_product(a: Float, b: Float) -> Float64:
    """``a @ b.T`` with both factors rounded to 20 bits, so that the product is exact in any order of summation.

    Parameters
    ----------
    a : float (n, d)
    b : float (m, d)

    Returns
    -------
    float64 (n, m)

    Examples
    --------
    >>> integer_product(np.array([[1, 2]], np.float32), np.array([[3, 4], [0, 1]], np.float32)).tolist()
    [[11.0, 2.0]]
    """
    terms = int(a.shape[1])
    qa, scale_a = integers(a, terms)
    qb, scale_b = integers(b, terms)
    product: Float64 = (qa @ qb.T) / (scale_a * scale_b)
    return product


def integer_mix(weight: Float, row: Float) -> Float64:
    """``weight @ row``, rounded as by `integer_product`.

    Parameters
    ----------
    weight : float (n, m)
    row : float (m, d)

    Returns
    -------
    float64 (n, d)

    Examples
    --------
    >>> integer_mix(np.array([[1.0, 0.5]]), np.array([[3.0, 4.0], [2.0, 1.0]])).tolist()
    [[4.0, 4.5]]
    """
    terms = int(weight.shape[1])
    qw, scale_w = integers(weight, terms)
    qr, scale_r = integers(row, terms)
    product: Float64 = (qw @ qr) / (scale_w * scale_r)
    return product
