"""What constrains the codes: classes, sums of coefficients, epochs, and the distribution of the coefficients.

Labels with coefficients give the classes of a row and the sum of the coefficients of each class. Labels with classes
give the classes only. Without public images the coefficients of a row sum to 1. The attack needs none of this. Whether
rows come in epochs is inferred from the codes, since rows may be shuffled. Where no sum is known, an image half as
bright with coefficients twice as large fits the same rows; then the distribution of the coefficients gives the scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import factor, solve
from instahide_nb.attacks.mixtures import Mixtures, normal_matrix
from instahide_nb.attacks.unmask.windows import image_of
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.arrays import Bool, Float, Float32, Float64, Int64
from instahide_nb.core.errors import InputError
from instahide_nb.scheme.encryption import draw_coefficients
from instahide_nb.scheme.streams import Mt19937Stream

_DRAWS = 20_000  # simulated rows from which the distribution of the coefficients is taken
_GRID = 2.0**20  # it is rounded to multiples of 1/_GRID: a logarithm's last bit differs between machines
_SURE = 5.0  # standard deviations by which images must be spread over blocks more evenly than by chance
_MANY = 4  # with more private images per row than this, known sums are a weak penalty
_RIDGE = 0.02  # weight of the pull of each image's scale towards the common one


@dataclass(frozen=True)
class Known:
    """Constraints on the codes of all rows."""

    per_row: int  # private images per row, p
    image_class: Int64  # (N,), ascending, repeated for each view; labels give the number of images per class
    present: Bool  # (n, classes): which a row contains; without labels, one class that is in every row
    share: Float64 | None  # (n, classes): sum of the coefficients of each class, if known
    epochs: bool = False  # whether rows come in blocks of N in which each image occurs p times
    stiffness: float = 1e3  # weight of the penalty on sums, in mean squared norms of an image
    views: Int64 | None = None  # (V, 3): candidate v N + j is view v of image j (`windows`)

    @property
    def n_images(self) -> int:
        """Number of private images, N."""
        return len(self.image_class) // (1 if self.views is None else len(self.views))

    def with_epochs(self, assignment: Int64) -> Known:
        """These constraints, with epochs if codes (n, p) show them and without otherwise."""
        return replace(self, epochs=in_epochs(image_of(assignment, self.n_images), self.n_images))

    def part(self, rows: slice | Int64) -> Known:
        """The constraints on some rows."""
        share = None if self.share is None else self.share[rows]
        return replace(self, present=self.present[rows], share=share)


def read_known(label: npt.NDArray[np.floating] | None, n: int, n_images: int, per_row: int) -> Known:
    """The constraints that labels (n, classes) set; None sets none.

    Raises InputError if a label is negative or names no class or more than p classes, or if there are fewer images than
    classes.
    """
    if label is None:
        return Known(per_row, np.zeros(n_images, np.int64), np.ones((n, 1), bool), None)
    present = label > 0
    count = present.sum(axis=1)
    if (label < 0).any() or count.min() < 1 or count.max() > per_row:
        raise InputError(
            f"label.npy: a row has between 1 and {per_row} positive entries, the coefficients (or classes) of its "
            f"{per_row} private images; this label.npy has rows with {int(count.min())} to {int(count.max())}"
        )
    # entries of 1 are classes: coefficients of a row with several classes sum to 1 at most, so none is 1
    classes_only = bool((label[present] == 1).all()) and bool((count > 1).any())
    image_class = np.repeat(np.arange(label.shape[1]), _class_sizes(present, n_images, per_row))
    return Known(per_row, image_class, present, None if classes_only else label.astype(np.float64))


def _class_sizes(present: Bool, n_images: int, per_row: int) -> Int64:
    """Images of each class, in proportion to how often it occurs (largest remainders).

    A row with fewer classes than private images counts in equal parts for the classes it has.
    """
    weight = per_row * present / present.sum(axis=1, keepdims=True)
    occurrence = np.rint(60 * weight).astype(np.int64).sum(axis=0)  # 60: halves, thirds, quarters and fifths are whole
    share = occurrence * n_images
    size = share // occurrence.sum()
    size[(size == 0) & (occurrence > 0)] = 1
    if size.sum() > n_images:
        raise InputError(f"n_private: {n_images} images cannot cover the {int((occurrence > 0).sum())} classes seen")
    remainder = share - size * occurrence.sum()
    for _ in range(int(n_images - size.sum())):
        best = int(np.argmax(remainder))
        size[best] += 1
        remainder[best] -= occurrence.sum()
    return size


def in_epochs(assignment: Int64, n_images: int) -> bool:
    """Whether images occur more evenly in blocks of N rows than they would in shuffled rows.

    In an epoch each image occurs p times. In shuffled rows, the number of an image with m places per block on average
    has variance m (1 - m / N), and the sum over images and blocks is about chi-square; its quantile is Wilson and
    Hilferty's. Wrong codes add some variance in epochs, but none in shuffled rows.
    """
    n, held = len(assignment), assignment.ravel()
    if n % n_images or n // n_images < 2:
        return False
    block = np.repeat(np.arange(n) // n_images, assignment.shape[1])
    count = np.zeros((n // n_images, n_images + 1), np.int64)
    np.add.at(count, (block, held), 1)  # -1 counts in the last column
    count = count[:, :n_images]
    mean = count.mean(axis=0)
    chance = (mean * (1 - mean / n_images)).sum()  # the images of a row differ
    part = 2 / (9 * (len(count) - 1) * n_images)
    return bool(((count - mean) ** 2).sum() / (len(count) - 1) < chance * (1 - part - _SURE * np.sqrt(part)) ** 3)


def coefficient_law(info: ReleaseInfo) -> Float64:
    """Private coefficients of many rows as the scheme draws them, float64 (draws, p), each column ascending.

    Column j holds the (j+1)-th largest coefficients of the rows.
    """
    stream, p = Mt19937Stream(0), info.private_per_row
    least = info.min_private_sum if info.scheme == "cross" else 0.0
    most = info.max_coefficient
    drawn = draw_coefficients(stream, _DRAWS, info.k, max_coefficient=most, min_private_sum=least, private=p)[:, :p]
    return np.rint(np.sort(-np.sort(-drawn, axis=1), axis=0) * _GRID) / _GRID


def by_law(coefficient: Float, law: Float64) -> Float32:
    """Replace coefficients (n, p) by values of the distribution `law`, keeping their ranks.

    The largest coefficient of each row is ranked among the largest of all rows, and so on.
    """
    order = np.argsort(-coefficient, axis=1, kind="stable")
    ordered = np.take_along_axis(coefficient, order, axis=1)
    out = np.empty(coefficient.shape, np.float32)
    for j in range(coefficient.shape[1]):
        rank = np.argsort(np.argsort(ordered[:, j], kind="stable"), kind="stable")
        place = (2 * rank + 1) * len(law) // (2 * len(rank))
        ordered[:, j] = law[place, j]
    np.put_along_axis(out, order, ordered, axis=1)
    return out


def scales_by_law(mixtures: Mixtures, law: Float64) -> Float32:
    """Factor for each image's coefficients that gives them the mean square of `law`, float32 (N,)."""
    held = mixtures.assignment.ravel()
    square = np.bincount(held, mixtures.coefficient.ravel().astype(np.float64) ** 2, mixtures.n_images)
    count = np.bincount(held, minlength=mixtures.n_images)
    wanted = np.add.accumulate((law * law).ravel())[-1] / law.size
    return np.sqrt(wanted * np.maximum(count, 1) / np.maximum(square, 1e-9)).astype(np.float32)


