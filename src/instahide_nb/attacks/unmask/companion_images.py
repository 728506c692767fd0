"""Private images by least squares of what the companions of each encryption leave of it.

Written out, with the weights of all companions in a matrix W, the normal equations are those of the design
(I - W) Z and the rows (I - W) X, Z the coefficients of the images in the rows. Each row has two images and few
companions: right sides and the normal matrix are sparse sums, whose time grows with the number of rows. (What each
row contributed to the images of its classes takes a number for each row and image, but that is a small part.)
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import factor, inverse, solve_columns
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.found_companions import Companions
from instahide_nb.attacks.unmask.least_squares import add_right_side
from instahide_nb.core.threads import in_blocks

__all__ = ["fit_images"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def _less_companions(
    first: int, last: int, row: Int64, weight: Float32, signed: Float32, mean: Float32, out: Float32
) -> None:
    """Rows about the mean, less what their companions, about the mean, add up to."""
    for r in range(first, last):
        source, target = signed[r], out[r]
        for p in range(mean.shape[0]):
            target[p] = source[p] - mean[p]
        for j in range(row.shape[1]):
            if row[r, j] < 0:
                break
            other, by = signed[row[r, j]], weight[r, j]
            for p in range(mean.shape[0]):
                target[p] -= by * (other[p] - mean[p])


def _whose(companions: Companions) -> tuple[Int64, Int64, Float32]:
    """Whose companion row s is, and with which weight: entries start[s] .. start[s+1]-1 of two lists."""
    r, place = np.nonzero(companions.row >= 0)
    s = companions.row[r, place]
    order = np.argsort(s, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(s, minlength=len(companions.row)))])
    return start, r[order], companions.weight[r, place][order]


@numba.njit(cache=True, nogil=True)
def _hand_back(
    first: int,
    last: int,
    start: Int64,
    whose: Int64,
    by: Float32,
    inverse: Float32,
    left: Float32,
    out: Float32,
) -> None:
    """What is left of a row, over its scale, less its share in that of the rows whose companion it is."""
    for s in range(first, last):
        target, own = out[s], inverse[s]
        for p in range(left.shape[1]):
            target[p] = own * left[s, p]
        for e in range(start[s], start[s + 1]):
            other, share = left[whose[e]], by[e] * inverse[whose[e]]
            for p in range(left.shape[1]):
                target[p] -= share * other[p]


@numba.njit(cache=True, nogil=True)
def _add_normal(
    row: Int64, weight: Float32, inverse: Float32, assignment: Int64, coefficient: Float32, out: Float64
) -> None:
    """Add the products of what images are in each row less its companions, on and above the diagonal.

    They are few in each row: a sparse product.
    """
    n_images = out.shape[0]
    design, seen = np.zeros(n_images), np.full(n_images, -1, np.int64)
    column = np.empty(2 * row.shape[1] + 2, np.int64)
    for r in range(row.shape[0]):
        count = 0
        for j in range(-1, row.shape[1]):
            s, by = (r, 1.0) if j < 0 else (row[r, j], -float(weight[r, j]))
            if s < 0:
                break
            for slot in range(2):
                c = assignment[s, slot]
                if seen[c] != r:
                    seen[c], design[c], column[count] = r, 0.0, c
                    count += 1
                design[c] += by * float(coefficient[s, slot])
        for a in range(count):
            value = float(inverse[r]) * design[column[a]]
            for b in range(a, count):
                low, high = min(column[a], column[b]), max(column[a], column[b])
                out[low, high] += value * design[column[b]]


@numba.njit(cache=True, nogil=True)
def _rows_of_inverse(
    first: int, last: int, normal_inverse: Float64, assignment: Int64, coefficient: Float32, out: Float64
) -> None:
    """What images are in each row, times the inverse of the normal matrix."""
    for r in range(first, last):
        a, b = normal_inverse[assignment[r, 0]], normal_inverse[assignment[r, 1]]
        la, lb = float(coefficient[r, 0]), float(coefficient[r, 1])
        for c in range(out.shape[1]):
            out[r, c] = la * a[c] + lb * b[c]


@numba.njit(cache=True, nogil=True)
def _less_own(
    first: int, last: int, row: Int64, weight: Float32, inverse: Float32, table: Float64, out: Float64
) -> None:
    """Rows of a table less those of their companions, over their scale."""
    for r in range(first, last):
        target, by_scale = out[r], float(inverse[r])
        for c in range(table.shape[1]):
            target[c] = by_scale * table[r, c]
        for j in range(row.shape[1]):
            if row[r, j] < 0:
                break
            other, by = table[row[r, j]], by_scale * float(weight[r, j])
            for c in range(table.shape[1]):
                target[c] -= by * other[c]


@numba.njit(cache=True, nogil=True)
def _influence(
    first: int,
    last: int,
    start: Int64,
    whose: Int64,
    by: Float32,
    table: Float64,
    image_class: Int64,
    of_class: Int64,
    out: Float64,
) -> None:
    """Rows of a table less those of the rows whose companion they are, on the images of their own classes."""
    for s in range(first, last):
        for slot in range(2):
            low, high = of_class[image_class[s, slot]], of_class[image_class[s, slot] + 1]
            target, own = out[s, slot], table[s, low:high]
            for c in range(high - low):
                target[c] = own[c]
            for e in range(start[s], start[s + 1]):
                other, share = table[whose[e], low:high], float(by[e])
                for c in range(high - low):
                    target[c] -= share * other[c]


def fit_images(
    signed: Float32,
    found: list[Companions],
    assignment: Int64,
    coefficient: Float32,
    mean: Float32,
    slots: Slots,
    ridge: float = 1e-3,
) -> tuple[Float32, Float64]:
    """Least squares for the private images, of each row less its companions, with a slight pull to the mean image.

    Parameters
    ----------
    signed : float32 (n, channels, h, w)
        Encryptions with their mask lifted.
    found : list of Companions
        Of blocks of rows that follow each other, such as `parts` makes; each counts its rows from its first.
    assignment : int64 (n, 2)
        Every slot holds an image.
    coefficient : float32 (n, 2)
    mean : float32 (channels,)
        Mean colour of public images.
    slots : Slots
    ridge : float
        Weight of the pull, as a share of the mean diagonal of the normal matrix.

    Returns
    -------
    image : float32 (images, channels, h, w)
        Clipped to [-1, 1].
    influence : float64 (n, 2, largest)
        Change of the images of each slot's class with each encryption.
    """
    n, n_images = len(signed), slots.n_images
    flat = signed.reshape(n, -1)
    centre = np.repeat(mean, flat.shape[1] // len(mean))
    end = np.cumsum([len(each.row) for each in found])
    blocks = [
        (slice(high - len(each.row), high), each, 1 / each.scale, _whose(each))
        for high, each in zip(end, found, strict=True)
    ]
    normal, right = np.zeros((n_images, n_images)), np.zeros((n_images, flat.shape[1]))
    for rows, each, precision, whose in blocks:
        held = assignment[rows], coefficient[rows]
        left, back = np.empty_like(flat[rows]), np.empty_like(flat[rows])
        in_blocks(_less_companions, len(left), each.row, each.weight, flat[rows], centre, left)
        in_blocks(_hand_back, len(left), *whose, precision, left, back)
        add_right_side(back, *held, np.ones(len(left), np.float32), np.zeros_like(centre), right)
        _add_normal(each.row, each.weight, precision, *held, normal)
    normal += np.triu(normal, 1).T
    normal += (ridge * float(np.mean(np.diagonal(normal))) + 1e-12) * np.eye(n_images)
    lower = factor(normal)
    image = solve_columns(lower, right).reshape(n_images, *signed.shape[1:]) + mean[:, None, None]
    normal_inverse = inverse(lower)
    influence = np.zeros((n, 2, slots.largest))
    for rows, each, precision, whose in blocks:
        held = assignment[rows], coefficient[rows]
        table, less = np.empty((len(each.row), n_images)), np.empty((len(each.row), n_images))
        in_blocks(_rows_of_inverse, len(table), normal_inverse, *held, table)
        in_blocks(_less_own, len(table), each.row, each.weight, precision, table, less)
        own = slots.image_class[rows], slots.start
        in_blocks(_influence, len(table), *whose, less, *own, influence[rows])
    return np.clip(image, -1.0, 1.0).astype(np.float32), influence
