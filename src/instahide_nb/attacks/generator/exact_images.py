"""The last step of both generator attacks: from a replay to images, exact wherever the equations allow.

What was recovered is tried against the encryptions: images and coefficients that reproduce an encryption bit for bit
are proved right, and the share of encryptions that are so reproduced is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.generator.joint import joint_images
from instahide_nb.attacks.generator.known_signs import (
    generalised_images,
    integer_shares,
    lift,
    public_covariance,
    reproduced,
    row_coefficients,
    solve_weighted,
)
from instahide_nb.attacks.generator.label_images import images_from_labels
from instahide_nb.attacks.generator.replay import Replay
from instahide_nb.challenge.release import Release
from instahide_nb.core.progress import progress
from instahide_nb.scheme.encryption import WEIGHT_ONE, pixel_values

__all__ = ["RecoveredImages", "ordered_pairs", "private_places", "recover_images", "recovered_pixels"]

Float64 = npt.NDArray[np.float64]
Images8 = npt.NDArray[np.uint8]

_OWN_PUBLIC = (
    0.5  # share of the public parts' variance that the challenge's own public images explain, at least
)
_REFINEMENTS = 40  # of three steps each
_SLOWEST = 0.98  # factor by which a step is believed to shrink the distance, at most


@dataclass(frozen=True)
class RecoveredImages:
    """Private images, and how sure they are.

    Attributes
    ----------
    private : (N, d) float64 array
        In [-1, 1].
    coefficient : (n, p) float64 array
        The private coefficients of each encryption, as far as known.
    proved : (N,) bool array
        Images that are in an encryption which images and coefficients reproduce bit for bit.
    reproduced : float
        Share of encryptions that are so reproduced.
    how : str
        What the images follow from, in words.
    public_images : int
        Public images that were recovered on the way.
    """

    private: Float64
    coefficient: Float64
    proved: npt.NDArray[np.bool_]
    reproduced: float
    how: str
    public_images: int = 0

    @property
    def exact(self) -> bool:
        """Whether all images are proved right."""
        return bool(self.proved.all())


def _proved(
    rows: npt.NDArray[np.bool_], pair: npt.NDArray[np.int32], n_private: int
) -> npt.NDArray[np.bool_]:
    """The images of encryptions that are reproduced."""
    proved = np.zeros(n_private, np.bool_)
    proved[pair[rows]] = True
    return proved


def private_places(scheme: str, k: int) -> int:
    """How many of an encryption's k images are private.

    Examples
    --------
    >>> private_places("cross", 6), private_places("inside", 6)
    (2, 6)
    """
    return 2 if scheme == "cross" else k


def _to_grid(values: Float64) -> Images8:
    return np.clip(np.rint((values * 255 + 255) / 2), 0, 255).astype(np.uint8)


def _values(images: Images8) -> Float64:
    return (2.0 * images.reshape(len(images), -1) - 255) / 255


def _mean_image(public: Images8, size: int) -> Float64:
    """The attacker's mean public image; the middle grey where there are none of this size."""
    if len(public) == 0 or public[0].size != size:
        return np.zeros(size)
    return _values(public).sum(axis=0) / len(public)


def recover_images(release: Release, replay: Replay, public: Images8) -> RecoveredImages:
    """Private images from everything that was drawn.

    Parameters
    ----------
    release : Release
    replay : Replay
        With or without coefficients.
    public : (m, h, w, 3) uint8 array
        The attacker's public images: their mean serves where public parts are not known, and where they turn out to be
        the challenge's own, the images become exact without C's coefficients too.

    Returns
    -------
    RecoveredImages
    """
    if replay.weight is None:
        return _without_coefficients(release, replay, public)
    return _with_coefficients(release, replay, replay.weight, public)


def _with_coefficients(
    release: Release, replay: Replay, weight: npt.NDArray[np.uint32], public: Images8
) -> RecoveredImages:
    info = release.info
    places = private_places(info.scheme, info.k)
    lifted = lift(release.encryption, replay.positive)
    coefficient = weight / WEIGHT_ONE
    flat = release.encryption.reshape(len(lifted), -1)
    mean = _mean_image(public, lifted.shape[1])
    no_public = np.zeros((0, lifted.shape[1]), np.uint8)
    if places == info.k:
        images = generalised_images(lifted, replay.index, coefficient, info.n_private)
        rows = reproduced(flat, replay.index, weight, _to_grid(images), no_public, places)
        proved = _proved(rows, replay.index, info.n_private)
        return RecoveredImages(
            images, coefficient, proved, float(rows.mean()), "pairs, masks and all coefficients"
        )
    joint = joint_images(lifted, replay.index, coefficient, info.n_private, mean)
    if joint is None:
        public_index = np.ascontiguousarray(replay.index[:, 2:])
        images = generalised_images(
            lifted - (1 - coefficient[:, 0] - coefficient[:, 1])[:, None] * mean,
            replay.index[:, :2],
            coefficient[:, :2],
            info.n_private,
            lambda rows: public_covariance(public_index[rows], coefficient[rows, 2:]),
        )
        how = "pairs, masks and all coefficients, the public images being noise"
        return RecoveredImages(images, coefficient[:, :2], np.zeros(info.n_private, np.bool_), 0.0, how)
    images, used, found = joint
    grid = np.zeros((int(used.max()) + 1, lifted.shape[1]), np.uint8)
    grid[used] = _to_grid(found)
    rows = reproduced(flat, replay.index, weight, _to_grid(images), grid, places)
    proved = _proved(rows, replay.index[:, :2], info.n_private)
    how = "pairs, masks and all coefficients, solved together with the public images"
    return RecoveredImages(images, coefficient[:, :2], proved, float(rows.mean()), how, len(used))