def scales_by_sum(mixtures: Mixtures, known: Known) -> Float32:
    """Factor for each image's coefficients that fits known sums best, by least squares, float32 (N,).

    The sums are those of each class, or 1 for whole rows.
    """
    share, image_class = known.share, known.image_class[: known.n_images]
    if share is None:
        share, image_class = np.ones((len(mixtures.assignment), 1)), np.zeros(known.n_images, np.int64)
    held = mixtures.assignment
    normal = normal_matrix(mixtures, np.ones(len(held)))
    normal *= image_class[:, None] == image_class
    wanted = np.take_along_axis(share, image_class[held], axis=1) * mixtures.coefficient
    right = np.bincount(held.ravel(), wanted.ravel(), mixtures.n_images)
    common = right.sum() / normal.sum()
    ridge = _RIDGE * float(np.mean(np.diagonal(normal)))
    found = solve(factor(normal + ridge * np.eye(len(normal))), (right + ridge * common)[:, None])
    return found[:, 0].astype(np.float32)


def known_of(release: Release) -> Known:
    """The constraints of a release: its labels, and the sum of 1 where there are no public images and no labels."""
    info, n = release.info, len(release.encryption)
    known = read_known(release.label, n, info.n_private, info.private_per_row)
    # In rows of many images, one with a small coefficient is often wrong; a strict sum would give it the whole rest.
    return replace(known, stiffness=0.1) if info.private_per_row > _MANY else known
