"""Encryptions that share public images: their residuals correlate, so each can be predicted from the others.

In one epoch N rows are mixed from N public images. The residuals ``R = C U``, C the unknown sparse public coefficients
and U the public images, have a covariance ``C C^T`` between rows, which the Gram matrix of whitened residuals
estimates. Its inverse K predicts each residual from the others, ``r_i ~ -sum_j K_ij r_j / K_ii``, and is the weight of
generalised least squares for the private images (`by_epoch`). If rows are not in epochs, or epochs are long, each
residual is regressed on those residuals of its block that correlate with it (`by_correlation`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from instahide_nb.attacks.exact import factor, integer_product, inverse, solve
from instahide_nb.attacks.mixtures import Regression, add_product
from instahide_nb.attacks.unmask.codes import product_table
from instahide_nb.attacks.unmask.smoothness import Smoothness, whiten
from instahide_nb.core.arrays import Float32, Float64, Int64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

Residuals = Callable[[slice], Float32]
"""Residuals (m, channels, h, w) of some rows: a function, so that all of them need not be in memory at once."""

_SHRINKAGE = 0.5  # added to the diagonal of a covariance, as a share of it, times rows over values
_MOST = 40  # a residual is regressed on so many others at most
_LEAST = 0.08  # least correlation of rows that share an image; chance gives 0.02 to 0.03 at 32 x 32 pixels
_LEAST_DEVIATIONS = 4.4  # the same, times the square root of the number of values; larger in smaller images


@kernel
def _shrunk_factor(covariance: Float64, shrinkage: float, typical: float) -> Float64:
    """Cholesky factor of a covariance whose diagonal grows until there is no tiny pivot.

    Because whitening by a local filter is approximate, the matrix need not be positive definite.
    """
    n = covariance.shape[0]
    regular, lower = np.empty((n, n)), covariance
    for r in range(n):
        for s in range(n):
            regular[r, s] = covariance[r, s]
    for _ in range(30):
        for r in range(n):
            own = covariance[r, r]
            regular[r, r] = own + shrinkage * max(own, 1e-3 * typical) + 1e-9
        lower = factor(regular)
        smallest = lower[0, 0]
        for r in range(1, n):
            smallest = min(smallest, lower[r, r])
        if smallest * smallest > 1e-9 * typical:
            break
        shrinkage = 2.0 * shrinkage + 0.1
    return lower


def precision_of(residual: Float32, local: Smoothness, shrinkage: float = _SHRINKAGE) -> Float64:
    """Inverse covariance between a few rows (size, channels, h, w), in units of the public covariance."""
    flat, white = (rows.reshape(len(rows), -1) for rows in (residual, whiten(residual, local)))
    gram = integer_product(flat, white) / flat.shape[1]
    gram = 0.5 * (gram + gram.T)
    typical = float(np.add.accumulate(np.abs(np.diagonal(gram)))[-1]) / len(gram)
    return inverse(_shrunk_factor(gram, shrinkage * len(gram) / flat.shape[1], typical))


def by_epoch(residual: Residuals, size: int, local: Smoothness, expected: Float32) -> tuple[Float64, Float32]:
    """Predict each residual from the others of its epoch, which is `size` consecutive rows.

    `expected` (n, channels, h, w) gets ``-sum_j K_ij r_j / K_ii``. Returns K, the weights for :mod:`..mixtures`,
    float64 (epochs, size, size); and ``1 / K_ii``, in units of the public covariance, float32 (n,).
    """
    precision = np.empty((len(expected) // size, size, size))

    def epochs(first: int, last: int) -> None:
        for e in range(first, last):
            rows = slice(e * size, (e + 1) * size)
            left = residual(rows)
            precision[e] = precision_of(left, local)
            weight = -precision[e] / np.diagonal(precision[e])[:, None]
            np.fill_diagonal(weight, 0)
            flat = left.reshape(size, -1)
            expected[rows] = integer_product(weight, np.ascontiguousarray(flat.T)).reshape(left.shape)

    in_blocks(epochs, len(precision), block=1)
    scale = 1.0 / np.diagonal(precision, axis1=1, axis2=2).ravel()
    return precision, scale.astype(np.float32)


def parts(n: int, together: int, whole: int = 1) -> list[slice]:
    """Blocks of at most `together` rows and of similar length; none divides an epoch of `whole` rows."""
    groups, most = -(-n // whole), max(together // whole, 1)
    step = -(-groups // -(-groups // most)) * whole
    return [slice(low, min(low + step, n)) for low in range(0, n, step)]


@kernel
def _choose(r: int, gram: Float32, assignment: Int64, most: int, least: float) -> Int64:
    """The rows that correlate most with row r, ascending.

    Rows that share a private image are excluded: their residuals share the error of that image.
    """
    n = gram.shape[0]
    place, strength, count = np.empty(n, np.int64), np.empty(n), 0
    for s in range(n):
        product = float(gram[r, s]) * float(gram[r, s])
        both = float(gram[r, r]) * float(gram[s, s])
        # a row whose whitened length is not positive has no correlation
        if s == r or not (gram[r, r] > 0 and gram[s, s] > 0 and product > least * least * both):
            continue
        alien = True
        for a in assignment[r]:
            for b in assignment[s]:
                alien = alien and (a != b or a < 0)
        if alien:
            place[count], strength[count] = s, -product / both
            count += 1
    if count <= most:
        return place[:count]
    return np.sort(place[np.argsort(strength[:count], kind="mergesort")[:most]])


Limits = tuple[float, float, float]  # least correlation, shrinkage, typical square length


@kernel
def _regress(
    first: int, last: int, gram: Float32, assignment: Int64, limits: Limits, row: Int64, weight: Float64, scale: Float32
) -> None:
    least, shrinkage, typical = limits
    for r in range(first, last):
        chosen = _choose(r, gram, assignment, row.shape[1], least)
        count, own = len(chosen), float(gram[r, r])
        scale[r] = np.float32(max(own if own > 0.0 else typical, 1e-3 * typical, 1e-9))
        if count == 0:
            continue
        covariance, right = np.empty((count, count)), np.empty((count, 1))
        for i in range(count):
            right[i, 0] = gram[chosen[i], r]
            for j in range(count):
                covariance[i, j] = gram[chosen[i], chosen[j]]
        found = solve(_shrunk_factor(covariance, shrinkage * count, typical), right)
        left = own
        for i in range(count):
            row[r, i], weight[r, i] = chosen[i], found[i, 0]
            left -= found[i, 0] * right[i, 0]
        scale[r] = np.float32(max(left, 0.01 * own, 1e-3 * typical, 1e-9))


def regression(
    residual: Float32, assignment: Int64, local: Smoothness, least: float = 0.0, shrinkage: float = _SHRINKAGE
) -> Regression:
    """Regress each residual (n, channels, h, w) on at most 40 others that correlate with it.

    `assignment` (n, p) holds the private images of each row. `least`, the smallest correlation, is by default 0.08, and
    more in images so small that chance exceeds it. `shrinkage` times rows over values is added to the diagonal.
    """
    n, n_values = len(residual), residual[0].size
    row, weight = np.full((n, _MOST), -1, np.int64), np.zeros((n, _MOST))
    scale, gram = np.empty(n, np.float32), product_table(residual, local)
    gram /= n_values
    least = least or max(_LEAST, _LEAST_DEVIATIONS / math.sqrt(n_values))
    typical = float(np.add.accumulate(np.abs(np.diagonal(gram)).astype(np.float64))[-1] / n)
    in_blocks(_regress, n, gram, assignment, (least, shrinkage / n_values, typical), row, weight, scale)
    used = row >= 0
    start = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return Regression(csr_array((weight[used], row[used], start), shape=(n, n)), scale)


def by_correlation(
    residual: Residuals, assignment: Int64, blocks: list[slice], local: Smoothness, expected: Float32
) -> tuple[Regression, Float32]:
    """Predict residuals from those of other rows of the same block, from `parts`, that correlate with them.

    `expected` gets ``sum_j W_ij r_j``. Returns the weights for :mod:`..mixtures`, and the scale as in `by_epoch`.
    """
    from scipy.sparse import block_diag

    found = []
    for rows in blocks:
        left = residual(rows)
        found.append(regression(left, assignment[rows], local))
        flat = left.reshape(len(left), -1)
        expected[rows] = add_product(found[-1].weight, flat, np.zeros_like(flat)).reshape(left.shape)
    scale = np.concatenate([one.scale for one in found])
    return Regression(csr_array(block_diag([one.weight for one in found], format="csr")), scale), scale
