"""What the attack notebook shows of how an attack works: each a number, a picture or a plot of public things only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from instahide_nb.attack import energy, textures
from instahide_nb.attack.assignment import read_slots
from instahide_nb.attack.result import AttackResult
from instahide_nb.attack.spectral import pixel_matrix
from instahide_nb.drawing import grids
from instahide_nb.drawing.pictures import to_pixels
from instahide_nb.release import Release

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "cluster_matrix",
    "eigenvector_plot",
    "error_rates",
    "lifted_masks",
    "rounds",
    "sharing_histogram",
    "sign_agreement",
]

UInt8 = npt.NDArray[np.uint8]


def sign_agreement(images: UInt8) -> float:
    """How often two neighbouring values of natural images, as values in [-1, 1], have the same sign.

    Parameters
    ----------
    images : (n, h, w, 3) uint8 array
        Photographs; neighbours are those to the right and below.

    Examples
    --------
    >>> sign_agreement(np.full((1, 4, 4, 3), 200, np.uint8))
    1.0
    """
    light = images > 127
    agree = int((light[:, 1:] == light[:, :-1]).sum()) + int((light[:, :, 1:] == light[:, :, :-1]).sum())
    return agree / (light[:, 1:].size + light[:, :, 1:].size)


def _sharing(assignment: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(n, n): whether two encryptions hold a private image in common, as the attack assigned them."""
    n, count = len(assignment), int(assignment.max()) + 1
    holds = np.zeros((n, count), np.int32)
    np.put_along_axis(holds, assignment, 1, axis=1)
    return (holds @ holds.T) > 0


def _whitened_similarity(release: Release, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Correlations of the whitened energies of some encryptions, as `unmask` sees them."""
    feature = energy.planes(energy.features(release.encryption), *release.encryption.shape[1:3])
    return textures.similarity(feature[rows], textures.texture_filter(feature))


def sharing_histogram(release: Release, result: AttackResult, *, encryptions: int = 1000) -> Figure:
    """Correlation of whitened energies of pairs of encryptions, those that share an image and those that share none.

    Which pairs share an image is the attack's own finding. The first `encryptions` rows are compared.
    """
    from instahide_nb.figures import similarity_histogram

    similarity = _whitened_similarity(release, np.arange(min(encryptions, len(release.encryption))))
    upper = np.triu(np.ones(similarity.shape, bool), 1)
    share = _sharing(result.assignment[:encryptions])
    same, other = similarity[share & upper], similarity[~share & upper]
    return similarity_histogram(same.astype(np.float64), other.astype(np.float64))


def cluster_matrix(release: Release, result: AttackResult, *, strongest: int = 12, images: int = 12) -> UInt8:
    """Correlations of the encryptions in which an image is strongest, image by image: bright squares are clusters.

    Parameters
    ----------
    strongest : int
        How many encryptions of each image, those with its largest coefficients.
    images : int
        How many images, the first ones.

    Returns
    -------
    (side, side, 3) uint8 array
        Grey; white is the largest correlation beside the diagonal, black is 0 or less.
    """
    slots = read_slots(release.label, release.info.n_private)
    rows: list[int] = []
    for image in range(min(images, len(result.recovered))):
        held = np.flatnonzero((result.assignment == image).any(axis=1))
        place = (result.assignment[held, 1] == image).astype(np.int64)
        strength = slots.coefficient[held, place]
        rows += held[np.argsort(-strength, kind="stable")[:strongest]].tolist()
    similarity = np.clip(_whitened_similarity(release, np.array(rows)), 0, None)
    np.fill_diagonal(similarity, 0)
    grey = np.floor(255 * np.minimum(similarity / similarity.max(), 1) + 0.5).astype(np.uint8)
    factor = max(1, 480 // len(grey))
    return np.repeat(np.repeat(grey, factor, axis=0), factor, axis=1)[..., None].repeat(3, axis=2)


def eigenvector_plot(release: Release, result: AttackResult, pixel: tuple[int, int, int]) -> Figure:
    """The products of one pixel's values in pairs of private images, against the images that came of them.

    Parameters
    ----------
    pixel : (y, x, channel)
        In each image. The encryptions estimate the product of its values in images a and b; the recovered images
        give the same product again, and both agree when the matrix is of rank one.
    """
    from instahide_nb.figures import OKABE_ITO, style

    slots = read_slots(release.label, release.info.n_private)
    product, weight = pixel_matrix(release.encryption, slots, result.assignment, pixel)
    value = result.recovered[(slice(None), *pixel)]
    seen = np.triu(weight > np.quantile(weight[weight > 0], 0.5), 1)
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 3.2), layout="constrained", facecolor="white")
        axis = figure.subplots()
        axis.plot(np.outer(value, value)[seen], product[seen], ".", color=OKABE_ITO[0], markersize=3)
        axis.plot([-1, 1], [-1, 1], color="#777777", linewidth=0.8)
        axis.set_xlabel("product of the pixel in the two recovered images")
        axis.set_ylabel("as estimated from the encryptions' squares")
        axis.set_ylim(-2, 2)
    return figure


def lifted_masks(release: Release, result: AttackResult, rows: npt.NDArray[np.int64]) -> UInt8:
    """Encryptions, and below each the same with its mask lifted as the attack inferred it."""
    signed = result.extras["signed"][rows]
    return grids.contact_sheet(np.concatenate([release.encryption[rows], signed]), columns=len(rows))


def error_rates(curve: list[list[int]]) -> Figure:
    """The share of wrong signs among the surest ones, as counted once the masks were known.

    Parameters
    ----------
    curve : list of [signs, wrong]
        ``details["sign_errors"]`` of `prng-state`, for growing numbers of signs. Where none is wrong, a hollow mark
        stands at one in so many: the rate is below it.
    """
    from instahide_nb.figures import OKABE_ITO, style

    count, wrong = np.array(curve, np.float64).T
    none = wrong == 0
    rate = np.where(none, 1, wrong) / count
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 3.2), layout="constrained", facecolor="white")
        axis = figure.subplots()
        axis.plot(count[~none], 100 * rate[~none], "o-", color=OKABE_ITO[0], markersize=4, label="wrong")
        axis.plot(
            count[none],
            100 * rate[none],
            "v",
            color=OKABE_ITO[0],
            markersize=4,
            fillstyle="none",
            label="none wrong: below this",
        )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("how many of the surest are taken")
        axis.set_ylabel("wrong ones (%)")
        axis.legend()
    return figure


def rounds(result: AttackResult, *, images: int = 10) -> UInt8:
    """The first images after each stage of the attack, a row a stage."""
    history = [to_pixels(stage[:images]) for stage in result.extras["history"]]
    return grids.contact_sheet(np.concatenate(history), columns=min(images, len(history[0])))
