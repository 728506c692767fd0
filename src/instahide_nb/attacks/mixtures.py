"""Rows that are sparse mixtures of images: the one linear model behind all attacks.

Row i is ``x_i = sum_j a_ij P_j + (1 - sum_j a_ij) m + e_i``: a few images P_j with known coefficients, the mean image
m for the rest, and a residual. :class:`Mixtures` holds the matrix A, p entries per row. Images follow from rows by
generalised least squares with a ridge, ``(A^T Q A + r I) (P - m) = A^T Q (X - m)``. The weights Q are one of

* float64 (n,): independent rows, Q = diag(w), where w_i is 1 / variance of e_i, or 0 for a row to ignore;
* float64 (groups, size, size): groups of consecutive rows with correlated residuals, Q block-diagonal, each block the
  precision matrix of a group;
* :class:`Regression`: each residual is regressed on those of other rows: ``e_i = sum_j w_ij e_j`` plus noise of
  variance s_i; Q = (I - W)^T diag(1/s) (I - W).

Sums run in a fixed order without a BLAS, so results have the same bits on any machine. Only the products of precision
matrices with float32 rows use a BLAS, on factors rounded to 12 bits (:mod:`.exact`); float64 rows keep full precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from scipy.sparse import csr_array

from instahide_nb.attacks.exact import factor, integer_product, inverse, solve_columns
from instahide_nb.core.arrays import Float, Float32, Float64, Int32, Int64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

FloatT = TypeVar("FloatT", Float32, Float64)

_COLUMNS = 256  # pixels at a time: their part of all rows stays in the cache
_IMAGES = 32  # columns of A at a time


@dataclass(frozen=True)
class Mixtures:
    """The matrix A."""

    assignment: Int64  # (n, p): images in each row; -1 where unknown, which stands for the mean image
    coefficient: Float  # (n, p)
    n_images: int

    @cached_property
    def matrix(self) -> csr_array:
        """A as float64 CSR (n, n_images), entries in the order of the places, two for an image that occurs twice."""
        known = self.assignment >= 0
        start = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
        entries = self.coefficient[known].astype(np.float64), self.assignment[known], start
        return csr_array(entries, shape=(len(known), self.n_images))

    @cached_property
    def rest(self) -> Float:
        """Coefficient of the mean image in each row: 1 - sum_j a_ij over the known images, (n,)."""
        left = np.ones(len(self.assignment), self.coefficient.dtype)
        for j in range(self.assignment.shape[1]):
            left -= np.where(self.assignment[:, j] >= 0, self.coefficient[:, j], 0)
        return left

    def part(self, rows: slice | Int64) -> Mixtures:
        """The mixtures of some rows."""
        return Mixtures(self.assignment[rows], self.coefficient[rows], self.n_images)


@dataclass(frozen=True)
class Regression:
    """Residuals predicted from those of other rows."""

    weight: csr_array  # W (n, n), float64 CSR with an empty diagonal
    scale: Float  # (n,): variance of the prediction errors

    @cached_property
    def left_over(self) -> tuple[csr_array, csr_array]:
        """I - W and its transpose, CSR."""
        n = len(self.scale)
        eye = csr_array((np.ones(n), np.arange(n), np.arange(n + 1)), shape=(n, n))
        difference = (eye - self.weight).tocsr()
        return difference, difference.T.tocsr()


Weights = Float | Regression


@kernel
def _add_rows(first: int, last: int, start: Int32, column: Int32, value: Float, table: Float, out: Float) -> None:
    """out_i += sum_e value_e table_column(e), rows first .. last-1 of a CSR matrix, entries in their order."""
    width = table.shape[1]
    for i in range(first, last):
        target = out[i]
        for e in range(start[i], start[i + 1]):
            by, source = value[e], table[column[e]]
            for p in range(width):
                target[p] += by * source[p]


def add_product(matrix: csr_array, table: Float, out: Float, threads: bool = True) -> Float:
    """out += matrix @ table, in the precision of `out`."""
    parts = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data.astype(out.dtype)
    if threads:
        in_blocks(_add_rows, len(out), *parts, table, out)
    else:
        _add_rows(0, len(out), *parts, table, out)
    return out


def predictions(mixtures: Mixtures, image: FloatT, mean: FloatT) -> FloatT:
    """``sum_j a_ij P_j + rest_i m`` of each row (n, d), for images (n_images, d) and the mean image m (d,)."""
    n = len(mixtures.assignment)
    assignment = np.hstack([mixtures.assignment, np.full((n, 1), mixtures.n_images)])
    coefficient: Float = np.append(mixtures.coefficient, mixtures.rest[:, None], axis=1)
    whole = Mixtures(assignment, coefficient, mixtures.n_images + 1)
    out = np.zeros((n, image.shape[1]), image.dtype)
    add_product(whole.matrix, np.vstack([image, mean[None].astype(image.dtype)]), out)
    return out


def _block_matrix(blocks: Float) -> csr_array:
    """Precision matrices (groups, size, size) as one block-diagonal CSR matrix."""
    groups, size, _ = blocks.shape
    column = np.repeat(np.arange(groups * size).reshape(groups, 1, size), size, axis=1)
    start = np.arange(0, groups * size * size + 1, size)
    return csr_array((blocks.ravel(), column.ravel(), start), shape=(groups * size, groups * size))


def weighted(weight: Weights, table: Float) -> Float:
    """Q times some columns (n, width), on one thread."""
    if isinstance(weight, Regression):
        difference, transposed = weight.left_over
        left = add_product(difference, table, np.zeros_like(table), threads=False)
        left /= weight.scale[:, None].astype(left.dtype)
        return add_product(transposed, left, np.zeros_like(table), threads=False)
    if weight.ndim == 3:
        return add_product(_block_matrix(weight), table, np.zeros_like(table), threads=False)
    return np.multiply(weight.astype(table.dtype)[:, None], table)


def weighted_design(mixtures: Mixtures, weight: Weights, table: Float64) -> Float64:
    """``Q A table`` for a table (n_images, m), such as the identity, float64 (n, m)."""
    out = np.empty((len(mixtures.assignment), table.shape[1]))

    def columns(low: int, high: int) -> None:
        mixed = np.zeros((len(out), high - low))
        add_product(mixtures.matrix, np.ascontiguousarray(table[:, low:high]), mixed, threads=False)
        out[:, low:high] = weighted(weight, mixed)

    in_blocks(columns, table.shape[1], block=_IMAGES)
    return out


def normal_matrix(mixtures: Mixtures, weight: Weights) -> Float64:
    """``A^T Q A``, float64 (n_images, n_images)."""
    out = np.zeros((mixtures.n_images, mixtures.n_images))
    add_product(mixtures.matrix.T.tocsr(), weighted_design(mixtures, weight, np.eye(mixtures.n_images)), out)
    return out


def right_side(rows: Float, mixtures: Mixtures, weight: Weights, mean: Float) -> Float64:
    """``A^T Q (X - m)``, float64 (n_images, d), for rows X (n, d) and the mean image m (d,)."""
    across = mixtures.matrix.T.tocsr()
    out = np.zeros((mixtures.n_images, rows.shape[1]))
    if isinstance(weight, np.ndarray) and weight.ndim == 1:
        across.data = across.data * weight[across.indices]
        add_product(across, rows, out)
        out -= add_product(across, np.ones((len(rows), 1)), np.zeros((len(out), 1))) * mean
        return out
    pieces: list[tuple[slice, csr_array, Weights]] = [(slice(None), across, weight)]
    if isinstance(weight, np.ndarray) and rows.dtype == np.float32:
        size = weight.shape[1]
        groups = [slice(first, first + size) for first in range(0, len(rows), size)]
        pieces = [(group, mixtures.part(group).matrix.T.tocsr(), weight[g]) for g, group in enumerate(groups)]

    def columns(low: int, high: int) -> None:
        total = np.zeros((len(out), high - low))
        for group, part, own in pieces:
            centred = rows[group, low:high] - mean[low:high]
            if isinstance(own, np.ndarray) and own.ndim == 2:
                mixed: Float = integer_product(own, np.ascontiguousarray(centred.T))
            else:
                mixed = weighted(own, centred)
            add_product(part, mixed, total, threads=False)
        out[:, low:high] = total

    in_blocks(columns, rows.shape[1], block=_COLUMNS)
    return out


def _factor(mixtures: Mixtures, weight: Weights, ridge: float) -> Float64:
    normal = normal_matrix(mixtures, weight)
    pull = ridge * float(np.mean(np.diagonal(normal))) + 1e-12
    return factor(normal + pull * np.eye(len(normal)))


def fit(rows: Float, mixtures: Mixtures, weight: Weights, mean: Float, ridge: float) -> Float64:
    """Images by generalised least squares, float64 (n_images, d), from rows (n, d).

    `ridge` is the weight of the pull to `mean` (d,), as a share of the mean diagonal of the normal matrix.
    """
    lower = _factor(mixtures, weight, ridge)
    image = solve_columns(lower, right_side(rows, mixtures, weight, mean))
    image += mean
    return image


def influence(mixtures: Mixtures, weight: Weights, ridge: float) -> Float64:
    """How much each row contributes to each image that `fit` finds: ``Q A (A^T Q A + r I)^-1``, float64 (n, n_images).

    Without row i, image j would be ``P_j - influence_ij / (1 - h_i) e_i``, with h_i = sum_j a_ij influence_ij the
    leverage of the row and e_i its residual (exactly, where rows are independent).
    """
    return weighted_design(mixtures, weight, inverse(_factor(mixtures, weight, ridge)))


def fit_variance(mixtures: Mixtures, weight: Weights, ridge: float) -> Float64:
    """Variance of a pixel of each image that `fit` finds, ``diag (A^T Q A + r I)^-1``, float64 (n_images,)."""
    return np.diagonal(inverse(_factor(mixtures, weight, ridge)))


@dataclass(frozen=True)
class Fit:
    """Images, and the mixtures that they were fitted to."""

    image: Float32  # (n_images, ...)
    mixtures: Mixtures
    influence: Float64  # (n, n_images), see `influence`


def mean_square(rows: Float) -> Float64:
    """Mean of the squares of each row (n, d), float64 (n,)."""
    out = np.empty(len(rows))
    in_blocks(_mean_square, len(rows), rows, out)
    return out


@kernel
def _mean_square(first: int, last: int, rows: Float, out: Float64) -> None:
    for i in range(first, last):
        total = 0.0
        for p in range(rows.shape[1]):
            total += float(rows[i, p]) * float(rows[i, p])
        out[i] = total / rows.shape[1]
