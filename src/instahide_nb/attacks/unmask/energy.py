"""What a sign mask cannot hide: the energy of local differences.

Neighbouring pixels of a natural image have the same sign nearly always, so the difference of two neighbouring
absolute values is, up to its sign, the difference of the pixels themselves. The energy of such differences over
the three channels is therefore a feature of the unmasked mixture, and two encryptions that hold the same private
image have correlated energies. The absolute values themselves tell far less.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.core.threads import in_blocks

__all__ = ["correlation", "difference_energy", "features", "planes", "quantise"]

Float32 = npt.NDArray[np.float32]

_EXACT = 1 << 24  # integers below this are exact in float32, and so are the products' partial sums


@numba.njit(cache=True, nogil=True)
def _difference_energy(first: int, last: int, image: Float32, out: Float32) -> None:
    _, h, w, channels = image.shape
    half = np.float32(0.5)
    for i in range(first, last):
        position = 0
        for y in range(h - 1):
            for x in range(w - 1):
                right = np.float32(0)
                down = np.float32(0)
                diagonal = np.float32(0)
                anti = np.float32(0)
                for c in range(channels):
                    p00 = abs(image[i, y, x, c])
                    p01 = abs(image[i, y, x + 1, c])
                    p10 = abs(image[i, y + 1, x, c])
                    p11 = abs(image[i, y + 1, x + 1, c])
                    right += (p01 - p00) * (p01 - p00)
                    down += (p10 - p00) * (p10 - p00)
                    diagonal += (p11 - p00) * (p11 - p00)
                    anti += (p10 - p01) * (p10 - p01)
                out[i, position] = np.sqrt(right)
                out[i, position + 1] = np.sqrt(down)
                out[i, position + 2] = np.sqrt(diagonal * half)
                out[i, position + 3] = np.sqrt(anti * half)
                position += 4


@numba.njit(cache=True, nogil=True)
def _standardise_columns(low: int, high: int, table: Float32) -> None:
    n = table.shape[0]
    total = np.zeros(high - low)
    for i in range(n):  # row by row: one pass of memory
        for j in range(low, high):
            total[j - low] += table[i, j]
    mean = total / n
    square = np.zeros(high - low)
    for i in range(n):
        for j in range(low, high):
            d = table[i, j] - mean[j - low]
            square[j - low] += d * d
    for j in range(high - low):
        deviation = np.sqrt(square[j] / n)
        square[j] = 1.0 / deviation if deviation > 0.0 else 0.0
    for i in range(n):
        for j in range(low, high):
            table[i, j] = np.float32((table[i, j] - mean[j - low]) * square[j - low])


@numba.njit(cache=True, nogil=True)
def _standardise_rows(first: int, last: int, table: Float32) -> None:
    width = table.shape[1]
    for i in range(first, last):
        total = 0.0
        for j in range(width):
            total += table[i, j]
        mean = total / width
        square = 0.0
        for j in range(width):
            d = table[i, j] - mean
            square += d * d
        deviation = np.sqrt(square / width)
        scale = 1.0 / deviation if deviation > 0.0 else 0.0
        for j in range(width):
            table[i, j] = np.float32((table[i, j] - mean) * scale)


def difference_energy(encryption: Float32) -> Float32:
    """Root energy of four local differences of the absolute values, summed over channels.

    Parameters
    ----------
    encryption : float32 (n, h, w, channels)
        Masked images; only their absolute values are used.

    Returns
    -------
    float32 (n, (h-1)*(w-1)*4)
        At each place: to the right, down, and along both diagonals (these divided by sqrt 2).

    Examples
    --------
    >>> step = np.zeros((1, 2, 2, 1), np.float32); step[0, :, 1] = -1.0
    >>> difference_energy(step).round(3).tolist()
    [[1.0, 0.0, 0.7070000171661377, 0.7070000171661377]]
    """
    n, h, w, _ = encryption.shape
    out = np.empty((n, (h - 1) * (w - 1) * 4), np.float32)
    in_blocks(_difference_energy, n, np.ascontiguousarray(encryption, np.float32), out)
    return out


def features(encryption: Float32) -> Float32:
    """Energy features of encryptions: standardised over the set, then within each encryption.

    Parameters
    ----------
    encryption : float32 (n, h, w, channels)

    Returns
    -------
    float32 (n, (h-1)*(w-1)*4)
        Each row has mean 0 and variance 1, so that a product of two rows is a correlation.
    """
    table = difference_energy(encryption)
    in_blocks(_standardise_columns, table.shape[1], table, block=256)
    in_blocks(_standardise_rows, len(table), table)
    return table


def planes(table: Float32, height: int, width: int) -> Float32:
    """Features as pictures, one plane for each of the four directions.

    Parameters
    ----------
    table : float32 (n, (h-1)*(w-1)*4)
        From `features`.
    height, width : int
        Size of the encryptions, h and w.

    Returns
    -------
    float32 (n, 4, h-1, w-1)
    """
    shaped = table.reshape(len(table), height - 1, width - 1, 4)
    return np.ascontiguousarray(shaped.transpose(0, 3, 1, 2))


def quantise(standardised: Float32) -> Float32:
    """Round standardised rows to integers small enough that float32 products of them are exact.

    Matrix products are fast but sum in an order that depends on the machine; on integers whose partial sums stay
    below 2^24 the order does not matter (Cauchy-Schwarz bounds every partial sum by the rows' norms).

    Parameters
    ----------
    standardised : float32 (n, d)
        Rows of variance 1.

    Returns
    -------
    float32 (n, d)
        Integer-valued.
    """
    width = standardised.shape[1]
    scale = np.float32(max(1, min(16, math.isqrt(_EXACT // (2 * width)))))
    return np.rint(standardised * scale)


def correlation(a: Float32, b: Float32) -> Float32:
    """Correlations of all pairs of rows, from integer products (the same bits on any machine).

    Parameters
    ----------
    a : float32 (n, d)
    b : float32 (m, d)
        Standardised rows, such as `features` returns.

    Returns
    -------
    float32 (n, m)
    """
    qa, qb = quantise(a), quantise(b)
    product = qa @ qb.T
    norm_a = np.sqrt(_square_norm(qa))
    norm_b = np.sqrt(_square_norm(qb))
    result: Float32 = product / np.maximum(norm_a[:, None] * norm_b[None, :], np.float32(1))
    return result


@numba.njit(cache=True)
def _square_norm(rows: Float32) -> Float32:
    out = np.empty(rows.shape[0], np.float32)
    for i in range(rows.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            total += rows[i, j] * rows[i, j]
        out[i] = np.float32(total)
    return out
