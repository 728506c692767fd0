"""The first look at the private images: clusters of strong encryptions within each class.

Encryptions in which one class has a large coefficient resemble each other when they hold the same image of that
class. Average linkage on one minus the correlation finds these groups, one for each image of the class.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from instahide_nb.attack.assignment import Slots, assign
from instahide_nb.attack.energy import correlation

__all__ = [
    "STRONG_PER_IMAGE",
    "cut_to_size",
    "first_assignment",
    "seed_clusters",
    "strong_slots",
    "templates",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

STRONG_PER_IMAGE = (6, 9, 14, 20)
"""Encryptions clustered for each image of a class, largest coefficients first; each number is tried."""
_MOST_STRONG = 4000  # of one class at once: bounds the memory at 0.3 GB


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


def seed_clusters(slots: Slots, feature: Float32, per_image: int = 20) -> tuple[Int64, Float32]:
    """Cluster the strong encryptions of every class by the correlation of their features.

    Parameters
    ----------
    slots : Slots
    feature : float32 (n, d)
        Standardised rows.
    per_image : int
        Strong encryptions for each image of a class.

    Returns
    -------
    seed : int64 (n, 2)
        Image of each slot that was clustered; -1 elsewhere.
    template : float32 (images, d)
        Mean feature of each image's encryptions, weighted by coefficient.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    seed = np.full(slots.image_class.shape, -1, np.int64)
    for c in range(len(slots.start) - 1):
        size = int(slots.start[c + 1] - slots.start[c])
        strong = strong_slots(slots, c, per_image)
        if size == 0 or len(strong) == 0:
            continue
        if size == 1 or len(strong) <= size:
            group = np.arange(len(strong)) % size
        else:
            chosen = feature[strong[:, 0]]
            distance = 1.0 - correlation(chosen, chosen).astype(np.float64)
            tree = linkage(squareform(distance, checks=False), "average")
            group = cut_to_size(tree, len(strong), size)
        seed[strong[:, 0], strong[:, 1]] = np.where(group >= 0, group + slots.start[c], -1)
    return seed, templates(slots, seed, feature)


def templates(slots: Slots, assignment: Int64, feature: Float32) -> Float32:
    """Mean feature of the encryptions assigned to each image, weighted by coefficient."""
    out = np.zeros((slots.n_images, feature.shape[1]), np.float32)
    for image in range(slots.n_images):
        row, slot = np.nonzero((assignment == image) & ~slots.shared[:, None])
        if len(row) == 0:
            continue
        weight = slots.coefficient[row, slot][:, None]
        out[image] = (feature[row] * weight).sum(axis=0) / weight.sum()
    return out


def first_assignment(slots: Slots, feature: Float32) -> tuple[Int64, Float32]:
    """Assign every slot by its likeness to clusters, the clusters being those that explain their class best.

    Too few strong encryptions make noisy clusters, too many make clusters that hold two images and others that
    share one. Each number in `STRONG_PER_IMAGE` is tried, and each class keeps the one under which
    the sum of coefficient times correlation, over all slots of the class, is largest.

    Parameters
    ----------
    slots : Slots
    feature : float32 (n, d)
        Standardised rows.

    Returns
    -------
    assignment : int64 (n, 2)
    score : float32 (n, 2, images)
        Coefficient times correlation with each image's template.
    """
    best = [-math.inf] * (len(slots.start) - 1)
    kept = np.zeros((slots.n_images, feature.shape[1]), np.float32)
    for per_image in STRONG_PER_IMAGE:
        _, template = seed_clusters(slots, feature, per_image)
        for _ in range(2):
            assignment, score = _assign_by_template(slots, feature, template)
            template = templates(slots, assignment, feature)
        chosen = np.take_along_axis(score, assignment[:, :, None], axis=2)[:, :, 0]
        for c in range(len(best)):
            total = math.fsum(chosen[(slots.image_class == c) & ~slots.shared[:, None]].tolist())
            if total > best[c]:
                best[c] = total
                kept[slots.start[c] : slots.start[c + 1]] = template[slots.start[c] : slots.start[c + 1]]
    return _assign_by_template(slots, feature, kept)


def _assign_by_template(slots: Slots, feature: Float32, template: Float32) -> tuple[Int64, Float32]:
    score = correlation(feature, template)[:, None, :] * slots.coefficient[:, :, None]
    return assign(slots, score), score
