"""Private images once masks and pairs are known: exact wherever the equations allow.

Without its mask, an encryption is linear in its images (:mod:`instahide_nb.attacks.mixtures`). If all coefficients are
known, one least squares problem gives all private and public images; rounding to 256 levels makes them exact. If the
challenge's own public images are known but no coefficients, coefficients and private images are estimated in turn until
they are exact. If only private coefficients are known, generalised least squares uses the covariance of residuals
within epochs. Images and coefficients that reproduce an encryption bit for bit are proved right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from instahide_nb.attacks.exact import factor, integer_product, inverse, solve
from instahide_nb.attacks.generator.replay import Replay, image_classes
from instahide_nb.attacks.mixtures import Mixtures, fit, mean_square, normal_matrix, predictions, right_side
from instahide_nb.attacks.unmask.windows import Windows, on_canvas, view_table
from instahide_nb.challenge.release import Release
from instahide_nb.core.arrays import Bool, Float, Float32, Float64, Int64, UInt8
from instahide_nb.core.kernels import kernel
from instahide_nb.core.progress import progress
from instahide_nb.core.threads import in_blocks
from instahide_nb.scheme.encryption import WEIGHT_ONE, pixel_bytes, pixel_values
from instahide_nb.scheme.views import PAD, apply_views

MOST_UNKNOWNS = 6000
"""With more images than this, one system for all of them takes too much memory (8 bytes times the square of their
number). With more images than rows, it has no unique solution."""

_RIDGE = 1e-10  # weak pull to the mean image, for images that the equations do not determine
_ROUNDS = 4  # alternations of images and residual variances; then of images and residual covariances
_COVARIANCE_RIDGE = 1e-3  # share of the diagonal: the covariance is estimated
_OWN_PUBLIC = 0.5  # least share of the residual variance that the challenge's own public images explain
_FITS = 5  # runs of conjugate gradients for augmented images, each of ten steps
_REFINEMENTS = 40  # of three steps each
_SLOWEST = 0.98  # largest factor by which a step is assumed to shrink the error
_BLOCK = 500  # rows or columns at a time


@dataclass(frozen=True)
class RecoveredImages:
    """Private images (N, d) in [-1, 1], and how certain they are.

    `coefficient` (n, p) holds the private coefficients as far as known. `proved` (N,) marks the images of encryptions
    that images and coefficients reproduce bit for bit; `reproduced` is the share of these encryptions. `how` says what
    the images were computed from, `public_images` how many public images were recovered too.
    """

    private: Float64
    coefficient: npt.NDArray[np.floating]
    proved: Bool
    reproduced: float
    how: str
    public_images: int = 0

    def pixels(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The images as (N, h, w, 3) float32; proved ones on the 8-bit grid."""
        values = np.clip(self.private, -1, 1).astype(np.float32)
        return np.where(self.proved[:, None], pixel_values(pixel_bytes(self.private)), values).reshape(-1, *shape)

    def ordered_pairs(self, index: npt.NDArray[np.int32]) -> Int64:
        """The private images of each encryption, the largest coefficient first; (n, p)."""
        order = np.argsort(-self.coefficient, axis=1, kind="stable")
        return np.take_along_axis(index.astype(np.int64), order, axis=1)


def _from_bytes(images: UInt8) -> Float64:
    return (2.0 * images.reshape(len(images), -1) - 255) / 255


def without_mask(encryption: npt.NDArray[np.float32], positive: Bool) -> Float64:
    """Encryptions with their masks removed, (n, d) float64."""
    rows = encryption.reshape(len(encryption), -1).astype(np.float64)
    return np.negative(rows, out=rows, where=~positive)


