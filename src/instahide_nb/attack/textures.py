"""Textures: what the energy of local differences says of each private image, before any sign is known.

The energies of an encryption (`energy.features`) are close to a mixture of a pattern of each of its two private
images, weighted by their coefficients. So the patterns, here called textures, follow from an assignment by least
squares, and an assignment follows from textures by the matched filter that serves later for images. Energies at
neighbouring places rise and fall together, whatever the private images, and are whitened first: that
lifts the similarity of two encryptions that share an image from 2.3 to 3.4 standard deviations above those that do not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from instahide_nb.attack import least_squares, matched_filter
from instahide_nb.attack.assignment import Slots
from instahide_nb.attack.smoothness import PublicModel, Smoothness, autocovariance, smoothness, whiten

__all__ = ["assign_textures", "fit_textures", "similarity", "texture_filter", "without_partner"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_RIDGE = 0.3  # white noise added to the energies' covariance; 0.1 and 1 serve as well
_PULL = 0.1  # of textures to zero, as a share of the mean diagonal: rows that hold them are few
_SAMPLE = 1000  # encryptions whose covariance is taken


def texture_filter(feature: Float32) -> Smoothness:
    """The whitening filter of energies, from their own autocovariance over encryptions.

    Parameters
    ----------
    feature : float32 (n, 4, h, w)
        Standardised energies, a plane for each direction.

    Returns
    -------
    Smoothness
    """
    planes = feature.shape[1]
    model = PublicModel(np.zeros(planes, np.float32), autocovariance(feature[:_SAMPLE], tapered=True))
    return smoothness(model, feature.shape[2], feature.shape[3], _RIDGE)


def similarity(feature: Float32, local: Smoothness) -> Float64:
    """Correlations of all pairs of encryptions after whitening.

    Parameters
    ----------
    feature : float32 (m, 4, h, w)
    local : Smoothness
        From `texture_filter`.

    Returns
    -------
    float64 (m, m)
        Symmetric, with a diagonal of ones.
    """
    flat, white = feature.reshape(len(feature), -1), whiten(feature, local).reshape(len(feature), -1)
    product = matched_filter.integer_product(flat, white)
    product += product.T.copy()
    norm = np.sqrt(np.maximum(np.diagonal(product), 1e-9))
    product /= norm[:, None] * norm[None, :]
    return product


def fit_textures(feature: Float32, slots: Slots, assignment: Int64) -> Float32:
    """Textures of all images by least squares.

    Parameters
    ----------
    feature : float32 (n, 4, h, w)
    slots : Slots
        Rows in which both slots have the same class are left out, as their coefficients are not known.
    assignment : int64 (n, 2)
        Image of each slot; an unknown one, -1, counts as noise.

    Returns
    -------
    float32 (images, 4, h, w)
    """
    known = assignment >= 0
    rows = np.flatnonzero(known.any(axis=1) & ~slots.shared)
    flat = feature.reshape(len(feature), -1)
    out = least_squares.solve_mixtures(
        flat[rows],
        np.where(known, assignment, 0)[rows],
        np.where(known, slots.coefficient, np.float32(0))[rows],
        np.ones(len(rows), np.float32),
        np.zeros(flat.shape[1], np.float32),
        slots.n_images,
        _PULL,
    )
    return out.astype(np.float32).reshape(slots.n_images, *feature.shape[1:])


def assign_textures(
    feature: Float32, texture: Float32, local: Smoothness, slots: Slots
) -> tuple[Int64, Float32, Float32]:
    """Fill every slot with the image whose texture, together with its partner's, explains the energies best.

    Parameters
    ----------
    feature : float32 (n, 4, h, w)
    texture : float32 (images, 4, h, w)
    local : Smoothness
    slots : Slots

    Returns
    -------
    assignment : int64 (n, 2)
    score : float32 (n, 2, images)
    gain : float32 (n,)
        What the pair explains of each encryption: half the drop of its whitened squared length.
    """
    none = np.zeros(feature.shape[1], np.float32)
    product, gram = matched_filter.matched_filter(feature, texture, none, local)
    found = matched_filter.best_pairs(slots, product, gram, np.ones(len(feature), np.float32))
    gain = np.take_along_axis(found.score[:, 0], found.assignment[:, :1], axis=1)[:, 0]
    return found.assignment, found.score, gain


def without_partner(
    feature: Float32, texture: Float32, slots: Slots, assignment: Int64, chosen: Int64
) -> Float32:
    """Energies of chosen slots, less what the image in the other slot explains.

    Parameters
    ----------
    feature : float32 (n, 4, h, w)
    texture : float32 (images, 4, h, w)
    slots : Slots
    assignment : int64 (n, 2)
    chosen : int64 (m, 2)
        Row and slot.

    Returns
    -------
    float32 (m, 4, h, w)
    """
    row, other = chosen[:, 0], 1 - chosen[:, 1]
    weight = slots.coefficient[row, other][:, None, None, None]
    out: Float32 = feature[row] - weight * texture[assignment[row, other]]
    return out
