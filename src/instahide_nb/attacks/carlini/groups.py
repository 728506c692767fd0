"""Dense groups of encryptions, one for each private image: stage 2 of the published attack.

A group starts with one encryption. Again and again the encryption joins whose similarities to all members have the
largest sum. Of the groups grown from many encryptions, those are kept that other groups confirm and that have little
in common with those already kept (Carlini et al., arXiv 2011.05315, and ``step_2_color_graph`` of their code).

The published code ignores the labels here. By default (ours) a group grows only among the encryptions with the
largest coefficients of one class, and each class gets as many groups as it has images.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.carlini.matching import Slots
from instahide_nb.core.threads import in_blocks

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_SEEDS = 2000  # encryptions that a group is grown from, as published
_SECOND_MEMBERS = 11  # the second member is one of the eleven nearest, as published
_STRONG = 20  # members of a group within a class; encryptions of each image that it grows among


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


def dense_groups(
    similarity: Float32, label: Float32, slots: Slots, *, published: bool = False
) -> tuple[Int64, Int64]:
    """Find one dense group of encryptions for each private image.

    Parameters
    ----------
    similarity : float32 (n, n)
    label : float32 (n, classes)
    slots : Slots
    published : bool
        Grow groups among all encryptions, as published, rather than class by class.

    Returns
    -------
    core : int64 (groups, size)
        Encryptions that define each group, in the order in which they joined; -1 fills up.
    image_class : int64 (groups,)
        Class (column of the labels) of the group's image.
    """
    n, generator = len(similarity), np.random.default_rng(0)
    if published:
        size = max(2, min(2 * n // slots.n_images, n // 2))
        member = grow_groups(similarity, np.arange(min(_SEEDS, n)), size, generator)
        core = member[select_groups(member, n, slots.n_images), : size // 2]
        return core, np.argmax((label[core] > 0).sum(axis=1), axis=1)
    found, classes = [], []
    for c, count in enumerate(np.diff(slots.start)):
        row = _strong_rows(slots, c, int(count))
        if len(row) == 0:
            continue
        size = max(2, min(_STRONG, len(row) // count))
        member = row[grow_groups(similarity[np.ix_(row, row)], np.arange(len(row)), size, generator)]
        core = member[:, : size // 2]
        density = similarity[core[:, :, None], core[:, None, :]].astype(np.float64).sum(axis=(1, 2))
        densest = np.argsort(-density, kind="stable")
        core = core[densest[select_groups(member[densest], n, int(count))]]
        found.append(np.pad(core, ((0, 0), (0, _STRONG // 2 - core.shape[1])), constant_values=-1))
        classes.append(np.full(len(core), c, np.int64))
    return np.concatenate(found), np.concatenate(classes)


def _strong_rows(slots: Slots, image_class: int, count: int) -> Int64:
    """Encryptions in which a class of `count` images has its largest coefficients, in their order."""
    if count == 0:
        return np.empty(0, np.int64)
    row, slot = np.nonzero((slots.image_class == image_class) & ~slots.shared[:, None])
    if len(row) == 0:  # the class occurs only together with itself
        return np.flatnonzero(slots.image_class[:, 0] == image_class)
    strongest = np.argsort(-slots.coefficient[row, slot], kind="stable")
    return np.unique(row[strongest[: min(_STRONG * count, max(count, len(row) // 2))]])
