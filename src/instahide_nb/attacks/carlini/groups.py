"""Dense groups, one for each private image, and the second similarity: stages two and three of the published attack.

A group is grown from one encryption: again and again the encryption that is nearest to all members together joins.
Of the many groups that start from different encryptions, those are kept that others agree with and that have little
in common with those already kept (Carlini et al., arXiv 2011.05315, and ``step_2_color_graph`` of their code). Then
each encryption is compared with three samples of each group, and that ten times with other samples
(``step_3_second_graph``).

With ``labels="matching"`` all this is done as published, blind to the labels. With ``labels="groups"``, ours, a
group grows only among the encryptions that hold most of one class, and each class gets as many groups as it has images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.clusters import strong_slots
from instahide_nb.core.threads import in_blocks

__all__ = ["Groups", "dense_groups", "grow_groups", "second_similarity", "select_groups"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_SEEDS = 2000  # encryptions that a group is grown from, as published
_SECOND_MEMBERS = 11  # the second member is one of so many nearest, as published
_SAMPLES, _DRAWS, _NEAREST = 3, 10, 21  # as published: ten draws of three of the 21 nearest
_STRONG = 20  # members of a group that is grown within a class


@dataclass(frozen=True)
class Groups:
    """Dense groups of encryptions.

    Attributes
    ----------
    member : int64 (groups, size)
        Encryptions in the order in which they joined; -1 fills up.
    image_class : int64 (groups,)
        Class (column of the labels) that the members of the core have in common most often.
    """

    member: Int64
    image_class: Int64

    @property
    def core(self) -> int:
        """How many of the first members define a group: half of them."""
        return max(1, self.member.shape[1] // 2)


@numba.njit(cache=True, nogil=True)
def _grow(low: int, high: int, similarity: Float32, seed: Int64, rank: Int64, out: Int64) -> None:
    n, size = similarity.shape[0], out.shape[1]
    total = np.empty(n)
    used = np.empty(n, np.bool_)
    for k in range(low, high):
        total[:] = 0.0
        used[:] = False
        newest = seed[k]
        for place in range(size):
            out[k, place] = newest
            used[newest] = True
            for j in range(n):
                total[j] += similarity[newest, j]
            skip = rank[k] if place == 0 else 0
            best = -1
            for _ in range(skip + 1):  # the (skip + 1)-th nearest
                best = -1
                for j in range(n):
                    if not used[j] and (best < 0 or total[j] > total[best]):
                        best = j
                if best >= 0:
                    used[best] = True
                    newest = best
            if best < 0:
                break
            if skip > 0:  # those passed over may join later
                used[:] = False
                used[seed[k]] = True


def grow_groups(similarity: Float32, seed: Int64, size: int, generator: np.random.Generator) -> Int64:
    """Grow a group from each seed: the encryption with the largest sum of similarities to the members joins.

    Parameters
    ----------
    similarity : float32 (n, n)
    seed : int64 (seeds,)
        First member of each group.
    size : int
        Members of a group.
    generator : numpy.random.Generator
        Chooses the second member among the eleven nearest.

    Returns
    -------
    int64 (seeds, size)

    Examples
    --------
    >>> similarity = np.kron(np.eye(2, dtype=np.float32), np.ones((20, 20), np.float32))
    >>> group = grow_groups(similarity, np.array([0, 25]), 15, np.random.default_rng(0))
    >>> bool((group[0] < 20).all()), bool((group[1] >= 20).all())
    (True, True)
    """
    out = np.full((len(seed), min(size, len(similarity))), -1, np.int64)
    rank = generator.integers(0, min(_SECOND_MEMBERS, max(1, len(similarity) - 1)), len(seed))
    in_blocks(_grow, len(seed), np.ascontiguousarray(similarity), seed.astype(np.int64), rank, out)
    return out


def _membership(member: Int64, n: int) -> Float32:
    table = np.zeros((len(member), n + 1), np.float32)
    table[np.arange(len(member))[:, None], member] = 1.0  # -1 writes to the last column
    return table[:, :n]


def select_groups(member: Int64, n: int, count: int, core: int) -> Int64:
    """Choose groups that are confirmed by others and have little in common.

    In their order those groups are taken whose core lies wholly in at least two other groups, and is shared by less
    than half with every group taken before; if these are too few, in a second pass half the core and no confirmation
    suffice (so far as published). If they still are too few, those least shared with the taken ones follow (ours).

    Parameters
    ----------
    member : int64 (candidates, size)
    n : int
        Number of encryptions.
    count : int
        Groups wanted.
    core : int
        First members that define a group.

    Returns
    -------
    int64 (at most `count`,)
        Rows of `member`.
    """
    whole = _membership(member, n)
    chosen: list[int] = []
    shared = np.zeros((len(member), 0), np.float32)
    for part in (core, max(1, core // 2)):
        common = _membership(member[:, :part], n) @ whole.T  # counts: exact
        confirmed = (common == part).sum(axis=1) > 2 if part == core else np.ones(len(member), bool)
        shared = common
        for k in np.flatnonzero(confirmed):
            if len(chosen) == count:
                break
            if 2 * common[k, chosen].max(initial=0) < part:
                chosen.append(int(k))
    while len(chosen) < min(count, len(member)):
        most = shared[:, chosen].max(axis=1, initial=0)
        most[chosen] = np.inf
        chosen.append(int(np.argmin(most)))
    return np.array(chosen, np.int64)


def dense_groups(similarity: Float32, label: Float32, slots: Slots, labels: str = "groups") -> Groups:
    """Find one dense group of encryptions for each private image.

    Parameters
    ----------
    similarity : float32 (n, n)
    label : float32 (n, classes)
    slots : Slots
    labels : {"groups", "matching"}
        Whether the labels confine the growth (ours) or are used only later, in the matching (as published).

    Returns
    -------
    Groups

    """
    n, generator = len(similarity), np.random.default_rng(0)
    if labels == "matching":
        size = max(2, min(2 * n // slots.n_images, n // 2))
        core = max(1, size // 2)
        seed = np.arange(min(_SEEDS, n))
        member = grow_groups(similarity, seed, size, generator)
        member = member[select_groups(member, n, slots.n_images, core)]
        return Groups(member, _common_class(member[:, :core], label))
    found, classes = [], []
    for c in range(len(slots.start) - 1):
        count = int(slots.start[c + 1] - slots.start[c])
        row = np.unique(strong_slots(slots, c)[:, 0])
        if len(row) == 0:  # a class that occurs only with itself
            row = np.flatnonzero((slots.image_class == c).any(axis=1))
        if count == 0 or len(row) == 0:
            continue
        size = max(2, min(_STRONG, len(row) // count))
        group = row[grow_groups(similarity[np.ix_(row, row)], np.arange(len(row)), size, generator)]
        core = max(1, size // 2)
        density = similarity[group[:, :core, None], group[:, None, :core]].astype(np.float64).sum(axis=(1, 2))
        group = group[np.argsort(-density, kind="stable")]
        group = group[select_groups(group, n, count, core)]
        found.append(np.pad(group, ((0, 0), (0, _STRONG - group.shape[1])), constant_values=-1))
        classes.append(np.full(len(group), c, np.int64))
    return Groups(np.concatenate(found), np.concatenate(classes))


def _common_class(member: Int64, label: Float32) -> Int64:
    return np.array([int(np.argmax((label[row] > 0).sum(axis=0))) for row in member], np.int64)


def second_similarity(similarity: Float32, groups: Groups, label: Float32, labels: str = "groups") -> Float32:
    """Similarity of each encryption to each group: to three samples of the 21 nearest, averaged over ten draws.

    Parameters
    ----------
    similarity : float32 (n, n)
    groups : Groups
    label : float32 (n, classes)
    labels : {"groups", "matching"}
        With "groups" the samples are taken among the encryptions that hold the group's class.

    Returns
    -------
    float32 (n, groups)
        An encryption's similarity to itself does not count.
    """
    generator = np.random.default_rng(1)
    n = len(similarity)
    out = np.empty((n, len(groups.member)), np.float32)
    for g, member in enumerate(groups.member):
        core = member[: groups.core]
        core = core[core >= 0]
        near = similarity[core].astype(np.float64).sum(axis=0)
        if labels == "groups":
            near[label[:, groups.image_class[g]] <= 0] = -np.inf
        nearest = np.argsort(-near, kind="stable")[: min(_NEAREST, n)]
        nearest = nearest[np.isfinite(near[nearest])]
        total, count = np.zeros(n), np.zeros(n)
        for _ in range(_DRAWS):
            sample = nearest[generator.integers(0, len(nearest), _SAMPLES)]
            for s in sample:
                total += similarity[s]
                count += 1
                total[s] -= similarity[s, s]
                count[s] -= 1
        out[:, g] = total / np.maximum(count, 1)
    return out
