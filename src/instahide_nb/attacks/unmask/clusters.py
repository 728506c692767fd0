"""The first look at the private images: clusters of strong encryptions within each class.

Encryptions in which one class has a large coefficient resemble each other when they hold the same image of that
class. Average linkage on one minus the similarity finds these groups, one for each image of the class. Their textures
are then fitted and assigned in turn, and the clusters looked for once more with the other image taken off, which
mends clusters that held two images and images that had two clusters.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.textures import (
    Explained,
    Scene,
    explain,
    fit_textures,
    similarity,
    without_partner,
)

__all__ = ["STRONG_PER_IMAGE", "cut_to_size", "first_assignment", "mend", "seed_clusters", "strong_slots"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

STRONG_PER_IMAGE = (4, 6, 9, 14, 20)
"""Encryptions clustered for each image of a class, largest coefficients first; each number is tried."""
_MOST_STRONG = 4000  # of one class at once: bounds the memory at 0.5 GB
_MENDING_ROUNDS = 2  # of clusters with the partner taken off


def strong_slots(slots: Slots, image_class: int, per_image: int = 20) -> Int64:
    """Encryptions of two classes in which `image_class` has its largest coefficients, largest first.

    Parameters
    ----------
    slots : Slots
    image_class : int
    per_image : int
        How many for each image of the class.

    Returns
    -------
    int64 (m, 2)
        Row and slot.
    """
    row, slot = np.nonzero((slots.image_class == image_class) & ~slots.shared[:, None])
    size = int(slots.start[image_class + 1] - slots.start[image_class])
    order = np.argsort(-slots.coefficient[row, slot], kind="stable")
    order = order[: min(per_image * size, _MOST_STRONG, max(size, len(order) // 2))]
    return np.stack([row[order], slot[order]], axis=1).astype(np.int64)


def cut_to_size(tree: npt.NDArray[np.float64], n_members: int, n_clusters: int) -> Int64:
    """Cut a linkage tree into `n_clusters` clusters of a reasonable size and leave outliers out.

    The cut goes down from `n_clusters` clusters until so many of them hold at least a third of the mean size.

    Parameters
    ----------
    tree : float64 (n_members - 1, 4)
        As `scipy.cluster.hierarchy.linkage` returns.
    n_members, n_clusters : int

    Returns
    -------
    int64 (n_members,)
        Cluster 0 .. n_clusters-1, or -1 for an outlier.
    """
    from scipy.cluster.hierarchy import fcluster

    out = np.full(n_members, -1, np.int64)
    for share in (3, 6, 12, n_members):
        smallest = max(1, n_members // (share * n_clusters))
        for cut in range(n_clusters, min(n_members, 3 * n_clusters + 10) + 1):
            group = fcluster(tree, cut, criterion="maxclust")
            size = np.bincount(group)
            if (size >= smallest).sum() >= n_clusters:
                for number, kept in enumerate(np.argsort(-size, kind="stable")[:n_clusters]):
                    out[group == kept] = number
                return out
    return np.arange(n_members, dtype=np.int64) % n_clusters


def seed_clusters(scene: Scene, per_image: tuple[int, ...], known: Explained | None = None) -> list[Int64]:
    """Cluster the strong encryptions of every class by the similarity of their features.

    Parameters
    ----------
    scene : Scene
    per_image : tuple of int
        Strong encryptions for each image of a class; each number is one answer. Similarities are computed once.
    known : Explained, optional
        What is believed of the images in the other slots, to be taken off first.

    Returns
    -------
    list of int64 (n, 2)
        Image of each slot that was clustered; -1 elsewhere.
    """
    slots, feature = scene.slots, scene.feature
    seeds = [np.full(slots.image_class.shape, -1, np.int64) for _ in per_image]
    for c in range(len(slots.start) - 1):
        size = int(slots.start[c + 1] - slots.start[c])
        most = strong_slots(slots, c, max(per_image))
        if size == 0 or len(most) == 0:
            continue
        if known is None:
            chosen = feature[most[:, 0]]
        else:
            chosen = without_partner(feature, known.textures.pattern, slots, known.assignment, most)
        needed = size > 1 and len(most) > size
        apart = 1.0 - similarity(chosen, scene.local) if needed else np.zeros((len(most), len(most)))
        for seed, number in zip(seeds, per_image, strict=True):
            strong = strong_slots(slots, c, number)  # the first of `most`
            group = _groups(apart[: len(strong), : len(strong)], size)
            seed[strong[:, 0], strong[:, 1]] = np.where(group >= 0, group + slots.start[c], -1)
    return seeds


def _groups(apart: npt.NDArray[np.float64], size: int) -> Int64:
    """Groups of one class by the distances of its strong encryptions."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if size == 1 or len(apart) <= size:
        return np.arange(len(apart), dtype=np.int64) % size
    return cut_to_size(linkage(squareform(apart, checks=False), "average"), len(apart), size)


def _class_gains(slots: Slots, gain: Float32) -> list[float]:
    """What the encryptions that hold an image of each class gain together."""
    rows = ~slots.shared
    return [
        math.fsum(gain[(slots.image_class == c).any(axis=1) & rows].tolist())
        for c in range(len(slots.start) - 1)
    ]


def mend(scene: Scene, known: Explained, rounds: int) -> Explained:
    """Cluster the strong encryptions again with the other image taken off; keep what explains a class better.

    Parameters
    ----------
    scene : Scene
    known : Explained
    rounds : int
        At most so many times, and no longer than the gain rises.

    Returns
    -------
    Explained
    """
    slots = scene.slots
    for _ in range(rounds):
        (seed,) = seed_clusters(scene, STRONG_PER_IMAGE[-1:], known)
        other = explain(scene, fit_textures(scene.feature, slots, seed))
        mended = known.assignment.copy()
        pairs = zip(_class_gains(slots, other.gain), _class_gains(slots, known.gain), strict=True)
        for c, (new, old) in enumerate(pairs):
            if new > old:
                mended[slots.image_class == c] = other.assignment[slots.image_class == c]
        fresh = explain(scene, fit_textures(scene.feature, slots, mended))
        if math.fsum(fresh.gain.tolist()) <= math.fsum(known.gain.tolist()):
            break
        known = fresh
    return known


def first_assignment(energies: Scene) -> Explained:
    """Assign every slot by the textures of clusters, the clusters being those that explain their class best.

    Too few strong encryptions make noisy clusters, too many make clusters that hold two images and others that
    share one. Each number in `STRONG_PER_IMAGE` is tried, each class keeps the one under which its
    encryptions are explained best, and what is left is mended.

    Parameters
    ----------
    energies : Scene
        Of standardised energies.

    Returns
    -------
    Explained
    """
    slots, feature = energies.slots, energies.feature
    gains = [-math.inf] * (len(slots.start) - 1)
    kept = np.full(slots.image_class.shape, -1, np.int64)
    for seed in seed_clusters(energies, STRONG_PER_IMAGE):
        found = explain(energies, fit_textures(feature, slots, seed))
        for c, gain in enumerate(_class_gains(slots, found.gain)):
            if gain > gains[c]:
                gains[c] = gain
                kept[slots.image_class == c] = found.assignment[slots.image_class == c]
    return mend(energies, explain(energies, fit_textures(feature, slots, kept)), _MENDING_ROUNDS)
