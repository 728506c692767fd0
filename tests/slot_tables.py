"""Tables that hold values of the images of each slot's class, spread over all images, and slots of one class."""

from __future__ import annotations

import numpy as np

from instahide_nb.attacks.unmask.assignment import Slots


def spread(slots: Slots, table: np.ndarray, elsewhere: float = 0.0) -> np.ndarray:
    """A table (n, 2, largest) as (n, 2, images)."""
    out = np.full((*table.shape[:2], slots.n_images), elsewhere)
    for i, slot in np.ndindex(*table.shape[:2]):
        c = slots.image_class[i, slot]
        low, high = slots.start[c], slots.start[c + 1]
        out[i, slot, low:high] = table[i, slot, : high - low]
    return out


def one_class(n: int, n_images: int) -> Slots:
    """Slots that may hold any image, so that a table has all of them, twice."""
    nothing = np.zeros((n, 2), np.int64)
    return Slots(
        nothing, nothing.astype(np.float32), np.ones(n, bool), np.array([0, n_images]), np.full(n, -1)
    )
