"""Textures: what the energy of local differences says of each private image, before any sign is known.

The energies of an encryption (`energy.features`) are close to a mixture of a pattern of each of its two private
images, weighted by their coefficients. So the patterns, here called textures, follow from an assignment by least
squares, and an assignment follows from textures by the matched filter that serves later for images. Energies at
neighbouring places rise and fall together, whatever the private images, and are whitened first (docs/unmask.md says
what that gains).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import integer_product
from instahide_nb.attacks.unmask import least_squares, matched_filter, pair_scores
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.smoothness import PublicModel, Smoothness, autocovariance, smoothness, whiten

__all__ = [
    "Explained",
    "Scene",
    "Textures",
    "explain",
    "fit_textures",
    "scene",
    "similarity",
    "texture_filter",
    "without_partner",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_PULL = 0.1  # of textures to zero, as a share of the mean diagonal: rows that hold them are few
_SAMPLE = 1000  # encryptions whose covariance is taken


def texture_filter(feature: Float32, ridge: float = 0.3) -> Smoothness:
    """The whitening filter of energies, from their own autocovariance over encryptions.

    Parameters
    ----------
    feature : float32 (n, 4, h, w)
        Standardised energies, a plane for each direction.
    ridge : float
        White noise added to the covariance, as a share of its diagonal; 0.1 and 1 serve as well, a very large one
        whitens nothing.

    Returns
    -------
    Smoothness
    """
    planes = feature.shape[1]
    model = PublicModel(np.zeros(planes, np.float32), autocovariance(feature[:_SAMPLE], tapered=True))
    return smoothness(model, feature.shape[2], feature.shape[3], ridge)


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
        Symmetric, with a diagonal of ones, and never above 1 by a rounding: encryptions alike (there are some at
        k = 2) would have a negative distance.
    """
    flat, white = feature.reshape(len(feature), -1), whiten(feature, local).reshape(len(feature), -1)
    product = integer_product(flat, white)
    product += product.T.copy()
    norm = np.sqrt(np.maximum(np.diagonal(product), 1e-9))
    product /= norm[:, None] * norm[None, :]
    return np.clip(product, -1.0, 1.0, out=product)


@dataclass(frozen=True)
class Textures:
    """Textures of all images, and what they were fitted to.

    Attributes
    ----------
    pattern : float32 (images, 4, h, w)
    influence : float64 (n, 2, largest)
        Change of the textures of a slot's class with the energies of each encryption.
    assignment : int64 (n, 2)
    coefficient : float32 (n, 2)
        With which they were fitted; zero in unknown slots and in encryptions that were left out.
    """

    pattern: Float32
    influence: Float64
    assignment: Int64
    coefficient: Float32


def fit_textures(feature: Float32, slots: Slots, assignment: Int64) -> Textures:
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
    Textures
    """
    known = (assignment >= 0) & ~slots.shared[:, None]
    fitted, coefficient = np.where(known, assignment, 0), np.where(known, slots.coefficient, np.float32(0))
    flat = feature.reshape(len(feature), -1)
    weight = np.ones(len(flat), np.float32)
    out = least_squares.solve_mixtures(
        flat, fitted, coefficient, weight, np.zeros(flat.shape[1], np.float32), slots.n_images, _PULL
    )
    return Textures(
        out.astype(np.float32).reshape(slots.n_images, *feature.shape[1:]),
        least_squares.row_influence(slots, fitted, coefficient, weight, _PULL),
        fitted,
        coefficient,
    )


@dataclass(frozen=True)
class Explained:
    """An assignment, the textures fitted to it, and how well they explain the energies.

    Attributes
    ----------
    textures : Textures
    assignment : int64 (n, 2)
    score : float32 (n, 2, largest)
        Of each image of a slot's class, beside the partner that was chosen.
    gain : float32 (n,)
        What the pair explains of each encryption: half the drop of its whitened squared length.
    """

    textures: Textures
    assignment: Int64
    score: Float32
    gain: Float32


@dataclass(frozen=True)
class Scene:
    """What is to be explained: features of encryptions that are mixtures, and how they are whitened.

    Attributes
    ----------
    slots : Slots
    feature : float32 (n, planes, h, w)
        Energies.
    local : Smoothness
    square : float64 (n,)
        Whitened squared length of each encryption's features.
    left_out : bool
        Compare each encryption with the textures as they would be without it.
    """

    slots: Slots
    feature: Float32
    local: Smoothness
    square: Float64
    left_out: bool = True


def scene(slots: Slots, feature: Float32, local: Smoothness) -> Scene:
    """Features and their whitened lengths together."""
    none = np.zeros(feature.shape[1], np.float32)
    return Scene(slots, feature, local, matched_filter.square_lengths(feature, none, local))


def explain(scene: Scene, textures: Textures, times: int = 2) -> Explained:
    """Assign images by textures and fit textures to the assignment, in turn.

    Each encryption is compared with the textures as they would be without it. Otherwise what is wrong stays: a texture
    that was fitted to an encryption resembles it.

    Parameters
    ----------
    scene : Scene
    textures : Textures
    times : int
        How often.

    Returns
    -------
    Explained
        Its score and gain are those of the last assignment, by the fit before it.
    """
    feature = scene.feature
    none, one = np.zeros(feature.shape[1], np.float32), np.ones(len(feature), np.float32)
    for _ in range(times):
        product, gram = matched_filter.matched_filter(
            feature, textures.pattern, none, scene.local, scene.slots
        )
        own = pair_scores.Own(textures.influence, textures.assignment, textures.coefficient, scene.square)
        found = pair_scores.best_pairs(scene.slots, product, gram, one, own if scene.left_out else None)
        textures = fit_textures(feature, scene.slots, found.assignment)
    place = scene.slots.within(found.assignment)
    gain = np.take_along_axis(found.score[:, 0], place[:, :1], axis=1)[:, 0]
    return Explained(textures, found.assignment, found.score, gain)


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