def recover_images(
    release: Release, replay: Replay, public: UInt8, coefficient: npt.NDArray[np.floating] | None = None
) -> RecoveredImages:
    """Private images from the replayed draws, or from estimated private coefficients (n, p).

    Where public images are not known, the mean of the attacker's `public` images (m, h, w, 3) stands for them. If these
    turn out to be the challenge's own, the images are exact without coefficients too.
    """
    info, rows = release.info, without_mask(release.encryption, replay.positive)
    places, size = info.private_per_row, info.n_private
    known = np.zeros((0, rows.shape[1]))
    if len(public) and public[0].size == rows.shape[1]:
        known = _from_bytes(public)
    mean = known.sum(axis=0) / max(len(known), 1)
    # Images are numbered in one table: private ones, then public ones.
    index = replay.index.astype(np.int64)
    index[:, places:] += size
    if replay.weight is not None:
        used = np.unique(index[:, places:])
        if replay.view is not None:
            return _from_views(release, rows, index, replay.weight, replay.view, used, mean)
        if size + len(used) <= min(MOST_UNKNOWNS, len(rows)):
            return _from_all_coefficients(release, rows, index, replay.weight, used, mean)
        own = Mixtures(index[:, :places], replay.weight[:, :places] / WEIGHT_ONE, size)
        return _from_coefficients(release, rows, own, np.ones(len(rows), np.bool_), mean)
    if coefficient is not None:
        own = Mixtures(index[:, :places], coefficient.astype(np.float64), size)
        return _from_coefficients(release, rows, own, np.ones(len(rows), np.bool_), mean)
    first, alone = _from_labels(release, rows, index[:, :places], mean)
    own_public = known[:0] if places == info.k else known
    if len(own_public) and (
        len(own_public) != info.n_public or not _are_the_own(rows, index, first.private, own_public, places)
    ):
        own_public = known[:0]
    if len(own_public) == 0 and places < info.k:
        return first
    refined = _refined(release, rows, index, first, alone, own_public, places)
    return refined if refined.proved.any() else first


def _from_all_coefficients(
    release: Release, rows: Float64, index: Int64, weight: npt.NDArray[np.uint32], used: Int64, mean: Float64
) -> RecoveredImages:
    """Private and the `used` public images from all coefficients."""
    size, places = release.info.n_private, release.info.private_per_row
    table = np.hstack([index[:, :places], size + np.searchsorted(used, index[:, places:])])
    mixtures, one = Mixtures(table, weight / WEIGHT_ONE, size + len(used)), np.ones(len(rows))
    images = _fit_by_lapack(rows, mixtures, mean)
    proved, share = _proved(release, table, weight, images, size)
    if not proved.all():  # unproved images would have LAPACK's bits, which differ between machines
        images = fit(rows, mixtures, one, mean, _RIDGE)
        proved, share = _proved(release, table, weight, images, size)
    how = "pairs, masks and all coefficients" + ", solved together with the public images" * (len(used) > 0)
    return RecoveredImages(images[:size], mixtures.coefficient[:, :places], proved, share, how, len(used))


