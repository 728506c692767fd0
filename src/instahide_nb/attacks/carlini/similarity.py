"""Similarity of all pairs of encryptions: the first stage of the published attack, as a part that can be exchanged.

A similarity is a function ``similarity(release, public)`` that returns one number for every pair of encryptions, larger
where the two share a private image. Carlini et al. (arXiv 2011.05315) trained a Wide ResNet 28-6 for it, for ten GPU
hours. Here it is one of these:

* ``"energy"``: the correlation of local difference energies (`energy`), which needs no training
  and gives the same bits on any machine;
* ``"network"``: a small residual network is trained first, which takes PyTorch
  (`instahide_nb.attacks.carlini.network`); its weights are the file ``network.npy`` beside the other stages';
* the name of such a file: the network is loaded from it, and PyTorch is not needed
  (`instahide_nb.attacks.carlini.feature_network`);
* any function of your own.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.carlini import feature_network, network
from instahide_nb.attacks.carlini.settings import Similarity
from instahide_nb.attacks.carlini.stages import Stages
from instahide_nb.attacks.unmask import energy
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.errors import InputError

__all__ = ["check_similarity", "energy_similarity", "open_similarity"]

Float32 = npt.NDArray[np.float32]

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


def check_similarity(name: str | Similarity) -> None:
    """Refuse a similarity that cannot be had, before anything is computed.

    Parameters
    ----------
    name : "energy", "network", a file of weights (".npy") or callable

    Raises
    ------
    InputError
        When there is no such similarity or file, or PyTorch is missing for "network".
    """
    if name == "network":
        network.require_torch()
    elif isinstance(name, str) and name.endswith(".npy"):
        feature_network.load_weights(name)
    elif name != "energy" and not callable(name):
        raise InputError(
            f"similarity: {name!r} is not known; choose energy, network or a file of weights (.npy)"
        )


def open_similarity(
    name: str | Similarity, info: ReleaseInfo, public: npt.NDArray[np.uint8], stage: Stages
) -> Similarity:
    """The function that a name stands for; a network is trained or loaded first.

    Parameters
    ----------
    name : str or callable
        See `check_similarity`.
    info : ReleaseInfo
        Of the release: a network is trained on encryptions of the same k and bounds of the coefficients.
    public : uint8 (m, h, w, 3)
        What it is trained on.
    stage : Stages
        Keeps the weights, ``network``, when a network is trained.

    Returns
    -------
    callable
        ``similarity(release, public)``.
    """
    if callable(name):
        return name
    if name == "energy":
        return energy_similarity
    if name == "network":
        weights = stage("network", lambda: network.train_weights(info, public))
    else:
        weights = feature_network.load_weights(name)
    return partial(feature_network.network_similarity, weights)
