"""Residuals of several epochs, each mixed from as many sources as it has rows."""

from __future__ import annotations

import numpy as np

from instahide_nb.attacks.unmask.smoothness import RADIUS, PublicModel

GROUPS, SIZE, SIDE = 8, 12, 16


def white_model() -> PublicModel:
    covariance = np.zeros((3, 3, 4 * RADIUS + 1, 4 * RADIUS + 1))
    for c in range(3):
        covariance[c, c, 2 * RADIUS, 2 * RADIUS] = 1
    return PublicModel(np.zeros(3, np.float32), covariance)


def residuals(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of each group mixed from as many sources; returns rows, mixing matrices and groups."""
    rng = np.random.default_rng(seed)
    mixing = np.zeros((GROUPS, SIZE, SIZE))
    for e in range(GROUPS):
        for _ in range(3):
            mixing[e, np.arange(SIZE), rng.permutation(SIZE)] += rng.uniform(0.1, 0.4, SIZE)
    source = rng.normal(size=(GROUPS, SIZE, 3 * SIDE * SIDE))
    rows = (mixing @ source).reshape(-1, 3, SIDE, SIDE).astype(np.float32)
    return rows, mixing, np.arange(GROUPS * SIZE).reshape(GROUPS, SIZE)
