"""Images that have the statistics of photographs and need none: discs that occlude each other ("dead leaves")."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def dead_leaves(n: int, size: tuple[int, int], seed: int, discs: int = 60) -> npt.NDArray[np.uint8]:
    """Images (n, h, w, 3) of discs with power-law radii and correlated colours, darker than grey on average."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    images = np.full((n, height, width, 3), 110.0)
    for image in images:
        radius = np.sqrt(1.0 / rng.uniform(1 / 400, 1 / 2, discs))
        for r in np.sort(radius)[::-1]:
            cy, cx = rng.uniform(-3, height + 3), rng.uniform(-3, width + 3)
            colour = 110 + rng.normal(0, 50) + rng.normal(0, 18, 3)
            image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = colour
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)
