"""Private images from encryptions whose signs are (nearly) known: weighted least squares."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import factor, inverse, solve_columns
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.core.threads import in_blocks

__all__ = ["add_right_side", "fit_images", "predict_encryptions", "row_influence", "solve_mixtures"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def _predict(
    first: int,
    last: int,
    image: Float32,
    assignment: Int64,
    coefficient: Float32,
    mean: Float32,
    out: Float32,
) -> None:
    for i in range(first, last):
        a, b = assignment[i, 0], assignment[i, 1]
        la = coefficient[i, 0] if a >= 0 else np.float32(0)
        lb = coefficient[i, 1] if b >= 0 else np.float32(0)
        rest = np.float32(1) - la - lb
        first_image, second_image = image[a], image[b]
        for p in range(image.shape[1]):
            out[i, p] = la * first_image[p] + lb * second_image[p] + rest * mean[p]


def predict_encryptions(image: Float32, assignment: Int64, coefficient: Float32, mean: Float32) -> Float32:
    """Mean prediction of every encryption: its two private images and the mean public image.

    Parameters
    ----------
    image : float32 (images, d)
    assignment : int64 (n, 2)
        -1 for an unknown image, which counts as the mean.
    coefficient : float32 (n, 2)
    mean : float32 (d,)

    Returns
    -------
    float32 (n, d)
    """
    out = np.empty((len(assignment), image.shape[1]), np.float32)
    in_blocks(_predict, len(assignment), image, assignment, coefficient, mean, out)
    return out


@numba.njit(cache=True, nogil=True)
def _right_side(
    first: int,
    last: int,
    start: Int64,
    place: Int64,
    signed: Float32,
    coefficient: Float32,
    weight: Float32,
    mean: Float32,
    out: Float64,
) -> None:
    """Add to the images first .. last-1 the rows that hold them; of image j, slots place[start[j]:start[j+1]]."""
    for image in range(first, last):
        target = out[image]
        for e in range(start[image], start[image + 1]):
            i = place[e] // 2
            by = weight[i] * coefficient[i, place[e] % 2]
            rest = np.float32(1) - coefficient[i, 0] - coefficient[i, 1]
            source = signed[i]
            for p in range(mean.shape[0]):
                target[p] += by * (source[p] - rest * mean[p])


def add_right_side(
    signed: Float32, assignment: Int64, coefficient: Float32, weight: Float32, mean: Float32, out: Float64
) -> None:
    """Add the rows, less the mean of the rest, to the right sides of the images that they hold.

    Image by image: time grows with the number of rows alone, however many images there are.

    Parameters
    ----------
    signed : float32 (n, d)
    assignment : int64 (n, 2)
        Rows with -1 are left out.
    coefficient : float32 (n, 2)
    weight : float32 (n,)
    mean : float32 (d,)
    out : float64 (images, d)
        Is added to.
    """
    counts = (assignment.min(axis=1) >= 0) & (weight > 0)
    held = np.where(np.repeat(counts, 2), assignment.ravel(), -1)
    place = np.argsort(held, kind="stable")
    place = place[np.searchsorted(held[place], 0) :]
    start = np.concatenate([[0], np.cumsum(np.bincount(held[place], minlength=len(out)))])
    in_blocks(_right_side, len(out), start, place, signed, coefficient, weight, mean, out)


@numba.njit(cache=True)
def _normal_matrix(assignment: Int64, coefficient: Float32, weight: Float32, n_images: int) -> Float64:
    out = np.zeros((n_images, n_images))
    for i in range(assignment.shape[0]):
        a, b = assignment[i, 0], assignment[i, 1]
        if a < 0 or b < 0:
            continue
        w, la, lb = float(weight[i]), float(coefficient[i, 0]), float(coefficient[i, 1])
        out[a, a] += w * la * la
        out[b, b] += w * lb * lb
        out[a, b] += w * la * lb
        out[b, a] += w * la * lb
    return out


def solve_mixtures(
    signed: Float32,
    assignment: Int64,
    coefficient: Float32,
    weight: Float32,
    mean: Float32,
    n_images: int,
    ridge: float,
) -> Float64:
    """Weighted least squares for what the rows are mixed of, with a pull to the mean.

    Parameters
    ----------
    signed : float32 (n, d)
        Rows that are mixtures: encryptions with their mask lifted, or other features that add up.
    assignment : int64 (n, 2)
        Rows with -1 are left out.
    coefficient : float32 (n, 2)
    weight : float32 (n,)
        One over the residual variance.
    mean : float32 (d,)
        What the rest of each mixture is on average.
    n_images : int
    ridge : float
        Weight of the pull to `mean`, as a share of the mean diagonal of the normal matrix.

    Returns
    -------
    float64 (images, d)
    """
    normal = _normal_matrix(assignment, coefficient, weight, n_images)
    pull = ridge * float(np.mean(np.diag(normal))) + 1e-12
    right = np.zeros((n_images, signed.shape[1]))
    add_right_side(signed, assignment, coefficient, weight, mean, right)
    right += pull * mean.astype(np.float64)
    return solve_columns(factor(normal + pull * np.eye(n_images)), right)


@numba.njit(cache=True, nogil=True)
def _influence(
    first: int,
    last: int,
    normal_inverse: Float64,
    image_class: Int64,
    start: Int64,
    assignment: Int64,
    coefficient: Float32,
    weight: Float32,
    out: Float64,
) -> None:
    for i in range(first, last):
        a, b = assignment[i, 0], assignment[i, 1]
        if a < 0 or b < 0:
            continue
        wa, wb = float(weight[i]) * coefficient[i, 0], float(weight[i]) * coefficient[i, 1]
        for slot in range(2):
            low, high = start[image_class[i, slot]], start[image_class[i, slot] + 1]
            of_a, of_b, target = normal_inverse[a, low:high], normal_inverse[b, low:high], out[i, slot]
            for j in range(high - low):
                target[j] = wa * of_a[j] + wb * of_b[j]


def row_influence(
    slots: Slots, assignment: Int64, coefficient: Float32, weight: Float32, ridge: float
) -> Float64:
    """How much the solutions of `solve_mixtures` change with each row: those of its own classes.

    Parameters
    ----------
    slots : Slots
    assignment, coefficient, weight, ridge
        As for `solve_mixtures`.

    Returns
    -------
    float64 (n, 2, largest)
        On the images of the class of each slot, in their order.

    Examples
    --------
    >>> one, half = np.zeros((2, 2), np.int64), np.full((2, 2), 0.5, np.float32)
    >>> slots = Slots(one, half, np.ones(2, bool), np.array([0, 1]), np.full(2, -1))
    >>> row_influence(slots, one, half, np.ones(2, np.float32), 0.0).round(6).tolist()
    [[[0.5], [0.5]], [[0.5], [0.5]]]
    """
    normal = _normal_matrix(assignment, coefficient, weight, slots.n_images)
    pull = ridge * float(np.mean(np.diag(normal))) + 1e-12
    out = np.zeros((len(assignment), 2, slots.largest))
    in_blocks(
        _influence,
        len(out),
        inverse(factor(normal + pull * np.eye(slots.n_images))),
        slots.image_class,
        slots.start,
        assignment,
        coefficient,
        weight,
        out,
    )
    return out


def fit_images(
    signed: Float32,
    assignment: Int64,
    coefficient: Float32,
    weight: Float32,
    mean: Float32,
    n_images: int,
    ridge: float = 1e-3,
) -> Float32:
    """Weighted least squares for all private images, with a slight pull to the mean image.

    Parameters
    ----------
    signed : float32 (n, d)
        Encryptions with their mask lifted.
    assignment : int64 (n, 2)
        Rows with -1 are left out.
    coefficient : float32 (n, 2)
    weight : float32 (n,)
        One over the residual variance.
    mean : float32 (d,)
        Mean public image.
    n_images : int
    ridge : float
        Weight of the pull to `mean`, as a share of the mean diagonal of the normal matrix.

    Returns
    -------
    float32 (images, d)
        Clipped to [-1, 1].
    """
    image = solve_mixtures(signed, assignment, coefficient, weight, mean, n_images, ridge)
    return np.clip(image, -1.0, 1.0).astype(np.float32)
