"""Encryptions that share public images: their residuals are correlated, and what correlates can be predicted.

In one epoch N rows are mixed from N public images, each used in several rows. The residuals ``R = C U`` of an epoch,
C the (unknown, sparse) public coefficients and U the public images, therefore have a covariance ``C C^T`` between
rows that is far from diagonal, and some combinations of rows hold nearly no public image at all. The Gram matrix
of whitened residuals estimates that covariance without knowing C. Its inverse says what the other rows of
the epoch tell about a row, and is the weight of generalised least squares for the private images.
Neither step needs the public images themselves.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import factor, integer_mix, integer_product, inverse, solve_columns
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.smoothness import Smoothness, whiten
from instahide_nb.core.threads import in_blocks

__all__ = ["fit_images", "predict_residuals", "row_gram", "row_influence", "row_precision"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_PIXELS = 1024  # at a time


@numba.njit(cache=True, nogil=True)
def _invert(first: int, last: int, gram: Float64, shrinkage: float, out: Float64) -> None:
    size = gram.shape[1]
    regular = np.empty((size, size))
    lower = np.empty((size, size))
    for e in range(first, last):
        typical = 0.0
        for r in range(size):
            typical += abs(gram[e, r, r]) / size
        strength = shrinkage
        for _ in range(30):
            # whitening by a local filter is not quite a positive form; where that shows, the rows are told apart less
            for r in range(size):
                for s in range(size):
                    regular[r, s] = 0.5 * (gram[e, r, s] + gram[e, s, r])
                regular[r, r] += strength * max(gram[e, r, r], 1e-3 * typical) + 1e-9
            lower = factor(regular)
            smallest = lower[0, 0]
            for r in range(size):
                smallest = min(smallest, lower[r, r])
            if smallest * smallest > 1e-9 * typical:
                break
            strength = 2.0 * strength + 0.1
        out[e] = inverse(lower)


def row_gram(residual: Float32, model: Smoothness) -> Float64:
    """Covariance between rows, estimated from their whitened values.

    Parameters
    ----------
    residual : float32 (size, channels, h, w)
        Encryptions of one epoch with their mask lifted, less their predictions.
    model : Smoothness
        Whitens the pixels, so that each of them counts as a sample of its own.

    Returns
    -------
    float64 (size, size)
        In units of the public covariance.
    """
    flat = residual.reshape(len(residual), -1)
    white = whiten(residual, model).reshape(flat.shape)
    return integer_product(flat, white) / flat.shape[1]


def row_precision(gram: Float64, shrinkage: float) -> Float64:
    """Inverse covariance between the rows of each group.

    Parameters
    ----------
    gram : float64 (groups, size, size)
        From `row_gram`; an epoch is a group.
    shrinkage : float
        Added to the diagonal of the covariance, as a share of it.

    Returns
    -------
    float64 (groups, size, size)
    """
    out = np.empty_like(gram)
    in_blocks(_invert, len(gram), gram, float(shrinkage), out, block=1)
    return out


def predict_residuals(residual: Float32, precision: Float64) -> tuple[Float32, Float32]:
    """Expected residual of each row of a group given those of the others.

    Parameters
    ----------
    residual : float32 (size, channels, h, w)
    precision : float64 (size, size)
        From `row_precision`.

    Returns
    -------
    expected : float32 (size, channels, h, w)
    scale : float32 (size,)
        What remains of the covariance of each row, in units of the public covariance.
    """
    own = np.diagonal(precision)
    weight = -precision / own[:, None]
    np.fill_diagonal(weight, 0)
    expected = integer_mix(weight, residual.reshape(len(residual), -1))
    return expected.reshape(residual.shape), (1.0 / own).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _normal_matrix(
    precision: Float64, group: Int64, assignment: Int64, coefficient: Float32, n: int
) -> Float64:
    out = np.zeros((n, n))
    for e in range(group.shape[0]):
        for r in range(group.shape[1]):
            row = group[e, r]
            for s in range(group.shape[1]):
                other = group[e, s]
                for j in range(2):
                    for k in range(2):
                        value = precision[e, r, s] * coefficient[row, j] * coefficient[other, k]
                        out[assignment[row, j], assignment[other, k]] += value
    return out


@numba.njit(cache=True, nogil=True)
def _gather(
    low: int, high: int, mixed: Float32, assignment: Int64, coefficient: Float32, out: Float64
) -> None:
    """Add each mixed row to the right sides of its two images, for the pixels low .. high-1."""
    for i in range(assignment.shape[0]):
        source = mixed[i, low:high]
        for j in range(2):
            target, weight = out[assignment[i, j], low:high], coefficient[i, j]
            for p in range(high - low):
                target[p] += float(weight) * float(source[p])


def _regular(normal: Float64, ridge: float) -> Float64:
    return normal + (ridge * float(np.mean(np.diag(normal))) + 1e-12) * np.eye(len(normal))


@numba.njit(cache=True, nogil=True)
def _weighted_design(precision: Float64, assignment: Int64, coefficient: Float32, n_images: int) -> Float64:
    """Precision of an epoch times the coefficients of all images in its rows."""
    out = np.zeros((assignment.shape[0], n_images))
    for r in range(assignment.shape[0]):
        target = out[r]
        for s in range(assignment.shape[0]):
            for j in range(2):
                target[assignment[s, j]] += precision[r, s] * coefficient[s, j]
    return out


def row_influence(
    precision: Float64,
    group: Int64,
    assignment: Int64,
    coefficient: Float32,
    slots: Slots,
    ridge: float = 1e-3,
) -> Float64:
    """How much the images that `fit_images` finds change with each encryption: those of its own classes.

    Returns
    -------
    float64 (n, 2, largest)
        On the images of the class of each slot, in their order.
    """
    n = slots.n_images
    normal_inverse = inverse(
        factor(_regular(_normal_matrix(precision, group, assignment, coefficient, n), ridge))
    )
    out = np.zeros((len(assignment), 2, slots.largest))
    for e, rows in enumerate(group):
        design = _weighted_design(precision[e], assignment[rows], coefficient[rows], n)
        out[rows] = slots.of_own_classes(integer_product(design, normal_inverse), rows)
    return out


def fit_images(
    signed: Float32,
    precision: Float64,
    group: Int64,
    assignment: Int64,
    coefficient: Float32,
    mean: Float32,
    n_images: int,
    ridge: float = 1e-3,
) -> Float32:
    """Generalised least squares for the private images, with a slight pull to the mean image.

    Parameters
    ----------
    signed : float32 (n, channels, h, w)
        Encryptions with their mask lifted.
    precision : float64 (groups, size, size)
        From `row_precision`.
    group : int64 (groups, size)
    assignment : int64 (n, 2)
    coefficient : float32 (n, 2)
    mean : float32 (channels,)
        Mean colour of public images.
    n_images : int
    ridge : float
        Weight of the pull, as a share of the mean diagonal of the normal matrix.

    Returns
    -------
    float32 (images, channels, h, w)
        Clipped to [-1, 1].
    """
    centre = mean[:, None, None]
    n_values = signed[0].size
    right = np.zeros((n_images, n_values))
    for e, rows in enumerate(group):
        mixed = integer_mix(precision[e], (signed[rows] - centre).reshape(len(rows), -1))
        in_blocks(_gather, n_values, mixed, assignment[rows], coefficient[rows], right, block=_PIXELS)
    normal = _regular(_normal_matrix(precision, group, assignment, coefficient, n_images), ridge)
    image = solve_columns(factor(normal), right).reshape(n_images, *signed.shape[1:]) + centre
    return np.clip(image, -1.0, 1.0).astype(np.float32)
