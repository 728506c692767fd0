"""Dense groups of encryptions, one for each private image, and how alike encryptions are to them: stages 2 and 3.

A published group starts with one encryption. Again and again the encryption joins whose similarities to all members
have the largest sum. Of the groups grown from many encryptions, those are kept that other groups confirm and that have
little in common with those already kept (Carlini et al., arXiv 2011.05315, and ``step_2_color_graph`` of their code).

The published code ignores the labels here. By default the groups are the clusters with which `unmask` begins
(:func:`instahide_nb.attacks.unmask.edges.clusters`): average linkage, each class with as many groups as it has images.
"""

from __future__ import annotations

import numba
import numpy as np

from instahide_nb.attacks.unmask.constraints import Known
from instahide_nb.attacks.unmask.edges import clusters
from instahide_nb.core.arrays import Bool, Float32, Int64
from instahide_nb.core.threads import in_blocks

_SEEDS = 2000  # encryptions that a group is grown from, as published
_SECOND_MEMBERS = 11  # the second member is one of the eleven nearest, as published
_SAMPLES, _DRAWS, _NEAREST = 3, 10, 21  # of the second similarity, as published


@numba.njit(cache=True, nogil=True)
def _grow(low: int, high: int, similarity: Float32, out: Int64) -> None:
    """Fill the rows low .. high-1 of `out` from their third member on."""
    n = similarity.shape[0]
    for k in range(low, high):
        total, best = np.zeros(n), 0
        for place in range(out.shape[1]):
            newest = out[k, place] if place < 2 else best
            out[k, place] = newest
            total[newest] = -np.inf
            best = 0
            for j in range(n):
                total[j] += similarity[newest, j]
                if total[j] > total[best]:
                    best = j


def grow_groups(similarity: Float32, seed: Int64, size: int, generator: np.random.Generator) -> Int64:
    """Grow a group of `size` encryptions from each of the `seed` (seeds,), int64 (seeds, at most `size`).

    The generator chooses the second member among the eleven nearest.

    Examples
    --------
    >>> similarity = np.kron(np.eye(2, dtype=np.float32), np.ones((20, 20), np.float32))
    >>> group = grow_groups(similarity, np.array([0, 25]), 15, np.random.default_rng(0))
    >>> bool((group[0] < 20).all()), bool((group[1] >= 20).all())
    (True, True)
    """
    n = len(similarity)
    out = np.empty((len(seed), min(size, n)), np.int64)
    rank = generator.integers(0, min(_SECOND_MEMBERS, max(1, n - 1)), len(seed))
    for row, first, place in zip(out, seed, rank, strict=True):
        far = -similarity[first]
        far[first] = np.inf
        row[:2] = [first, np.argsort(far, kind="stable")[place]][: len(row)]
    in_blocks(_grow, len(seed), np.ascontiguousarray(similarity), out)
    return out


def select_groups(member: Int64, n: int, count: int) -> Int64:
    """Choose groups that others confirm and that have little in common.

    The first half of a group's members is its core. In order, a group is taken if its core lies wholly in two other
    groups and less than half of it in every group taken before. If that gives too few, a second pass asks the same
    of half the core, without confirmation (both as published). Then the groups with least in common follow (ours).
    Returned are at most `count` rows of `member` (candidates, size), which holds numbers below `n`.
    """

    def holds(part: Int64) -> Float32:
        table = np.zeros((len(part), n), np.float32)
        table[np.arange(len(part))[:, None], part] = 1.0
        return table

    core = max(1, member.shape[1] // 2)
    whole = holds(member)
    chosen: list[int] = []
    for part in (core, max(1, core // 2)):
        common = holds(member[:, :part]) @ whole.T  # counts, so exact
        confirmed = (common == part).sum(axis=1) > 2 if part == core else np.ones(len(member), bool)
        for k in np.flatnonzero(confirmed):
            if len(chosen) < count and 2 * common[k, chosen].max(initial=0) < part:
                chosen.append(int(k))
    while len(chosen) < min(count, len(member)):
        most = common[:, chosen].max(axis=1, initial=0)
        most[chosen] = np.inf
        chosen.append(int(np.argmin(most)))
    return np.array(chosen, np.int64)


def dense_groups(similarity: Float32, known: Known, *, published: bool = False) -> tuple[list[Int64], Int64]:
    """Find one dense group of encryptions for each private image.

    Returns the encryptions of each group, and the class (column of the labels) of each group's image, int64 (groups,).
    If `published`, groups grow among all encryptions, whatever their labels.
    """
    n = len(similarity)
    if published:
        size = max(2, min(2 * n // known.n_images, n // 2))
        member = grow_groups(similarity, np.arange(min(_SEEDS, n)), size, np.random.default_rng(0))
        core = member[select_groups(member, n, known.n_images), : size // 2]
        return list(core), np.argmax(known.present[core].sum(axis=1), axis=1)
    image = clusters(similarity, known).assignment[:, 0]
    found = np.unique(image[image >= 0])
    return [np.flatnonzero(image == j) for j in found], known.image_class[found]


def second_similarity(similarity: Float32, groups: list[Int64], candidate: Bool | None = None) -> Float32:
    """Similarity of each encryption to each group, float32 (n, groups).

    The 21 encryptions nearest to the members stand for the group; `candidate` (n, groups) says which may, by default
    all. Three of them are drawn ten times, and the similarities to all that were drawn are averaged, without that of an
    encryption to itself. (The published code shows the three together to a second trained network.)
    """
    generator = np.random.default_rng(1)
    n = len(similarity)
    out = np.empty((n, len(groups)), np.float32)
    for g, member in enumerate(groups):
        near = similarity[member].astype(np.float64).sum(axis=0)
        if candidate is not None:
            near[~candidate[:, g]] = -np.inf
        nearest = np.argsort(-near, kind="stable")[:_NEAREST]
        nearest = nearest[np.isfinite(near[nearest])]
        drawn = nearest[generator.integers(0, len(nearest), (_DRAWS, _SAMPLES))].ravel()
        total, count = np.zeros(n), np.full(n, len(drawn))
        for s in drawn:
            total += similarity[s]
            total[s] -= similarity[s, s]
            count[s] -= 1
        out[:, g] = total / np.maximum(count, 1)
    return out