def _from_views(
    release: Release,
    rows: Float64,
    index: Int64,
    weight: npt.NDArray[np.uint32],
    view: npt.NDArray[np.int8],
    used: Int64,
    mean: Float64,
) -> RecoveredImages:
    """Private images from rows that contain their views (n, p, 3), by conjugate gradients.

    If there are enough rows, they are projected on the combinations in which the `used` public images cancel.
    Otherwise public images count as noise.
    """
    (n, places), size, (h, w, channels) = view.shape[:2], release.info.n_private, release.encryption.shape[1:]
    views, share = view_table(release.info.augment), weight / WEIGHT_ONE
    number = {tuple(one): v for v, one in enumerate(views.tolist())}
    which = np.array([number[tuple(one)] for one in view.reshape(-1, 3).tolist()]).reshape(n, places)
    own = Mixtures(which * size + index[:, :places], share[:, :places], size)
    public = Mixtures(np.searchsorted(used, index[:, places:]), share[:, places:], len(used)).matrix
    cancel = size + len(used) <= min(MOST_UNKNOWNS, n)
    normal = (public.T @ public).toarray() + _RIDGE * np.eye(len(used))
    factors = cho_factor(normal, lower=True, overwrite_a=True) if cancel and len(used) else None

    def rows_of(left: Float) -> Float64:
        """The public images that fit some columns of rows best."""
        return cho_solve(factors, public.T @ left) if factors else np.zeros((len(used), left.shape[1]))

    def weigh(left: Float32) -> Float32:
        return (left - public @ rows_of(left)).astype(np.float32)

    planar = np.ascontiguousarray(rows.reshape(n, h, w, channels).transpose(0, 3, 1, 2), np.float32)
    if not cancel:
        planar -= own.rest[:, None, None, None] * mean.reshape(h, w, channels).transpose(2, 0, 1)
    windows, start = Windows(views, np.arange(channels)), np.zeros((size, channels, h, w), np.float32)
    canvas, centre = on_canvas(start), on_canvas(start, np.inf)
    weights = weigh if cancel else 1 / np.maximum(own.rest, 0.02) ** 2
    for _ in progress(range(_FITS), desc="views", unit="fit"):
        canvas = windows.fit(planar, own, weights, centre, canvas, _RIDGE)
    pixels = pixel_bytes(canvas[:, :, PAD:-PAD, PAD:-PAD].transpose(0, 2, 3, 1))
    one, place = np.unique(own.assignment, return_inverse=True)
    shown = _from_bytes(apply_views(pixels[one % size], views[one // size]))
    mixtures = Mixtures(place.reshape(n, places), own.coefficient, len(one))
    others = rows_of(rows - mixtures.matrix @ shown)
    table = np.hstack([mixtures.assignment, len(one) + np.searchsorted(used, index[:, places:])])
    right, reproduces = _proved(release, table, weight, np.vstack([shown, others]), len(one))
    proved = np.bincount(one[right] % size, minlength=size) > 0
    how = "pairs, views, masks and all coefficients" + ", solved together with the public images" * cancel
    return RecoveredImages(_from_bytes(pixels), own.coefficient, proved, reproduces, how, len(used) * cancel)


def _fit_by_lapack(rows: Float64, mixtures: Mixtures, mean: Float64) -> Float64:
    """`fit` of rows of equal weight, several times as fast."""
    weight = np.ones(len(rows))
    normal = normal_matrix(mixtures, weight)
    normal[np.diag_indices(len(normal))] += _RIDGE * float(np.mean(np.diagonal(normal)))
    factors = cho_factor(normal, lower=True, overwrite_a=True)
    right = right_side(rows, mixtures, weight, mean)

    def columns(low: int, high: int) -> None:
        right[:, low:high] = cho_solve(factors, right[:, low:high])

    in_blocks(columns, right.shape[1], block=_BLOCK)
    right += mean
    return right


def _proved(
    release: Release, index: Int64, weight: npt.NDArray[np.integer], images: Float64, n_private: int
) -> tuple[Bool, float]:
    """Which private images are in a reproduced encryption, and the share of encryptions that are reproduced."""
    right = reproduced(release.encryption.reshape(len(index), -1), index, weight, pixel_bytes(images))
    proved = np.zeros(len(images), np.bool_)
    proved[index[right]] = True
    return proved[:n_private], float(right.mean())


def reproduced(
    encryption: npt.NDArray[np.float32], index: Int64, weight: npt.NDArray[np.integer], images: UInt8
) -> Bool:
    """Which encryptions (n, d) these images (N, d) and coefficients (times 2^24) reproduce exactly, up to the mask."""
    one, table = 255.0 * WEIGHT_ONE, images.astype(np.float64)
    out = np.empty(len(encryption), np.bool_)
    for low in range(0, len(encryption), _BLOCK):
        rows = slice(low, low + _BLOCK)
        # Sums of integers below 2^53 are exact.
        total = Mixtures(index[rows], weight[rows].astype(np.float64), len(table)).matrix @ table
        value = ((2 * total - one) / one).astype(np.float32)
        out[rows] = (np.abs(value) == np.abs(encryption[rows])).all(axis=1)
    return out


def _left_over(rows: Float64, index: Int64, table: Float64) -> Float64:
    """Rows minus their best mixtures of the images at the given places."""
    mixtures = Mixtures(index, row_coefficients(rows, index, table), len(table))
    return rows - predictions(mixtures, table, np.zeros(rows.shape[1]))


def _are_the_own(rows: Float64, index: Int64, images: Float64, public: Float64, places: int) -> bool:
    """Whether the public images at the replayed places explain most of the residuals of 64 rows."""
    some, table = np.arange(0, len(rows), max(1, len(rows) // 64)), np.vstack([images, public])
    before = mean_square(_left_over(rows[some], index[some, :places], table))
    after = mean_square(_left_over(rows[some], index[some], table))
    return bool(np.median(after / before) < 1 - _OWN_PUBLIC)


def _refined(
    release: Release,
    rows: Float64,
    index: Int64,
    first: RecoveredImages,
    alone: Bool,
    public: Float64,
    places: int,
) -> RecoveredImages:
    """Estimate public coefficients and private images in turn; images that a round proves are kept."""
    images, none, size = first.private, np.zeros(rows.shape[1]), len(first.private)
    part, full, share = rows[alone], first.coefficient, 0.0
    own = Mixtures(index[alone, :places], first.coefficient[alone], size)
    proved = np.zeros(size, np.bool_)

    def step(before: Float64) -> Float64:
        target = part
        if len(public):
            # The rows minus their public parts: the private part, and what neither part explains.
            private = predictions(own, before, none)
            target = private + _left_over(part - private, index[alone, places:] - size, public)
        # All rows have the same weight: otherwise one that happens to fit a wrong image would preserve it.
        return np.where(proved[:, None], images, fit(target, own, np.ones(len(part)), none, _RIDGE))

    for _ in progress(range(_REFINEMENTS), desc="refining", unit="round"):
        one = step(images)
        two = step(one)
        images = _extrapolated(one, two, step(two))
        table = np.vstack([np.where(proved[:, None], images, _from_bytes(pixel_bytes(images))), public])
        full = row_coefficients(rows, index, table)
        proved, share = _proved(release, index, np.rint(full * WEIGHT_ONE).astype(np.int64), table, size)
        images = np.where(proved[:, None], table[:size], images)
        if proved.all():
            break
    how = "pairs, masks and the challenge's own public images" if len(public) else "pairs and masks"
    return RecoveredImages(images, full[:, :places], proved, share, how)


def _extrapolated(one: Float64, two: Float64, three: Float64) -> Float64:
    """The limit of an iteration in which each step is a multiple of the one before, with one factor per image."""
    before, after = two - one, three - two
    shrinking = np.clip(_mean_product(before, after) / np.maximum(mean_square(before), 1e-30), 0, _SLOWEST)
    return three + after * (shrinking / (1 - shrinking))[:, None]


def _mean_product(a: Float64, b: Float64) -> Float64:
    """Mean of ``a * b`` over each row, added in a fixed order."""
    return np.add.accumulate(a * b, axis=1)[:, -1] / a.shape[1]


@kernel
def _row_coefficients(first: int, last: int, rows: Float64, index: Int64, images: Float64, out: Float64) -> None:
    k, size = index.shape[1], rows.shape[1]
    normal, right = np.empty((k, k)), np.empty((k, 1))
    for r in range(first, last):
        for i in range(k):
            a = images[index[r, i]]
            for j in range(i, k):
                b = images[index[r, j]]
                total = 0.0
                for p in range(size):
                    total += a[p] * b[p]
                normal[i, j] = total
                normal[j, i] = total
            normal[i, i] += 1e-9 * size
            total = 0.0
            for p in range(size):
                total += a[p] * rows[r, p]
            right[i, 0] = total
        out[r] = solve(factor(normal), right)[:, 0]


def row_coefficients(rows: Float64, index: Int64, images: Float64) -> Float64:
    """The coefficients (n, k) of each row (n, d) by least squares, given its images."""
    out = np.empty(index.shape)
    in_blocks(_row_coefficients, len(rows), rows, np.ascontiguousarray(index), images, out)
    return out


def _from_labels(release: Release, rows: Float64, pair: Int64, mean: Float64) -> tuple[RecoveredImages, Bool]:
    """Images from masks, pairs (n, p) and labels, and the rows whose label shows each coefficient alone.

    Images of one class in a row first get equal parts of their sum.
    """
    label = release.shown
    own = image_classes(label, pair)[0][pair]
    sharing = (own[:, :, None] == own[:, None, :]).sum(axis=2)
    coefficient = np.asarray(label, np.float64)[np.arange(len(label))[:, None], own] / sharing
    alone = (sharing == 1).all(axis=1)
    if np.bincount(pair[alone].ravel(), minlength=release.info.n_private).min() < 2 * pair.shape[1]:
        alone[:] = True
    mixtures = Mixtures(pair, coefficient, release.info.n_private)
    return _from_coefficients(release, rows, mixtures, alone, mean), alone


def _from_coefficients(
    release: Release, rows: Float64, mixtures: Mixtures, alone: Bool, mean: Float64
) -> RecoveredImages:
    """Images from private coefficients. Rows that are not `alone` show only sums, which are split if p = 2.

    Within an epoch, residuals are predicted from each other.
    """
    size, pair = release.info.n_private, mixtures.assignment
    images = _weighted_fit(rows, mixtures, alone, mean)
    if pair.shape[1] == 2:
        split = np.flatnonzero(~alone & (pair[:, 0] != pair[:, 1]))
        left = rows - predictions(mixtures, images, mean)
        mixtures = _split_sums(mixtures, split, left[split], images)
        images = _weighted_fit(rows, mixtures, np.ones(len(pair), np.bool_), mean)
    for _ in progress(range(_ROUNDS * (release.info.scheme == "cross")), desc="covariance", unit="round"):
        left = rows - predictions(mixtures, images, mean)
        precision = _residual_precision(left.reshape(-1, size, *release.encryption.shape[1:]))
        images = np.clip(fit(rows, mixtures, precision, mean, _RIDGE), -1, 1)
        if pair.shape[1] == 2:
            left = rows - predictions(mixtures, images, mean)
            mixtures = _split_sums(mixtures, split, _unpredicted(left, precision, split), images)
    how = "pairs, masks and the private coefficients"
    return RecoveredImages(images, mixtures.coefficient, np.zeros(size, np.bool_), 0.0, how)


def _weighted_fit(rows: Float64, mixtures: Mixtures, known: Bool, mean: Float64) -> Float64:
    """Least squares over the rows that are `known`, each weighted with one over its residual variance."""
    variance = np.maximum(mixtures.rest * mixtures.rest, 1e-6)
    images = np.zeros((mixtures.n_images, rows.shape[1]))
    for _ in range(_ROUNDS):
        images = np.clip(fit(rows, mixtures, np.where(known, 1 / variance, 0.0), mean, _RIDGE), -1, 1)
        variance = np.maximum(mean_square(rows - predictions(mixtures, images, mean)), 1e-6)
    return images


def _split_sums(mixtures: Mixtures, split: Int64, left: Float64, images: Float64) -> Mixtures:
    """In the rows `split`, of which only the sum is known, fit the two coefficients to their residuals `left`."""
    pair, coefficient = mixtures.assignment[split], mixtures.coefficient.copy()
    total = coefficient[split].sum(axis=1)
    difference = images[pair[:, 0]] - images[pair[:, 1]]
    along = np.maximum(mean_square(difference), 1e-15)
    first = np.clip(coefficient[split, 0] + _mean_product(left, difference) / along, 0.0, total)
    coefficient[split] = np.stack([first, total - first], axis=1)
    return Mixtures(mixtures.assignment, coefficient, mixtures.n_images)


def _unpredicted(left: Float64, precision: Float64, some: Int64) -> Float64:
    """``(K e)_i / K_ii`` of some rows: the residual minus what those of the other rows of its epoch predict."""
    epoch, row = np.divmod(some, precision.shape[1])
    share = precision[epoch, row] / precision[epoch, row, row][:, None]
    out = np.empty((len(some), left.shape[1]))
    for e, own in enumerate(left.reshape(len(precision), -1, left.shape[1])):
        out[epoch == e] = csr_array(share[epoch == e]) @ own
    return out


def _residual_precision(left: Float64) -> Float64:
    """Precision matrix of each epoch's residuals (epochs, N, h, w, channels) over pixels, float64 (epochs, N, N).

    The samples are differences of neighbouring pixels, which are nearly independent.
    """
    size, blocks = left.shape[1], []
    for own in left:
        down, right = own[:, 1:] - own[:, :-1], own[:, :, 1:] - own[:, :, :-1]
        sample = np.hstack([down.reshape(size, -1), right.reshape(size, -1)])
        covariance = integer_product(sample, sample, fine=True) / sample.shape[1]
        covariance[np.diag_indices(size)] *= 1 + _COVARIANCE_RIDGE
        blocks.append(inverse(factor(covariance)))
    return np.array(blocks)
