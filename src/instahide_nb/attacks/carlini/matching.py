"""Dense groups of encryptions, one for each private image, and two of them for each encryption: stages 2 to 4.

A group is one of the clusters with which `unmask` begins (:func:`instahide_nb.attacks.unmask.edges.clusters`). Each
encryption has two slots with a class and a coefficient each (:class:`Slots`), filled with groups of these classes; a
private image fills ``2 n / N`` slots. Carlini et al. (arXiv 2011.05315) describe such a minimum-cost matching; their
code grows groups without labels and matches greedily.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instahide_nb.attacks.unmask.constraints import Known, read_known
from instahide_nb.attacks.unmask.edges import clusters
from instahide_nb.core.arrays import Bool, Float32, Floats, Int64
from instahide_nb.core.errors import InputError

_SAMPLES, _DRAWS, _NEAREST = 3, 10, 21  # of the second similarity, as published
_FORBIDDEN = -1e6


@dataclass(frozen=True)
class Slots:
    """The two slots of every encryption, that of the larger coefficient first."""

    known: Known  # from the labels
    image_class: Int64  # (n, 2)
    coefficient: Float32  # (n, 2): half of the known sum each, if both slots have the same class
    shared: Bool  # (n,): whether both slots have the same class


def read_slots(label: Floats, n_images: int) -> Slots:
    """Classes and coefficients of two private images per row from labels (n, classes).

    An InputError says that no label has coefficients of single images.
    """
    label = np.asarray(label, np.float32)
    known = read_known(label, len(label), n_images, 2)
    shared = known.present.sum(axis=1) == 1
    if shared.all():
        raise InputError(
            "label.npy: carlini needs encryptions of two private images of different classes; it shows none"
        )
    image_class = np.argsort(-label, axis=1, kind="stable")[:, :2].astype(np.int64)
    image_class[shared, 1] = image_class[shared, 0]
    coefficient = np.take_along_axis(label, image_class, axis=1)
    coefficient[shared] *= np.float32(0.5)
    return Slots(known, image_class, coefficient, shared)


def dense_groups(similarity: Float32, known: Known) -> tuple[list[Int64], Int64]:
    """The encryptions of each group, one for each private image, and the class of its image, int64 (groups,)."""
    image = clusters(similarity, known).assignment[:, 0]
    found = np.unique(image[image >= 0])
    return [np.flatnonzero(image == j) for j in found], known.image_class[found]


def second_similarity(similarity: Float32, groups: list[Int64], candidate: Bool) -> Float32:
    """Similarity of each encryption to each group, float32 (n, groups).

    It is the mean similarity to ten draws of three from the 21 `candidate` encryptions (n, groups) nearest to a group,
    without that of an encryption to itself. (The published code passes the three to a second trained network.)
    """
    generator = np.random.default_rng(1)
    n = len(similarity)
    out = np.empty((n, len(groups)), np.float32)
    for g, member in enumerate(groups):
        near = similarity[member].astype(np.float64).sum(axis=0)
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


def optimal_matching(score: Float32, image_class: Int64, slots: Slots) -> Int64:
    """Fill all slots with groups of their class so that the sum of similarities is largest.

    A group fills at most ``2 n / N`` slots, or as many as its class needs. Of two slots of the same class, the second
    does not get the group nearest to the encryption. `score` (n, groups) is the second similarity. Returns the group
    of each slot (n, 2); -1 if no group has the class.
    """
    from scipy.optimize import linear_sum_assignment

    n = len(score)
    out = np.full((n, 2), -1, np.int64)
    for c in np.unique(image_class):
        group = np.flatnonzero(image_class == c)
        row, slot = np.nonzero(slots.image_class == c)
        second = slots.shared[row] & (slot == 1)
        if len(group) == 1:
            out[row[~second], slot[~second]] = group[0]
            continue
        value = score[row][:, group].astype(np.float64)
        value[second, np.argmax(value[second], axis=1)] = _FORBIDDEN
        capacity = max(-(-2 * n // slots.known.n_images), -(-len(row) // len(group)))
        _, column = linear_sum_assignment(np.repeat(value, capacity, axis=1), maximize=True)
        out[row, slot] = group[column // capacity]
    return out
