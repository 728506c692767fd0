"""What a sign mask cannot hide: the energy of edges, and the first assignment that follows from it.

Neighbouring pixels of a natural image nearly always have the same sign, so the difference of two neighbouring
absolute values is, up to its sign, the difference of the pixels themselves. The energy of such differences over the
channels is a feature of the unmasked mixture, close to a mixture of the edge energies of its private images with
their coefficients. So edge energies of the images follow from an assignment by least squares, and an assignment
follows from them by the matched filter (`matching`). Energies at neighbouring places rise and fall together whatever
the private images, and are whitened first (docs/unmask.md says what that gains).

The start is clusters: encryptions in which a class has a large coefficient resemble each other when they hold the
same image of that class. Average linkage on one minus the similarity finds one group for each image. After the fit
the clusters are looked for once more with the other image subtracted, which repairs clusters that hold two images
and images that have two clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import integer_product
from instahide_nb.attacks.mixtures import Fit, Mixtures, fit, influence
from instahide_nb.attacks.unmask.matching import Matching, Slots, match, square_lengths
from instahide_nb.attacks.unmask.smoothness import Moments, Smoothness, autocovariance, smoothness, whiten
from instahide_nb.core.threads import in_blocks

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

STRONG_PER_IMAGE = (4, 6, 9, 14, 20)
"""Encryptions clustered for each image of a class, largest coefficients first; each number is tried."""
_MOST_STRONG = 4000  # of one class: bounds the memory at 0.5 GB
_REPAIRS = 2  # of the clusters, with the other image subtracted
_PULL = 0.1  # of edge energies to zero, as a share of the mean diagonal: few rows hold an image
_SAMPLE = 1000  # encryptions whose covariance is taken
_ROWS, _COLUMNS = 100, 256  # at a time


def edge_energies(encryption: Float32) -> Float32:
    """Root energy of four local differences of the absolute values, summed over channels.

    Parameters
    ----------
    encryption : float32 (n, h, w, channels)
        Masked images; only their absolute values are used.

    Returns
    -------
    float32 (n, 4, h-1, w-1)
        To the right, down, and along both diagonals (these divided by sqrt 2).

    Examples
    --------
    >>> step = np.zeros((1, 2, 2, 1), np.float32); step[0, :, 1] = -1.0
    >>> edge_energies(step).ravel().round(3).tolist()
    [1.0, 0.0, 0.7070000171661377, 0.7070000171661377]
    """
    n, h, w, channels = encryption.shape
    out = np.zeros((n, 4, h - 1, w - 1), np.float32)
    half = np.float32(0.5)

    def rows(low: int, high: int) -> None:
        size = np.abs(encryption[low:high].transpose(0, 3, 1, 2), order="C")
        here, right = size[:, :, :-1, :-1], size[:, :, :-1, 1:]
        below, across = size[:, :, 1:, :-1], size[:, :, 1:, 1:]
        ends = (right, here, 1), (below, here, 1), (across, here, half), (below, right, half)
        for plane, (a, b, share) in enumerate(ends):
            square = (a - b) ** 2
            target = out[low:high, plane]
            for c in range(channels):
                target += square[:, c]
            np.sqrt(target * share, out=target)

    in_blocks(rows, n, block=_ROWS)
    return out


def edge_features(encryption: Float32) -> Float32:
    """Edge energies standardised over the set at each place, then within each encryption.

    Parameters
    ----------
    encryption : float32 (n, h, w, channels)

    Returns
    -------
    float32 (n, 4, h-1, w-1)
        Each row has mean 0 and variance 1, so that a product of two rows over their size is a correlation.
    """
    energy = edge_energies(encryption)
    table = energy.reshape(len(energy), -1)

    def over_set(low: int, high: int) -> None:
        part = table[:, low:high].astype(np.float64)
        part -= part.sum(axis=0) / len(part)
        deviation = np.sqrt((part * part).sum(axis=0) / len(part))
        table[:, low:high] = part * np.divide(
            1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0
        )

    def within(low: int, high: int) -> None:
        part = np.ascontiguousarray(table[low:high].T, np.float64)
        part -= part.sum(axis=0) / len(part)
        deviation = np.sqrt((part * part).sum(axis=0) / len(part))
        part *= np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        table[low:high] = part.T

    in_blocks(over_set, table.shape[1], block=_COLUMNS)
    in_blocks(within, len(table), block=_ROWS)
    return energy


def edge_filter(feature: Float32, ridge: float = 0.3) -> Smoothness:
    """The whitening filter of edge features, from their own autocovariance.

    Parameters
    ----------
    feature : float32 (n, 4, h, w)
    ridge : float
        White noise added to the covariance, as a share of its diagonal; 0.1 and 1 serve as well, a very large one
        whitens nothing.
    """
    planes = feature.shape[1]
    moments = Moments(np.zeros(planes, np.float32), autocovariance(feature[:_SAMPLE], tapered=True))
    return smoothness(moments, feature.shape[2], feature.shape[3], ridge)


def similarity(feature: Float32, local: Smoothness) -> Float64:
    """Correlations of all pairs of encryptions after whitening.

    Parameters
    ----------
    feature : float32 (m, 4, h, w)
    local : Smoothness
        From `edge_filter`.

    Returns
    -------
    float64 (m, m)
        Symmetric, with a diagonal of ones, and never above 1 by a rounding: two encryptions of the same mixture (there
        are some at k = 2) would have a negative distance.
    """
    flat, white = feature.reshape(len(feature), -1), whiten(feature, local).reshape(len(feature), -1)
    product = integer_product(flat, white)
    product += product.T.copy()
    norm = np.sqrt(np.maximum(np.diagonal(product), 1e-9))
    product /= norm[:, None] * norm[None, :]
    return np.clip(product, -1.0, 1.0, out=product)


@dataclass(frozen=True)
class Edges:
    """Edge features of all encryptions, and how they are compared.

    Attributes
    ----------
    slots : Slots
    feature : float32 (n, 4, h, w)
    local : Smoothness
    square : float64 (n,)
        Whitened squared length of each encryption's features.
    left_out : bool
        Compare each encryption with the images' features as they would be without it. An image's features that were
        fitted to an encryption resemble it, so a wrong assignment would stay.
    """

    slots: Slots
    feature: Float32
    local: Smoothness
    square: Float64
    left_out: bool = True

    def fit(self, assignment: Int64) -> Fit:
        """Edge features of the images by least squares.

        Rows in which both slots have the same class are left out, as their coefficients are not known; an unknown
        image, -1, counts as noise.
        """
        known = np.where(self.slots.shared[:, None], -1, assignment)
        mixtures = Mixtures(known, self.slots.coefficient, self.slots.n_images)
        flat = self.feature.reshape(len(known), -1)
        one = np.ones(len(known))
        found = fit(flat, mixtures, one, np.zeros(flat.shape[1]), _PULL).astype(np.float32)
        return Fit(found.reshape(-1, *self.feature.shape[1:]), mixtures, influence(mixtures, one, _PULL))

    def explain(self, found: Fit, times: int = 2) -> tuple[Fit, Matching]:
        """Assign images by their features and fit features to the assignment, in turn; scores are by the fit before."""
        one = np.ones(len(self.feature), np.float32)
        for _ in range(times):
            own = found if self.left_out else None
            rows = self.feature.__getitem__
            matching = match(rows, found.image, one, self.local, self.slots, own, self.square)
            found = self.fit(matching.assignment)
        return found, matching

    def without_partner(self, found: Fit, assignment: Int64, row: Int64, slot: Int64) -> Float32:
        """Features of chosen slots less what the image in the other slot explains, float32 (m, 4, h, w)."""
        weight = self.slots.coefficient[row, 1 - slot][:, None, None, None]
        return self.feature[row] - weight * found.image[assignment[row, 1 - slot]]

    def gains(self, matching: Matching) -> list[float]:
        """What the pairs explain of the encryptions of each class: half the drop of the whitened squared lengths."""
        gain, rows = matching.chosen(self.slots)[:, 0], ~self.slots.shared
        classes = range(len(self.slots.start) - 1)
        held = ((self.slots.image_class == c).any(axis=1) & rows for c in classes)
        return [math.fsum(gain[row].tolist()) for row in held]

    def total_gain(self, matching: Matching) -> float:
        """The same of all encryptions."""
        return math.fsum(matching.chosen(self.slots)[:, 0].tolist())


def edges_of(encryption: Float32, slots: Slots, whitened: bool = True, left_out: bool = True) -> Edges:
    """Edge features of encryptions (n, h, w, channels), ready to be compared."""
    feature = edge_features(encryption)
    local = edge_filter(feature) if whitened else edge_filter(feature, ridge=1e6)
    square = square_lengths(feature.__getitem__, len(feature), local)
    return Edges(slots, feature, local, square, left_out)


def strong_slots(slots: Slots, image_class: int, per_image: int = 20) -> Int64:
    """Encryptions of two classes in which `image_class` has its largest coefficients, largest first.

    Returns
    -------
    int64 (m, 2)
        Row and slot; m is `per_image` for each image of the class, and at most half of all.
    """
    row, slot = np.nonzero((slots.image_class == image_class) & ~slots.shared[:, None])
    size = int(slots.start[image_class + 1] - slots.start[image_class])
    order = np.argsort(-slots.coefficient[row, slot], kind="stable")
    order = order[: min(per_image * size, _MOST_STRONG, max(size, len(order) // 2))]
    return np.stack([row[order], slot[order]], axis=1).astype(np.int64)


def cut_to_size(tree: Float64, n_members: int, n_clusters: int) -> Int64:
    """Cut a linkage tree into clusters of a reasonable size and leave outliers out.

    The cut goes down from `n_clusters` clusters until so many of them hold at least a third of the mean size.

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


