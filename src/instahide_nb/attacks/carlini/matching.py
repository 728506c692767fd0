"""Two private images for each encryption: stage 4 of the published attack.

The labels name the classes of an encryption's two private images. So each encryption has two slots
(`instahide_nb.attacks.unmask.matching`), and each slot is filled with a group of its class. A private image fills
``2 n / N`` slots. Carlini et al. (arXiv 2011.05315) describe a minimum-cost matching under these constraints; their
code (``step_4_final_graph``) takes a greedy shortcut and calls it within a percent or two. Both are here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.matching import Slots

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_FORBIDDEN = -1e6


def optimal_matching(score: Float32, image_class: Int64, slots: Slots) -> Int64:
    """Fill all slots with groups of their class so that the sum of similarities is largest.

    A group fills at most ``2 n / N`` slots, or as many as its class needs. Where both slots of an encryption have the
    same class, the second does not get the group that is nearest to the encryption.

    Parameters
    ----------
    score : float32 (n, groups)
        Second similarity.
    image_class : int64 (groups,)
    slots : Slots

    Returns
    -------
    int64 (n, 2)
        Group of each slot; -1 where no group has the class.
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
        capacity = max(-(-2 * n // slots.n_images), -(-len(row) // len(group)))
        _, column = linear_sum_assignment(np.repeat(value, capacity, axis=1), maximize=True)
        out[row, slot] = group[column // capacity]
    return out


def greedy_matching(score: Float32, image_class: Int64, slots: Slots) -> Int64:
    """Give each group in turn its nearest encryptions, where the label fits and a slot is free, as published.

    Parameters and result as for `optimal_matching`; -1 also where no group claimed the slot.
    """
    n = len(score)
    out = np.full((n, 2), -1, np.int64)
    claims = max(1, 8 * n // (5 * slots.n_images))  # 80 of 5,000 encryptions of 100 images
    for g, c in enumerate(image_class):
        for i in np.argsort(-score[:, g], kind="stable")[:claims]:
            free = np.flatnonzero((slots.image_class[i] == c) & (out[i] < 0))
            out[i, free[:1]] = g
    return out
