"""Images that rows hold either way round: an image and its mirror image are two candidates of one fit.

Candidates 0 .. N-1 are the images P_j, candidates N .. 2N-1 their mirror images M P_j. A row is a mixture of
candidates, ``x = sum_j a_j F_j P_j`` with each F_j the identity or M. For S = (P + M P)/2 and D = (P - M P)/2 the
symmetric and the antisymmetric parts of rows are two separate instances of the linear model of :mod:`..mixtures`: with
coefficients a_j, and with a_j where F_j is the identity, -a_j where it is M.
"""

from __future__ import annotations

import numpy as np

from instahide_nb.attacks.mixtures import Fit, Mixtures, Weights, fit, influence
from instahide_nb.core.arrays import Bool, Float, Float32, Int64

EDGE_PLANES = np.array([0, 1, 3, 2, 4, 5, 6])
"""Planes of edge energies in a mirror: the two diagonals change places."""


def mirrored(rows: Float32, planes: Int64 | None = None) -> Float32:
    """Rows (n, planes, h, w) in a mirror, their planes in the order `planes`."""
    return np.ascontiguousarray((rows if planes is None else rows[:, planes])[..., ::-1])


def image_of(assignment: Int64, n_images: int) -> Int64:
    """The images that candidates show, -1 where unknown."""
    return np.where(assignment < 0, -1, assignment % n_images)


def both_ways(mixtures: Mixtures) -> Mixtures:
    """The mixtures of all rows, then those of the same rows in a mirror."""
    held, n = mixtures.assignment, mixtures.n_images
    turned = np.where(held < 0, -1, (held + n // 2) % n)
    share = np.concatenate([mixtures.coefficient, mixtures.coefficient])
    return Mixtures(np.concatenate([held, turned]), share, n)


def fit_views(
    rows: Float32,
    mixtures: Mixtures,
    weights: Weights,
    mean: Float,
    ridge: float,
    planes: Int64 | None = None,
) -> Fit:
    """Images and mirror images by least squares; the other arguments are those of :func:`..mixtures.fit`.

    How a row changes an image through its own mirror image is left out of the influence.
    """
    n, turned, part, pull = mixtures.n_images // 2, mirrored(rows, planes), [], []
    held, flipped = image_of(mixtures.assignment, n), mixtures.assignment >= n
    for sign, centre in ((1, mean), (-1, np.zeros_like(mean))):
        half = (rows + np.float32(sign) * turned) * np.float32(0.5)
        one = Mixtures(held, np.where(flipped, sign, 1) * mixtures.coefficient, n)
        part.append(fit(half.reshape(len(half), -1), one, weights, centre, ridge))
        pull.append(influence(one, weights, ridge))
    image = np.clip(part[0] + part[1], -1, 1) if planes is None else part[0] + part[1]
    first = image.astype(np.float32).reshape(-1, *rows.shape[1:])
    both = 0.5 * np.concatenate([pull[0] + pull[1], pull[0] - pull[1]], axis=1)
    return Fit(np.concatenate([first, mirrored(first, planes)]), mixtures, both)


def better_mirrored(score: Float32, assignment: Int64, n_images: int, epochs: bool) -> Bool:
    """Places (n, p) that score higher (n, p, 2N) the other way round, all places of an image in an epoch together."""
    other = (assignment + n_images) % (2 * n_images)
    pair = np.stack([assignment, other], axis=2)
    value = np.take_along_axis(score, pair, axis=2).astype(np.float64)
    gain = value[:, :, 1] - value[:, :, 0]
    if epochs:
        place = np.arange(len(gain))[:, None] // n_images * n_images + assignment % n_images
        gain = np.bincount(place.ravel(), gain.ravel())[place]
    return np.asarray(gain > 0)
