"""Two private images for each encryption: stage 4 of the published attack.

The labels name the classes of an encryption's two private images. So each encryption has two slots, a class and a
coefficient each (:class:`Slots`), and each slot is filled with a group of its class. A private image fills
``2 n / N`` slots. Carlini et al. (arXiv 2011.05315) describe a minimum-cost matching under these constraints; their
code (``step_4_final_graph``) takes a greedy shortcut and calls it within a percent or two. Both are here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.constraints import Known, read_known
from instahide_nb.core.arrays import Bool, Float32, Int64
from instahide_nb.core.errors import InputError

_FORBIDDEN = -1e6


@dataclass(frozen=True)
class Slots:
    """The two slots of every encryption, that of the larger coefficient first."""

    known: Known  # what the labels say
    image_class: Int64  # (n, 2)
    coefficient: Float32  # (n, 2): half of the known sum each, where both slots share a class
    shared: Bool  # (n,): whether both slots have the same class


def read_slots(label: npt.NDArray[np.floating], n_images: int) -> Slots:
    """Classes and coefficients of two private images per row from labels (n, classes).

    An InputError says that no label has coefficients of single images.
    """
    label = np.asarray(label, np.float32)
    known = read_known(label, len(label), n_images, 2)
    shared = known.present.sum(axis=1) == 1
    if shared.all():
        raise InputError(
            "label.npy: this attack needs coefficients of single images; the labels must be of two classes or more"
        )
    image_class = np.argsort(-label, axis=1, kind="stable")[:, :2].astype(np.int64)
    image_class[shared, 1] = image_class[shared, 0]
    coefficient = np.take_along_axis(label, image_class, axis=1)
    coefficient[shared] *= np.float32(0.5)
    return Slots(known, image_class, coefficient, shared)


def optimal_matching(score: Float32, image_class: Int64, slots: Slots) -> Int64:
    """Fill all slots with groups of their class so that the sum of similarities is largest.

    A group fills at most ``2 n / N`` slots, or as many as its class needs. Where both slots of an encryption have the
    same class, the second does not get the group that is nearest to the encryption. `score` (n, groups) is the second
    similarity. Returns the group of each slot (n, 2); -1 where no group has the class.
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


def greedy_matching(score: Float32, image_class: Int64, slots: Slots) -> Int64:
    """Give each group in turn its nearest encryptions, where the label fits and a slot is free, as published.

    Parameters and result as for `optimal_matching`; -1 also where no group claimed the slot.
    """
    n = len(score)
    out = np.full((n, 2), -1, np.int64)
    claims = max(1, 8 * n // (5 * slots.known.n_images))  # 80 of 5,000 encryptions of 100 images
    for g, c in enumerate(image_class):
        for i in np.argsort(-score[:, g], kind="stable")[:claims]:
            free = np.flatnonzero((slots.image_class[i] == c) & (out[i] < 0))
            out[i, free[:1]] = g
    return out
