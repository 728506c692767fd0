"""Two private images for each encryption, with labels and capacities: the fourth stage of the published attack.

The labels name the classes inside an encryption, so each of its two slots (see `assignment`) goes
to a group of its class. A private image is inside ``2 n / N`` encryptions. Carlini et al. (arXiv 2011.05315) describe a
minimum-cost matching under these constraints; their code (``step_4_final_graph``) lets each group look at its nearest
encryptions, 80 % of that number, and take those whose label fits and that still have room; it says that this is within
a percent or two. Both are here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.assignment import Slots

__all__ = ["greedy_matching", "match", "optimal_matching"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_FORBIDDEN = -1e6


def optimal_matching(score: Float32, image_class: Int64, slots: Slots) -> Int64:
    """Fill all slots with groups of their class so that the sum of similarities is largest.

    A group fills at most ``2 n / N`` slots, or a little more where its class could not be served otherwise. Where both
    slots of an encryption have the same class, the second does not get the group that is nearest to it.

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
        if len(group) == 1:
            free = ~(slots.shared[row] & (slot == 1))
            out[row[free], slot[free]] = group[0]
            continue
        value = score[row][:, group].astype(np.float64)
        second = np.flatnonzero(slots.shared[row] & (slot == 1))
        value[second, np.argmax(value[second], axis=1)] = _FORBIDDEN
        capacity = max(-(-2 * n // slots.n_images), -(-len(row) // len(group)))
        _, column = linear_sum_assignment(np.repeat(value, capacity, axis=1), maximize=True)
        out[row, slot] = group[column // capacity]
    return out


def greedy_matching(score: Float32, image_class: Int64, slots: Slots) -> Int64:
    """Give each group in turn those of its nearest encryptions whose label fits and that have room, as published.

    Parameters
    ----------
    score : float32 (n, groups)
    image_class : int64 (groups,)
    slots : Slots

    Returns
    -------
    int64 (n, 2)
        Group of each slot; -1 where none claimed it.
    """
    n = len(score)
    out = np.full((n, 2), -1, np.int64)
    claims = max(1, 8 * n // (5 * slots.n_images))  # 80 of 5,000 encryptions of 100 images
    for g, c in enumerate(image_class):
        for i in np.argsort(-score[:, g], kind="stable")[:claims]:
            for s in range(2):
                if slots.image_class[i, s] == c and out[i, s] < 0:
                    out[i, s] = g
                    break
    return out


def match(score: Float32, image_class: Int64, slots: Slots, matching: str = "optimal") -> Int64:
    """Assign two private images to each encryption.

    Parameters
    ----------
    score : float32 (n, groups)
    image_class : int64 (groups,)
    slots : Slots
    matching : {"optimal", "greedy"}

    Returns
    -------
    int64 (n, 2)
    """
    chosen = greedy_matching if matching == "greedy" else optimal_matching
    return chosen(score, image_class, slots)