def _without_coefficients(release: Release, replay: Replay, public: Images8) -> RecoveredImages:
    info = release.info
    places = private_places(info.scheme, info.k)
    lifted = lift(release.encryption, replay.positive)
    mean = _mean_image(public, lifted.shape[1])
    first_guess = images_from_labels(
        lifted,
        np.ascontiguousarray(replay.index[:, :places]),
        release.label,
        info.n_private,
        mean,
        info.scheme,
    )
    images, coefficient, alone = first_guess.private, first_guess.coefficient, first_guess.alone
    variance = first_guess.variance
    nothing = np.zeros(info.n_private, np.bool_)
    first = RecoveredImages(images, coefficient, nothing, 0.0, "pairs, masks and the labels' coefficients")
    own = _values(public) if places < info.k and len(public) == info.n_public else np.zeros((0, len(mean)))
    if places < info.k:
        if own.shape[1] != lifted.shape[1] or len(own) == 0:
            return first
        if not _are_the_own(lifted, replay.index, images, own, places, variance):
            return first
    refined = _refine(release, lifted, replay.index, coefficient, alone, images, own, places)
    return refined if refined.proved.any() else first


def _refine(
    release: Release,
    lifted: Float64,
    index: npt.NDArray[np.int32],
    coefficient: Float64,
    alone: npt.NDArray[np.bool_],
    images: Float64,
    own: Float64,
    places: int,
) -> RecoveredImages:
    """Public coefficients and private images in turn; images that are proved by a round are kept as they are."""
    rows = np.flatnonzero(alone)
    part, public_index = lifted[rows], np.ascontiguousarray(index[rows, places:])
    pair, shares = np.ascontiguousarray(index[rows, :places]), coefficient[rows]
    flat = release.encryption.reshape(len(lifted), -1)
    own_grid = _to_grid(own)
    proved, share, full = np.zeros(len(images), np.bool_), 0.0, coefficient
    for _ in progress(range(_REFINEMENTS), desc="refining", unit="round"):
        steps = [images]
        for _ in range(3):
            public_part = _public_part(part, pair, shares, public_index, steps[-1], own)
            # All weigh the same: a row that happens to fit a wrong image must not keep it in place.
            solved = solve_weighted(part - public_part, pair, shares, np.ones(len(rows)), len(images))
            steps.append(np.where(proved[:, None], images, solved))
        images = _extrapolated(*steps[1:])
        values = np.where(proved[:, None], images, _values(_to_grid(images)))
        full = row_coefficients(lifted, index, values, own, places)
        right = reproduced(flat, index, integer_shares(full), _to_grid(values), own_grid, places)
        proved, share = _proved(right, index[:, :places], len(images)), float(right.mean())
        images = np.where(proved[:, None], values, images)
        if proved.all():
            break
    how = "pairs, masks and the challenge's own public images" if len(own) else "pairs and masks"
    return RecoveredImages(images, full[:, :places], proved, share, how)


def _extrapolated(first: Float64, second: Float64, third: Float64) -> Float64:
    """Where three steps of an iteration lead to, when each image's distance shrinks by the same factor a step."""
    before, after = second - first, third - second
    along = np.add.accumulate(before * after, axis=1)[:, -1]
    size = np.add.accumulate(before * before, axis=1)[:, -1]
    factor = np.clip(along / np.maximum(size, 1e-30), 0, _SLOWEST)
    return third + after * (factor / (1 - factor))[:, None]


def _public_part(
    part: Float64,
    pair: npt.NDArray[np.int32],
    shares: Float64,
    public_index: npt.NDArray[np.int32],
    images: Float64,
    own: Float64,
) -> Float64:
    """The public part of encryptions by least squares, given their private images."""
    left = part.copy()
    for j in range(pair.shape[1]):
        left -= shares[:, j, None] * images[pair[:, j]]
    public_part = np.zeros_like(part)
    if public_index.shape[1]:
        found = row_coefficients(left, public_index, own, own, 0)
        for j in range(public_index.shape[1]):
            public_part += found[:, j, None] * own[public_index[:, j]]
    return public_part


def _are_the_own(
    lifted: Float64,
    index: npt.NDArray[np.int32],
    images: Float64,
    own: Float64,
    places: int,
    variance: Float64,
) -> bool:
    """Whether the public images at the replayed places explain what the private ones leave; a few rows decide."""
    rows = np.arange(0, len(lifted), max(1, len(lifted) // 64))
    shares = row_coefficients(lifted[rows], index[rows], images, own, places)
    left = lifted[rows].copy()
    for j in range(index.shape[1]):
        source = images if j < places else own
        left -= shares[:, j, None] * source[index[rows, j]]
    after = np.add.accumulate(left * left, axis=1)[:, -1] / left.shape[1]
    return bool(np.median(after / variance[rows]) < 1 - _OWN_PUBLIC)


def ordered_pairs(images: RecoveredImages, index: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The first two images of each encryption, which the challenge asks for, the larger coefficient first; (n, 2)."""
    pair = index[:, :2].astype(np.int64)
    swap = images.coefficient[:, 1] > images.coefficient[:, 0]
    return np.where(swap[:, None], pair[:, ::-1], pair)


def recovered_pixels(images: RecoveredImages, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The private images as (N, h, w, 3) float32, those that are proved on the 8-bit grid."""
    grid = pixel_values(_to_grid(images.private))
    values = np.clip(images.private, -1, 1).astype(np.float32)
    return np.where(images.proved[:, None], grid, values).reshape(-1, *shape)