def _groups(apart: Float64, size: int) -> Int64:
    """Groups of one class by the distances of its strong encryptions."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if size == 1 or len(apart) <= size:
        return np.arange(len(apart), dtype=np.int64) % size
    return cut_to_size(linkage(squareform(apart, checks=False), "average"), len(apart), size)


def clusters(
    edges: Edges, per_image: tuple[int, ...], feature: Callable[[Int64, Int64], Float32] | None = None
) -> list[Int64]:
    """Cluster the strong encryptions of every class by the similarity of their features.

    Parameters
    ----------
    edges : Edges
    per_image : tuple of int
        Strong encryptions for each image of a class; each number gives one answer.
    feature : callable, optional
        Features of given rows and slots; left out, those of the rows.

    Returns
    -------
    list of int64 (n, 2)
        Image of each slot that was clustered; -1 elsewhere.
    """
    slots = edges.slots
    seeds = [np.full(slots.image_class.shape, -1, np.int64) for _ in per_image]
    for c in np.flatnonzero(np.diff(slots.start)).tolist():
        size = int(slots.start[c + 1] - slots.start[c])
        row, slot = strong_slots(slots, c, max(per_image)).T
        if len(row) == 0:
            continue
        apart = np.zeros((len(row), len(row)))
        if 1 < size < len(row):
            chosen = edges.feature[row] if feature is None else feature(row, slot)
            apart = 1.0 - similarity(chosen, edges.local)
        for seed, number in zip(seeds, per_image, strict=True):
            many = len(strong_slots(slots, c, number))  # the first of all
            group = _groups(apart[:many, :many], size)
            seed[row[:many], slot[:many]] = np.where(group >= 0, group + slots.start[c], -1)
    return seeds


def repair_clusters(
    edges: Edges, found: Fit, matching: Matching, times: int = _REPAIRS
) -> tuple[Fit, Matching]:
    """Cluster again with the other image subtracted; each class keeps what explains it better, while the gain rises."""
    for _ in range(times):

        def alone(row: Int64, slot: Int64, found: Fit = found, known: Int64 = matching.assignment) -> Float32:
            return edges.without_partner(found, known, row, slot)

        (seed,) = clusters(edges, STRONG_PER_IMAGE[-1:], alone)
        _, other = edges.explain(edges.fit(seed))
        mixed = matching.assignment.copy()
        for c, (new, old) in enumerate(zip(edges.gains(other), edges.gains(matching), strict=True)):
            held = edges.slots.image_class == c
            if new > old:
                mixed[held] = other.assignment[held]
        fresh, again = edges.explain(edges.fit(mixed))
        if edges.total_gain(again) <= edges.total_gain(matching):
            break
        found, matching = fresh, again
    return found, matching


def first_assignment(edges: Edges) -> Matching:
    """Assign every slot by the edges of clusters, the clusters being those that explain their class best.

    Too few strong encryptions make noisy clusters, too many make clusters that hold two images and others that
    share one. Each number in `STRONG_PER_IMAGE` is tried, each class keeps the one under which its encryptions are
    explained best, and the result is repaired.
    """
    image_class = edges.slots.image_class
    best, kept = [-math.inf] * (len(edges.slots.start) - 1), np.full(image_class.shape, -1, np.int64)
    for seed in clusters(edges, STRONG_PER_IMAGE):
        _, found = edges.explain(edges.fit(seed))
        for c, gain in enumerate(edges.gains(found)):
            if gain > best[c]:
                best[c] = gain
                kept[image_class == c] = found.assignment[image_class == c]
    return repair_clusters(edges, *edges.explain(edges.fit(kept)))[1]


def agreement(edges: Edges, assignment: Int64) -> float:
    """Share of slots to which edge energies alone, which know no sign, give the image that they hold.

    The attack's own estimate of slots right trusts the signs that follow from the images it judges; this does not.
    """
    _, again = edges.explain(edges.fit(assignment), times=1)
    known = ~edges.slots.shared
    same = int(np.count_nonzero(again.assignment[known] == assignment[known]))
    return round(same / max(int(known.sum()) * 2, 1), 4)
