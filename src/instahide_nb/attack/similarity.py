"""Similarity of all pairs of encryptions: the first stage of the published attack, as a part that can be exchanged.

A similarity is a function ``similarity(release, public)`` that returns one number for every pair of encryptions, larger
where the two share a private image. Carlini et al. (arXiv 2011.05315) trained a Wide ResNet 28-6 for it, for ten GPU
hours. Here it is the correlation of local difference energies (`instahide_nb.attack.energy`), which needs no training
and the same bits on any machine; `instahide_nb.attack.network` trains a small residual network instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from instahide_nb.attack import energy
from instahide_nb.errors import InputError
from instahide_nb.release import Release

__all__ = ["SIMILARITIES", "Similarity", "energy_similarity", "find_similarity"]

Float32 = npt.NDArray[np.float32]
Similarity = Callable[[Release, npt.NDArray[np.uint8]], Float32]

SIMILARITIES = ("energy", "network")
"""Names that `find_similarity` knows."""

_ROWS = 1000  # of the similarity at a time: the whole product would need its memory three times


def energy_similarity(release: Release, public: npt.NDArray[np.uint8]) -> Float32:
    """Correlation of the local difference energies of all pairs.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        Not used: nothing is learned.

    Returns
    -------
    float32 (n, n)
        In [-1, 1], symmetric; 1 on the diagonal.
    """
    feature = energy.features(release.encryption)
    out = np.empty((len(feature), len(feature)), np.float32)
    for low in range(0, len(feature), _ROWS):
        out[low : low + _ROWS] = energy.correlation(feature[low : low + _ROWS], feature)
    return out


def find_similarity(name: str | Similarity) -> Similarity:
    """The similarity of a name; a function is returned as it is.

    Parameters
    ----------
    name : {"energy", "network"} or callable

    Raises
    ------
    InputError
        When there is no such similarity, or PyTorch is missing for "network".

    Examples
    --------
    >>> find_similarity("energy").__name__
    'energy_similarity'
    """
    if callable(name):
        return name
    if name == "energy":
        return energy_similarity
    if name == "network":
        from instahide_nb.attack.network import network_similarity, require_torch

        require_torch()
        return network_similarity
    raise InputError(f"similarity: {name!r} is not known; choose {' or '.join(SIMILARITIES)}")
