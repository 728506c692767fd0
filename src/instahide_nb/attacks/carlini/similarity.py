"""How alike encryptions are: stages 1 and 3 of the published attack.

A similarity is a function of a release and the attacker's public images. It returns one number for every pair of
encryptions, larger where the two share a private image. Carlini et al. (arXiv 2011.05315) trained a Wide ResNet 28-6
for ten GPU hours. The default here, the correlation of local difference energies, needs no training.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.edges import edge_features
from instahide_nb.challenge.release import Release

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

Similarity = Callable[[Release, npt.NDArray[np.uint8]], Float32]
"""``similarity(release, public)``: float32 (n, n)."""

_ROWS = 1000  # of the product at a time, to save memory
_SAMPLES, _DRAWS, _NEAREST = 3, 10, 21  # as published


def energy_similarity(release: Release, public: npt.NDArray[np.uint8]) -> Float32:
    """Correlation of the local difference energies of all pairs of encryptions.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        Not used.

    Returns
    -------
    float32 (n, n)
        In [-1, 1], symmetric, 1 on the diagonal. The same bits on any machine.
    """
    feature = edge_features(release.encryption).reshape(len(release.encryption), -1)
    # Integers whose products stay below 2^24 are summed exactly in any order. Widths above 32,768 need shorter ones.
    whole = np.rint(feature * np.float32(min(16, math.isqrt(2**23 // feature.shape[1]))))
    length = np.sqrt((whole * whole).sum(axis=1))
    out = np.empty((len(whole), len(whole)), np.float32)
    for low in range(0, len(whole), _ROWS):
        part = slice(low, low + _ROWS)
        out[part] = whole[part] @ whole.T / np.maximum(length[part, None] * length, np.float32(1))
    return out


def second_similarity(
    similarity: Float32, core: Int64, candidate: npt.NDArray[np.bool_] | None = None
) -> Float32:
    """Similarity of each encryption to each group.

    The 21 encryptions nearest to the core stand for the group. Three of them are drawn ten times, and the
    similarities to all that were drawn are averaged. (The published code shows the three together to a second
    trained network.)

    Parameters
    ----------
    similarity : float32 (n, n)
    core : int64 (groups, size)
        Encryptions that define each group; -1 fills up.
    candidate : bool (n, groups), optional
        Encryptions that may stand for each group; all when left out.

    Returns
    -------
    float32 (n, groups)
        The similarity of an encryption to itself does not count.
    """
    generator = np.random.default_rng(1)
    n = len(similarity)
    out = np.empty((n, len(core)), np.float32)
    for g, member in enumerate(core):
        near = similarity[member[member >= 0]].astype(np.float64).sum(axis=0)
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
